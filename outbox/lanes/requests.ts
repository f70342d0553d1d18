/**
 * The requests lane: HTTP commands gather while a pass is in flight and are decided and committed together. The
 * queue is bounded; each request is answered after its commit, or told that its outcome is not known.
 */
import { Deferred, Effect, Queue, Schedule, Schema } from "effect"
import { passLimit, type LaneContext } from "./lane.ts"
import type { Outcome, RequestInput } from "../pass/inputs.ts"
import { runPass } from "../pass/pass.ts"
import type { Coordination, Request } from "../message.ts"
import type { StoreError, StoreLane } from "../store/store.ts"

/** More requests are waiting than the queue holds: nothing was done, try again in a moment. */
export class QueueFull extends Schema.TaggedError<QueueFull>()("QueueFull", { waiting: Schema.Int }) {}

/** The idempotency key was used for another request. */
export class KeyReused extends Schema.TaggedError<KeyReused>()("KeyReused", { key: Schema.String }) {}

/** The decision or the database refused the request as a bug would: nothing was written. */
export class RequestFailed extends Schema.TaggedError<RequestFailed>()("RequestFailed", { message: Schema.String }) {}

/** No answer in time: the request may or may not take effect. Ask again with the same idempotency key. */
export class NotAnswered extends Schema.TaggedError<NotAnswered>()("NotAnswered", { afterMs: Schema.Int }) {}

export type RequestError = QueueFull | KeyReused | RequestFailed | NotAnswered

export interface SubmitOptions {
  /** The client's Idempotency-Key; the answer is kept under it. */
  readonly idempotencyKey?: string
  /** What the key stands for, when the payload holds things that differ between retries, such as an id just made. */
  readonly fingerprint?: string
  readonly coordination?: Coordination
  /** Of the saga that the request is about. */
  readonly definition?: string
  readonly traceparent?: string
}

export interface RequestsLane {
  readonly submit: <P extends object, R>(
    request: Request<P, R>,
    payload: P,
    options?: SubmitOptions
  ) => Effect.Effect<R, RequestError>
  /** The loop that decides what was submitted. */
  readonly run: Effect.Effect<never>
}

interface Waiting {
  readonly input: RequestInput
  readonly answer: Deferred.Deferred<unknown, RequestError>
  abandoned: boolean
}

const queueBound = 10_000
const answerWithinMs = 10_000
const retryPause = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")])

export const makeRequestsLane = Effect.fnUntraced(function* (context: LaneContext, lane: StoreLane) {
  const { participant, counters, environment } = context
  const queue = yield* Queue.bounded<Waiting>(queueBound)

  const submit: RequestsLane["submit"] = (request, payload, options) =>
    Effect.suspend(() => {
      const entry = participant.requests.get(request.type)
      if (entry === undefined) return Effect.die(new Error(`${participant.name} answers no ${request.type}`))
      const waiting: Waiting = {
        input: requestInput(entry, payload, environment.newId(), options),
        answer: Deferred.makeUnsafe<unknown, RequestError>(),
        abandoned: false
      }
      if (!Queue.offerUnsafe(queue, waiting)) return Effect.fail(new QueueFull({ waiting: queueBound }))
      return Deferred.await(waiting.answer).pipe(
        Effect.timeoutOrElse({
          duration: answerWithinMs,
          orElse: () => {
            waiting.abandoned = true
            return Effect.fail(new NotAnswered({ afterMs: answerWithinMs }))
          }
        }),
        // The reply was made by this request's own handler, or read back from what was stored for it.
        Effect.map((reply) => reply as never)
      )
    })

  const decide = (batch: ReadonlyArray<Waiting>): Effect.Effect<void, StoreError> =>
    Effect.gen(function* () {
      const live = batch.filter((waiting) => !waiting.abandoned)
      if (live.length === 0) return
      const inputs = live.map((waiting) => waiting.input)
      const outcomes = yield* runPass({ ...environment, lane }, inputs)
      counters.passes++
      counters.requests += outcomes.length
      live.forEach((waiting, index) => Deferred.doneUnsafe(waiting.answer, answerOf(waiting.input, outcomes[index])))
    })

  const run = Queue.takeBetween(queue, 1, passLimit.messages).pipe(
    Effect.flatMap((batch) =>
      decide(batch).pipe(
        Effect.tapError((error) => {
          counters.retries++
          return Effect.logWarning(`${participant.name}: requests wait for the store: ${error.message}`)
        }),
        Effect.retry({ schedule: retryPause, while: () => batch.some((waiting) => !waiting.abandoned) }),
        Effect.ignore
      )
    ),
    Effect.forever
  )
  return { submit, run } satisfies RequestsLane
})

/** A request as a pass takes it. */
export const requestInput = (
  { request, handler }: { readonly request: { readonly type: string }; readonly handler: RequestInput["handler"] },
  payload: object,
  id: string,
  options: SubmitOptions = {}
): RequestInput => ({
  _tag: "request",
  cause: {
    id,
    key: "",
    type: request.type,
    correlation: null,
    coordination: options.coordination ?? "orchestration",
    definition: options.definition ?? null,
    traceparent: options.traceparent ?? null
  },
  causation: id,
  payload,
  handler,
  // a key is the client's word for one request to this service, whatever its type
  idempotencyKey: options.idempotencyKey ?? id,
  fingerprint: `${request.type} ${Bun.hash(options.fingerprint ?? JSON.stringify(payload)).toString(36)}`
})
const answerOf = (input: RequestInput, outcome: Outcome | undefined): Effect.Effect<unknown, RequestError> => {
  if (outcome?._tag === "done") return Effect.succeed(outcome.reply)
  if (outcome?._tag === "key-reused") return Effect.fail(new KeyReused({ key: input.idempotencyKey }))
  return Effect.fail(new RequestFailed({ message: outcome?._tag === "failed" ? outcome.message : "not decided" }))
}
