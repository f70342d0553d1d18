/** A group that lags and does not move is noticed; one that moves, or has nothing to read, is not. */
import { expect, test } from "bun:test"
import { Effect, Exit, Layer, Logger, Scope } from "effect"
import { BrokerError, Offsets } from "oncebox"
import { TestClock } from "effect/testing"
import { advanced, startWatchdog, type Consumer, type Look, type Watchdog } from "../watchdog.ts"

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

/** A group's only partitions end at 10; nobody watched reads the other topic, but there is one who would. */
const watching = (
  at: { readonly committed: (group: string) => ReadonlyArray<bigint>; readonly members: () => number },
  groups: ReadonlyArray<string>,
  body: (watchdog: Watchdog, said: ReadonlyArray<string>) => Effect.Effect<void>
): Promise<void> => {
  const said: Array<string> = []
  const logger = Logger.make(({ message }) => void said.push(String(message)))
  const offsets = Offsets.of({
    kept: () => Effect.succeed(new Map()),
    members: () => Effect.sync(at.members),
    extents: () =>
      Effect.succeed(
        new Map([
          ["t/0", { first: 2n, end: 10n }],
          ["t/1", { first: 0n, end: 10n }],
          ["other/0", { first: 0n, end: 99n }]
        ])
      ),
    committed: (group) =>
      group === "x"
        ? Effect.succeed(new Map([["other/0", 99n]]))
        : Effect.try({
            try: () => new Map(at.committed(group).map((offset, partition) => [`t/${partition}`, offset])),
            catch: () => new BrokerError({ message: "away" })
          })
  })
  const consumers = [...groups.map((group): Consumer => ({ group, topics: ["t"] })), { group: "x", topics: ["other"] }]
  return Effect.runPromise(
    Effect.gen(function* () {
      const scope = Scope.makeUnsafe()
      const watchdog = yield* startWatchdog({ consumers }).pipe(
        Effect.provideService(Offsets, offsets),
        Scope.provide(scope)
      )
      yield* body(watchdog, said)
      yield* Scope.close(scope, Exit.void)
    }).pipe(Effect.provide(Layer.merge(TestClock.layer(), Logger.layer([logger]))))
  )
}

test("it is told of after a minute, once in the log, and forgotten when it moves on", () => {
  let next = 4n
  let away = false
  const committed = (group: string) => {
    if (away) throw new Error("away")
    return group === "slow" ? [next, 10n] : [10n, 10n]
  }
  return watching({ committed, members: () => 2 }, ["slow", "fast"], (watchdog, said) =>
    Effect.gen(function* () {
      yield* TestClock.adjust("30 seconds")
      away = true
      yield* TestClock.adjust("10 seconds")
      away = false
      yield* TestClock.adjust("15 seconds")
      expect(watchdog.warnings()).toEqual([])
      yield* TestClock.adjust("15 seconds")
      expect(watchdog.warnings()).toEqual([
        "slow has 6 records to read and has not moved for 70 s, with 2 in its group"
      ])
      expect(watchdog.groups().get("fast")).toEqual({ lag: 0, standing: 0, members: 2 })
      expect(watchdog.groups().get("slow")).toEqual({ lag: 6, standing: 70, members: 2 })

      next = 5n
      yield* TestClock.adjust("5 seconds")
      expect(watchdog.warnings()).toEqual([])
      expect(said.filter((line) => !line.includes("away"))).toEqual([
        "watchdog: slow has 6 records to read and has not moved for 65 s, with 2 in its group",
        "watchdog: slow moves again"
      ])
    })
  )
})

test("a partition that stands is told of though the others move, and a group without members as such", () => {
  let moving = 0n
  return watching({ committed: () => [3n, moving++ / 10n], members: () => 0 }, ["half"], (watchdog) =>
    Effect.gen(function* () {
      yield* TestClock.adjust("65 seconds")
      expect(watchdog.groups().get("half")).toEqual({ lag: 16, standing: 65, members: 0 })
      expect(watchdog.warnings()).toEqual([
        "half has 16 records to read and has not moved for 65 s, for nobody is in its group"
      ])
    })
  )
})

test("a group that never committed has all to read that is still there, and one that is ahead has nothing", () => {
  const committed = (group: string) => (group === "new" ? [] : [10n, 12n])
  return watching({ committed, members: () => 1 }, ["new", "ahead"], (watchdog) =>
    Effect.gen(function* () {
      yield* TestClock.adjust("65 seconds")
      expect(watchdog.groups().get("new")).toEqual({ lag: 18, standing: 65, members: 1 })
      expect(watchdog.groups().get("ahead")).toEqual({ lag: 0, standing: 0, members: 1 })
    })
  )
})
