/** What a run shows: its counts, how long it took to recover, and what makes it void. */
import { expect, test } from "bun:test"
import { AUDITOR, SERVICE_NAMES } from "../../../stack/supervise.ts"
import type { Planned } from "../orders.ts"
import { classesOf, countsOf, voidness } from "./counts.ts"
import type { Run, Snapshot } from "./dump.ts"
import { commit, event, evidence, fault, record, run, snapshotOf } from "./fixture.ts"
import type { Event } from "./history.ts"
import type { Done } from "./nemesis.ts"
import type { Evidence } from "./verdict.ts"

const planned: Planned = {
  key: "p_1",
  entry: "order",
  body: { userId: "ann", items: [] },
  outcome: { status: "APPROVED" },
  posts: 1
}

test("recovery is the time from a healing to the next order that is approved", () => {
  const outbox = ["a", "b", "c", "d", "e"].map((id) => ({
    id,
    topic: "orders-events",
    type: id === "d" ? "OrderRejectedEvent" : "OrderApprovedEvent"
  }))
  const commits = [commit("a", 5_000), commit("c", 300_000), commit("b", 40_000), commit("d", 20_000)]
  const recoveryOf = (...healings: ReadonlyArray<number>) => {
    const done = healings.map((healedAt): Done => ({ ...fault, healedAt, failure: healedAt === 40 ? "late" : null }))
    const snapshot = { ...snapshotOf({ outbox }), commits }
    return classesOf({ ...evidence, done, snapshot })
  }
  const base = { class: "connector offsets", planned: 1, done: 1, failed: 0 } as const

  expect(recoveryOf(10)).toEqual([{ ...base, recovery: { p50: 30, p95: 30, max: 30 } }])
  expect(recoveryOf(40)).toEqual([{ ...base, done: 0, failed: 1, recovery: { p50: 0, p95: 0, max: 0 } }])
  expect(recoveryOf(41, 10, 100)).toEqual([{ ...base, done: 3, recovery: { p50: 200, p95: 259, max: 259 } }])
  const several = recoveryOf(41, 10, 100, 200)
  expect(several).toEqual([{ ...base, done: 4, recovery: { p50: 200, p95: 259, max: 259 } }])
  // nothing was approved any more, or there was nobody left to be
  expect(recoveryOf(301)).toEqual([{ ...base, recovery: null }])
  commits.push(commit("e", 2_000_000))
  expect(recoveryOf(999)).toEqual([{ ...base, recovery: { p50: 1_001, p95: 1_001, max: 1_001 } }])
  expect(recoveryOf(1_000)).toEqual([{ ...base, recovery: null }])
  expect(classesOf({ ...evidence, schedule: [] })).toEqual([])
})

