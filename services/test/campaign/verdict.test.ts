/** The verdict: each check can be violated, and the table says so. */
import { expect, test } from "bun:test"
import type { Snapshot } from "./dump.ts"
import { commit, event, evidence, kept, record, run, snapshotOf } from "./fixture.ts"
import { tableOf } from "./table.ts"
import { differing, judge, type Evidence } from "./verdict.ts"
import { workloadOf } from "./workload.ts"

test("dead letters are the poison, all of it and nothing else", () => {
  expect(differing(["a", "b"], ["b", "a"])).toEqual([])
  expect(differing(["a"], ["b"])).toEqual(["a is poison and was not parked", "b was parked and is no poison"])
})

test("nothing is wrong with a run in which nothing happened", () => {
  expect(judge(evidence).violations).toEqual({})
  expect(judge({ ...evidence, replayed: snapshotOf({}) }).violations).toEqual({})
})

type World = Snapshot["world"]
const rows = <A>(...given: ReadonlyArray<object>): A => given as unknown as A
const withWorld = (world: Partial<World>, more: Partial<Snapshot> = {}): Partial<Evidence> => ({
  snapshot: { ...snapshotOf(world), ...more }
})
const sampled = (samples: Partial<typeof run.samples>): Partial<Evidence> => ({
  run: { ...run, samples: { ...run.samples, ...samples } }
})
const slot = { name: "s", active: true, lagBytes: 0 }
const megabyte = 2 ** 20
// what the inbox has seen of m1 was decided, and not answered
const unanswered = withWorld(
  { outbox: rows({ id: "m1" }), inbox: [{ consumer: "product", id: "m1" }], records: [record("m1")] },
  { commits: [commit("m1", 1, { topic: "products-commands" })] }
)
const undoneWithoutRow = withWorld(
  {
    outbox: rows({ id: "m1", topic: "t", type: "T" }),
    inbox: [{ consumer: "payment", id: "m1" }],
    records: [record("m1")]
  },
  { commits: [commit("m1", 1, { type: "RefundPaymentCommand" })] }
)
const twice = ["m1", "m2"].map((id) => ({ id, topic: "t", type: "T" }))
const decidedTwice = withWorld(
  { outbox: twice, records: twice.map(({ id }) => record(id)) },
  { commits: twice.map(({ id }) => commit(id, 1, { cause: "c1", transaction: "1" })) }
)
const outOfTurn = withWorld(
  { outbox: twice, records: [record("m2"), record("m1")] },
  { commits: [commit("m1", 1), commit("m2", 2)] }
)
const replayed = (given: Partial<Snapshot>): Partial<Evidence> => ({ replayed: { ...snapshotOf({}), ...given } })
const log = (position: number, state: string) => ({ saga_id: "o1", position, state, step: "pay", attempt: 1 })

const cases: ReadonlyArray<readonly [string, Partial<Evidence>]> = [
  ["letters", withWorld({ letters: rows({ consumer: "user", id: "m1", reason: "bad" }) })],
  ["quiet", { run: { ...run, notQuiet: ["not within 120 s"] } }],
  ["clients", { history: [event({ type: "fail", status: 422 })] }],
  ["served", { history: [event({ type: "invoke" })], patient: new Set(["k1"]) }],
  [
    "reverted",
    { history: ["APPROVED", "REJECTED"].map((state) => event({ f: "read", type: "ok", order: "o", state })) }
  ],
  ["cancels", { history: [event({ f: "cancel", type: "ok", status: 202, order: "o" })] }],
  ["keyOrder", outOfTurn],
  ["decidedOnce", decidedTwice],
  ["undone", undoneWithoutRow],
  ["bounded", sampled({ memory: { order: 512 * megabyte + 1 } })],
  ["bounded", sampled({ connections: 121 })],
  ["deadLetters", withWorld({}, { letters: ["order t/0/1"] })],
  ...["PENDING", "UNDOING", "REFUNDING"].map(
    (status) => ["payments", withWorld({ payments: rows({ order_id: "o1", method: "card", status }) })] as const
  ),
  ["durable", sampled({ ledger: ["p_ann/2"] })],
  ["neverNegative", sampled({ negative: ["p_tea"] })],
  ["slots", withWorld({}, { slots: [{ ...slot, active: false }] })],
  ["slots", withWorld({}, { slots: [{ ...slot, lagBytes: 16 * megabyte + 1 }] })],
  ["replay", { ...withWorld({}, { state: { orders: "1 a" } }), ...replayed({ state: { orders: "2 b" } }) }],
  ["slots (replayed)", replayed({ slots: [{ ...slot, active: false }] })],
  ["deadLetters (replayed)", replayed({ letters: ["order t/0/1"] })],
  ["letters (replayed)", { replayed: snapshotOf({ letters: rows({ consumer: "user", id: "m1", reason: "bad" }) }) }]
]

test.each(cases)("%s can be violated, and the table says so", (name, given) => {
  const verdict = judge({ ...evidence, ...given })
  expect(Object.keys(verdict.violations)).toEqual([name])
  expect(tableOf(verdict)).toContain(`✗ ${name}`)
  expect(tableOf(verdict)).toEndWith("1 checks found violations")
})

