/** A read that the database holds up holds up a bounded number of others. */
import { expect, test } from "bun:test"
import { Effect, Fiber, Semaphore } from "effect"
import { read } from "../edge.ts"
import { quietly, standIn } from "./stand-ins.ts"

quietly()

test("of more reads than there are places for the rest is told to come back, and the others are answered", () =>
  Effect.gen(function* () {
    const edge = { ...standIn().edge, readers: Semaphore.makeUnsafe(3) }
    const answer = Promise.withResolvers<string>()
    const waiting = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(read(edge, () => answer.promise)))
    yield* Effect.yieldNow

    const refused = yield* Effect.flip(read(edge, async () => "too many"))
    answer.resolve("there")
    const answers = yield* Effect.forEach(waiting, Fiber.join)
    const afterwards = yield* read(edge, async () => "room again")

    expect(refused).toMatchObject({ kind: "busy", headers: { "Retry-After": "1" } })
    expect(answers).toEqual(["there", "there", "there"])
    expect(afterwards).toBe("room again")
  }).pipe(Effect.timeout("10 seconds"), Effect.runPromise))

test("a read that fails gives its place back", () =>
  Effect.gen(function* () {
    const edge = { ...standIn().edge, readers: Semaphore.makeUnsafe(1) }

    const failures = yield* Effect.forEach([1, 2], () => Effect.flip(read(edge, () => Promise.reject(new Error("no")))))

    expect(failures.map(({ kind }) => kind)).toEqual(["unavailable", "unavailable"])
  }).pipe(Effect.timeout("10 seconds"), Effect.runPromise))
