/** Records of every message type, sound ones and such as nobody should be hurt by, drawn from choices that a seed determines. */
import type { Topic } from "oncebox"
import type { BrokerRecord } from "../../../outbox/broker/broker.ts"
import { keyOfPayload, topicNameOf, type AnyContract } from "../../../outbox/message.ts"
import { pickBy, pickOne, type Choices } from "../../../outbox/testing/simulation/choices.ts"
import { participants } from "../participants.ts"
import { drawn } from "./payloads.ts"
import { spoilt } from "./spoil.ts"

const topics: ReadonlySet<Topic> = new Set(participants.flatMap((one) => [...one.topics.values()]))

/** Every message type of every topic. */
export const contracts: ReadonlyArray<AnyContract> = [...topics].flatMap(({ catalogue }) => [...catalogue.values()])

type Headers = BrokerRecord["headers"]
type HeaderValue = Headers[string]

export interface Fuzzed {
  /** What was done to it. */
  readonly sort: string
  readonly contract: AnyContract
  readonly record: BrokerRecord
}

/** What records of one run have in common. */
export interface Source {
  readonly choices: Choices
  readonly nowMs: number
  /** Ids of records made before. */
  readonly ids: Array<string>
  /** Of eight documents so many are about strangers; the others about those that all know. */
  readonly strangers: number
}

const partitions = 6
const drawnPerType = 24
/** Just below what a topic takes, which is 1 MiB with all that comes along. */
const hugeBytes = 1_040_000

const uuid = (choices: Choices, version: number, timeMs: number): string => {
  const hex = (length: number): string => Array.from({ length }, () => choices.pick(16).toString(16)).join("")
  const time = timeMs.toString(16).padStart(12, "0")
  return `${time.slice(0, 8)}-${time.slice(8, 12)}-${version}${hex(3)}-${pickOne(choices, ["8", "9", "a", "b"])}${hex(3)}-${hex(12)}`
}

const freshId = ({ choices, nowMs, ids }: Source): string => {
  const id = uuid(choices, 7, nowMs)
  if (ids.length < 1_000) ids.push(id)
  return id
}

const bytes = (text: string): Uint8Array => Buffer.from(text)

/** A sound record of the type, about one of `payloads`. */
export const soundRecord = (
  source: Source,
  contract: AnyContract,
  payload: object,
  coordination: "orchestration" | "choreography" = pickOne(source.choices, ["orchestration", "choreography"])
): BrokerRecord => {
  const key = keyOfPayload(contract, payload)
  return {
    topic: topicNameOf(contract.topic, coordination),
    partition: source.choices.pick(partitions),
    offset: 0n,
    key: bytes(key),
    value: bytes(JSON.stringify(payload)),
    headers: {
      id: bytes(freshId(source)),
      ce_type: bytes(contract.type),
      correlation: bytes(key),
      coordination: bytes(coordination),
      definition: bytes(pickOne(source.choices, ["place-order", "pay-first"])),
      schema_version: bytes("1")
    }
  }
}

const anyHeader: ReadonlyArray<readonly [string, HeaderValue | ReadonlyArray<HeaderValue>]> = [
  ["missing", undefined],
  ["null", null],
  ["empty", bytes("")],
  ["twice", [bytes("a"), bytes("b")]],
  ["none of it", []],
  ["oversize", bytes("x".repeat(20_000))],
  ["of 257 characters", bytes("x".repeat(257))],
  ["not UTF-8", Buffer.from([0xc3, 0x28, 0xff])],
  ["not ASCII", bytes("ünïcödé")],
  ["with a line break", bytes("a\r\nb: c")],
  ["with U+0000", bytes("a\u0000")],
  ["of a prototype", bytes("__proto__")],
  ["a number", bytes("1e400")],
  ["with a space", bytes(" ")]
]

const headerNames = [
  "id",
  "ce_type",
  "correlation",
  "coordination",
  "definition",
  "causation",
  "schema_version",
  "traceparent"
]

const withHeader = (record: BrokerRecord, name: string, value: unknown): BrokerRecord => ({
  ...record,
  // own properties, whatever they are called
  headers: Object.fromEntries([
    ...Object.entries(record.headers).filter(([held]) => held !== name),
    ...(value === undefined ? [] : [[name, value]])
  ]) as Headers
})

