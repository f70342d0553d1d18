/** The in-process broker keeps the promises of a broker, and can be looked into and set back. */
import { expect } from "bun:test"
import { Effect, Fiber } from "effect"
import { brokerSuite, collect, effectTest, member, newGroup, numbered, partitions, valueOf } from "./broker-suite.ts"
import { makeInProcess } from "../broker/in-process.ts"

const made = makeInProcess({ partitions })
const { broker, offsets } = made
let topics = 0
const newTopic = () => `topic-${++topics}`

brokerSuite("the in-process broker", () => ({ broker, offsets, topic: async () => newTopic() }))

effectTest("a group that is set back gets everything again, whatever was under way", () =>
  Effect.gen(function* () {
    const topic = newTopic()
    const group = newGroup()
    const one = yield* member(broker, group, topic)
    yield* broker.publish(numbered(topic, 10))
    yield* collect(one.subscription, 5, true)
    yield* broker.publish(numbered(topic, 5, 10))
    const underWay = yield* collect(one.subscription, 5, false)

    made.rewind(group)
    yield* one.subscription.processed(underWay)
    yield* one.close
    const two = yield* member(broker, group, topic)
    const records = yield* collect(two.subscription, 15, true)

    expect(new Set(records.map(valueOf)).size).toBe(15)
  })
)

effectTest("a topic's records can be looked at without taking them", () =>
  Effect.gen(function* () {
    const topic = newTopic()
    yield* broker.publish(numbered(topic, 10))

    const records = made.records(topic)

    expect(new Set(records.map(valueOf)).size).toBe(10)
    expect(made.records(newTopic())).toEqual([])
  })
)

effectTest("who waits is given what a member that leaves had not processed", () =>
  Effect.gen(function* () {
    const topic = newTopic()
    const group = newGroup()
    const one = yield* member(broker, group, topic)
    const two = yield* member(broker, group, topic)
    yield* broker.publish(numbered(topic, 40))
    const all = { messages: 100, bytes: 1_000_000 }
    const ofOne = yield* one.subscription.take(all)
    yield* one.subscription.processed(ofOne)
    const waiting = yield* Effect.forkChild(one.subscription.take(all))
    yield* Effect.yieldNow
    expect(waiting.pollUnsafe()).toBeUndefined()

    yield* two.close
    const rest = yield* Fiber.join(waiting).pipe(Effect.timeout("10 seconds"))

    expect(ofOne.length).toBeLessThan(40)
    expect(new Set([...ofOne, ...rest].map(valueOf)).size).toBe(40)
  })
)
