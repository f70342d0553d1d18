/** Errors as clients see them: RFC 9457 problem documents, which tell what to do and nothing of the inside. */
import { Data } from "effect"

/** What is wrong with one field of a request, and what is allowed there. */
export interface FieldError {
  readonly field: string
  readonly detail: string
}

const kinds = {
  "invalid-header": { status: 400, title: "A header is not valid" },
  "invalid-json": { status: 400, title: "The body is not JSON" },
  "not-found": { status: 404, title: "There is no such thing here" },
  "method-not-allowed": { status: 405, title: "The method is not allowed here" },
  "account-closed": { status: 409, title: "The user's account is closed" },
  discarded: { status: 409, title: "The dead letter was discarded" },
  discontinued: { status: 409, title: "The product is discontinued" },
  exists: { status: 409, title: "It exists already" },
  open: { status: 409, title: "It is still open" },
  "stock-limit": { status: 409, title: "There would be too much in stock" },
  "too-late": { status: 409, title: "It is too late for that" },
  "precondition-failed": { status: 412, title: "It was edited meanwhile" },
  "too-large": { status: 413, title: "The body is too large" },
  "unsupported-media-type": { status: 415, title: "The body's media type is not supported" },
  "invalid-request": { status: 422, title: "The request is not valid" },
  "key-reused": { status: 422, title: "The Idempotency-Key was used for another request" },
  "precondition-required": { status: 428, title: "The request must say which version it edits" },
  internal: { status: 500, title: "Something went wrong" },
  busy: { status: 503, title: "Too many requests are waiting" },
  "outcome-unknown": { status: 503, title: "The outcome is not known yet" },
  unavailable: { status: 503, title: "The service is not available" }
} as const

export type ProblemKind = keyof typeof kinds

/** A request that can't be answered as wished. It fails a route's effect and is rendered at the edge. */
export class Problem extends Data.TaggedError("Problem")<{
  readonly kind: ProblemKind
  readonly detail: string
  readonly errors?: ReadonlyArray<FieldError>
  readonly headers?: Readonly<Record<string, string>>
}> {}

export const problem = (kind: ProblemKind, detail: string, errors?: ReadonlyArray<FieldError>): Problem =>
  new Problem({ kind, detail, ...(errors === undefined ? {} : { errors }) })

/** One that goes away: it says when to come back. */
export const problemForNow = (kind: "busy" | "outcome-unknown" | "unavailable", detail: string): Problem =>
  new Problem({ kind, detail, headers: { "Retry-After": "1" } })

export const render = ({ kind, detail, errors, headers }: Problem): Response => {
  const { status, title } = kinds[kind]
  const body = {
    type: `urn:oncebox:problem:${kind}`,
    title,
    status,
    detail,
    ...(errors === undefined ? {} : { errors })
  }
  return new Response(JSON.stringify(body), {
    status,
    headers: { "Content-Type": "application/problem+json", ...headers }
  })
}
