import { describe, expect, test } from "bun:test"
import { Schema } from "effect"
import fc from "fast-check"
import {
  decodePayload,
  encodePayload,
  maxDepth,
  maxKeyLength,
  maxPayloadLength,
  Request,
  seal,
  Topic,
  topicNamesOf,
  type AnyContract
} from "../message.ts"

import { Participant } from "../participant.ts"

const runs = { seed: Number(process.env["SEED"] ?? 20260301), numRuns: 2_000 }

const events = Topic.events("notes-events")
const Written = events.message(
  "Written",
  {
    noteId: Schema.String,
    text: Schema.String,
    stars: Schema.Int,
    tags: Schema.optionalKey(Schema.Array(Schema.String))
  },
  { key: "noteId", schemaVersion: 3 }
)
const written: AnyContract = Written.of({ noteId: "n1", text: "hello", stars: 5 }).contract
const note = { noteId: "n1", text: "hello", stars: 5 }

/** A note as a sender without our types would make it. */
const outgoing = (payload: object) => ({ contract: written, payload })
const decoded = (json: string): object | string => {
  const read = decodePayload(written, json)
  return "payload" in read ? read.payload : read.unreadable
}

describe("a contract", () => {
  test("says type, topic, key and version, and makes messages", () => {
    expect(Written).toMatchObject({ type: "Written", topic: events, schemaVersion: 3 })
    expect(Written.key({ noteId: "n7", text: "", stars: 0 })).toBe("n7")
    expect(Written.of(note, { id: "i", correlation: "c", coordination: "choreography" })).toEqual({
      contract: written,
      payload: note,
      id: "i",
      correlation: "c",
      coordination: "choreography"
    })
  })

  test("is in its topic's catalogue under its type", () => {
    expect(events.kind).toBe("events")
    expect(events.catalogue.get("Written")).toBe(written)
  })

  test("has version 1 unless it says otherwise, and a key that is text even when the field is a number", () => {
    const Counted = Topic.commands("counts-commands").message("Counted", { count: Schema.Int }, { key: "count" })

    expect(Counted).toMatchObject({ schemaVersion: 1, topic: { kind: "commands", name: "counts-commands" } })
    expect(Counted.key({ count: 12 })).toBe("12")
  })

  test("may have a topic of its own for choreographed sagas", () => {
    const apart = Topic.events("apart-events", { choreographyName: "apart-choreography" })
    const { contract } = apart.message("Apart", note1, { key: "noteId" }).of({ noteId: "n1" })
    const topicOf = (coordination: "orchestration" | "choreography", said: typeof coordination = coordination) => {
      const origin = { causation: null, coordination, correlation: null, definition: null, traceparent: null }
      const messages = [{ contract, payload: { noteId: "n1" } }, outgoing(note)]
      return messages.map((message) => seal({ ...message, coordination: said }, origin, () => "i").topic)
    }

    expect(topicOf("orchestration")).toEqual(["apart-events", "notes-events"])
    expect(topicOf("choreography")).toEqual(["apart-choreography", "notes-events"])
    // what the decision says of its message counts, not what caused it
    expect(topicOf("orchestration", "choreography")).toEqual(["apart-choreography", "notes-events"])
    expect(topicOf("choreography", "orchestration")).toEqual(["apart-events", "notes-events"])
    expect([...topicNamesOf(apart, undefined)]).toEqual(["apart-events", "apart-choreography"])
    expect([...topicNamesOf(apart, "orchestration")]).toEqual(["apart-events"])
    expect([...topicNamesOf(apart, "choreography")]).toEqual(["apart-choreography"])
    expect([...topicNamesOf(events, undefined)]).toEqual(["notes-events"])
  })

  test("is refused by a participant that has another catalogue of its topic's name", () => {
    const [one, other] = ["a-events", "b-events"].map((name) =>
      Topic.events(name, { choreographyName: "choreography" }).message(name, note1, { key: "noteId" })
    )
    if (one === undefined || other === undefined) throw new Error("there are two")
    const participant = Participant.make("reader", {}).on(one, { decide: () => ({}) })

    expect(() => participant.on(other, { decide: () => ({}) })).toThrow("two catalogues are on the topic choreography")
  })

  test("is refused when its topic has one of its type already", () => {
    const topic = Topic.events("twice-events")
    topic.message("Once", note1, { key: "noteId" })

    expect(() => topic.message("Once", note1, { key: "noteId" })).toThrow("twice-events has two contracts of type Once")
  })

  test("takes as key only a field that it has", () => {
    const topic = Topic.events("keys-events")

    // @ts-expect-error: there is no such field
    topic.message("Keyless", note1, { key: "id" })
  })

  test("makes no message of another contract's payload", () => {
    // @ts-expect-error: a field is missing
    Written.of({ noteId: "n1", text: "hello" })
  })
})

