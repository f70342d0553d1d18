/** A group that lags and does not move is noticed; one that moves, or has nothing to read, is not. */
import { expect, test } from "bun:test"
import { Effect, Exit, Scope } from "effect"
import { BrokerError, Offsets } from "oncebox"
import { TestClock } from "effect/testing"
import { advanced, startWatchdog, type Look } from "../watchdog.ts"

const looks = (...each: ReadonlyArray<readonly [at: number, position: bigint, lag: bigint]>) =>
  each
    .map(([at, position, lag]): Look => ({ at, position, lag }))
    .reduce<ReturnType<typeof advanced> | undefined>(advanced, undefined)

test("a group stands since it last moved", () => {
  expect(looks([10, 5n, 3n], [20, 5n, 4n], [30, 5n, 9n])?.movedAt).toBe(10)
  expect(looks([10, 5n, 3n], [20, 6n, 4n], [30, 6n, 9n])?.movedAt).toBe(20)
})

test("a group that had nothing to read has not stood meanwhile", () => {
  expect(looks([10, 5n, 0n], [20, 5n, 0n], [30, 5n, 1n], [40, 5n, 1n])?.movedAt).toBe(20)
})

test("a group that was set back has moved", () => {
  expect(looks([10, 5n, 3n], [20, 2n, 6n])?.movedAt).toBe(20)
})

test("it is told of after a minute, and forgotten when it moves on", () =>
  Effect.runPromise(
    Effect.gen(function* () {
      let next = 4n
      let away = false
      const offsets = Offsets.of({
        kept: () => Effect.succeed(new Map()),
        extents: () => Effect.succeed(new Map([["t/0", { first: 0n, end: 10n }]])),
        committed: (group) =>
          away
            ? Effect.fail(new BrokerError({ message: "away" }))
            : Effect.succeed(new Map([["t/0", group === "slow" ? next : 10n]]))
      })
      const scope = Scope.makeUnsafe()
      const consumers = ["slow", "fast"].map((group) => ({ group, topics: ["t"] }))
      const watchdog = yield* startWatchdog(consumers, undefined).pipe(
        Effect.provideService(Offsets, offsets),
        Scope.provide(scope)
      )

      yield* TestClock.adjust("30 seconds")
      away = true
      yield* TestClock.adjust("10 seconds")
      away = false
      yield* TestClock.adjust("15 seconds")
      expect(watchdog.warnings()).toEqual([])
      yield* TestClock.adjust("15 seconds")
      expect(watchdog.warnings()).toEqual(["slow has 6 records to read and does not move"])
      expect(watchdog.groups().get("fast")).toEqual({ lag: 0, standing: 0 })
      expect(watchdog.groups().get("slow")).toEqual({ lag: 6, standing: 70 })

      next = 5n
      yield* TestClock.adjust("5 seconds")
      expect(watchdog.warnings()).toEqual([])
      yield* Scope.close(scope, Exit.void)
    }).pipe(Effect.provide(TestClock.layer()))
  ))
