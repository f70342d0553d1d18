/** Whatever lies on a topic: it is decided, dropped or parked, nothing waits behind it, and what is parked leaves no row. */
import { isUtf8 } from "node:buffer"
import { expect, setDefaultTimeout, test } from "bun:test"
import { Clock, Effect, Exit, Cause, Semaphore } from "effect"
import type { Participant } from "oncebox"
import type { BrokerRecord } from "../../../outbox/broker/broker.ts"
import { readRecord, type Reader } from "../../../outbox/lanes/decode.ts"
import { contextOf, type LaneContext } from "../../../outbox/lanes/lane.ts"
import { decide, readerOf } from "../../../outbox/lanes/topics.ts"
import { maxPayloadLength, type AnyContract } from "../../../outbox/message.ts"
import type { Outcome } from "../../../outbox/pass/inputs.ts"
import { emptyDatabase, memoryLane, type MemoryDatabase } from "../../../outbox/store/memory.ts"
import type { StoreLane } from "../../../outbox/store/store.ts"
import type { Tables } from "../../../outbox/table.ts"
import { seeded, type Choices } from "../../../outbox/testing/simulation/choices.ts"
import { participants } from "../participants.ts"
import { contracts, recordsOf, type Fuzzed, type Source } from "./records.ts"

setDefaultTimeout(300_000)

const seed = Number(process.env["SEED"] ?? 20260301)
const perType = 2_000
const nowMs = Date.UTC(2026, 2, 1, 12)
const clock: Clock.Clock = {
  ...Effect.runSync(Effect.clockWith(Effect.succeed)),
  currentTimeMillisUnsafe: () => nowMs,
  currentTimeMillis: Effect.succeed(nowMs)
}

/** A participant with a database of its own, on the production lane's own steps. */
interface Node {
  readonly name: string
  readonly reader: Reader
  readonly context: LaneContext
  readonly database: MemoryDatabase
  readonly lane: StoreLane
}

const nodeOf = (participant: Participant<Tables>): Node => {
  const database = emptyDatabase()
  let made = 0
  const context = contextOf(
    participant,
    { slotMs: 86_400_000, slots: 30 },
    { newId: () => `eeeeeeee-eeee-4eee-8eee-${String(made++).padStart(12, "0")}` }
  )
  const lane = memoryLane(database, Semaphore.makeUnsafe(1))
  return { name: participant.name, reader: readerOf(context), context, database, lane }
}

/** What comes of records in one pass, of those that are this node's. */
const pass = (node: Node, records: ReadonlyArray<BrokerRecord>): ReadonlyArray<Outcome> => {
  const effect = decide(node.context, node.lane, node.reader, records)
  const exit = Effect.runSyncExit(Effect.provideService(effect, Clock.Clock, clock))
  if (Exit.isSuccess(exit)) return exit.value
  throw new Error(`${node.name} broke: ${Cause.pretty(exit.cause)}`)
}

/** Where things stand, with ids that were made on the way taken for the same. */
const stateOf = ({ database }: Node): Readonly<Record<string, string>> => {
  const text = (data: unknown) => JSON.stringify(data).replaceAll(/eeeeeeee-eeee-4eee-8eee-\d{12}/g, "made")
  return Object.fromEntries([
    ...[...database.tables].flatMap(([name, rows]) => (rows.size === 0 ? [] : [[name, text([...rows.values()])]])),
    ...[...database.logs].map(([name, rows]) => [name, text(rows)]),
    ["inbox", text([...database.inbox.values()].flatMap((claims) => [...claims]))],
    ["outbox", text(database.outbox.filter(({ topic }) => !topic.endsWith(".dead")))]
  ])
}

const lettersOf = ({ database }: Node) => [...database.deadLetters.values()].flatMap((letters) => [...letters.values()])

/** The rows stay, for the next type's messages to meet. */
const forget = ({ database }: Node): void => {
  database.inbox.clear()
  database.deadLetters.clear()
  database.outbox.splice(0)
}

/** As somebody would need it who looks into it. */
const shown = ({ sort, contract, record: { key, value, headers } }: Fuzzed): string =>
  `SEED=${seed} ${contract.type}, ${sort}: ${JSON.stringify({
    key: key && Buffer.from(key).toString("latin1"),
    value: value && Buffer.from(value).toString("latin1").slice(0, 2_000),
    bytes: value?.length,
    headers: Object.fromEntries(Object.entries(headers).map(([name, one]) => [name, String(one).slice(0, 100)]))
  })}`

const batchesOf = (choices: Choices, records: ReadonlyArray<Fuzzed>): ReadonlyArray<ReadonlyArray<Fuzzed>> => {
  const batches: Array<ReadonlyArray<Fuzzed>> = []
  for (let from = 0; from < records.length;) {
    const size = choices.pick(80)
    batches.push(records.slice(from, from + size))
    from += size
  }
  return batches
}

/** Each record in its place on its partition. */
const placed = (records: ReadonlyArray<Fuzzed>, offsets: Map<number, bigint>): ReadonlyArray<Fuzzed> =>
  records.map((fuzzed) => {
    const { partition } = fuzzed.record
    const offset = offsets.get(partition) ?? 0n
    offsets.set(partition, offset + 1n)
    return { ...fuzzed, record: { ...fuzzed.record, offset } }
  })

