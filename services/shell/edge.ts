/** What a service's routes work with: the participant that decides, a pool to read from, outcomes to wait for. */
import { Duration, Effect, Option, Semaphore, type Latch, type Scope } from "effect"
import type { Context } from "hono"
import type { Pool, Request, Running, SubmitOptions } from "oncebox"
import type { OrderSettings } from "./config.ts"
import { problem, problemForNow, type Problem } from "./problem.ts"
import { idempotencyKey, notFound, preferredWaitSeconds, traceparent } from "./request.ts"
import { etagOf } from "./version.ts"
import { makeWaiters, type Waiters } from "./waiters.ts"

export interface Edge {
  readonly reads: Pick<Pool, "sql" | "use">
  /** Places for reads that are under way, or wait for a connection. */
  readonly readers: Semaphore.Semaphore
  readonly running: Pick<Running, "submit" | "health" | "counters" | "deadLetters">
  /** What orders may ask for, and what they get when they don't. */
  readonly orders: OrderSettings
  /** Opens when the service shuts down: who waits for something answers with what is there. */
  readonly closing: Latch.Latch
}

const waitersLimit = 2_000
const waitersTick = "20 millis"

const readersLimit = 2_000
export const makeReaders = (): Semaphore.Semaphore => Semaphore.makeUnsafe(readersLimit)

/** Runs a read. When the database fails, or too many reads wait for it already, the client is told to come back. */
export const read = <A>({ reads, readers }: Edge, query: () => PromiseLike<A>): Effect.Effect<A, Problem> =>
  reads.use(query).pipe(
    Effect.tapError((cause) => Effect.logError("a read failed", cause)),
    Effect.mapError(() => problemForNow("unavailable", "The database could not be read. Try again in a moment.")),
    readers.withPermitsIfAvailable(1),
    Effect.flatMap(
      Option.match({
        onNone: () => Effect.fail(problemForNow("busy", "Nothing was read. Send the request again in a moment.")),
        onSome: Effect.succeed
      })
    )
  )

/** Waiters over a query that answers with the outcomes that are there. */
export const waitersFor = <A extends { readonly id: string }>(
  edge: Edge,
  query: (ids: ReadonlyArray<string>) => PromiseLike<ReadonlyArray<A>>
): Effect.Effect<Waiters<A>, never, Scope.Scope> =>
  makeWaiters((ids) => read(edge, () => query(ids)), { tick: waitersTick, limit: waitersLimit, closing: edge.closing })

/**
 * Has a request decided and answers with its reply. `body` is what the client sent: it, not the payload, is what an
 * Idempotency-Key stands for, because the payload may hold an id that was just made.
 */
export const submit = Effect.fnUntraced(function* <P extends object, R>(
  { running }: Edge,
  c: Context,
  request: Request<P, R>,
  payload: P,
  options: { readonly body: object } & Pick<SubmitOptions, "coordination" | "definition">
): Effect.fn.Return<R, Problem> {
  const key = yield* idempotencyKey(c)
  const trace = traceparent(c)
  return yield* running
    .submit(request, payload, {
      fingerprint: JSON.stringify(options.body),
      ...(options.coordination === undefined ? {} : { coordination: options.coordination }),
      ...(options.definition === undefined ? {} : { definition: options.definition }),
      ...(key === undefined ? {} : { idempotencyKey: key }),
      ...(trace === undefined ? {} : { traceparent: trace })
    })
    .pipe(
      Effect.catchTags({
        QueueFull: () => Effect.fail(problemForNow("busy", "Nothing was done. Send the request again in a moment.")),
        KeyReused: ({ key: reused }) =>
          Effect.fail(problem("key-reused", `${reused} stands for a request with another body. Choose a new key.`)),
        NotAnswered: () => Effect.fail(problemForNow("outcome-unknown", unknownOutcome(key))),
        RequestFailed: ({ message }) =>
          Effect.logError(`${request.type} failed: ${message}`).pipe(
            Effect.andThen(Effect.fail(problem("internal", "Nothing was done. The error was logged.")))
          )
      })
    )
})

const unknownOutcome = (key: string | undefined): string =>
  key === undefined
    ? "The request may still take effect. Look before you send it again; an Idempotency-Key would make that safe."
    : "The request may still take effect. Send it again with the same Idempotency-Key to get its answer."

/** 202 and where to look. When the client prefers to wait and the outcome comes in time: 200 with the outcome. */
export const accepted = Effect.fnUntraced(function* <A extends { readonly id: string }>(
  c: Context,
  options: { readonly current: A; readonly location: string; readonly outcomes: Waiters<A> }
): Effect.fn.Return<Response> {
  c.header("Location", options.location)
  const waitSeconds = preferredWaitSeconds(c)
  if (waitSeconds === 0) return c.json(options.current, 202)
  c.header("Preference-Applied", `wait=${waitSeconds}`)
  const outcome = yield* options.outcomes.outcome(options.current.id, Duration.seconds(waitSeconds))
  return Option.isSome(outcome) ? c.json(outcome.value, 200) : c.json(options.current, 202)
})

/** What clients may edit, with its version as ETag. */
export const versioned = <A extends { readonly version: number }>(
  c: Context,
  view: A,
  status: 200 | 201 | 202 = 200
): Response => {
  c.header("ETag", etagOf(view.version))
  return c.json(view, status)
}

/** A fresh UUIDv7. */
export const newId = (): string => Bun.randomUUIDv7()

/** What a query found under an id, or the problem that there is nothing. */
export const found = <A>(edge: Edge, id: string, query: () => PromiseLike<A | undefined>): Effect.Effect<A, Problem> =>
  Effect.flatMap(read(edge, query), (row) => (row === undefined ? Effect.fail(notFound(id)) : Effect.succeed(row)))
