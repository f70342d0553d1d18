/** When the topics lane rests, by a clock that the test sets: the subscription and the time of a commit are the test's own. */
import { expect, test } from "bun:test"
import { Effect, Queue, Schema } from "effect"
import { TestClock } from "effect/testing"
import { layerMemory, Participant, Store, Topic } from "oncebox"
import type { BrokerRecord, Subscription } from "../broker/broker.ts"
import { recordOf } from "../delivery/relay.ts"
import { contextOf } from "../lanes/lane.ts"
import { restAfter, topicsLane } from "../lanes/topics.ts"
import { seal } from "../message.ts"
import type { StoreLane } from "../store/store.ts"

const commands = Topic.commands("bell-commands")
const Ring = commands.message("Ring", { bell: Schema.String }, { key: "bell" })
const bell = Participant.make("bell", {}).on(Ring, { touches: {}, decide: () => ({}) })

const records = (count: number): ReadonlyArray<BrokerRecord> =>
  Array.from({ length: count }, (_, n) => {
    const origin = { correlation: "c", causation: null, coordination: "orchestration", definition: null } as const
    const message = seal(Ring.of({ bell: "b" }), { ...origin, traceparent: null }, () => Bun.randomUUIDv7())
    const { topic, key, value, headers } = recordOf(message, "/test", new Date())
    return { topic, partition: 0, offset: BigInt(n), key: Buffer.from(key), value: Buffer.from(value), headers }
  })

/** After a pass of `count` messages that took 100 ms: how long until the next batch is taken. */
const restsAfter = (count: number): Promise<number> =>
  Effect.gen(function* () {
    const store = yield* Store
    const lane = yield* store.lane("topics", [])
    const slow: StoreLane = { ...lane, begin: (opening) => Effect.delay(lane.begin(opening), "100 millis") }
    const arrived = yield* Queue.unbounded<ReadonlyArray<BrokerRecord>>()
    let taken = 0
    const subscription: Subscription = {
      take: () => Effect.tap(Queue.take(arrived), () => Effect.sync(() => taken++)),
      processed: () => Effect.void
    }
    yield* Queue.offerAll(arrived, [records(count), records(1)])
    // claims are dated: the ids are of now
    yield* TestClock.setTime(Date.now())
    yield* topicsLane(contextOf(bell, store.window), slow, subscription).pipe(Effect.forkScoped)
    yield* TestClock.adjust("100 millis")
    for (let rested = 0; rested <= 1_000; rested += 50) {
      if (taken === 2) {
        // a pass that has begun is finished
        yield* TestClock.adjust("100 millis")
        return rested
      }
      yield* TestClock.adjust("50 millis")
    }
    throw new Error("the lane rests for more than a second")
  }).pipe(Effect.scoped, Effect.provide(layerMemory()), Effect.provide(TestClock.layer()), Effect.runPromise)

test("a pass with few messages, or with many, is followed at once; one in between by a rest of three times its length", async () => {
  expect([await restsAfter(15), await restsAfter(16), await restsAfter(199), await restsAfter(200)]).toEqual([
    0, 300, 300, 0
  ])
})

test("no rest is longer than half a second, however long the store was in trouble", () => {
  expect(restAfter(50, 60_000)).toBe(500)
})
