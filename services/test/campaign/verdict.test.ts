/** The checker's own checks: each finds what it is for, and nothing in a sound run. */
import { expect, test } from "bun:test"
import type { Planned } from "../orders.ts"
import type { Commit, Kept, Lying, Run, Snapshot } from "./dump.ts"
import type { Event } from "./history.ts"
import type { Done } from "./nemesis.ts"
import { keyOrder } from "./key-order.ts"
import { tableOf } from "./table.ts"
import { cancels, clients, differing, givenUp, judge, placedOf, reverted, type Evidence } from "./verdict.ts"
import { workloadOf } from "./workload.ts"

const event = (given: Partial<Event> & Pick<Event, "type">): Event => ({
  at: 0,
  op: 1,
  f: "place",
  key: "k1",
  ...given
})
const answered = (given: Partial<Event> = {}): Event =>
  event({ type: "ok", status: 202, order: "o1", digest: "d", ...given })
const kept = (key: string, order: string): Kept => ({ key, order, digest: "x" })

test("one order for each key, and equal answers", () => {
  expect(clients([answered(), answered()], [kept("k1", "o1")])).toEqual([])
  expect(clients([answered(), answered({ order: "o2" })], [kept("k1", "o1")])).toHaveLength(1)
  expect(clients([answered(), answered({ digest: "e" })], [kept("k1", "o1")])).toHaveLength(1)
  expect(clients([answered()], [])).toEqual(["k1 was answered with o1, kept is undefined"])
  expect(clients([], [kept("k1", "o1"), kept("k1", "o2")])).toEqual(["k1 is kept twice"])
  expect(clients([], [kept("k1", "o1"), kept("k2", "o1")])).toEqual(["order o1 stands for two keys"])
  expect(clients([event({ type: "fail", status: 422, error: "invalid-request" })], [])).toHaveLength(1)
})

test("a request without an answer may or may not have an order", () => {
  expect(clients([event({ type: "info" })], [])).toEqual([])
  expect(clients([event({ type: "info" })], [kept("k1", "o1")])).toEqual([])
  const { plan } = workloadOf({ name: "p", count: 20, seed: 1, cancelledPercent: 20 })
  const [first] = plan.orders
  expect([...placedOf([], [kept(first?.key ?? "", "o1")], plan)]).toEqual([["o1", first as Planned]])
})

test("an order that was read as ended stays as it was read", () => {
  const read = (state: string): Event => event({ f: "read", type: "ok", status: 200, order: "o1", state })
  expect(reverted([read("CREATED"), read("CANCELLING"), read("REJECTED"), read("REJECTED")])).toEqual([])
  expect(reverted([read("APPROVED"), read("REJECTED")])).toEqual(["order o1 was APPROVED, then REJECTED"])
  expect(reverted([read("REJECTED"), read("CREATED")])).toHaveLength(1)
})

const snapshotOf = (world: Partial<Snapshot["world"]>): Snapshot => ({
  world: {
    orders: [],
    history: [],
    products: [],
    reservations: [],
    accounts: [],
    payments: [],
    ledger: [],
    users: [],
    shipments: [],
    sagas: [],
    sagaLog: [],
    outbox: [],
    inbox: [],
    letters: [],
    charges: [],
    records: [],
    ...world
  },
  repetitions: 0,
  keys: [],
  letters: [],
  lettersDue: [],
  commits: [],
  republished: [],
  slots: [],
  state: {}
})

test("a cancel's answer is true", () => {
  const cancelled = (status: number): Event => event({ f: "cancel", type: "ok", status, order: "o1" })
  const stored = (status: "APPROVED" | "REJECTED"): Snapshot =>
    // only these two columns are looked at
    snapshotOf({ orders: [{ id: "o1", status }] as unknown as Snapshot["world"]["orders"] })
  expect(cancels([cancelled(202)], stored("REJECTED"))).toEqual([])
  expect(cancels([cancelled(409)], stored("APPROVED"))).toEqual([])
  expect(cancels([cancelled(202)], stored("APPROVED"))).toHaveLength(1)
  expect(cancels([cancelled(409)], stored("REJECTED"))).toHaveLength(1)
})

const record = (id: string, key = "o1"): Lying => ({ id, topic: "t", type: "T", key, injected: false })
const commit = (id: string, at: number, transaction = id): Commit => ({
  id,
  database: "orders",
  at,
  transaction,
  topic: "orders-events",
  type: "T",
  key: "o1",
  cause: null
})

test("first occurrences come as they were committed; repetitions may come at any time", () => {
  const commits = [commit("a", 1_000), commit("b", 2_000), commit("c", 3_000)]
  expect(keyOrder([record("a"), record("b"), record("a"), record("c")], commits, []).wrong).toEqual([])
  expect(keyOrder([record("b"), record("a")], commits, []).wrong).toHaveLength(1)
  expect(keyOrder([record("b"), record("a", "o2")], commits, []).wrong).toEqual([])
  // within a transaction there is no order to be kept
  const together = [commit("a", 1_000, "x"), commit("b", 2_000, "x")]
  expect(keyOrder([record("b"), record("a")], together, []).wrong).toEqual([])
})

const fault: Done = {
  id: 1,
  class: "connector offsets",
  target: "orders",
  atMs: 0,
  lastsMs: 0,
  seed: 1,
  startedAt: 0,
  healedAt: 10,
  readyAt: 10,
  failure: null
}

