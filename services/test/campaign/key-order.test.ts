/** The order of messages that have a key in common: what is out of turn is wrong, unless the data tell why. */
import { expect, test } from "bun:test"
import type { Written } from "./dump.ts"
import { commit, fault, record } from "./fixture.ts"
import { keyOrder, type Published } from "./key-order.ts"
import type { Done } from "./nemesis.ts"

const judged = (given: Partial<Published>) =>
  keyOrder({ records: [], commits: [], written: [], done: [], republished: [], ...given })

const [a, b] = [record("a"), record("b")]
const inOrder = [commit("a", 1_000), commit("b", 2_000), commit("c", 3_000)]

test("first occurrences come as they were committed; repetitions may come at any time", () => {
  expect(judged({ records: [a, b, a, record("c")], commits: inOrder })).toEqual({ wrong: [], excepted: 0 })
  expect(judged({ records: [b, a], commits: inOrder }).wrong).toEqual([
    "T a of o1 comes after b, which was committed 1000 µs later"
  ])
  expect(judged({ records: [record("c"), a, b], commits: inOrder }).wrong).toHaveLength(2)
})

test("another key, another topic, what was injected and what is no outbox's have an order of their own", () => {
  expect(judged({ records: [b, record("a", { key: "o2" })], commits: inOrder }).wrong).toEqual([])
  expect(judged({ records: [b, record("a", { topic: "u" })], commits: inOrder }).wrong).toEqual([])
  expect(judged({ records: [record("b", { injected: true }), a], commits: inOrder }).wrong).toEqual([])
  expect(judged({ records: [b, record("x")], commits: inOrder }).wrong).toEqual([])
})

test("of two commits at the same moment either may come first", () => {
  const together = [commit("a", 1_000), commit("b", 1_000)]

  expect(judged({ records: [b, a], commits: together }).wrong).toEqual([])
  expect(judged({ records: [a, b], commits: together }).wrong).toEqual([])
})

test("within a transaction there is no order to be kept", () => {
  const together = [commit("a", 1_000, { transaction: "x" }), commit("b", 2_000, { transaction: "x" })]

  expect(judged({ records: [b, a], commits: together }).wrong).toEqual([])
})

test("what the auditor published came when it came, and excepts nothing but itself", () => {
  expect(judged({ records: [b, a], commits: inOrder, republished: ["a"] })).toEqual({ wrong: [], excepted: 1 })
  // what was published too early does not make others late
  expect(judged({ records: [b, a], commits: inOrder, republished: ["b"] })).toEqual({ wrong: [], excepted: 0 })
  expect(judged({ records: [b, a], commits: inOrder, republished: ["c"] }).wrong).toHaveLength(1)
  const late = [record("c"), b, a]
  expect(judged({ records: late, commits: inOrder, republished: ["b"] }).wrong).toHaveLength(1)
})

/*
 * The table "first b a" was committed as "first a b"; `from` is in milliseconds, commits in microseconds.
 */
const table = [
  commit("first", 1_000, { key: "o0", place: 1 }),
  commit("b", 5_000, { place: 2 }),
  commit("a", 3_000, { place: 3 })
]
const wrote = (ids: ReadonlyArray<string>, given: Partial<Written> = {}): Written => ({
  producer: "7",
  partition: "t/0",
  from: 10,
  ids,
  ...given
})
const reading: Partial<Published> = {
  records: [record("first", { key: "o0", producer: "6" }), b, a],
  commits: table,
  written: [wrote(["first"], { producer: "6", from: 1 }), wrote(["first", "b", "a"])],
  done: [fault]
}

test("of two messages that a connector read from the table the one that stands there first comes first", () => {
  expect(judged(reading)).toEqual({ wrong: [], excepted: 1 })
})

test("a table is read after offsets were lost, those of its connector", () => {
  const [elsewhere, later, killed]: ReadonlyArray<Done> = [
    { ...fault, target: "payments" },
    { ...fault, startedAt: 11 },
    { ...fault, class: "kill connect" }
  ] as const
  for (const one of [elsewhere, later, killed])
    expect(judged({ ...reading, done: one === undefined ? [] : [one] }).wrong).toHaveLength(1)
  expect(judged({ ...reading, done: [] }).wrong).toHaveLength(1)
  expect(judged({ ...reading, done: [{ ...fault, startedAt: 10 }] }).wrong).toEqual([])
})

test("a task that leaves out what was there before reads from the log", () => {
  expect(
    judged({ ...reading, written: [wrote(["first"], { producer: "6", from: 1 }), wrote(["b", "a"])] }).wrong
  ).toHaveLength(1)
  // between the two there was one more
  const between = [...table.slice(0, 2), commit("c", 4_000, { key: "o2", place: 3 }), commit("a", 3_000, { place: 4 })]
  const left = [wrote(["first", "c"], { producer: "6", from: 1 }), wrote(["first", "b", "a"])]
  expect(judged({ ...reading, commits: between, written: left }).wrong).toHaveLength(1)
})

