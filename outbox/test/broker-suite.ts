/** What every broker promises, run on each of them. */
import { describe, expect, test } from "bun:test"
import { Effect, Exit, Fiber, Latch, Scope } from "effect"
import type { Broker, BrokerRecord, Outbound, Subscription } from "../broker/broker.ts"
import type { Offsets } from "../broker/offsets.ts"
import { until } from "../../stack/wait.ts"

export interface World {
  readonly broker: Broker["Service"]
  readonly offsets: Offsets["Service"]
  /** Makes a topic that nobody else uses. */
  readonly topic: () => Promise<string>
}

export const partitions = 3
const everything = { messages: 1_000, bytes: 10_000_000 }
const arrivesWithin = "20 seconds"

/** Records `0 … count-1`, spread over a few keys. */
export const numbered = (topic: string, count: number, from = 0): ReadonlyArray<Outbound> =>
  Array.from({ length: count }, (_, index) => ({
    topic,
    key: `key-${(from + index) % 7}`,
    value: String(from + index),
    headers: { id: `id-${from + index}`, ce_type: "Numbered" }
  }))

export const valueOf = (record: BrokerRecord): number => Number(Buffer.from(record.value ?? "").toString())
const numbers = (records: ReadonlyArray<BrokerRecord>): ReadonlyArray<number> =>
  records.map(valueOf).toSorted((a, b) => a - b)
const range = (count: number, from = 0): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, index) => from + index)

/** Takes until it has `count` records; `processed` says whether they are marked as such. */
export const collect = Effect.fnUntraced(function* (subscription: Subscription, count: number, processed: boolean) {
  const records: Array<BrokerRecord> = []
  while (records.length < count) {
    const taken = yield* subscription.take(everything)
    records.push(...taken)
    if (processed) yield* subscription.processed(taken)
  }
  return records
}, Effect.timeout(arrivesWithin))

/** A subscription that can be closed before the test ends. */
export const member = Effect.fnUntraced(function* (
  broker: Broker["Service"],
  group: string,
  topic: string,
  exclusive = false
) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const subscription = yield* broker.subscribe({ group, topics: [topic], exclusive }).pipe(Scope.provide(scope))
  return { subscription, close: Scope.close(scope, Exit.void) }
})

let groups = 0
export const newGroup = (): string => `group-${process.pid}-${++groups}`

/** Runs an effect as a test, with a scope of its own. */
export const effectTest = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>): void =>
  test(name, () => Effect.runPromise(Effect.scoped(body())), 60_000)

