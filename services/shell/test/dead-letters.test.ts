/** The admin app's routes for dead letters, over a participant whose store is in memory. */
import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test"
import { Effect, Layer } from "effect"
import { Broker, layerMemory, makeInProcess, run, Store, StoreUnavailable, type Outgoing } from "oncebox"
import { bank, Deposit, idOf, Noted, record, type Letter } from "../../../outbox/test/bank.ts"
import { until } from "../../../stack/wait.ts"
import { makeAdminApp } from "../admin.ts"
import type { Edge } from "../edge.ts"
import { bodyOf, json, standIn } from "./stand-ins.ts"

type Body = Readonly<Record<string, unknown>> & {
  readonly items: ReadonlyArray<Readonly<Record<string, unknown>> & { readonly id: string }>
  readonly letters: ReadonlyArray<Readonly<Record<string, unknown>> & { readonly id: string }>
  readonly groups: ReadonlyArray<Readonly<Record<string, unknown>>>
  readonly next: string | null
}

interface Answer {
  readonly status: number
  readonly body: Body
}

interface Bank {
  readonly get: (path: string) => Promise<Answer>
  readonly post: (path: string, body?: unknown) => Promise<Answer>
  readonly app: ReturnType<typeof makeAdminApp>
  readonly running: Edge["running"]
  /** Has messages parked and answers their ids. */
  readonly park: (...messages: ReadonlyArray<readonly [Outgoing, Letter?]>) => Promise<ReadonlyArray<string>>
  /** Lets the decisions succeed that failed so far. */
  readonly repair: () => void
}

let said: ReadonlyArray<string> = []
let unspy = () => {}
beforeEach(() => {
  const lines: Array<string> = []
  said = lines
  // what the library logs
  const spy = spyOn(console, "log").mockImplementation((...parts) => void lines.push(parts.join(" ")))
  unspy = () => spy.mockRestore()
})
afterEach(() => unspy())

const withBank = (body: (bank: Bank) => Promise<void>): Promise<void> =>
  Effect.runPromise(
    Effect.gen(function* () {
      let repaired = false
      const { broker } = makeInProcess({ partitions: 1 })
      const store = yield* Effect.provideContext(Store, yield* Layer.build(layerMemory()))
      const participant = bank({
        decide: (_type, m) => {
          if (!repaired && (("amount" in m && m.amount === 13) || ("text" in m && m.text === "bad")))
            throw new Error("unlucky")
        }
      })
      const running = yield* run(participant, { mostRedrives: 2 }).pipe(
        Effect.provideService(Store, store),
        Effect.provideService(Broker, broker)
      )
      const app = makeAdminApp("bank", { ...standIn().edge, running })
      const ask = async (path: string, init?: RequestInit): Promise<Answer> => {
        const response = await app.request(`/dead-letters${path}`, init)
        return { status: response.status, body: await bodyOf<Body>(response) }
      }
      const park: Bank["park"] = async (...messages) => {
        const records = messages.map(([message, letter]) => record(message, letter))
        const before = running.counters().parked
        await Effect.runPromise(
          broker.publish(
            records.map(({ topic, key, value, headers }) => ({
              topic,
              key: String(key),
              value: value ?? "",
              headers: Object.fromEntries(Object.entries(headers).map(([name, text]) => [name, String(text)]))
            }))
          )
        )
        await until("parked", 5_000, () => running.counters().parked >= before + records.length, 2)
        return records.map(idOf)
      }
      yield* Effect.promise(() =>
        body({
          get: (path) => ask(path),
          post: (path, sent) => ask(path, sent === undefined ? { method: "POST" } : json(sent)),
          app,
          running,
          park,
          repair: () => void (repaired = true)
        })
      )
    }).pipe(Effect.scoped, Effect.timeout("20 seconds"))
  )

const bad = (account: string): readonly [Outgoing] => [Deposit.of({ account, amount: 13 })]
const cut = (account: string): readonly [Outgoing, Letter] => [
  Deposit.of({ account, amount: 1 }),
  { value: Buffer.from('{"account":"caf\u00e9') }
]

