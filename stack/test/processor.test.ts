/** The card processor charges once per key, and fails as it is told. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { appendFileSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { startProcessor, type Processor, type ProcessorControl, type ProcessorEntry } from "../processor.ts"
import { freePorts } from "../ports.ts"
import { startService } from "../supervise.ts"
import { until } from "../wait.ts"

let dir: string
let processor: Processor

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "oncebox-processor-"))
  processor = startProcessor()
})

afterAll(async () => {
  await processor.stop()
  rmSync(dir, { recursive: true, force: true })
})

const card = "card-1"
const json = { "content-type": "application/json" }

/** A client of a processor. */
const client = (url: string) => ({
  charge: async (key: string, body: object) => {
    const headers = { ...json, "idempotency-key": key }
    const response = await fetch(`${url}/charges`, { method: "POST", headers, body: JSON.stringify(body) })
    return [response.status, await response.json()]
  },
  refund: async (key: string) => {
    const response = await fetch(`${url}/charges/${encodeURIComponent(key)}/refund`, { method: "POST" })
    return [response.status, await response.json()]
  },
  entry: async (key: string): Promise<ProcessorEntry | undefined> => {
    const response = await fetch(`${url}/charges`)
    const { items } = JSON.parse(await response.text()) as { items: ReadonlyArray<ProcessorEntry> }
    return items.find((item) => item.key === key)
  },
  control: async (change: Partial<ProcessorControl>) => {
    const response = await fetch(`${url}/control`, { method: "PUT", headers: json, body: JSON.stringify(change) })
    return [response.status, await response.json()]
  }
})

describe("a charge", () => {
  test("is made once under its key, and answered the same again", async () => {
    const { charge, entry } = client(processor.url)

    const first = await charge("charge:o-1", { amount: 10, card })
    const second = await charge("charge:o-1", { card, amount: 10 })

    expect(first).toEqual([201, { id: expect.any(String), status: "CHARGED" }])
    expect(second).toEqual(first)
    expect(await entry("charge:o-1")).toMatchObject({ amount: 10, card, status: "CHARGED", reason: null })
  })

  test("of something else under its key is refused", async () => {
    const { charge, entry } = client(processor.url)
    await charge("charge:o-2", { amount: 10, card })

    expect(await charge("charge:o-2", { amount: 11, card })).toEqual([422, { reason: "KEY_REUSED" }])
    expect(await charge("charge:o-2", { amount: 10, card: "card-2" })).toEqual([422, { reason: "KEY_REUSED" }])
    expect(await entry("charge:o-2")).toMatchObject({ amount: 10, card })
  })

  test("that is no charge is refused and not recorded", async () => {
    const { charge, entry } = client(processor.url)

    for (const body of [{ amount: -1, card }, { amount: 1.5, card }, { amount: 1 }, { amount: 1, card: "" }])
      expect(await charge("charge:bad", body)).toEqual([400, { reason: "INVALID" }])
    expect(await charge("", { amount: 1, card })).toEqual([400, { reason: "IDEMPOTENCY_KEY_MISSING" }])
    expect(await entry("charge:bad")).toBeUndefined()
  })

  test("above the limit is declined, also after the limit is gone", async () => {
    const { charge, control } = client(processor.url)
    await control({ declineAbove: 100 })

    const declined = await charge("charge:o-3", { amount: 101, card })
    const within = await charge("charge:o-4", { amount: 100, card })
    await control({ declineAbove: null })

    expect(declined).toEqual([402, { reason: "CARD_DECLINED" }])
    expect(await charge("charge:o-3", { amount: 101, card })).toEqual(declined)
    expect(within[0]).toBe(201)
  })
})

describe("a refund", () => {
  test("is made once, and the charge is still answered the same", async () => {
    const { charge, refund, entry } = client(processor.url)
    const charged = await charge("charge:o-5", { amount: 10, card })

    const first = await refund("charge:o-5")

    expect(first).toEqual([200, { id: expect.any(String), status: "REFUNDED" }])
    expect(await refund("charge:o-5")).toEqual(first)
    expect(await charge("charge:o-5", { amount: 10, card })).toEqual(charged)
    expect((await entry("charge:o-5"))?.status).toBe("REFUNDED")
  })

  test("of what was never charged refuses the charge that comes later", async () => {
    const { charge, refund, entry } = client(processor.url)

    const voided = await refund("charge:o-6")

    expect(voided).toEqual([200, { id: expect.any(String), status: "VOIDED" }])
    expect(await refund("charge:o-6")).toEqual(voided)
    expect(await charge("charge:o-6", { amount: 10, card })).toEqual([402, { reason: "VOIDED" }])
    expect((await entry("charge:o-6"))?.amount).toBeNull()
  })

  test("of what was declined gives nothing back", async () => {
    const { charge, control, refund } = client(processor.url)
    await control({ declineAbove: 0 })
    await charge("charge:o-7", { amount: 10, card })
    await control({ declineAbove: null })

    expect(await refund("charge:o-7")).toEqual([200, { id: expect.any(String), status: "DECLINED" }])
  })
})