export const brokerSuite = (name: string, world: () => World): void => {
  describe(name, () => {
    effectTest("a group that is new begins at the first record", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        yield* broker.publish(numbered(topic, 20))

        const { subscription } = yield* member(broker, newGroup(), topic)
        const records = yield* collect(subscription, 20, true)

        expect(numbers(records)).toEqual(range(20))
      })
    )

    effectTest("a record arrives as it was published, and the records of a key in their order", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const { subscription } = yield* member(broker, newGroup(), topic)
        yield* broker.publish(numbered(topic, 50))
        yield* broker.publish(numbered(topic, 50, 50))

        const records = yield* collect(subscription, 100, true)

        const seventh = records.find((record) => valueOf(record) === 7)
        expect(seventh?.topic).toBe(topic)
        expect(String(seventh?.key)).toBe("key-0")
        expect(String(seventh?.headers["id"])).toBe("id-7")
        for (const own of Map.groupBy(records, (record) => String(record.key)).values()) {
          expect(own.map(valueOf)).toEqual(own.map(valueOf).toSorted((a, b) => a - b))
          expect(new Set(own.map((record) => record.partition)).size).toBe(1)
        }
      })
    )

    effectTest("more is published at once than a topic takes at once", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const padding = "ü".repeat(100_000)
        const heavy = numbered(topic, 30).map((record) => ({ ...record, key: "one", headers: { padding } }))
        yield* broker.publish(heavy)

        const { subscription } = yield* member(broker, newGroup(), topic)
        const records = yield* collect(subscription, 30, true)

        expect(records.map(valueOf)).toEqual([...range(30)])
      })
    )

    effectTest("who takes waits until something is there", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const { subscription } = yield* member(broker, newGroup(), topic)

        const taking = yield* Effect.forkChild(collect(subscription, 1, true))
        yield* Effect.yieldNow
        yield* broker.publish(numbered(topic, 1))

        expect(numbers(yield* Fiber.join(taking))).toEqual([0])
      })
    )

    effectTest("what was taken and not processed comes again, what was processed does not", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const group = newGroup()
        const first = yield* member(broker, group, topic)
        yield* broker.publish(numbered(topic, 10))
        yield* collect(first.subscription, 10, true)
        yield* broker.publish(numbered(topic, 5, 10))
        yield* collect(first.subscription, 5, false)

        yield* first.close
        const second = yield* member(broker, group, topic)
        const records = yield* collect(second.subscription, 5, true)

        expect(numbers(records)).toEqual(range(5, 10))
      })
    )

    effectTest("a take has its bounds, and brings one record at least", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const { subscription } = yield* member(broker, newGroup(), topic)
        yield* broker.publish(numbered(topic, 30))

        const few = yield* subscription.take({ messages: 4, bytes: 10_000_000 })
        const one = yield* subscription.take({ messages: 100, bytes: 0 })
        const rest = yield* collect(subscription, 30 - few.length - one.length, true)

        expect(few.length).toBeLessThanOrEqual(4)
        expect(few.length).toBeGreaterThan(0)
        expect(one.length).toBe(1)
        expect(numbers([...few, ...one, ...rest])).toEqual(range(30))
      })
    )

    effectTest("records of a partition are taken in their order, however few at a time", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const { subscription } = yield* member(broker, newGroup(), topic)
        yield* broker.publish(numbered(topic, 60))
        const records: Array<BrokerRecord> = []

        while (records.length < 60) records.push(...(yield* subscription.take({ messages: 7, bytes: 10_000_000 })))

        const byPartition = Map.groupBy(records, (record) => record.partition)
        expect(byPartition.size).toBe(partitions)
        for (const own of byPartition.values()) {
          expect(own.map(({ offset }) => Number(offset))).toEqual([...range(own.length)])
        }
      })
    )

    effectTest("a take that is given up loses nothing", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const { subscription } = yield* member(broker, newGroup(), topic)
        yield* subscription.take(everything).pipe(Effect.timeout("10 millis"), Effect.ignore)
        yield* broker.publish(numbered(topic, 3))

        const records = yield* collect(subscription, 3, true)

        expect(numbers(records)).toEqual([0, 1, 2])
      })
    )

    effectTest("members share a topic, and one takes over what the other left unprocessed", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const group = newGroup()
        const one = yield* member(broker, group, topic)
        const two = yield* member(broker, group, topic)
        yield* broker.publish(numbered(topic, 40))

        const fromTwo = yield* collect(two.subscription, 1, false)
        const taking = yield* Effect.forkChild(collectUntil([one.subscription], range(40)))
        yield* Effect.yieldNow
        yield* two.close
        const records = yield* Fiber.join(taking)

        expect(fromTwo.length).toBeGreaterThan(0)
        expect(new Set(records.map(valueOf))).toEqual(new Set(range(40)))
      })
    )

    effectTest("of exclusive members one has all partitions, and another one once it is gone", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const group = newGroup()
        const members = [yield* member(broker, group, topic, true), yield* member(broker, group, topic, true)] as const
        yield* broker.publish(numbered(topic, 40))

        const all = (which: 0 | 1) => Effect.as(collect(members[which].subscription, 40, true), which)
        const reader = yield* Effect.race(all(0), all(1))
        yield* members[reader].close
        yield* broker.publish(numbered(topic, 10, 40))

        yield* collectUntil([members[reader === 0 ? 1 : 0].subscription], range(10, 40))
      })
    )

    effectTest("it is told where partitions end, how far a group is and how many are in it", () =>
      Effect.gen(function* () {
        const { broker, offsets, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const group = newGroup()
        const sum = (numbers: Iterable<bigint>) => [...numbers].reduce((total, number) => total + number, 0n)
        const none = yield* offsets.extents([topic])
        yield* broker.publish(numbered(topic, 30))
        const { subscription, close } = yield* member(broker, group, topic)
        yield* collect(subscription, 30, true)
        const members = yield* offsets.members(group)
        yield* close

        const extents = yield* offsets.extents([topic])
        const committed = yield* offsets.committed(group, [topic])

        expect([...none].toSorted(([one], [other]) => (one < other ? -1 : 1))).toEqual(
          range(partitions).map((partition) => [`${topic}/${partition}`, { first: 0n, end: 0n }])
        )
        expect(sum([...extents.values()].map(({ end }) => end))).toBe(30n)
        for (const [name, { end }] of extents) expect([name, committed.get(name) ?? 0n]).toEqual([name, end])
        expect(yield* offsets.committed(newGroup(), [topic])).toEqual(new Map())
        expect(yield* offsets.committed(group, [yield* Effect.promise(newTopic)])).toEqual(new Map())
        expect([members, yield* offsets.members(group), yield* offsets.members(newGroup())]).toEqual([1, 0, 0])
      })
    )

    effectTest("what was processed is committed while the member stays", () =>
      Effect.gen(function* () {
        const { broker, offsets, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const group = newGroup()
        const { subscription } = yield* member(broker, group, topic)
        yield* broker.publish(numbered(topic, 10))
        yield* collect(subscription, 10, true)

        yield* Effect.promise(() =>
          until("all of it is committed", 10_000, async () => {
            const committed = await Effect.runPromise(offsets.committed(group, [topic]))
            return [...committed.values()].reduce((sum, next) => sum + next, 0n) === 10n
          })
        )
      })
    )

    effectTest("marking records of an assignment that is over does not set the group back", () =>
      Effect.gen(function* () {
        const { broker, topic: newTopic } = world()
        const topic = yield* Effect.promise(newTopic)
        const group = newGroup()
        const one = yield* member(broker, group, topic)
        yield* broker.publish(numbered(topic, 30))
        const stale = yield* collect(one.subscription, 30, false)
        const two = yield* member(broker, group, topic)
        // the records come again to whoever has their partition now
        yield* collectUntil([one.subscription, two.subscription], range(30))

        yield* one.subscription.processed(stale.filter((record) => record.offset === 0n))
        yield* one.close
        yield* two.close
        yield* broker.publish(numbered(topic, 1, 30))
        const three = yield* member(broker, group, topic)
        const records = yield* collectUntil([three.subscription], [30])

        expect(numbers(records)).toEqual([30])
      })
    )
  })
}

/** Takes and processes, on all of the subscriptions, until every one of the values was seen. */
const collectUntil = Effect.fnUntraced(function* (
  subscriptions: ReadonlyArray<Subscription>,
  values: ReadonlyArray<number>
) {
  const records: Array<BrokerRecord> = []
  const missing = new Set(values)
  const complete = yield* Latch.make(false)
  const takers = yield* Effect.forEach(subscriptions, (subscription) =>
    Effect.gen(function* () {
      const taken = yield* subscription.take(everything)
      records.push(...taken)
      yield* subscription.processed(taken)
      for (const record of taken) missing.delete(valueOf(record))
      if (missing.size === 0) yield* complete.open
    }).pipe(Effect.forever, Effect.forkChild)
  )
  yield* complete.await.pipe(Effect.timeout(arrivesWithin))
  yield* Effect.forEach(takers, Fiber.interrupt)
  return records
})