const note1 = { noteId: Schema.String }

describe("encoding", () => {
  test("writes what the contract knows and drops the rest", () => {
    const payload = { ...note, tags: ["a"], secret: "x" }

    expect(JSON.parse(encodePayload(outgoing(payload)))).toEqual({ ...note, tags: ["a"] })
  })

  test.each([
    ["a field is missing", { noteId: "n1", text: "hello" }, "stars"],
    ["a field has another type", { ...note, stars: "5" }, "stars"],
    ["a number is not an integer", { ...note, stars: 0.5 }, "stars"],
    ["a number is none", { ...note, stars: Number.NaN }, "stars"],
    ["an optional field is there without a value", { ...note, tags: undefined }, "tags"],
    ["an item has another type", { ...note, tags: ["a", 1] }, "tags"]
  ])("is refused when %s, and says which field it is", (_name, payload, field) => {
    expect(() => encodePayload(outgoing(payload))).toThrow(/^Written breaks its contract: .*/)
    expect(() => encodePayload(outgoing(payload))).toThrow(field)
  })

  test("is refused for a contract that transforms: what is sent must be what was checked", () => {
    const Dated = Topic.events("dates-events").message("Dated", { at: Schema.DateFromString }, { key: "at" })

    expect(() => encodePayload(Dated.of({ at: new Date() }))).toThrow("Dated breaks its contract")
  })

  test("takes the longest payload that readers take, and none that is longer", () => {
    const rest = encodePayload(outgoing({ ...note, text: "" })).length
    const text = "x".repeat(maxPayloadLength - rest)

    expect(encodePayload(outgoing({ ...note, text }))).toHaveLength(maxPayloadLength)
    expect(() => encodePayload(outgoing({ ...note, text: `${text}x` }))).toThrow(
      `Written has ${maxPayloadLength + 1} characters, more than the ${maxPayloadLength} a message may have`
    )
  })
})

describe("sealing", () => {
  const origin = {
    correlation: "c1",
    causation: "m0",
    coordination: "choreography",
    definition: "d1",
    traceparent: "00-a-b-01"
  } as const
  const newId = () => "new"

  test("takes over from what caused it what the message does not say itself", () => {
    expect(seal(Written.of(note), origin, newId)).toEqual({
      id: "new",
      topic: "notes-events",
      key: "n1",
      type: "Written",
      payload: JSON.stringify(note),
      correlation: "c1",
      causation: "m0",
      coordination: "choreography",
      definition: "d1",
      traceparent: "00-a-b-01",
      schemaVersion: 3
    })
  })

  test("keeps what the message says itself", () => {
    const said = { id: "i", correlation: "c2", coordination: "orchestration", definition: "d2" } as const

    expect(seal(Written.of(note, said), origin, newId)).toMatchObject(said)
  })

  test("leaves out the definition of what caused it when the message says that it has none", () => {
    expect(seal(Written.of(note, { definition: null }), origin, newId).definition).toBeNull()
  })

  test("takes the key as correlation when there is none", () => {
    expect(seal(Written.of(note), { ...origin, correlation: null }, newId).correlation).toBe("n1")
  })

  test("is refused when the payload breaks its contract, or the key is longer than can be indexed", () => {
    const noteId = "n".repeat(maxKeyLength)

    expect(() => seal(outgoing({}), origin, newId)).toThrow("Written breaks its contract")
    expect(seal(outgoing({ ...note, noteId }), origin, newId).key).toBe(noteId)
    expect(() => seal(outgoing({ ...note, noteId: `${noteId}n` }), origin, newId)).toThrow(
      `Written has a key of ${maxKeyLength + 1} characters, more than the ${maxKeyLength} it may have`
    )
  })
})