describe("GET /dead-letters", () => {
  test("answers with the parked messages by reason and a page of them", () =>
    withBank(async ({ get, park }) => {
      const ids = await park(bad("a"), cut("b"), bad("c"))

      const { status, body } = await get("?limit=2")
      const rest = await get(`?limit=2&cursor=${body.next}`)

      expect(status).toBe(200)
      const times = { oldest: expect.stringMatching(/Z$/), newest: expect.stringMatching(/Z$/) }
      expect(body.groups).toEqual([
        { reason: "decision-failed", count: 2, redrivable: 2, ...times },
        { reason: "unreadable", count: 1, redrivable: 1, ...times }
      ])
      expect([...body.items, ...rest.body.items].map(({ id }) => id)).toEqual([...ids])
      expect([body.items.length, rest.body.next]).toEqual([2, null])
      expect(body.items[0]).toEqual({
        id: ids[0] ?? "",
        reason: "decision-failed",
        type: "Deposit",
        key: "a",
        topic: "bank-commands",
        partition: 0,
        offset: "0",
        bytes: expect.any(Number),
        detail: "Error: unlucky",
        parkedAt: expect.stringMatching(/Z$/),
        redriven: 0,
        discardedAt: null,
        note: null
      })
    }))

  test("takes reason, type, key, topic and discarded as filters, and no others", () =>
    withBank(async ({ get, park }) => {
      const [first = "", second = ""] = await park(bad("a"), cut("b"), [Noted.of({ page: "a", text: "bad" })])
      const idsAt = async (query: string) => (await get(query)).body.items.map(({ id }) => id)

      expect(await idsAt("?key=a&type=Deposit")).toEqual([first])
      expect(await idsAt("?reason=unreadable")).toEqual([second])
      expect(await idsAt("?topic=bank-commands&reason=behind")).toEqual([])
      expect((await get("?key=b")).body.groups).toMatchObject([{ reason: "unreadable", count: 1 }])
      expect(await idsAt("?discarded=true")).toEqual([])
      for (const query of ["?reason=odd", "?account=a", "?limit=0", "?cursor=x", "?discarded=1", "?key=%00"])
        expect([query, (await get(query)).status]).toEqual([query, 422])
    }))

  test("shows one with its place, headers, value and failure, each within a bound", () =>
    withBank(async ({ get, park }) => {
      const long = JSON.stringify({ account: "l".repeat(20_000) })
      const [failed, cutOff, large] = await park(bad("a"), cut("b"), [
        Deposit.of({ account: "l", amount: 1 }),
        { value: Buffer.from(long), headers: { memo: "m".repeat(5_000) } }
      ])

      const one = await get(`/${failed}`)
      expect(one.status).toBe(200)
      expect(one.body).toMatchObject({ topic: "bank-commands", partition: 0, offset: "0", reason: "decision-failed" })
      expect(one.body["detail"]).toContain("bank.ts")
      expect(one.body["recordKey"]).toEqual({ bytes: 1, text: "a" })
      expect(one.body["value"]).toEqual({ bytes: 27, text: '{"account":"a","amount":13}' })
      expect(one.body["headers"]).toContainEqual({ name: "ce_type", bytes: 7, text: "Deposit" })
      expect((await get(`/${cutOff}`)).body["value"]).toEqual({ bytes: 17, text: '{"account":"caf\u00e9' })
      const { body } = await get(`/${large}`)
      expect(body["value"]).toEqual({ bytes: long.length, text: long.slice(0, 4_096) })
      expect(body["headers"]).toContainEqual({ name: "memo", bytes: 5_000, text: "m".repeat(512) })
      for (const id of [Bun.randomUUIDv7(), "x"]) expect((await get(`/${id}`)).status).toBe(404)
    }))

  test("shows bytes that are no text in base64", () =>
    withBank(async ({ get, park }) => {
      const [id] = await park([Deposit.of({ account: "a", amount: 1 }), { value: Buffer.from([0x7b, 0xff, 0xfe]) }])

      expect((await get(`/${id}`)).body["value"]).toEqual({ bytes: 3, base64: "e//+" })
    }))
})

