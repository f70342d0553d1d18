/**
 * Waiting for an outcome that somebody else commits. All that wait are served by one read per tick, so it does not matter
 * which replica's transaction brought the outcome. A crash loses nothing but the waiting: the outcome can be asked for.
 */
import { Deferred, type Duration, Effect, Latch, Option, Schedule, type Scope } from "effect"

export interface Waiters<A> {
  /** The outcome, or none when it isn't there in time, when too many wait already, or when the service shuts down. */
  readonly outcome: (id: string, atMost: Duration.Input) => Effect.Effect<Option.Option<A>>
}

export interface WaitersOptions {
  /** How long after one read the next begins. */
  readonly tick: Duration.Input
  /** How many may wait at a time. */
  readonly limit: number
  /** Opens when the service shuts down. */
  readonly closing: Latch.Latch
}

const pauseAfterFailure = "500 millis"

/** `read` answers with the outcomes that are there, of the ids it is given. */
export const makeWaiters = Effect.fnUntraced(function* <A extends { readonly id: string }>(
  read: (ids: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<A>, unknown>,
  options: WaitersOptions
): Effect.fn.Return<Waiters<A>, never, Scope.Scope> {
  const waiting = new Map<string, Set<Deferred.Deferred<A>>>()
  const someoneWaits = yield* Latch.make(false)
  let count = 0

  const serve = Effect.gen(function* () {
    yield* someoneWaits.await
    const found = yield* read([...waiting.keys()])
    for (const outcome of found) {
      for (const waiter of waiting.get(outcome.id) ?? []) yield* Deferred.succeed(waiter, outcome)
    }
  }).pipe(
    // those who wait have deadlines of their own
    Effect.retry(Schedule.spaced(pauseAfterFailure)),
    Effect.andThen(Effect.sleep(options.tick)),
    Effect.forever
  )
  yield* Effect.forkScoped(serve)

  const join = (id: string) =>
    Effect.sync(() => {
      const waiter = Deferred.makeUnsafe<A>()
      const others = waiting.get(id)
      if (others === undefined) waiting.set(id, new Set([waiter]))
      else others.add(waiter)
      count++
      someoneWaits.openUnsafe()
      return waiter
    })

  const leave = (id: string, waiter: Deferred.Deferred<A>) =>
    Effect.sync(() => {
      const others = waiting.get(id)
      others?.delete(waiter)
      if (others?.size === 0) waiting.delete(id)
      count--
      if (count === 0) someoneWaits.closeUnsafe()
    })

  return {
    outcome: (id, atMost) =>
      Effect.suspend(() => {
        if (count >= options.limit) return Effect.succeedNone
        return Effect.acquireUseRelease(
          join(id),
          (waiter) =>
            Deferred.await(waiter).pipe(
              Effect.asSome,
              Effect.raceFirst(options.closing.await.pipe(Effect.as(Option.none<A>()))),
              Effect.timeoutOrElse({ duration: atMost, orElse: () => Effect.succeedNone })
            ),
          (waiter) => leave(id, waiter)
        )
      })
  }
})
