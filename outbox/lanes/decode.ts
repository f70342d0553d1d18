/**
 * From a record on a topic to what the pass takes: a message for its handler, something unreadable to be parked, or
 * nothing, when the type is known and simply not ours.
 */
import { Coordination, decodePayload, isHeaderText, maxKeyLength, maxPayloadLength, type Topic } from "../message.ts"
import { idOfRecord, storable } from "../delivery/dead-letter.ts"
import { isUuid } from "../store/inbox.ts"
import type { MessageInput, UnreadableInput } from "../pass/inputs.ts"
import type { BrokerRecord } from "../broker/broker.ts"
import type { AnyHandler } from "../participant.ts"
import type { AnyContract } from "../message.ts"
import type { ParkReason } from "../store/store.ts"

export interface Reader {
  readonly topics: ReadonlyMap<string, Topic>
  readonly handlers: ReadonlyMap<AnyContract, AnyHandler>
}

/** A type that is in the topic's catalogue but not handled here, or an unknown one on an events topic. */
export interface Skipped {
  readonly _tag: "skipped"
  readonly known: boolean
}

const decoder = new TextDecoder("utf-8", { fatal: true })

/** Bytes as text without a Buffer made of them: a record has a dozen headers. */
const latin1Of = Buffer.prototype.latin1Slice

/** The header's one value as text; undefined when it is absent, repeated, not UTF-8, too long or holds control characters. */
const headerOf = (record: BrokerRecord, name: string): string | undefined => {
  const value = record.headers[name]
  if (value === undefined || value === null) return undefined
  if (typeof value === "string") return value
  if (!(value instanceof Uint8Array)) return undefined
  const text = latin1Of.call(value)
  return isHeaderText(text) ? text : undefined
}

/** A header without a value is none: so Debezium writes what is null in the outbox. */
const hasHeader = ({ headers }: BrokerRecord, name: string): boolean => (headers[name] ?? undefined) !== undefined

const textOf = (bytes: Uint8Array | null): string | undefined => {
  if (bytes === null) return undefined
  try {
    return decoder.decode(bytes)
  } catch {
    return undefined
  }
}

const traceparentPattern = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/

/** Reads a record. `redrive` marks a message that lies in the dead letters and is decided anew. */
export const readRecord = (
  reader: Reader,
  record: BrokerRecord,
  redrive = false
): MessageInput | UnreadableInput | Skipped => {
  const type = headerOf(record, "ce_type")
  const topic = reader.topics.get(record.topic)
  const contract = type === undefined ? undefined : topic?.catalogue.get(type)
  const handler = contract && reader.handlers.get(contract)
  // much of a topic is not ours: nothing else is looked at
  if (contract !== undefined && handler === undefined) return { _tag: "skipped", known: true }
  const id = headerOf(record, "id")
  const key = textOf(record.key)
  const park = (reason: ParkReason, detail: string): UnreadableInput => ({
    _tag: "unreadable",
    redrive,
    letter: {
      id: id !== undefined && isUuid(id) ? id : idOfRecord(record),
      type: type ?? null,
      key: key === undefined ? null : storable(key, maxKeyLength),
      reason,
      detail,
      record
    }
  })
  if (type === undefined) return park("unreadable", "header ce_type is missing, repeated or not plain text")
  if (contract === undefined || handler === undefined) {
    return topic?.kind === "commands"
      ? park("unknown-type", `${record.topic} carries no ${type}`)
      : { _tag: "skipped", known: false }
  }
  if (id === undefined || !isUuid(id))
    return park("unreadable", "header id is missing, repeated or not a lower-case UUID")
  if (key === undefined) return park("unreadable", "the record has no key that is UTF-8")
  if (key !== storable(key, maxKeyLength))
    return park("unreadable", `the record's key is longer than ${maxKeyLength} characters or holds U+0000`)
  const correlation = headerOf(record, "correlation")
  if (correlation === undefined) return park("unreadable", "header correlation is missing, repeated or not plain text")
  const coordination = headerOf(record, "coordination")
  if (!isCoordination(coordination))
    return park("unreadable", `header coordination is not one of ${Coordination.literals.join(", ")}`)
  const definition = headerOf(record, "definition") ?? null
  if (definition === null && hasHeader(record, "definition"))
    return park("unreadable", "header definition is repeated or not plain text")
  if (handler.coordination !== undefined && handler.coordination !== coordination)
    return { _tag: "skipped", known: true }
  const text = textOf(record.value)
  if (text === undefined)
    return park("unreadable", record.value === null ? "the record has no value" : "the value is not UTF-8")
  const read = readPayload(contract, text)
  if ("unreadable" in read) return park("unreadable", read.unreadable)

  const traceparent = headerOf(record, "traceparent")
  return {
    _tag: "message",
    envelope: {
      id,
      topic: record.topic,
      key,
      type,
      correlation,
      causation: headerOf(record, "causation") ?? null,
      coordination,
      definition,
      traceparent: traceparent !== undefined && traceparentPattern.test(traceparent) ? traceparent : null,
      schemaVersion: Number(headerOf(record, "schema_version") ?? contract.schemaVersion)
    },
    payload: read.payload,
    handler,
    record,
    redrive
  }
}

const isCoordination = (text: string | undefined): text is Coordination =>
  text === "orchestration" || text === "choreography"

/** Decodes a message's payload for its handler, or says why it can't be. */
const readPayload = (contract: AnyContract, json: string): ReturnType<typeof decodePayload> =>
  json.length > maxPayloadLength
    ? { unreadable: `payload has ${json.length} characters, more than the ${maxPayloadLength} a message may have` }
    : decodePayload(contract, json)
