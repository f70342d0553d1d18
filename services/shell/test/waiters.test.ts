import { expect, test } from "bun:test"
import { Effect, Fiber, Latch, Option, type Scope } from "effect"
import { TestClock } from "effect/testing"
import { makeWaiters } from "../waiters.ts"

const run = (body: Effect.Effect<void, never, Scope.Scope>) =>
  Effect.runPromise(body.pipe(Effect.scoped, Effect.provide(TestClock.layer())))

interface Outcome {
  readonly id: string
}

/** Waiters over outcomes that the test commits, and the ids of each read. */
const setUp = (limit = 100) =>
  Effect.gen(function* () {
    const committed = new Set<string>()
    const reads: Array<ReadonlyArray<string>> = []
    let broken = false
    const closing = yield* Latch.make(false)
    const read = (ids: ReadonlyArray<string>) =>
      Effect.suspend((): Effect.Effect<ReadonlyArray<Outcome>, string> => {
        reads.push(ids)
        return broken
          ? Effect.fail("no database")
          : Effect.succeed([...committed].filter((id) => ids.includes(id)).map((id) => ({ id })))
      })
    const waiters = yield* makeWaiters(read, { tick: "20 millis", limit, closing })
    return { committed, reads, closing, waiters, setBroken: (value: boolean) => void (broken = value) }
  })

test("everyone who waits is served by one read per tick, and nobody waiting means no reads", () =>
  run(
    Effect.gen(function* () {
      const { committed, reads, waiters } = yield* setUp()
      const waiting = yield* Effect.forEach(["a", "b", "a", "c"], (id) =>
        Effect.forkChild(waiters.outcome(id, "5 seconds"))
      )
      yield* TestClock.adjust("100 millis")
      expect(reads.length).toBeLessThanOrEqual(6)
      expect(reads.at(-1)).toEqual(["a", "b", "c"])

      for (const id of ["a", "b", "c"]) committed.add(id)
      yield* TestClock.adjust("20 millis")
      const outcomes = yield* Effect.forEach(waiting, Fiber.join)

      expect(outcomes.map(Option.getOrNull)).toEqual([{ id: "a" }, { id: "b" }, { id: "a" }, { id: "c" }])
      yield* TestClock.adjust("20 millis")
      const readsSoFar = reads.length
      yield* TestClock.adjust("10 seconds")
      expect(reads.length).toBe(readsSoFar)
    })
  ))

test("each has a deadline of its own", () =>
  run(
    Effect.gen(function* () {
      const { committed, reads, waiters } = yield* setUp()
      const short = yield* Effect.forkChild(waiters.outcome("a", "1 second"))
      const long = yield* Effect.forkChild(waiters.outcome("b", "5 seconds"))

      yield* TestClock.adjust("1 second")

      expect(yield* Fiber.join(short)).toEqual(Option.none())
      yield* TestClock.adjust("1 second")
      expect(reads.at(-1)).toEqual(["b"])
      committed.add("b")
      yield* TestClock.adjust("20 millis")
      expect(yield* Fiber.join(long)).toEqual(Option.some({ id: "b" }))
    })
  ))

test("a read that fails costs nobody the outcome", () =>
  run(
    Effect.gen(function* () {
      const { committed, reads, waiters, setBroken } = yield* setUp()
      setBroken(true)
      const waiting = yield* Effect.forkChild(waiters.outcome("a", "5 seconds"))
      yield* TestClock.adjust("2 seconds")
      expect(reads.length).toBeLessThan(10)

      setBroken(false)
      committed.add("a")
      yield* TestClock.adjust("1 second")

      expect(yield* Fiber.join(waiting)).toEqual(Option.some({ id: "a" }))
    })
  ))

test("one too many is not kept waiting, and a place that was left is free again", () =>
  run(
    Effect.gen(function* () {
      const { waiters } = yield* setUp(1)
      const first = yield* Effect.forkChild(waiters.outcome("a", "5 seconds"))
      yield* TestClock.adjust("20 millis")

      expect(yield* waiters.outcome("b", "5 seconds")).toEqual(Option.none())

      yield* Fiber.interrupt(first)
      const second = yield* Effect.forkChild(waiters.outcome("b", "1 second"))
      yield* TestClock.adjust("999 millis")
      expect(second.pollUnsafe()).toBeUndefined()
    })
  ))

test("a shutdown ends all waiting", () =>
  run(
    Effect.gen(function* () {
      const { closing, waiters } = yield* setUp()
      const waiting = yield* Effect.forkChild(waiters.outcome("a", "5 seconds"))
      yield* TestClock.adjust("20 millis")

      yield* Latch.open(closing)

      expect(yield* Fiber.join(waiting)).toEqual(Option.none())
    })
  ))