/** A run in which each defence had to act; of rows only some columns are looked at. */
const shown = (() => {
  const rows = <A>(...given: ReadonlyArray<object>): A => given as unknown as A
  const { world } = snapshotOf({})
  type World = typeof world
  const snapshot: Snapshot = {
    ...snapshotOf({
      orders: rows<World["orders"]>(
        { id: "o1", reason: "SHIP_TIMEOUT" },
        { id: "o2", reason: null },
        { id: "o3", reason: "OUT_OF_STOCK" }
      ),
      // three were undone, two never done; of the others there is another number of each kind
      reservations: rows<World["reservations"]>(
        ...[1, 2, 2, 0, 0].map((length) => ({ status: "CANCELLED", lines: Array.from({ length }) })),
        ...[1, 0, 0, 0, 0].map((length) => ({ status: "FAILED", lines: Array.from({ length }) }))
      ),
      payments: rows<World["payments"]>(
        { status: "REFUNDED", user_id: "ann" },
        { status: "CANCELLED", user_id: null },
        { status: "CANCELLED", user_id: null },
        { status: "CANCELLED", user_id: "ann" },
        { status: "PROCESSED", user_id: "ann" },
        { status: "PROCESSED", user_id: "ann" }
      ),
      shipments: rows<World["shipments"]>(
        ...[1, 2, 2, 0, 0].map((length) => ({ status: "CANCELLED", items: Array.from({ length }) })),
        ...[1, 0, 0, 0, 0].map((length) => ({ status: "FAILED", items: Array.from({ length }) }))
      ),
      outbox: rows<World["outbox"]>({ id: "a" }, { id: "b" }),
      records: [
        record("a", { topic: "orders-events" }),
        record("b", { topic: "orders-choreography" }),
        record("f", { topic: "orders-events.dead" }),
        record("c", { topic: "orders-events", injected: true }),
        record("d", { topic: "orders-commands" }),
        record("e", { topic: "users-events" }),
        record("e", { topic: "users-events" })
      ]
    }),
    repetitions: 3,
    letters: ["order t/0/1"],
    lettersDue: ["order t/0/1"],
    republished: ["x"]
  }
  const history: ReadonlyArray<Event> = [
    event({ type: "invoke", key: "k1", at: 5 }),
    event({ type: "invoke", key: "k1", at: 2_000 }),
    event({ type: "invoke", key: "k2", at: 999 }),
    event({ type: "invoke", key: "k3", at: 1_000 }),
    event({ type: "info" }),
    event({ type: "ok", status: 202 }),
    event({ type: "info", f: "cancel" }),
    event({ type: "ok", f: "cancel", status: 202 }),
    event({ type: "ok", f: "cancel", status: 409 }),
    event({ type: "ok", f: "cancel", status: 409 }),
    event({ type: "ok", f: "read", status: 200 }),
    event({ type: "invoke", f: "cancel", key: "k9", at: 1 }),
    event({ type: "ok", status: 202, at: 3_000 })
  ]
  const processes = [...SERVICE_NAMES, AUDITOR.name]
  const shownRun: Run = {
    ...run,
    seconds: 4,
    loadFrom: 300,
    loadTo: 2_000,
    samples: {
      ...run.samples,
      counters: { order: { duplicates: 1, retries: 2 }, user: { duplicates: 3 } },
      memory: Object.fromEntries(processes.map((name, n) => [name, (n + 0.6) * 2 ** 20 + 2 ** 20])),
      connections: 9
    }
  }
  const done: Done = { ...fault, startedAt: 0, healedAt: 400.5 }
  return { ...evidence, run: shownRun, history, snapshot, done: [done] }
})()
const placed = new Map(["o1", "o2"].map((id) => [id, planned]))

test("what there was of everything is counted", () => {
  expect(countsOf(shown, placed, 4)).toEqual({
    orders: 2,
    messages: 2,
    records: 10,
    "records that were there before": 3,
    "records produced again": 1,
    "commands asked again": 1,
    "requests answered": 5,
    "requests without an answer": 2,
    "orders read": 1,
    cancelled: 1,
    "cancelled too late": 2,
    "duplicates dropped": 4,
    "passes run again": 2,
    "answers given again": 2,
    "published again by the auditor": 1,
    "out of turn, from a table or by the auditor": 4,
    "given up after waiting too long": 1,
    "reservations undone": 3,
    "payments undone": 1,
    "shipments undone": 3,
    tombstones: 6,
    "dead letters": 1,
    "percent of the time without faults": 60,
    "percent of the orders placed before the last fault was over": 66,
    "quiet after (ms)": 5,
    "orders a minute": 71,
    "most memory of a process (MB)": 8,
    "most connections": 9
  })
})

test("a run may be short, and small", () => {
  const counts = countsOf(
    {
      ...evidence,
      history: [event({ type: "invoke" })],
      run: { ...run, loadFrom: 5, loadTo: 5, samples: { ...run.samples, memory: {} } }
    },
    placed,
    0
  )

  expect(counts["orders a minute"]).toBe(120_000)
  expect(counts["most memory of a process (MB)"]).toBe(0)
  expect(counts["percent of the orders placed before the last fault was over"]).toBe(100)
})

