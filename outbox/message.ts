/**
 * Messages and their contracts: what may travel, on which topic, under which key.
 *
 * A contract is both sides' promise about one message type. Payloads are plain JSON data: what a schema
 * accepts is what is written on the wire, so no contract transforms. Encoding and decoding both check it.
 */
import { Exit, Schema } from "effect"

/** How an order is coordinated; carried by every message so that each participant knows whom to answer. */
export const Coordination = Schema.Literals(["orchestration", "choreography"])
export type Coordination = typeof Coordination.Type

/**
 * What travels beside a payload. `correlation` is the saga's id, `causation` the id of the message that caused this one;
 * `definition` names what the saga runs on, and is null when the message belongs to none.
 */
export interface Envelope {
  readonly id: string
  readonly topic: string
  readonly key: string
  readonly type: string
  readonly correlation: string
  readonly causation: string | null
  readonly coordination: Coordination
  readonly definition: string | null
  readonly traceparent: string | null
  readonly schemaVersion: number
}

/** A message as a decision sends it: the pipeline adds what is missing of the envelope. */
export interface Outgoing {
  readonly contract: AnyContract
  readonly payload: object
  readonly id?: string
  readonly correlation?: string
  readonly coordination?: Coordination
  readonly definition?: string | null
}

/** A message ready for the outbox; `payload` is JSON text. */
export interface OutboxMessage extends Envelope {
  readonly payload: string
}

/** A schema whose decoded form is its wire form. */
export type PlainSchema<P> = Schema.Codec<P, P>

/** The promise about one message type. */
export interface Contract<P extends object> {
  readonly type: string
  readonly topic: Topic
  readonly schema: PlainSchema<P>
  readonly schemaVersion: number
  /** The Kafka key: messages of one key keep their order. */
  readonly key: (payload: P) => string
  readonly of: (payload: P, envelope?: Pick<Outgoing, "id" | "correlation" | "coordination" | "definition">) => Outgoing
}

/** A contract whose payload type is not known here. */
// A key function takes its own payload only; erasing the type is what a registry of contracts needs.
export type AnyContract = Omit<Contract<never>, "schema" | "of"> & { readonly schema: Schema.Codec<object, object> }

/** A topic and the catalogue of the message types it carries. */
export interface Topic {
  readonly name: string
  /** The name of the topic of what belongs to choreographed sagas; the same one when it has none of its own. */
  readonly choreographyName: string
  /** An unknown type is skipped on an events topic and parked on a commands topic. */
  readonly kind: "commands" | "events"
  readonly catalogue: ReadonlyMap<string, AnyContract>
  /** Adds a message type to the topic's catalogue. `key` names the payload field that is the Kafka key. */
  readonly message: <Fields extends Schema.Struct.Fields>(
    type: string,
    fields: Fields,
    options: {
      readonly key: keyof Schema.Struct.Type<Fields> & string
      readonly schemaVersion?: number
    }
  ) => Contract<Schema.Struct.Type<Fields>>
}

const makeTopic = (name: string, kind: Topic["kind"], choreographyName = name): Topic => {
  const catalogue = new Map<string, AnyContract>()
  const topic: Topic = {
    name,
    choreographyName,
    kind,
    catalogue,
    message: (type, fields, options) => {
      type P = Schema.Struct.Type<typeof fields>
      if (catalogue.has(type)) throw new Error(`${name} has two contracts of type ${type}`)
      const contract: Contract<P> = {
        type,
        topic,
        // Plain data in, plain data out: the struct's two sides are the same type by the rule in the header.
        schema: Schema.Struct(fields) as unknown as PlainSchema<P>,
        schemaVersion: options.schemaVersion ?? 1,
        key: (payload) => String(payload[options.key]),
        of: (payload, envelope) => ({ contract: contract as unknown as AnyContract, payload, ...envelope })
      }
      catalogue.set(type, contract as unknown as AnyContract)
      return contract
    }
  }
  return topic
}

