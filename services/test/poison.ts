/** Records that nobody can decide: sound ones, each spoiled in a way of its own. */
import type { Outgoing } from "oncebox"
import { ApproveOrderCommand } from "../order/contract.ts"
import { AccountOpenedEvent, ProcessPaymentCommand } from "../payment/contract.ts"
import { ReserveProductCommand } from "../product/contract.ts"
import { usualPartitions } from "../shell/topics.ts"
import { CreateShipmentCommand } from "../shipment/contract.ts"
import { UserCreatedEvent } from "../user/contract.ts"
import { handles, type Subscriber } from "./checks/check.ts"
import { injectedHeader, type Raw } from "./tape.ts"

export interface Poison {
  /** What is wrong with it. */
  readonly sort: string
  readonly record: Raw
  /** Who is to park it. */
  readonly consumers: ReadonlyArray<string>
}

const items = [{ productId: "poison-tea", quantity: 1 }]

/** Commands, which one participant each takes. */
const commandsOf = (orderId: string): ReadonlyArray<Outgoing> => [
  ReserveProductCommand.of({ orderId, items }),
  ProcessPaymentCommand.of({ orderId, userId: "poison-ann", amount: 700, payment: { method: "account" } }),
  CreateShipmentCommand.of({ orderId, userId: "poison-ann", items, country: null }),
  ApproveOrderCommand.of({ orderId, lines: [{ productId: "poison-tea", quantity: 1, price: 700 }], total: 700 })
]

/** And events. */
const messagesOf = (id: string): ReadonlyArray<Outgoing> => [
  ...commandsOf(id),
  UserCreatedEvent.of({ userId: id, balance: 1 }),
  AccountOpenedEvent.of({ userId: id, balance: 1, position: 1 })
]

interface Sound extends Raw {
  readonly value: Buffer
}
type Spoil = (sound: Sound) => Partial<Omit<Raw, "headers">> & { readonly headers?: Readonly<Record<string, unknown>> }

const text = (value: string): ReturnType<Spoil> => ({ value: Buffer.from(value) })

/** At a sixth, two sixths, … of a value's length. */
const parts = [1, 2, 3, 4, 5, 6]

/** Whose type is still what it was: to be taken for any message. */
const spoilt: ReadonlyArray<readonly [sort: string, spoil: Spoil]> = [
  ...parts.map((part): readonly [string, Spoil] => [
    `bit 7 flipped at ${part}/7`,
    ({ value }) => {
      const flipped = Buffer.from(value)
      const at = Math.floor((value.length * part) / 7)
      flipped[at] = (flipped[at] ?? 0) ^ 0x80
      return { value: flipped }
    }
  ]),
  ...parts
    .slice(0, 5)
    .map((part): readonly [string, Spoil] => [
      `JSON cut at ${part}/6`,
      ({ value }) => ({ value: value.subarray(0, Math.floor((value.length * part) / 6)) })
    ]),
  ["no value", () => ({ value: null })],
  ["an empty value", () => text("")],
  ["an array 10,000 deep", () => text("[".repeat(10_000) + "]".repeat(10_000))],
  ["an object 10,000 deep", () => text('{"orderId":'.repeat(10_000) + "1" + "}".repeat(10_000))],
  ["__proto__ instead of its fields", ({ value }) => text(`{"__proto__":${String(value)}}`)],
  ["another schema", () => text('{"orderId":7,"userId":[]}')],
  ["a number beyond all bounds", () => text('{"orderId":1e999,"userId":1e999}')],
  ["U+0000 in its value", () => text('{"orderId":"\\u0000","userId":"\\u0000"}')],
  ["half of a surrogate pair", () => text('{"orderId":"\\ud800","userId":"\\ud800"}')],
  ["a value of 600 kB", ({ value }) => text(JSON.stringify({ ...JSON.parse(String(value)), m: "m".repeat(600_000) }))],
  ["no id", () => ({ headers: { id: undefined } })],
  ["an id of 10,000 characters", () => ({ headers: { id: "0".repeat(10_000) } })],
  ["an id in upper case", ({ headers }) => ({ headers: { id: String(headers["id"]).toUpperCase() } })],
  ["two ids", ({ headers }) => ({ headers: { id: [String(headers["id"]), Bun.randomUUIDv7()] } })],
  ["an id of another year", () => ({ headers: { id: "01800000-0000-7000-8000-000000000000" } })],
  ["no correlation", () => ({ headers: { correlation: undefined } })],
  ["an unknown coordination", () => ({ headers: { coordination: "anarchy" } })],
  ["no key", () => ({ key: null })],
  ["a key that is not UTF-8", () => ({ key: Buffer.from([0xc3, 0x28]) })],
  ["a key of 10,000 characters", () => ({ key: Buffer.from("k".repeat(10_000)) })]
]

/** Whose type nobody knows: they are parked on topics of commands only. */
const untyped: ReadonlyArray<readonly [sort: string, spoil: Spoil]> = [
  ["no type", () => ({ headers: { ce_type: undefined } })],
  ["an unknown type", () => ({ headers: { ce_type: "BurnEverythingCommand" } })],
  ["a type with a line break", () => ({ headers: { ce_type: "ReserveProductCommand\r\nx: y" } })],
  [
    "no headers",
    () => ({ headers: { id: undefined, ce_type: undefined, correlation: undefined, coordination: undefined } })
  ]
]

/** One record of each sort, on topics of all services in turn. */
export const poisonFor = (subscribers: ReadonlyArray<Subscriber>): ReadonlyArray<Poison> => {
  const make = ([sort, spoil]: (typeof spoilt)[number], n: number, messages: typeof messagesOf): Poison => {
    const id = crypto.randomUUID()
    const message = messages(id)[n % messages(id).length]
    if (message === undefined) throw new Error("there are no messages")
    const { contract, payload } = message
    const headers = {
      id: Bun.randomUUIDv7(),
      ce_type: contract.type,
      correlation: id,
      coordination: "orchestration",
      schema_version: "1",
      [injectedHeader]: sort
    }
    const sound: Sound = {
      topic: contract.topic.name,
      partition: n % usualPartitions,
      key: Buffer.from(id),
      value: Buffer.from(JSON.stringify(payload)),
      headers
    }
    const spoiled = spoil(sound)
    const present = Object.entries({ ...headers, ...spoiled.headers }).filter(([, value]) => value !== undefined)
    const record = { ...sound, ...spoiled, headers: Object.fromEntries(present) as Raw["headers"] }
    const asIs = { id: "", topic: sound.topic, type: contract.type, coordination: "orchestration" } as const
    const consumers = subscribers.filter((one) => handles(one, asIs)).map(({ consumer }) => consumer)
    return { sort, record, consumers }
  }
  return [...spoilt.map((each, n) => make(each, n, messagesOf)), ...untyped.map((each, n) => make(each, n, commandsOf))]
}