describe("POST /dead-letters/:id/redrive", () => {
  test("answers what came of the letter", () =>
    withBank(async ({ get, post, park, repair }) => {
      const [first = "", second = "", third = ""] = await park(bad("a"), cut("b"), bad("c"))

      const still = await post(`/${first}/redrive`)
      repair()
      const decided = await post(`/${first}/redrive`)
      const again = await post(`/${first}/redrive`)
      const unreadable = await post(`/${second}/redrive`, {})
      await post(`/${third}/discard`)
      const discarded = await post(`/${third}/redrive`)

      expect(still.status).toBe(200)
      expect(still.body).toMatchObject({ id: first, outcome: "parked", reason: "decision-failed" })
      expect(decided).toEqual({ status: 200, body: { id: first, outcome: "decided" } as never })
      expect(again.status).toBe(404)
      expect(unreadable.body).toMatchObject({ outcome: "parked", reason: "unreadable" })
      expect(discarded).toMatchObject({ status: 409, body: { type: "urn:oncebox:problem:discarded" } })
      expect((await get("")).body.items.map(({ id, redriven }) => [id, redriven])).toEqual([[second, 1]])
      for (const id of [Bun.randomUUIDv7(), "x"]) expect((await post(`/${id}/redrive`)).status).toBe(404)
    }))

  test("refuses one that is behind another of its key", () =>
    withBank(async ({ post, park, repair }) => {
      const notes = ["bad", "2"].map((text): readonly [Outgoing] => [Noted.of({ page: "p", text })])
      const [first, second] = await park(...notes)
      repair()

      const early = await post(`/${second}/redrive`)
      await post(`/${first}/redrive`)
      const inTurn = await post(`/${second}/redrive`)

      expect(early.body).toMatchObject({ outcome: "parked", reason: "behind" })
      expect(inTurn.body).toMatchObject({ outcome: "decided" })
    }))
})

describe("POST /dead-letters/redrive", () => {
  test("takes so many in their order, and says what came of each and how many are left", () =>
    withBank(async ({ post, park, repair }) => {
      const [first = "", second = "", third = "", fourth = ""] = await park(bad("a"), cut("b"), bad("c"), bad("d"))
      repair()

      const some = await post("/redrive", { reason: "decision-failed", limit: 2 })
      const rest = await post("/redrive", {})

      expect(some).toMatchObject({
        status: 200,
        body: { decided: 2, parked: 0, left: 1, heldBack: 0, letters: [{ id: first }, { id: third }] }
      })
      expect(rest.body).toMatchObject({
        decided: 1,
        parked: 1,
        left: 1,
        letters: [
          { id: second, outcome: "parked", reason: "unreadable" },
          { id: fourth, outcome: "decided" }
        ]
      })
    }))

  test("ends for a script that asks until nothing is left, and force tries once more", () =>
    withBank(async ({ post, park }) => {
      await park(bad("a"), cut("b"))

      let rounds = 0
      for (let left: unknown = 1; left !== 0; rounds++) {
        expect(rounds).toBeLessThan(10)
        left = (await post("/redrive", {})).body["left"]
      }

      expect(rounds).toBe(2)
      expect((await post("/redrive", {})).body).toMatchObject({ parked: 0, left: 0, heldBack: 2, letters: [] })
      expect((await post("/redrive", { force: true })).body).toMatchObject({ parked: 2, left: 2 })
    }))
})