export const Topic = {
  commands: (name: string): Topic => makeTopic(name, "commands"),
  /**
   * `choreographyName` names a topic of its own for the events of choreographed sagas: who takes part in a choreography
   * listens to everybody else, and would read all that orchestrated sagas say, too, only to skip it. Add it to a topic in use
   * only while no choreographed saga is open and no dead letter of one is parked: what lies on the old topic is not read.
   */
  events: (name: string, options: { readonly choreographyName?: string } = {}): Topic =>
    makeTopic(name, "events", options.choreographyName)
}

/** The topic that carries a catalogue's messages of a style. */
export const topicNameOf = ({ name, choreographyName }: Topic, style: Coordination): string =>
  style === "choreography" ? choreographyName : name

/** The topics that carry a catalogue's messages of a style, or of both. */
export const topicNamesOf = (topic: Topic, style: Coordination | undefined): ReadonlySet<string> =>
  new Set(style === undefined ? [topic.name, topic.choreographyName] : [topicNameOf(topic, style)])

/** A command that comes by HTTP and is answered: it takes the same way through the pipeline as a message. */
export interface Request<P extends object, R> {
  readonly type: string
  readonly schema: PlainSchema<P>
  readonly reply: PlainSchema<R>
}

export const Request = {
  make: <Fields extends Schema.Struct.Fields, R extends Schema.Top>(
    type: string,
    options: { readonly payload: Fields; readonly reply: R }
  ): Request<Schema.Struct.Type<Fields>, R["Type"]> => ({
    type,
    // As for contracts: plain data on both sides.
    schema: Schema.Struct(options.payload) as unknown as PlainSchema<Schema.Struct.Type<Fields>>,
    reply: options.reply as unknown as PlainSchema<R["Type"]>
  })
}

/** The longest payload a message may have, in characters of JSON: well below a topic's `max.message.bytes` of 1 MiB. */
export const maxPayloadLength = 262_144

/** How deep a message's data may nest. Beyond some thousands of levels neither JSON.stringify nor Postgres can write it. */
export const maxDepth = 100

/** Whether JSON text may nest deeper than `maxDepth`: what opens so few objects and arrays can't, and most messages open few. */
const mayBeDeep = (json: string): boolean => {
  let opened = 0
  for (let at = 0; at < json.length && opened <= maxDepth; at++) {
    const code = json.charCodeAt(at)
    if (code === openBrace || code === openBracket) opened++
  }
  return opened > maxDepth
}
const openBrace = 0x7b
const openBracket = 0x5b

const isDeeper = (data: unknown, levels: number): boolean => {
  if (typeof data !== "object" || data === null) return false
  if (levels === 0) return true
  // plain data has no keys but its own
  for (const key in data) if (isDeeper((data as Readonly<Record<string, unknown>>)[key], levels - 1)) return true
  return false
}

/** The longest key of a message, in characters; also the longest that Postgres can index whatever it is made of. */
export const maxKeyLength = 512

/**
 * Postgres can hold neither U+0000 nor half of a surrogate pair: such a message is refused by whoever meets it first.
 * `JSON.stringify` escapes both, and an escaped backslash before `u0000` is neither.
 */
const unstorable = (json: string): boolean => json.includes("\\u") && /(?<!\\)(?:\\\\)*\\u(?:0000|d)/.test(json)
const unstorableText = "U+0000 or half of a surrogate pair, which Postgres cannot store"

const decoders = new WeakMap<object, (input: unknown) => Exit.Exit<object, Schema.SchemaError>>()
const decoderOf = (schema: Schema.Codec<object, object>) => {
  let decoder = decoders.get(schema)
  if (decoder === undefined) {
    decoder = Schema.decodeUnknownExit(schema)
    decoders.set(schema, decoder)
  }
  return decoder
}

/** A payload, or the reason why the text isn't one. Unknown fields are dropped: readers are tolerant. */
export const decodePayload = (
  contract: AnyContract,
  json: string
): { readonly payload: object } | { readonly unreadable: string } => {
  let parsed: unknown
  try {
    parsed = JSON.parse(json)
  } catch (cause) {
    return { unreadable: `payload is not JSON: ${cause instanceof Error ? cause.message : String(cause)}` }
  }
  // before anything walks through all of it
  if (mayBeDeep(json) && isDeeper(parsed, maxDepth))
    return { unreadable: `payload nests deeper than ${maxDepth} levels` }
  // text on the wire may escape what it likes: what it stands for is looked at only when it escapes something
  if (json.includes("\\u") && unstorable(JSON.stringify(parsed)))
    return { unreadable: `payload holds ${unstorableText}` }
  const exit = decoderOf(contract.schema)(parsed)
  return Exit.isSuccess(exit)
    ? { payload: exit.value }
    : { unreadable: `payload is not a ${contract.type}: ${messageOf(exit)}` }
}