test.each([
  ["is not printable", "a\nb"],
  ["is not ASCII", "é"],
  ["is too long for a header", "c".repeat(257)]
])(
  "a message is refused by its sender when its correlation or definition %s: no reader would take it",
  (_name, text) => {
    const none = { correlation: "c1", causation: null, definition: null, traceparent: null } as const
    const origin = { ...none, coordination: "orchestration" } as const

    expect(() => seal(Written.of(note, { correlation: text }), origin, () => "m1")).toThrow(
      "Written has a correlation that is not"
    )
    for (const [said, caused] of [
      [{ definition: text }, null],
      [{}, text]
    ] as const) {
      expect(() => seal(Written.of(note, said), { ...origin, definition: caused }, () => "m1")).toThrow(
        "Written has a definition that is not"
      )
    }
    expect(() => seal(Written.of({ ...note, noteId: text }), { ...origin, correlation: null }, () => "m1")).toThrow(
      "Written has a correlation (its key: give it another) that is not"
    )
  }
)

describe("decoding", () => {
  test("drops fields that the contract does not know: readers are tolerant", () => {
    expect(decoded(JSON.stringify({ ...note, colour: "red" }))).toEqual(note)
  })

  test.each([
    ["cut JSON", '{"noteId":"n1","te', /^payload is not JSON: /],
    ["no text at all", "", /^payload is not JSON: /],
    ["text behind the JSON", `${JSON.stringify(note)}}`, /^payload is not JSON: /],
    ["no object", "null", /^payload is not a Written: /],
    ["an array", "[]", /^payload is not a Written: /],
    ["a missing field", '{"noteId":"n1"}', /^payload is not a Written: .*text/],
    ["a wrong field", '{"noteId":"n1","text":"","stars":"5"}', /^payload is not a Written: .*stars/],
    ["a number too large to be one", '{"noteId":"n1","text":"","stars":1e400}', /^payload is not a Written: .*stars/]
  ])("%s is unreadable, with the reason in one line", (_name, json, reason) => {
    expect(decoded(json)).toMatch(reason)
    expect(decoded(json)).not.toContain("\n")
  })
})

describe("text that Postgres can't store", () => {
  const zero = "\u0000"
  const high = "\uD83D"
  const low = "\uDE00"

  test.each([
    ["U+0000", `a${zero}b`],
    ["the first half of a surrogate pair", `a${high}`],
    ["the second half", `${low}b`],
    ["the halves the wrong way round", low + high],
    ["U+0000 behind a backslash", `\\${zero}`]
  ])("%s is refused by sender and reader", (_name, text) => {
    const escaped = JSON.stringify({ ...note, text })

    expect(() => encodePayload(outgoing({ ...note, text }))).toThrow("Written holds U+0000 or half of a surrogate pair")
    expect(decoded(escaped)).toBe("payload holds U+0000 or half of a surrogate pair, which Postgres cannot store")
    expect(decoded(escaped.replace(/\\ud/g, "\\uD"))).toBe(decoded(escaped))
  })

  test.each([
    ["a whole pair", high + low],
    ["other control characters", "\u0001\u001f\t\n"],
    ["what looks like an escape and is text", "\\u0000 \\\\u0000 \\ud83d"],
    ["a lone backslash", "\\"]
  ])("%s passes", (_name, text) => {
    const json = encodePayload(outgoing({ ...note, text }))

    expect(decoded(json)).toEqual({ ...note, text })
  })

  test("a pair that the wire escapes as two halves passes", () => {
    expect(decoded('{"noteId":"n1","stars":5,"text":"\\uD83D\\ude00"}')).toEqual({ ...note, text: high + low })
  })

  test("it is looked for in names of fields too: a reader may keep them", () => {
    expect(decoded('{"noteId":"n1","stars":5,"text":"","\\u0000":1}')).toMatch(/^payload holds U\+0000/)
  })
})

