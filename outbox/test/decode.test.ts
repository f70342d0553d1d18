/** What a record on a topic is read as: a message, something unreadable to be parked, or nothing. */
import { describe, expect, test } from "bun:test"
import { Schema } from "effect"
import type { BrokerRecord } from "../broker/broker.ts"
import { idOfRecord } from "../delivery/dead-letter.ts"
import { readRecord, type Reader } from "../lanes/decode.ts"
import { maxKeyLength, maxPayloadLength, Topic } from "../message.ts"
import { Participant } from "../participant.ts"
import { isUuid } from "../store/inbox.ts"

const commands = Topic.commands("things-commands")
const events = Topic.events("things-events")
const fields = { id: Schema.String }
const MakeThing = commands.message("MakeThing", fields, { key: "id" })
const ThingMade = events.message("ThingMade", fields, { key: "id", schemaVersion: 3 })
const ThingBroken = events.message("ThingBroken", fields, { key: "id" })
events.message("ThingSold", fields, { key: "id" })

const handling = { decide: () => ({}) }
const { messages } = Participant.make("things", {})
  .on(MakeThing, handling)
  .on(ThingMade, handling)
  .on(ThingBroken, { ...handling, coordination: "choreography" })
const reader: Reader = { topics: new Map([commands, events].map((topic) => [topic.name, topic])), handlers: messages }

const id = "019c9a1e-5b00-7abc-8def-0123456789ab"
const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
const headers = { id, ce_type: "ThingMade", correlation: "c1", coordination: "orchestration" }

type Change = Partial<Omit<BrokerRecord, "headers" | "key" | "value">> & {
  readonly headers?: Readonly<Record<string, string | undefined>>
  readonly key?: string | Uint8Array | null
  readonly value?: string | Uint8Array | null
}
const bytesOf = (text: string | Uint8Array | null) => (typeof text === "string" ? Buffer.from(text) : text)
const record = ({ key = "t1", value = '{"id":"t1"}', headers: changed, ...rest }: Change = {}): BrokerRecord => ({
  topic: events.name,
  partition: 0,
  offset: 1n,
  key: bytesOf(key),
  value: bytesOf(value),
  headers: Object.fromEntries(
    Object.entries({ ...headers, ...changed }).flatMap(([name, text]) =>
      text === undefined ? [] : [[name, Buffer.from(text, "latin1")]]
    )
  ),
  ...rest
})
const envelopeOf = (change: Change) => {
  const read = readRecord(reader, record(change))
  if (read._tag !== "message") throw new Error(`it was read as ${read._tag}`)
  return read.envelope
}
const letterOf = (change: Change) => {
  const read = readRecord(reader, record(change))
  if (read._tag !== "unreadable") throw new Error(`it was read as ${read._tag}`)
  return read.letter
}

describe("a message", () => {
  test("says what its headers say, and its contract's version when they don't", () => {
    const said = { id, topic: events.name, key: "t1", type: "ThingMade", correlation: "c1" }

    expect(envelopeOf({})).toEqual({
      ...said,
      causation: null,
      coordination: "orchestration",
      definition: null,
      traceparent: null,
      schemaVersion: 3
    })
    const style = { coordination: "choreography", definition: "book-trip" } as const
    const told = { causation: "cause-1", ...style, traceparent, schema_version: "2" }
    expect(envelopeOf({ headers: told })).toEqual({
      ...said,
      causation: "cause-1",
      ...style,
      traceparent,
      schemaVersion: 2
    })
  })

  test.each(["", "00", traceparent.toUpperCase(), `${traceparent}-x`, `x${traceparent}`])(
    "has no trace when its header is %p",
    (text) => {
      expect(envelopeOf({ headers: { traceparent: text } }).traceparent).toBeNull()
    }
  )

  test("may be as long as one that is sent, and its key too", () => {
    const value = JSON.stringify({ id: "t1" }).padEnd(maxPayloadLength)
    const key = "k".repeat(maxKeyLength)

    expect(envelopeOf({ value, key }).key).toBe(key)
    expect(letterOf({ value: `${value} ` }).detail).toContain(`more than the ${maxPayloadLength}`)
    expect(letterOf({ key: `${key}k` }).detail).toContain(`longer than ${maxKeyLength} characters`)
  })
})