/** The Kafka key of a payload that its contract accepts. */
export const keyOfPayload = (contract: AnyContract, payload: object): string =>
  // The key function takes what the schema accepts.
  (contract as unknown as { readonly key: (payload: object) => string }).key(payload)

/** What a message takes over from what caused it. */
export type Origin = Pick<Envelope, "causation" | "coordination" | "definition" | "traceparent"> & {
  readonly correlation: string | null
}

/** A message ready for the outbox. Throws when its payload breaks its contract, or its key, correlation or definition can't be sent. */
export const seal = (outgoing: Outgoing, origin: Origin, newId: () => string): OutboxMessage => {
  const { contract } = outgoing
  const payload = encodePayload(outgoing)
  const key = keyOfPayload(contract, outgoing.payload)
  if (key.length > maxKeyLength)
    throw new Error(`${contract.type} has a key of ${key.length} characters, more than the ${maxKeyLength} it may have`)
  const correlation = outgoing.correlation ?? origin.correlation ?? key
  if (!isHeaderText(correlation)) {
    const whose = outgoing.correlation === undefined && origin.correlation === null ? " (its key: give it another)" : ""
    throw new Error(`${contract.type} has a correlation${whose} that is not at most 256 characters of printable ASCII`)
  }
  const definition = outgoing.definition === undefined ? origin.definition : outgoing.definition
  if (definition !== null && !isHeaderText(definition))
    throw new Error(`${contract.type} has a definition that is not at most 256 characters of printable ASCII`)
  const coordination = outgoing.coordination ?? origin.coordination
  return {
    id: outgoing.id ?? newId(),
    topic: topicNameOf(contract.topic, coordination),
    key,
    type: contract.type,
    payload,
    correlation,
    causation: origin.causation,
    coordination,
    definition,
    traceparent: origin.traceparent,
    schemaVersion: contract.schemaVersion
  }
}

/** Whether a header may hold the text: readers take no more than this. */
export const isHeaderText = (text: string): boolean => /^[\x20-\x7e]{0,256}$/.test(text)

/** JSON text of a payload that was checked against its contract; throws when the payload breaks it or is too long. */
export const encodePayload = ({ contract, payload }: Outgoing): string =>
  encodePlain(contract.type, contract.schema, payload)

/** JSON text of plain data, called `name`; throws when it does not fit its schema, can't be stored, is too long or too deep. */
export const encodePlain = (name: string, schema: Schema.Codec<object, object>, data: unknown): string => {
  const plain = decodePlain(name, schema, data)
  const json = textOf(plain)
  if (json === undefined || (mayBeDeep(json) && isDeeper(plain, maxDepth)))
    throw new Error(`${name} nests deeper than the ${maxDepth} levels a message may have`)
  if (unstorable(json)) throw new Error(`${name} holds ${unstorableText}`)
  if (json.length > maxPayloadLength)
    throw new Error(`${name} has ${json.length} characters, more than the ${maxPayloadLength} a message may have`)
  return json
}

/** Its JSON text, undefined when it nests so deep that there is none. */
const textOf = (plain: object): string | undefined => {
  try {
    return JSON.stringify(plain)
  } catch (error) {
    if (isDeeper(plain, maxDepth)) return undefined
    throw error
  }
}

/** Plain data, called `name`; throws when it does not fit its schema. */
export const decodePlain = (name: string, schema: Schema.Codec<object, object>, data: unknown): object => {
  const exit = decoderOf(schema)(data)
  if (Exit.isFailure(exit)) throw new Error(`${name} breaks its contract: ${messageOf(exit)}`)
  return exit.value
}

const messageOf = (exit: Exit.Failure<object, Schema.SchemaError>): string => {
  const reason = exit.cause.reasons[0]
  return reason?._tag === "Fail" ? reason.error.message.replaceAll("\n", " ") : "defect"
}
