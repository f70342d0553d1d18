/** Parts of kafkajs that its own types leave out. */
declare module "kafkajs/src/network/requestQueue/index.js" {
  const RequestQueue: {
    prototype: { scheduleCheckPendingRequests: (this: { readonly pending: ReadonlyArray<unknown> }) => void }
  }
  export default RequestQueue
}
declare module "kafkajs/src/protocol/decoder.js" {
  interface Decoder {
    readonly buffer: Buffer
    offset: number
    readVarInt(): number
    readVarLong(): unknown
    readVarIntBytes(): Buffer | null
    readVarIntArray(reader: unknown): unknown
  }
  const Decoder: {
    new (buffer: Buffer): Decoder
    readonly prototype: Decoder
    decodeZigZag(value: number): number
  }
  export default Decoder
}
declare module "kafkajs/src/protocol/recordBatch/header/v0/decoder.js" {
  const HeaderDecoder: (decoder: unknown) => unknown
  export default HeaderDecoder
}
declare module "kafkajs/src/utils/long.js" {
  const Long: { fromInt(value: number): unknown }
  export default Long
}
declare module "kafkajs/src/protocol/recordBatch/record/v0/index.js" {
  const encodeRecord: (record: object) => { readonly buffer: Buffer }
  export default encodeRecord
}
