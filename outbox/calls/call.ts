/**
 * Calls to the outside: what a system that knows no inbox is asked to do, over HTTP or anything else. The outbox's twin.
 *
 * A decision asks for a call in the transaction that writes its rows: both exist or neither does. The call is carried
 * out later, outside any transaction, at least once, and its result is decided exactly once. What makes that harmless is
 * `id`, which the other side is given as its idempotency key: it stays the same however often the call is carried out.
 */
import { Schema } from "effect"
import { makeCaller, type AnyCall, type Caller, type CallerOptions } from "./caller.ts"
import { encodePlain, isHeaderText, type Coordination, type Origin, type PlainSchema } from "../message.ts"
import type { NewCall } from "../store/store.ts"

/** The promise about one kind of call: what is asked, and what is known afterwards. */
export interface Call<Request extends object, Result extends object> {
  readonly kind: string
  readonly request: PlainSchema<Request>
  readonly result: PlainSchema<Result>
  /**
   * Asks for the call, in a decision's `call`. There is one call of this kind under a key, such as an order's id. Who
   * asks again with the same request, while the call is under way or when it is done, asks for nothing new. Who asks
   * for something else under the key is at fault: a message that does is parked, a request fails, a due row or a result
   * is decided again later.
   */
  readonly of: (key: string, request: Request) => OutgoingCall
  /** The call's result as a test gives it to `decideWith`. */
  readonly answered: (
    key: string,
    request: Request,
    result: Result,
    cause?: {
      readonly correlation?: string
      readonly coordination?: Coordination
      readonly definition?: string | null
    }
  ) => CallResult
  /** What carries these calls out, for `run`. */
  readonly caller: (options: CallerOptions<Request, Result>) => Caller
}

/** A call as a decision asks for it. */
export interface OutgoingCall {
  readonly contract: AnyCall
  readonly key: string
  readonly request: object
  /** As of a message: style and definition under which its result is decided, when they are not those of what asked for it. */
  readonly coordination?: Coordination
  readonly definition?: string | null
}

/** What a decision on a result is given. */
export interface Called<Request, Result> {
  readonly key: string
  readonly request: Request
  readonly result: Result
}

export interface CallResult {
  readonly called: AnyCall
  readonly payload: Called<object, object>
  readonly correlation: string
  readonly coordination: Coordination
  readonly definition: string | null
}

export const Call = {
  /** `result` holds refusals too: whatever is certain is a result. What is thrown is trouble, and tried again. */
  make: <Fields extends Schema.Struct.Fields, R extends Schema.Top & { readonly Type: object }>(
    kind: string,
    options: { readonly request: Fields; readonly result: R }
  ): Call<Schema.Struct.Type<Fields>, R["Type"]> => {
    if (!/^[a-z][a-z0-9-]{0,63}$/.test(kind))
      throw new Error(`${JSON.stringify(kind)} is no kind of call: lower-case letters, digits and dashes`)
    // as for messages: plain data on both sides
    const request = Schema.Struct(options.request) as unknown as PlainSchema<Schema.Struct.Type<Fields>>
    const result = options.result as unknown as PlainSchema<R["Type"]>
    const contract = { kind, request, result } as unknown as AnyCall
    return {
      kind,
      request,
      result,
      of: (key, asked) => ({ contract, key, request: asked }),
      answered: (key, asked, answer, cause) => ({
        called: contract,
        payload: { key, request: asked, result: answer },
        correlation: cause?.correlation ?? key,
        coordination: cause?.coordination ?? "orchestration",
        definition: cause?.definition ?? null
      }),
      // it is only ever given requests that this contract decoded
      caller: (how) => makeCaller(contract, how as unknown as CallerOptions<object, object>)
    }
  }
}

/** What the other side knows the call by: the same for each attempt. */
const callId = (kind: string, key: string): string => `${kind}:${key}`

/** A call ready for its table. Throws when its request breaks the contract, or nothing is decided on its result. */
export const sealCall = (
  { contract, key, request, coordination, definition }: OutgoingCall,
  origin: Origin,
  known: ReadonlyMap<string, { readonly call: AnyCall }>
): NewCall => {
  const { kind } = contract
  const decided = known.get(kind)?.call
  if (decided === undefined) throw new Error(`a ${kind} is called, and nothing is decided on its result`)
  if (decided.request !== contract.request) throw new Error(`there are two contracts for calls of kind ${kind}`)
  const id = callId(kind, key)
  if (key === "" || !isHeaderText(id))
    throw new Error(
      `the key of a ${kind} is not at least one and, with its kind, at most 256 characters of printable ASCII`
    )
  return {
    id,
    kind,
    key,
    request: encodePlain(kind, contract.request, request),
    correlation: origin.correlation,
    causation: origin.causation,
    coordination: coordination ?? origin.coordination,
    definition: definition === undefined ? origin.definition : definition,
    traceparent: origin.traceparent
  }
}
