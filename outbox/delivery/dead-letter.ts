/**
 * Dead letters: messages that could not be decided, set aside with all that is needed to decide them later.
 *
 * A parked message is in `dead_letters` and not in the inbox, so what is redelivered meanwhile changes nothing, and
 * a redrive decides it exactly once. A copy on `<topic>.dead` tells the world; it is for eyes, not for redriving.
 */
import type { BrokerRecord } from "../broker/broker.ts"
import type { OutboxMessage } from "../message.ts"
import type { DeadLetter } from "../store/store.ts"

/** The longest value, in bytes, of which a copy is whole: base64 makes it 64 kB. */
const maxCopiedBytes = 48_000

/** The record that announces a parked message on `<topic>.dead`. */
export const deadLetterCopy = (letter: DeadLetter, consumer: string, id: string): OutboxMessage => {
  const value = letter.record.value ?? new Uint8Array()
  return {
    id,
    topic: `${letter.record.topic}.dead`,
    key: letter.key ?? letter.id,
    type: "DeadLetter",
    payload: JSON.stringify({
      consumer,
      messageId: letter.id,
      type: letter.type,
      reason: letter.reason,
      detail: storable(letter.detail).slice(0, 4_000),
      partition: letter.record.partition,
      offset: String(letter.record.offset),
      value: Buffer.from(value.subarray(0, maxCopiedBytes)).toString("base64"),
      valueBytes: value.length
    }),
    correlation: letter.key ?? letter.id,
    causation: letter.id,
    coordination: "orchestration",
    traceparent: null,
    schemaVersion: 1
  }
}

/** Text that Postgres can hold: U+0000 becomes the replacement character. */
export const storable = (text: string): string => text.replaceAll("\u0000", "\uFFFD")

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
  for (const [name, values] of Object.entries(record.headers)) {
    for (const value of [values].flat()) if (value !== undefined) part(name, value)
  }
  part("value", record.value)
  const hex = hasher.digest("hex")
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}