describe("POST /dead-letters/discard", () => {
  test("discards one for good, keeps its note and logs it in one line", () =>
    withBank(async ({ get, post, park, repair, running }) => {
      const [first = "", second = ""] = await park(bad("a"), bad("b"))

      const one = await post(`/${first}/discard`, { note: 'ann: "not" ours' })
      const again = await post(`/${first}/discard`, { note: "somebody else" })
      const without = await post(`/${second}/discard`)
      repair()

      for (const { status, body } of [one, again]) {
        expect([status, body as unknown]).toEqual([200, { id: first, outcome: "discarded" }])
      }
      expect(without.status).toBe(200)
      expect((await get("")).body.items).toEqual([])
      const { items } = (await get("?discarded=true")).body
      expect(items.map(({ id, note, discardedAt }) => [id, note, typeof discardedAt])).toEqual([
        [first, 'ann: "not" ours', "string"],
        [second, null, "string"]
      ])
      expect(said.filter((line) => line.includes("discarded") && line.includes(first))).toEqual([
        expect.stringContaining('"ann: \\"not\\" ours"')
      ])
      expect(running.counters().messages).toBe(0)
      for (const id of [Bun.randomUUIDv7(), "x"]) expect((await post(`/${id}/discard`)).status).toBe(404)
    }))

  test("discards what matches, and all only when it is told so", () =>
    withBank(async ({ get, post, park }) => {
      await park(bad("a"), cut("b"), bad("c"), bad("d"))

      const careless = await post("/discard", { note: "oops", limit: 3 })
      const some = await post("/discard", { reason: "decision-failed", limit: 2, note: "ann" })
      const before = (await get("")).body.items.length
      const all = await post("/discard", { all: true })

      expect(careless.status).toBe(422)
      expect(some.body).toMatchObject({ discarded: 2, left: 1 })
      expect(before).toBe(2)
      expect(all.body).toMatchObject({ discarded: 2, left: 0 })
    }))
})

test("what changes something must come as JSON and say nothing unknown", () =>
  withBank(async ({ app, get, post, park }) => {
    const [id] = await park(bad("a"))
    const form = { method: "POST", body: "all=true", headers: { "Content-Type": "application/x-www-form-urlencoded" } }

    for (const path of ["redrive", "discard", `${id}/discard`])
      expect([path, (await app.request(`/dead-letters/${path}`, form)).status]).toEqual([path, 415])
    expect((await app.request("/dead-letters/discard", { method: "POST" })).status).toBe(415)
    expect((await app.request("/dead-letters", { method: "DELETE" })).status).toBe(405)
    for (const body of [{ limit: 0 }, { limit: 1_001 }, { reason: "odd" }, { why: "x" }, { key: "\u0000" }])
      expect([body, (await post("/redrive", body)).status]).toEqual([body, 422])
    expect((await post("/discard", { all: false })).status).toBe(422)
    for (const note of ["", "a\nb", "n".repeat(501)])
      expect([note, (await post(`/${id}/discard`, { note })).status]).toEqual([note, 422])
    expect((await get("")).body.items.map((letter) => letter.id)).toEqual([id ?? ""])
  }))

test("what is parked now is a gauge by reason", () =>
  withBank(async ({ app, post, park }) => {
    const samples = async () => {
      const text = await (await app.request("/metrics")).text()
      return text.split("\n").filter((line) => /^oncebox_dead_letters\{.*[^0]$/.test(line))
    }
    const [first] = await park(bad("a"), bad("b"), cut("c"))
    const before = await samples()
    await post(`/${first}/discard`)

    expect(before).toEqual([
      'oncebox_dead_letters{service="bank",reason="unreadable"} 1',
      'oncebox_dead_letters{service="bank",reason="decision-failed"} 2'
    ])
    expect(await samples()).toEqual([
      'oncebox_dead_letters{service="bank",reason="unreadable"} 1',
      'oncebox_dead_letters{service="bank",reason="decision-failed"} 1'
    ])
    expect(await (await app.request("/metrics")).text()).toContain("# TYPE oncebox_dead_letters gauge\n")
  }))

test("without its database a service tells its counters, and nothing of its dead letters", async () => {
  const { edge } = standIn()
  const gone = () => Effect.fail(new StoreUnavailable({ message: "it is gone" }))
  const deadLetters = { ...edge.running.deadLetters, groups: gone, list: gone, redriveAll: gone }
  const app = makeAdminApp("order", { ...edge, running: { ...edge.running, deadLetters } })

  const metrics = await app.request("/metrics")

  expect(metrics.status).toBe(200)
  const text = await metrics.text()
  expect([text.includes("oncebox_passes_total"), text.includes("dead_letters")]).toEqual([true, false])
  expect((await app.request("/dead-letters")).status).toBe(503)
  expect((await app.request("/dead-letters/redrive", json({}))).status).toBe(503)
})