describe("a record is skipped", () => {
  test.each<readonly [string, Change, boolean]>([
    ["when its type is known and not handled", { headers: { ce_type: "ThingSold" } }, true],
    ["when it is of a style that is not handled", { headers: { ce_type: "ThingBroken" } }, true],
    ["when an events topic carries what nobody knows", { headers: { ce_type: "ThingLost" } }, false],
    ["when nobody knows its topic", { topic: "others-events" }, false],
    ["before its id is looked at", { headers: { ce_type: "ThingSold", id: undefined } }, true]
  ])("%s", (_name, change, known) => {
    expect(readRecord(reader, record(change))).toEqual({ _tag: "skipped", known })
  })

  test("but not when it is of the style that is handled", () => {
    expect(envelopeOf({ headers: { ce_type: "ThingBroken", coordination: "choreography" } }).type).toBe("ThingBroken")
  })
})

describe("a record is put aside", () => {
  const plain = "is missing, repeated or not plain text"
  test.each<readonly [string, Change, string]>([
    ["that has no type", { headers: { ce_type: undefined } }, `header ce_type ${plain}`],
    ["that has no id", { headers: { id: undefined } }, "header id is missing, repeated or not a lower-case UUID"],
    ["whose id is no UUID", { headers: { id: "1" } }, "header id is missing, repeated or not a lower-case UUID"],
    ["that has no key", { key: null }, "the record has no key that is UTF-8"],
    ["whose key is not UTF-8", { key: new Uint8Array([0xff]) }, "the record has no key that is UTF-8"],
    ["that has no correlation", { headers: { correlation: undefined } }, `header correlation ${plain}`],
    ["whose correlation has a line end", { headers: { correlation: "a\nb" } }, `header correlation ${plain}`],
    [
      "that has no style",
      { headers: { coordination: undefined } },
      "header coordination is not one of orchestration, choreography"
    ],
    [
      "of a style that there is not",
      { headers: { coordination: "improvisation" } },
      "header coordination is not one of orchestration, choreography"
    ],
    ["that has no value", { value: null }, "the record has no value"],
    ["whose value is not UTF-8", { value: new Uint8Array([0xff]) }, "the value is not UTF-8"]
  ])("%s", (_name, change, detail) => {
    expect(letterOf(change)).toMatchObject({ reason: "unreadable", detail })
  })

  test("when a commands topic carries what nobody knows", () => {
    const letter = letterOf({ topic: commands.name, headers: { ce_type: "BreakThing" } })

    expect(letter).toMatchObject({ id, type: "BreakThing", key: "t1", reason: "unknown-type" })
    expect(letter.detail).toBe("things-commands carries no BreakThing")
  })

  test("under its own id, or under one of what it is when that can't be used", () => {
    expect(letterOf({ value: "" }).id).toBe(id)
    for (const bad of [undefined, "1", id.toUpperCase()]) {
      const change = { headers: { id: bad } }
      expect(isUuid(letterOf(change).id)).toBe(true)
      expect(letterOf(change).id).toBe(idOfRecord(record(change)))
    }
  })

  test("with a key that Postgres can hold", () => {
    expect(letterOf({ key: "a\u0000b" })).toMatchObject({ key: "a\uFFFDb", detail: expect.stringContaining("U+0000") })
    expect(letterOf({ key: "k".repeat(600) }).key).toBe("k".repeat(maxKeyLength))
    expect(letterOf({ key: null }).key).toBeNull()
  })
})

test("what is decided anew says so, readable or not", () => {
  expect(readRecord(reader, record(), true)).toMatchObject({ _tag: "message", redrive: true })
  expect(readRecord(reader, record({ value: "" }), true)).toMatchObject({ _tag: "unreadable", redrive: true })
  expect(readRecord(reader, record())).toMatchObject({ _tag: "message", redrive: false })
})