describe("data that nests deep", () => {
  const { contract } = Topic.events("trees-events")
    .message("Grown", { treeId: Schema.String, tree: Schema.Unknown }, { key: "treeId" })
    .of({ treeId: "t1", tree: null })
  const nested = (levels: number): unknown => JSON.parse("[".repeat(levels) + "]".repeat(levels))

  test("passes up to the bound, and is refused by sender and reader above it", () => {
    // the payload itself is a level
    const deepest = { treeId: "t1", tree: nested(maxDepth - 1) }
    const deeper = { treeId: "t1", tree: nested(maxDepth) }

    expect(decodePayload(contract, encodePayload({ contract, payload: deepest }))).toEqual({ payload: deepest })
    for (const tree of [deeper.tree, nested(200_000)])
      expect(() => encodePayload({ contract, payload: { treeId: "t1", tree } })).toThrow(
        `Grown nests deeper than the ${maxDepth} levels`
      )
    expect(decodePayload(contract, JSON.stringify(deeper))).toEqual({
      unreadable: `payload nests deeper than ${maxDepth} levels`
    })
  })

  test("is refused in fields that nobody knows, too, and escaped text in it does not matter", () => {
    const arrays = "[".repeat(100_000) + '"\\u0041"' + "]".repeat(100_000)
    const objects = '{"a":'.repeat(40_000) + '"\\u0041"' + "}".repeat(40_000)

    for (const deep of [arrays, objects])
      expect(decoded(`{"noteId":"n1","text":"","stars":5,"more":${deep}}`)).toMatch(/^payload nests deeper than/)
  })
})

const units = fc
  .array(fc.oneof(fc.constantFrom(0, 0x5c, 0x75, 0x30, 0x64, 0x38, 0xd83d, 0xde00), fc.nat(0xffff)), { maxLength: 12 })
  .map((codes) => String.fromCharCode(...codes))

test("what is encoded is decoded to the same, and what is refused is exactly what can't be stored", () => {
  fc.assert(
    fc.property(units, fc.integer(), fc.array(units), (text, stars, tags) => {
      const payload = { noteId: "n1", text, stars, tags }
      const storable = [text, ...tags].every((part) => part.isWellFormed() && !part.includes("\u0000"))

      if (storable) expect(decoded(encodePayload(outgoing(payload)))).toEqual(payload)
      else {
        expect(() => encodePayload(outgoing(payload))).toThrow("which Postgres cannot store")
        expect(decoded(JSON.stringify(payload))).toMatch(/which Postgres cannot store$/)
      }
    }),
    runs
  )
})

test("decoding answers for every text, and never throws", () => {
  const texts = fc.oneof(
    units,
    fc.json(),
    fc.json().map((json) => json.slice(0, -1))
  )

  fc.assert(
    fc.property(texts, (text) => {
      expect(typeof decoded(text)).toMatch(/^(object|string)$/)
    }),
    runs
  )
})

test("a request has a type, and schemas of its payload and of its reply", () => {
  const Write = Request.make("Write", { payload: { text: Schema.String }, reply: Schema.Int })

  expect(Write.type).toBe("Write")
  expect(Schema.decodeUnknownSync(Write.schema)({ text: "a" })).toEqual({ text: "a" })
  expect(() => Schema.decodeUnknownSync(Write.schema)({ text: 1 })).toThrow()
  expect(Schema.decodeUnknownSync(Write.reply)(3)).toBe(3)
})
