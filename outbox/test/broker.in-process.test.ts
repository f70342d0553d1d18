/** The in-process broker keeps the promises of a broker, and can be looked into and set back. */
import { expect } from "bun:test"
import { Effect } from "effect"
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
