/**
 * A caller: what carries calls of one kind out. Everything that a participant does not do in a transaction is here, and
 * nothing here decides.
 *
 * A call is carried out at least once. It is carried out again when an attempt came to no result, and after a crash of
 * whoever carried it out, when that may have taken effect already. `idempotencyKey` is the same each time: the other side
 * must take it for one and the same call, or be asked first whether it knows the key.
 */
import { Duration, type Effect, type Schema } from "effect"
import { hashOf } from "../hash.ts"

/** The call that is carried out. */
export interface Attempt {
  readonly key: string
  /** Kind and key; the same for each attempt. */
  readonly idempotencyKey: string
  /** How often it was taken up, this time included. */
  readonly attempt: number
  /** Aborted at the deadline, and when the process shuts down. */
  readonly signal: AbortSignal
}

export interface CallerOptions<Request, Result> {
  /**
   * Asks the other side, and answers with what is certain: done, or refused for good. Whatever it throws or fails with
   * says that nothing is certain, and the call is carried out again. An attempt that does not heed its signal may still
   * be under way when the next one begins.
   */
  readonly carry: (request: Request, attempt: Attempt) => Promise<Result> | Effect.Effect<Result, unknown>
  /** How long an attempt may take. Attempts are made for as long as it takes. */
  readonly deadline: Duration.Input
  /** How many are under way at once, in each replica. */
  readonly concurrency: number
  /** The first pause after an attempt without result, and the longest: half a second and a minute unless told otherwise. */
  readonly pause?: { readonly first: Duration.Input; readonly most: Duration.Input }
  /** How long after an attempt's deadline its replica is taken for dead. At least what a transaction may take. */
  readonly lease?: Duration.Input
}

/** A caller whose types are not known here. */
export interface Caller {
  readonly call: AnyCall
  readonly carry: CallerOptions<object, object>["carry"]
  readonly deadlineMs: number
  readonly concurrency: number
  readonly pauseMs: { readonly first: number; readonly most: number }
  /** From taking a call until it falls due again by itself. */
  readonly leaseMs: number
}

/** What is known of a call whose types are not known. */
export interface AnyCall {
  readonly kind: string
  readonly request: Schema.Codec<object, object>
  readonly result: Schema.Codec<object, object>
}

const usualPause = { first: "500 millis", most: "1 minute" } as const

export const makeCaller = (call: AnyCall, options: CallerOptions<object, object>): Caller => {
  const { carry, deadline, concurrency, pause = usualPause, lease = "15 seconds" } = options
  const deadlineMs = Duration.toMillis(deadline)
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw new Error(`calls of ${call.kind} are carried out ${concurrency} at once`)
  return {
    call,
    carry,
    deadlineMs,
    concurrency,
    pauseMs: { first: Duration.toMillis(pause.first), most: Duration.toMillis(pause.most) },
    leaseMs: deadlineMs + Duration.toMillis(lease)
  }
}

/**
 * How long to wait after an attempt without result. What makes calls drift apart is a hash of the call and the attempt,
 * not chance: the same run takes the same time again.
 */
export const pauseAfter = (caller: Pick<Caller, "pauseMs">, id: string, attempt: number): number => {
  const { first, most } = caller.pauseMs
  const doubled = Math.min(most, first * 2 ** Math.min(attempt - 1, 40))
  const share = hashOf(`${id} ${attempt}`) / 2 ** 32
  return Math.round(doubled * (0.5 + share / 2))
}