const oddId = ({ choices, nowMs, ids }: Source): string =>
  pickBy<() => string>(choices, [
    [4, () => pickOne(choices, ids)],
    [2, () => uuid(choices, 7, nowMs).toUpperCase()],
    [2, () => uuid(choices, 4, choices.pick(2 ** 30))],
    [1, () => uuid(choices, 7, nowMs - 400 * 86_400_000)],
    [1, () => uuid(choices, 7, nowMs + 400 * 86_400_000)],
    [1, () => "00000000-0000-0000-0000-000000000000"],
    [1, () => "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    [1, () => `{${uuid(choices, 7, nowMs)}}`],
    [1, () => `${uuid(choices, 7, nowMs)}\n`]
  ])()

type Spoil = (source: Source, record: BrokerRecord, payload: object) => readonly [sort: string, BrokerRecord]

const spoilHeader: Spoil = (source, record) => {
  const name = pickOne(source.choices, headerNames)
  const [how, value] = pickOne(source.choices, anyHeader)
  return [`${name} ${how}`, withHeader(record, name, value)]
}

const spoilHeaders: ReadonlyArray<readonly [weight: number, Spoil]> = [
  [8, spoilHeader],
  [4, (source, record) => ["an odd id", withHeader(record, "id", bytes(oddId(source)))]],
  [
    2,
    ({ choices }, record) => ["another type", withHeader(record, "ce_type", bytes(pickOne(choices, contracts).type))]
  ],
  [1, (_source, record) => ["no headers", { ...record, headers: {} }]],
  [
    2,
    ({ choices }, record) => {
      const name = pickOne(choices, ["__proto__", "constructor", "", "\u0000", "\ud800", "x".repeat(5_000)])
      return ["an odd header", withHeader(record, name, pickOne(choices, anyHeader)[1])]
    }
  ],
  [
    1,
    (_source, record) => [
      "many headers",
      { ...record, headers: { ...record.headers, ...Object.fromEntries(manyNames.map((name) => [name, bytes(name)])) } }
    ]
  ]
]
const manyNames = Array.from({ length: 500 }, (_, n) => `x-${n}`)

const oddKeys: ReadonlyArray<Uint8Array | null> = [
  null,
  bytes(""),
  Buffer.from([0xc3, 0x28]),
  bytes("k".repeat(10_000)),
  bytes("k".repeat(512)),
  bytes("k".repeat(513)),
  bytes("\u0000"),
  bytes("another"),
  Buffer.from("eda080", "hex"),
  bytes("__proto__")
]

const huge: Spoil = ({ choices }, record, payload) => {
  const room = pickOne(choices, [262_143, 262_144, 262_145, hugeBytes, hugeBytes])
  const filling = pickOne(choices, ["m", "\\\\", "\\u00e9", "é", "[", " "])
  const sound = JSON.stringify(payload)
  const bound = room - sound.length - '{"more":"",'.length
  const many = filling.repeat(Math.floor(bound / Buffer.byteLength(filling)))
  const plain = filling === " " || filling === "["
  const value = plain ? `${many}${sound}` : `{"more":"${many}",${sound.slice(1)}`
  return ["huge", { ...record, value: bytes(value) }]
}

const spoils: ReadonlyArray<readonly [weight: number, Spoil]> = [
  [
    240,
    ({ choices }, record, payload) => {
      const { sort, bytes: value } = spoilt(choices, payload)
      return [`value ${sort}`, { ...record, value }]
    }
  ],
  [100, (source, record, payload) => pickBy(source.choices, spoilHeaders)(source, record, payload)],
  [24, ({ choices }, record) => ["an odd key", { ...record, key: pickOne(choices, oddKeys) }]],
  [8, (_source, record) => ["no value", { ...record, value: null }]],
  [4, (_source, record) => ["nothing at all", { ...record, key: null, value: null, headers: {} }]],
  [1, huge],
  [
    16,
    (source, record, payload) => {
      const [how, once] = spoilHeader(source, record, payload)
      return [`value and ${how}`, { ...once, value: spoilt(source.choices, payload).bytes }]
    }
  ]
]

/** So many records of a type, one in four of them sound. */
export const recordsOf = (
  source: Source,
  contract: AnyContract,
  seed: number,
  count: number
): ReadonlyArray<Fuzzed> => {
  const payloads = drawn(source.choices, contract.schema, `${contract.type} ${seed}`, drawnPerType, source.strangers)
  return Array.from({ length: count }, () => {
    const payload = pickOne(source.choices, payloads)
    const record = soundRecord(source, contract, payload)
    if (source.choices.pick(4) === 0) return { sort: "sound", contract, record }
    const [sort, spoiled] = pickBy(source.choices, spoils)(source, record, payload)
    return { sort, contract, record: spoiled }
  })
}