test("what a connector publishes again from its table is excepted, and counted", () => {
  const commits = [commit("a", 1_000), commit("b", 2_000)]
  expect(keyOrder([record("b"), record("a")], commits, [fault])).toEqual({ wrong: [], excepted: 1 })
  const elsewhere: Done = { ...fault, target: "payments" }
  expect(keyOrder([record("b"), record("a")], commits, [elsewhere]).wrong).toHaveLength(1)
  expect(keyOrder([record("b"), record("a")], commits, [], ["a"]).excepted).toBe(1)
  expect(keyOrder([record("b"), record("a")], commits, [], ["b"]).excepted).toBe(1)
  expect(keyOrder([record("b"), record("a")], commits, [], ["c"]).wrong).toHaveLength(1)
  const later: Done = { ...fault, startedAt: 100_000, readyAt: 100_000 }
  expect(keyOrder([record("b"), record("a")], commits, [later]).wrong).toHaveLength(1)
})

test("who waited for as long as a step may take may have been given up", () => {
  const saga = (id: string, seconds: number | null) => ({
    id,
    started_at: new Date(0),
    ended_at: seconds === null ? null : new Date(seconds * 1_000)
  })
  // only these columns are looked at
  const sagas = [saga("short", 89), saga("long", 90), saga("open", null)] as unknown as Snapshot["world"]["sagas"]
  expect([...givenUp(snapshotOf({ sagas }))]).toEqual(["long"])
})

test("dead letters are the poison, all of it and nothing else", () => {
  expect(differing(["a", "b"], ["b", "a"])).toEqual([])
  expect(differing(["a"], ["b"])).toEqual(["a is poison and was not parked", "b was parked and is no poison"])
})

const run: Run = {
  work: { name: "p", count: 20, seed: 1, cancelledPercent: 20 },
  faults: 1,
  plant: null,
  seconds: 1,
  loadFrom: 0,
  faultsFrom: 0,
  faultsTo: 1_000,
  loadTo: 1_000,
  notQuiet: [],
  quietAfterMs: 5,
  injected: { records: 10, copies: 1, again: 1 },
  samples: { counters: { order: { duplicates: 1 } }, ledger: [], negative: [], looks: 1, memory: {}, connections: 1 }
}
const evidence: Evidence = {
  run,
  plan: { prefix: "p_", products: [], refused: [], accounts: [], orders: [] },
  subscribers: [],
  schedule: [fault],
  done: [fault],
  history: [],
  snapshot: snapshotOf({}),
  replayed: null
}

test("recovery is the time from a healing to the next order that is approved", () => {
  const outbox = ["a", "b", "c", "d"].map((id) => ({
    id,
    topic: "orders-events",
    type: id === "d" ? "OrderRejectedEvent" : "OrderApprovedEvent"
  }))
  const commits = [commit("a", 5_000), commit("c", 300_000), commit("b", 40_000), commit("d", 20_000)]
  const { classes } = judge({
    ...evidence,
    snapshot: { ...snapshotOf({}), commits, world: { ...snapshotOf({}).world, outbox } }
  })

  expect(classes).toEqual([
    { class: "connector offsets", planned: 1, done: 1, failed: 0, recovery: { p50: 30, p95: 30, max: 30 } }
  ])
})

test("a run in which nothing had to be defended is void, and says what was missing", () => {
  const { violations, void: why } = judge(evidence)
  expect(violations).toEqual({})
  expect(why).toContain("tombstones: none")
  expect(why).toContain("passes run again: none")
  expect(judge({ ...evidence, done: [] }).void).toContain("connector offsets: 0 of 1")
  const idle = { ...run, samples: { ...run.samples, counters: { order: { duplicates: 0 } } } }
  expect(judge({ ...evidence, run: idle }).void).toContain("order dropped no duplicates")
  const lazy = { ...run, injected: { records: 20, copies: 1, again: 1 } }
  expect(judge({ ...evidence, run: lazy }).void).toContain("less than a tenth of the records was produced again")
  const busy: Done = { ...fault, lastsMs: 900 }
  expect(judge({ ...evidence, schedule: [busy] }).void).toContain("only 10 % of the time was to be without faults")
})

test.each([
  ["quiet", { run: { ...run, notQuiet: ["not within 120 s"] } }],
  ["durable", { run: { ...run, samples: { ...run.samples, ledger: ["p_ann/2"] } } }],
  ["neverNegative", { run: { ...run, samples: { ...run.samples, negative: ["p_tea"] } } }],
  ["slots", { snapshot: { ...snapshotOf({}), slots: [{ name: "s", active: false, lagBytes: 0 }] } }],
  ["bounded", { run: { ...run, samples: { ...run.samples, memory: { order: 2 ** 31 } } } }],
  ["bounded", { run: { ...run, samples: { ...run.samples, connections: 199 } } }],
  ["slots", { snapshot: { ...snapshotOf({}), slots: [{ name: "s", active: true, lagBytes: 1e9 }] } }],
  ["deadLetters", { snapshot: { ...snapshotOf({}), letters: ["order t/0/1"] } }],
  [
    "replay",
    {
      snapshot: { ...snapshotOf({}), state: { orders: "1 a" } },
      replayed: { ...snapshotOf({}), state: { orders: "2 b" } }
    }
  ],
  [
    "reverted",
    { history: ["APPROVED", "REJECTED"].map((state) => event({ f: "read", type: "ok", order: "o", state })) }
  ]
] satisfies ReadonlyArray<readonly [string, Partial<Evidence>]>)(
  "%s can be violated, and the table says so",
  (name, given) => {
    const verdict = judge({ ...evidence, ...given })
    expect(Object.keys(verdict.violations)).toEqual([name])
    expect(tableOf(verdict)).toContain(`✗ ${name}`)
    expect(tableOf(verdict)).toEndWith("1 checks found violations")
  }
)