const reasonsOfPoison = ["unreadable", "unknown-type", "outside-window"]

const isReadable = ({ key, value, headers }: BrokerRecord): boolean => {
  const named = ["id", "ce_type", "correlation", "coordination"].map((name) => headers[name])
  if (key === null || value === null || named.some((one) => !(one instanceof Uint8Array))) return false
  const text = Buffer.from(value).toString()
  return isUtf8(key) && isUtf8(value) && text.length <= maxPayloadLength
}

/**
 * Whether a decision said no by itself: to what can't be, such as the rejection of an approved order. A saga goes by its
 * messages' correlation: one that is no order's id is nothing that it could ask in the name of.
 */
const isRefusal = (detail: string, sort: string): boolean =>
  detail.startsWith("Error: ") && (!detail.includes("breaks its contract") || sort.includes("correlation"))

/** What is wrong with how a record was read and with what came of it. */
const wrongWith = ({ sort, record }: Fuzzed, outcome: Outcome): string | undefined => {
  if (outcome._tag === "done") return isReadable(record) ? undefined : "nobody could read it, and it was decided"
  if (outcome._tag === "duplicate") return sort === "sound" ? "a sound record was dropped" : undefined
  if (outcome._tag !== "parked") return `it is ${outcome._tag}`
  if (outcome.reason === "decision-failed" && isRefusal(outcome.detail, sort)) return undefined
  if (!reasonsOfPoison.includes(outcome.reason)) return `${outcome.reason}: ${outcome.detail}`
  return sort === "sound" ? `it is sound, and ${outcome.detail}` : undefined
}

/** All records of a type, once in batches with poison, then again, and the decided ones alone, one by one. */
const play = (node: Node, alone: Node, records: ReadonlyArray<Fuzzed>, choices: Choices, met: Map<string, number>) => {
  const decided: Array<BrokerRecord> = []
  for (const batch of batchesOf(choices, records)) {
    const ours = batch.filter(({ record }) => readRecord(node.reader, record)._tag !== "skipped")
    met.set("skipped", (met.get("skipped") ?? 0) + batch.length - ours.length)
    const outcomes = pass(
      node,
      batch.map(({ record }) => record)
    )
    expect(outcomes).toHaveLength(ours.length)
    for (const [n, outcome] of outcomes.entries()) {
      const fuzzed = ours[n]
      if (fuzzed === undefined) continue
      const wrong = wrongWith(fuzzed, outcome)
      if (wrong !== undefined) throw new Error(`${node.name}: ${wrong}: ${shown(fuzzed)}`)
      if (outcome._tag === "done") decided.push(fuzzed.record)
      const what = outcome._tag === "parked" ? `parked ${outcome.reason}` : outcome._tag
      met.set(what, (met.get(what) ?? 0) + 1)
    }
  }

  const state = stateOf(node)
  const letters = lettersOf(node)
  // read again they have the same ids, and fall out
  const again = pass(
    node,
    records.map(({ record }) => record)
  )
  expect(again.filter(({ _tag }) => _tag !== "duplicate")).toEqual([])
  expect(stateOf(node)).toEqual(state)
  expect(lettersOf(node).every((letter, n) => letter === letters[n])).toBe(true)
  expect(lettersOf(node)).toHaveLength(letters.length)

  expect(decided.map((record) => pass(alone, [record])[0]?._tag).filter((outcome) => outcome !== "done")).toEqual([])
  expect(stateOf(alone)).toEqual(state)
  forget(node)
  forget(alone)
}

const handlersOf = (nodes: ReadonlyArray<readonly [Node, Node]>, contract: AnyContract) =>
  nodes.filter(([{ reader }]) => reader.handlers.has(contract))

test(`${perType} records of each message type stop nobody and leave nothing half done (SEED=${seed})`, () => {
  const choices = seeded(seed)
  const source: Source = { choices, nowMs, ids: [], strangers: 1 }
  const offsets = new Map<string, Map<number, bigint>>()
  const nodes = participants.map((one) => {
    // each is only ever given rows of its own tables
    const participant = one as unknown as Participant<Tables>
    return [nodeOf(participant), nodeOf(participant)] as const
  })
  const met = new Map<string, number>()
  const sorts = new Map<string, number>()

  for (const contract of contracts) {
    const { name } = contract.topic
    const taken = offsets.get(name) ?? new Map<number, bigint>()
    offsets.set(name, taken)
    const records = placed(recordsOf(source, contract, seed, perType), taken)
    for (const { sort } of records) sorts.set(sort, (sorts.get(sort) ?? 0) + 1)
    for (const [node, alone] of handlersOf(nodes, contract)) play(node, alone, records, choices, met)
  }

  console.log(Object.fromEntries(met), sorts.size, contracts.length)
  for (const what of ["done", "duplicate", "skipped", ...reasonsOfPoison.map((reason) => `parked ${reason}`)])
    expect([what, (met.get(what) ?? 0) > 100]).toEqual([what, true])
})