describe("the processor", () => {
  test("that is down does nothing until it is told otherwise", async () => {
    const { charge, control, entry, refund } = client(processor.url)
    await control({ down: true })

    const answers = [await charge("charge:o-8", { amount: 10, card }), await refund("charge:o-8")]
    const meanwhile = await entry("charge:o-8")
    await control({ down: false })

    expect(answers).toEqual([
      [503, { reason: "DOWN" }],
      [503, { reason: "DOWN" }]
    ])
    expect(meanwhile).toBeUndefined()
    expect((await charge("charge:o-8", { amount: 10, card }))[0]).toBe(201)
  })

  test("loses as many answers as it is told, after they took effect", async () => {
    const { charge, control, entry } = client(processor.url)
    await control({ loseAnswers: 2 })

    const lost = [
      await charge("charge:o-9", { amount: 10, card }).catch(({ code }) => code),
      await charge("charge:o-9", { amount: 10, card }).catch(({ code }) => code)
    ]
    const charged = await entry("charge:o-9")

    expect(lost).toEqual(["ECONNRESET", "ECONNRESET"])
    expect(charged?.status).toBe("CHARGED")
    expect(await charge("charge:o-9", { amount: 10, card })).toEqual([201, { id: charged?.id, status: "CHARGED" }])
  })

  test("loses a decline as it loses a charge, and never a refusal of what was no charge", async () => {
    const { charge, control } = client(processor.url)
    await charge("charge:o-11", { amount: 10, card })
    await control({ loseAnswers: 1, declineAbove: 0 })

    const refused = await charge("charge:o-11", { amount: 11, card })
    const lost = await charge("charge:o-12", { amount: 10, card }).catch(({ code }) => code)
    const declined = await charge("charge:o-12", { amount: 10, card })
    await control({ declineAbove: null })

    expect([refused, lost, declined]).toEqual([
      [422, { reason: "KEY_REUSED" }],
      "ECONNRESET",
      [402, { reason: "CARD_DECLINED" }]
    ])
  })

  test("has a name of its own for each charge", async () => {
    const { charge, entry } = client(processor.url)

    const keys = ["charge:a", "charge:b", "charge:c"]
    for (const key of keys) await charge(key, { amount: 10, card })

    expect(new Set(await Promise.all(keys.map(async (key) => (await entry(key))?.id))).size).toBe(3)
  })

  test("refuses to give back what can't be a key", async () => {
    expect(await client(processor.url).refund("a b")).toEqual([400, { reason: "INVALID" }])
  })

  test("answers late", async () => {
    const { charge, control } = client(processor.url)
    await control({ delayMs: 300 })
    const started = performance.now()

    await charge("charge:o-10", { amount: 10, card })
    const answeredAfter = performance.now() - started
    await control({ delayMs: 0 })

    expect(answeredAfter).toBeGreaterThanOrEqual(290)
  })

  test("that answers too late to be heard has charged all the same", async () => {
    const { control, entry } = client(processor.url)
    await control({ delayMs: 60_000 })
    const left = new AbortController()

    const answer = fetch(`${processor.url}/charges`, {
      method: "POST",
      headers: { ...json, "idempotency-key": "charge:o-13" },
      body: JSON.stringify({ amount: 10, card }),
      signal: left.signal
    }).catch(({ name }: Error) => name)
    await until("the charge", 10_000, async () => (await entry("charge:o-13")) !== undefined, 1)
    left.abort()
    await control({ delayMs: 0 })

    expect(await answer).toBe("AbortError")
    expect((await entry("charge:o-13"))?.status).toBe("CHARGED")
  })

  test("listens on loopback only", () => {
    expect(new URL(processor.url).hostname).toBe("127.0.0.1")
  })

  test("refuses a control that it does not know", async () => {
    const { control } = client(processor.url)

    expect((await control({ loseAnswers: -1 }))[0]).toBe(400)
    await control({ declineAbove: 7 })
    expect(await control({ delayMs: 1 })).toEqual([200, { down: false, delayMs: 1, loseAnswers: 0, declineAbove: 7 }])
    await control({ delayMs: 0, declineAbove: null })
    expect(await control({})).toEqual([200, { down: false, delayMs: 0, loseAnswers: 0, declineAbove: null }])
  })

  test("knows from its record what became of a key last, but for a line that a kill cut off", async () => {
    const record = join(dir, "cut.jsonl")
    const before = startProcessor({ record })
    await client(before.url).charge("charge:o-1", { amount: 10, card })
    await client(before.url).refund("charge:o-1")
    await before.stop()
    appendFileSync(record, '\n{"key":"charge:o-2","id":"ch_2","amo')

    const restarted = startProcessor({ record })
    await client(restarted.url).charge("charge:o-3", { amount: 10, card })
    await restarted.stop()
    const again = startProcessor({ record })
    try {
      const { entry } = client(again.url)
      expect((await entry("charge:o-1"))?.status).toBe("REFUNDED")
      expect(await entry("charge:o-2")).toBeUndefined()
      expect((await entry("charge:o-3"))?.status).toBe("CHARGED")
    } finally {
      await again.stop()
    }
  })

  test("knows after a kill what it had answered before", async () => {
    const [port = 0] = await freePorts([[]])
    const env = { PORT: String(port), RECORD: join(dir, "record.jsonl") }
    const script = join(import.meta.dir, "..", "processor.ts")
    const service = await startService("processor", env, join(dir, "processor.log"), { script })
    try {
      const { charge, refund, entry } = client(`http://127.0.0.1:${port}`)
      const charged = await charge("charge:o-1", { amount: 10, card })
      await refund("charge:o-2")

      await service.kill9()
      await service.restart()

      expect(await charge("charge:o-1", { amount: 10, card })).toEqual(charged)
      expect((await entry("charge:o-2"))?.status).toBe("VOIDED")
    } finally {
      await service.stop()
    }
  })
})