const voidOf = (given: Partial<Evidence>, sampled: Partial<Run["samples"]> = {}, counted: object = {}) => {
  const one: Evidence = { ...shown, ...given }
  const judged = { ...one, run: { ...one.run, samples: { ...one.run.samples, ...sampled } } }
  return voidness(judged, { ...countsOf(judged, placed, 0), ...counted })
}

test("a run in which each defence had to act shows something", () => {
  expect(voidOf({})).toEqual([])
})

test.each([
  "orders",
  "commands asked again",
  "requests without an answer",
  "orders read",
  "cancelled",
  "cancelled too late",
  "passes run again",
  "answers given again",
  "published again by the auditor",
  "reservations undone",
  "payments undone",
  "shipments undone",
  "tombstones",
  "dead letters"
])("without %s it is void", (what) => {
  expect(voidOf({}, {}, { [what]: 0 })).toEqual([`${what}: none`])
  expect(voidOf({}, {}, { [what]: 1 })).toEqual([])
})

const placedAt = (...times: ReadonlyArray<number>): Partial<Evidence> => ({
  history: times.map((at, n) => event({ type: "invoke", key: `k${n}`, at }))
})

test.each<[string, ReturnType<typeof voidOf>]>([
  ["order dropped no duplicates", voidOf({}, { counters: { order: { duplicates: 0, retries: 1 } } })],
  ["order dropped no duplicates", voidOf({}, { counters: { order: { retries: 1 } } })],
  ["money and stock were never looked at", voidOf({}, { looks: 0 })],
  ["connections were never counted", voidOf({}, { connections: 0 })],
  ["the memory of payment was never measured", voidOf({}, { memory: { ...shown.run.samples.memory, payment: 0 } })],
  ["the memory of auditor was never measured", voidOf({}, { memory: { ...shown.run.samples.memory, auditor: NaN } })],
  [
    "less than a tenth of the records was produced again",
    voidOf({ run: { ...shown.run, injected: { records: 11, copies: 1, again: 1 } } })
  ],
  ["only 24 % of the time was to be without faults", voidOf({ schedule: [{ ...fault, lastsMs: 3_022 }] })],
  ["only 25 % of the time was to be without faults", voidOf({ schedule: [{ ...fault, lastsMs: 3_001 }] })],
  ["only 25 % of the time was to be without faults", voidOf({ schedule: [{ ...fault, lastsMs: 3_000.2 }] })],
  ["connector offsets: 0 of 1", voidOf({ done: [] })],
  ["connector offsets: 1 of 2", voidOf({ schedule: [fault, fault] })]
])("%s: it is void", (why, found) => {
  expect(found).toEqual([why])
})

test("a quarter of the time without faults is enough", () => {
  expect(voidOf({ schedule: [{ ...fault, lastsMs: 3_000 }] })).toEqual([])
})

test("what was not counted, or not measured, is none", () => {
  expect(voidness(shown, {}).filter((why) => why.endsWith(": none"))).toHaveLength(14)
  const { payment: _payment, ...others } = shown.run.samples.memory
  expect(voidOf({}, { memory: others })).toEqual(["the memory of payment was never measured"])
})

test("a fault that could not be carried out does not count", () => {
  expect(voidOf({ done: [{ ...fault, failure: "no broker" }] })).toEqual([
    "connector offsets: 0 of 1",
    "fault 1, connector offsets of orders: no broker"
  ])
})

test("most orders may be placed when the faults are over, but not all of them", () => {
  const of = (before: number) =>
    voidOf(placedAt(...Array.from({ length: 100 }, (_, n) => (n < before ? 0 : 5_000))), {}, everything)
  const everything = Object.fromEntries(Object.keys(countsOf(shown, placed, 0)).map((name) => [name, 1]))

  expect(of(15)).toEqual([])
  expect(of(14)).toEqual(["less than 15 % of the orders were placed before the last fault was over"])
})

test("a run without faults is not void", () => {
  expect(voidness({ ...evidence, schedule: [] }, {})).toEqual([])
})
