/**
 * Dead letters: messages that could not be decided, set aside with all that is needed to decide them later.
 *
 * A parked message is in `dead_letters` and not in the inbox, so what is redelivered meanwhile changes nothing, and
 * a redrive decides it exactly once. A copy on `<topic>.dead` tells the world; it is for eyes, not for redriving.
 */
import type { BrokerRecord } from "../broker/broker.ts"
import { maxKeyLength, type OutboxMessage } from "../message.ts"
import type { DeadLetter } from "../store/store.ts"

/** The bound of a copy in bytes. A topic and Debezium add a few of their own. */
const maxCopyBytes = 65_000

/** The record that announces a parked message on `<topic>.dead`. */
export const deadLetterCopy = (letter: DeadLetter, consumer: string, id: string): OutboxMessage => {
  const value = letter.record.value ?? new Uint8Array()
  const key = letter.key === null ? letter.id : storable(letter.key, maxKeyLength)
  const payload = (copied: Uint8Array): string =>
    JSON.stringify({
      consumer,
      messageId: letter.id,
      type: letter.type === null ? null : storable(letter.type, maxKeyLength),
      reason: letter.reason,
      detail: storable(letter.detail, 4_000),
      partition: letter.record.partition,
      offset: String(letter.record.offset),
      value: Buffer.from(copied).toString("base64"),
      valueBytes: value.length
    })
  const room = maxCopyBytes - Buffer.byteLength(payload(new Uint8Array()))
  return {
    id,
    topic: `${letter.record.topic}.dead`,
    key,
    type: "DeadLetter",
    // base64 makes four bytes of three
    payload: payload(value.subarray(0, Math.floor(room / 4) * 3)),
    correlation: key,
    causation: letter.id,
    coordination: "orchestration",
    definition: null,
    traceparent: null,
    schemaVersion: 1
  }
}

/** Text that Postgres can hold, cut to a length: U+0000 and halves of surrogate pairs become the replacement character. */
export const storable = (text: string, length = Number.MAX_SAFE_INTEGER): string =>
  text.slice(0, length).replaceAll("\u0000", "\uFFFD").toWellFormed()

/**
 * An id for a record that brought none that can be used: a UUIDv8 (RFC 9562, section 5.8) of what the record is,
 * so that its redelivery has the same one.
 */
export const idOfRecord = (record: BrokerRecord): string => {
  const hasher = new Bun.CryptoHasher("sha256")
  const part = (name: string, bytes: Uint8Array | string | null) => {
    hasher.update(`${name}:${bytes === null ? "null" : Buffer.byteLength(bytes)}\n`)
    if (bytes !== null) hasher.update(bytes)
  }
  part("topic", record.topic)
  part("key", record.key)
  // in an order of their own: what the dead letters give back has lost the record's
  const headers = Object.entries(record.headers).map(([name, values]) => [storable(name), values] as const)
  for (const [name, values] of headers.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) {
    for (const value of [values].flat()) if (value !== undefined) part(name, value)
  }
  part("value", record.value)
  const hex = hasher.digest("hex")
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}
