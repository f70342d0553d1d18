/**
 * What is mended of kafkajs, each with its reason. It must be imported before a client is made.
 */
import Decoder from "kafkajs/src/protocol/decoder.js"
import HeaderDecoder from "kafkajs/src/protocol/recordBatch/header/v0/decoder.js"
import Long from "kafkajs/src/utils/long.js"
import RequestQueue from "kafkajs/src/network/requestQueue/index.js"

// Without this every connection re-arms a timer of 1 ms for ever, about 4 % of a core when idle (tulios/kafkajs#1751).
const { scheduleCheckPendingRequests } = RequestQueue.prototype
RequestQueue.prototype.scheduleCheckPendingRequests = function (this: { readonly pending: ReadonlyArray<unknown> }) {
  if (this.pending.length > 0) scheduleCheckPendingRequests.call(this)
}

/**
 * A record with a dozen headers is read in half the time (2026-11-21: 7 µs instead of 13) when its headers are not copied once
 * for each of them, and when a difference of milliseconds that fits 28 bits is not added up in 64.
 */
const { readVarIntArray, readVarLong } = Decoder.prototype

Decoder.prototype.readVarLong = function () {
  let result = 0
  for (let n = 0; n < 4; n++) {
    const byte = this.buffer[this.offset + n] ?? 0
    result |= (byte & 0x7f) << (7 * n)
    if (byte > 0x7f) continue
    this.offset += n + 1
    return Long.fromInt(Decoder.decodeZigZag(result))
  }
  return readVarLong.call(this)
}

type Headers = Record<string, Buffer | null | Array<Buffer | null>>

Decoder.prototype.readVarIntArray = function (reader) {
  if (reader !== HeaderDecoder) return readVarIntArray.call(this, reader)
  const headers: Headers = {}
  const count = this.readVarInt()
  for (let n = 0; n < count; n++) {
    const bytes = this.readVarInt()
    const name = this.buffer.toString("utf8", this.offset, this.offset + bytes)
    this.offset += bytes
    addHeader(headers, name, this.readVarIntBytes())
  }
  // kafkajs makes an object of the pairs by `reduce`
  return { reduce: () => headers }
}

const addHeader = (headers: Headers, name: string, value: Buffer | null): void => {
  if (headers[name] === undefined) {
    headers[name] = value
    return
  }
  // a name that occurs twice, or one that every object has something under
  const known = Object.hasOwn(headers, name) ? [headers[name] ?? null].flat() : []
  Object.defineProperty(headers, name, {
    value: known.length === 0 ? value : [...known, value],
    enumerable: true,
    configurable: true,
    writable: true
  })
}