test("a row may be left out that came later, or that came otherwise", () => {
  const more = (at: number) => [
    ...table.slice(0, 2),
    commit("c", at, { key: "o2", place: 3 }),
    commit("a", 3_000, { place: 4 })
  ]
  const elsewhere = wrote(["first", "c"], { producer: "8" })
  const left = [elsewhere, wrote(["first", "b", "a"])]

  expect(judged({ ...reading, commits: more(6_000), written: left }).wrong).toEqual([])
  expect(judged({ ...reading, commits: more(5_000), written: left }).wrong).toHaveLength(1)
  // seen late by the snapshot: the log has it, or the auditor
  expect(judged({ ...reading, commits: more(4_000), written: [wrote(["first", "b", "a", "c"])] }).wrong).toEqual([])
  expect(judged({ ...reading, commits: more(4_000), written: left, republished: ["c"] }).wrong).toEqual([])
})

test("what was committed after the task began to publish does not come from the table", () => {
  const late = (at: number) => [
    table[0] ?? commit("first", 1),
    commit("b", at, { place: 2 }),
    commit("a", 3_000, { place: 3 })
  ]

  expect(judged({ ...reading, commits: late(10_999) }).wrong).toEqual([])
  expect(judged({ ...reading, commits: late(11_000) }).wrong).toHaveLength(1)
  // it began on another partition
  const earlier = [wrote(["other"], { partition: "t/1", from: 4 }), ...(reading.written ?? [])]
  expect(judged({ ...reading, written: earlier }).wrong).toHaveLength(1)
})

test("what another task read from the table, or the same one later, excepts nothing", () => {
  const streamed = [record("first", { key: "o0" }), record("b", { producer: "6" }), a]
  expect(judged({ ...reading, records: streamed }).wrong).toHaveLength(1)
  expect(
    judged({ ...reading, records: [record("first", { key: "o0" }), b, record("a", { producer: "6" })] }).wrong
  ).toHaveLength(1)
  expect(judged({ ...reading, records: [b, record("a", { producer: null })] }).wrong).toHaveLength(1)
  // the order of the table is over
  const back = [wrote(["first", "a", "b"])]
  expect(judged({ ...reading, written: back }).wrong).toHaveLength(1)
})

test("a table's order is its own", () => {
  // b stands behind a, and came before it: not as the table is read
  const turned = [table[0] ?? commit("first", 1), commit("b", 5_000, { place: 3 }), commit("a", 3_000, { place: 2 })]
  const twice = [wrote(["first", "a", "b"]), wrote(["first", "a", "b"], { producer: "8" })]
  const records = [record("first", { key: "o0" }), record("b", { producer: "8" }), a]

  expect(judged({ ...reading, commits: turned, written: twice, records }).wrong).toHaveLength(1)
})

test("a task that died while it read the table leaves the rest to the next one", () => {
  const commits = [commit("b", 5_000, { place: 1 }), commit("a", 3_000, { place: 2 })]
  const written = [wrote(["b"]), wrote(["b", "a"], { producer: "8" })]
  const records = [b, record("a", { producer: "8" })]

  expect(judged({ ...reading, commits, written, records })).toEqual({ wrong: [], excepted: 1 })
  // what it read before the log, or before it left something out, was read from the table
  const streaming = [wrote(["b", "a", "b"])]
  expect(judged({ ...reading, commits, written: streaming, records: [b, a] }).wrong).toEqual([])
  const more = [commit("c", 1_000, { key: "o2", place: 3 }), commit("d", 2_000, { key: "o2", place: 4 })]
  const leaving = [wrote(["c"], { producer: "6" }), wrote(["b", "a", "d"])]
  expect(judged({ ...reading, commits: [...commits, ...more], written: leaving, records: [b, a] }).wrong).toEqual([])
  // nobody writes a row of the table twice
  const stuttering = [wrote(["b", "b", "a"])]
  expect(judged({ ...reading, commits, written: stuttering, records: [b, a] }).wrong).toHaveLength(1)
})

test("partitions and databases are read each by itself", () => {
  const parted = [wrote(["first"], { partition: "t/1", from: 1, producer: "6" }), wrote(["b", "a"])]
  expect(judged({ ...reading, written: parted }).wrong).toEqual([])
  const foreign = [commit("first", 1_000, { key: "o0", place: 1, database: "sagas" }), ...table.slice(1)]
  const before = [wrote(["first"], { producer: "6", from: 1 }), wrote(["b", "a"])]
  expect(judged({ ...reading, commits: foreign, written: before }).wrong).toEqual([])
})
