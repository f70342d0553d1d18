/** A part of kafkajs that its own types leave out. */
declare module "kafkajs/src/network/requestQueue/index.js" {
  const RequestQueue: {
    prototype: { scheduleCheckPendingRequests: (this: { readonly pending: ReadonlyArray<unknown> }) => void }
  }
  export default RequestQueue
}