// a saga that stands alone is wrong in other ways, too
test.each([
  ["answered", unanswered],
  [
    "sagaSteps",
    withWorld({
      sagas: rows({ id: "o1", definition: "place-order", coordination: "orchestration" }),
      sagaLog: rows(log(1, "COMPENSATING"), log(2, "RUNNING"))
    })
  ]
] satisfies ReadonlyArray<readonly [string, Partial<Evidence>]>)("%s can be violated", (name, given) => {
  expect(Object.keys(judge({ ...evidence, ...given }).violations)).toContain(name)
})

test.each<[string, Partial<Evidence>]>([
  ["memory", sampled({ memory: { order: 512 * megabyte } })],
  ["connections", sampled({ connections: 120 })],
  ["slots", withWorld({}, { slots: [{ ...slot, lagBytes: 16 * megabyte }] })],
  ["an entry of somebody else's", sampled({ ledger: ["other/2"], negative: ["other"] })],
  [
    "an entry that is there",
    {
      ...sampled({ ledger: ["p_ann/2"] }),
      ...withWorld({
        accounts: rows({ user_id: "p_ann", balance: 1, position: 1 }),
        users: rows({ id: "p_ann", balance: 1, position: 1 }),
        ledger: rows({ user_id: "p_ann", position: 2, balance: 1, amount: 1 })
      })
    }
  ],
  [
    "a client that was cut off",
    {
      run: { ...run, loadCut: true },
      history: [event({ type: "invoke" })],
      patient: new Set(["k1"])
    }
  ],
  ["what belongs to others", withWorld({}, { commits: twice.map(({ id }) => commit(id, 1, { cause: "c1" })) })]
])("within its bounds: %s", (_, given) => {
  const { ledgers: _ledgers, ...others } = judge({ ...evidence, ...given }).violations
  expect(others).toEqual({})
})

test("an order that was given up must be one of few, and its log must show it", () => {
  const { plan } = workloadOf(run.work)
  const [first] = plan.orders.filter(({ outcome }) => outcome.status === "APPROVED")
  const at = (seconds: number): Date => new Date(seconds * 1_000)
  const asked = (position: number, seconds: number) => ({
    ...log(position, "RUNNING"),
    attempt: position,
    at: at(seconds),
    cause_type: "due sagas"
  })
  const world = (ended: number) =>
    withWorld(
      {
        orders: rows({ id: "o1", status: "REJECTED", reason: "PAY_TIMEOUT", payment: { method: "account" } }),
        sagas: rows({
          id: "o1",
          definition: "place-order",
          coordination: "orchestration",
          state: "COMPENSATED",
          started_at: at(0)
        }),
        sagaLog: rows(asked(1, 0), asked(2, 30), asked(3, 90), {
          ...log(4, "COMPENSATING"),
          at: at(ended),
          cause_type: "due sagas",
          reason: "PAY_TIMEOUT"
        })
      },
      { keys: [kept(first?.key ?? "", "o1")] }
    )
  const found = (ended: number) => {
    const { outcomes, givenUp } = judge({
      ...evidence,
      plan: { ...plan, accounts: [], products: [] },
      ...world(ended)
    }).violations
    return { outcomes, givenUp }
  }

  expect(found(210)).toEqual({ outcomes: undefined, givenUp: ["1 of 1 orders were given up, more than 0"] })
  expect(found(209)).toEqual({ outcomes: ["order o1 is REJECTED PAY_TIMEOUT, not APPROVED"], givenUp: undefined })
})

test("of what is wrong twenty lines are told", () => {
  const negative = Array.from({ length: 30 }, (_, n) => `p_${n}`)

  expect(judge({ ...evidence, ...sampled({ negative }) }).violations["neverNegative"]).toHaveLength(20)
})

test("the table says what is void, and that nothing is wrong", () => {
  const verdict = judge(evidence)

  expect(tableOf(verdict)).toContain("○ tombstones: none")
  expect(tableOf(verdict)).toEndWith("no violations, but the run is void")
  expect(tableOf({ ...verdict, void: ["a reason"] })).toEndWith("○ a reason\nno violations, but the run is void")
  expect(tableOf({ ...verdict, void: [] })).toEndWith("\nno violations")
  const [head] = tableOf(verdict).split("\n")
  expect(head).toBe("fault                  planned  done   recovery: p50     p95     max")
  expect(tableOf({ ...verdict, counts: { orders: 20 } })).toContain("\n      20  orders\n")
  expect(tableOf(verdict)).toContain("connector offsets            1     1     –")
  const [line] = verdict.classes
  if (line === undefined) throw new Error("there is no class")
  const recovered = { ...verdict, classes: [{ ...line, recovery: { p50: 1_000, p95: 20_000, max: 130_049 } }, line] }
  expect(tableOf(recovered)).toContain("connector offsets            1     1        1.0 s  20.0 s 130.0 s")
  expect(tableOf(recovered)).toContain("all                          2     2")
})
