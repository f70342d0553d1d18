/** The Kafka broker keeps the promises of a broker, and has guards against what kafkajs does. */
import { afterAll, beforeAll, expect, spyOn, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import { Kafka, logLevel, type Message } from "kafkajs"
import RequestQueue from "kafkajs/src/network/requestQueue/index.js"
import { freePorts } from "../../stack/ports.ts"
import { installEngines } from "../../stack/install.ts"
import { startKafka } from "../../stack/kafka.ts"
import { openLedger, type Ledger } from "../../stack/ledger.ts"
import type { Running } from "../../stack/process.ts"
import { until } from "../../stack/wait.ts"
import {
  brokerSuite,
  collect,
  effectTest,
  member,
  newGroup,
  numbered,
  partitions,
  valueOf,
  type World
} from "./broker-suite.ts"
import { bank, Deposit, record } from "./bank.ts"
import { Broker, BrokerError } from "../broker/broker.ts"
import { FetchBuffer } from "../broker/fetch-buffer.ts"
import { layerKafka, Topics } from "../broker/kafka.ts"
import { layerKafkaOffsets } from "../broker/kafka-offsets.ts"
import { Offsets } from "../broker/offsets.ts"
import { run } from "../runtime.ts"
import { layerMemory } from "../store/memory.ts"

const sessionTimeoutMs = 3_000

/** Where the topic's partitions end, once all of them have a leader, which is a moment after the topic was made. */
const led = (offsets: Offsets["Service"], topic: string) =>
  offsets.extents([topic]).pipe(Effect.retry(Schedule.spaced("250 millis")), Effect.timeout("20 seconds"))

const dir = mkdtempSync(join(tmpdir(), "oncebox-kafka-"))
const scope = Scope.makeUnsafe()
let ledger: Ledger
let kafka: Running
let brokers: ReadonlyArray<string>
let world: World
let topics = 0

beforeAll(async () => {
  const engines = await installEngines()
  ledger = await openLedger(dir)
  const [port = 0, controllerPort = 0] = await freePorts([[], []])
  kafka = await startKafka({
    engines,
    dataDir: join(dir, "data"),
    propertiesFile: join(dir, "kafka.properties"),
    logFile: join(dir, "kafka.log"),
    port,
    controllerPort,
    ledger
  })
  brokers = [`127.0.0.1:${port}`]
  const options = { brokers, clientId: "test", sessionTimeoutMs }
  const context = await Effect.runPromise(
    Layer.build(Layer.merge(layerKafka(options), layerKafkaOffsets(options))).pipe(Scope.provide(scope))
  )
  world = {
    broker: await Effect.runPromise(Effect.provideContext(Broker, context)),
    offsets: await Effect.runPromise(Effect.provideContext(Offsets, context)),
    topic: async () => {
      const name = `topic-${++topics}`
      await Effect.runPromise(Topics.create(options, [{ name, partitions }], 1))
      await Effect.runPromise(led(world.offsets, name))
      return name
    }
  }
}, 180_000)

afterAll(async () => {
  await Effect.runPromise(Scope.close(scope, Exit.void))
  await kafka.stop()
  ledger.close()
  rmSync(dir, { recursive: true, force: true })
}, 60_000)

brokerSuite("the Kafka broker", () => world)

test("an idle connection arms no timer", () => {
  const queue = { pending: [], throttledUntil: -1, throttleCheckTimeoutId: null }

  RequestQueue.prototype.scheduleCheckPendingRequests.call(queue)

  expect(queue.throttleCheckTimeoutId).toBe(null)
})

/** A client without the library, for what only others would do. */
const stranger = () => new Kafka({ brokers: [...brokers], clientId: "stranger", logLevel: logLevel.NOTHING })

const produce = async (topic: string, messages: ReadonlyArray<Message>): Promise<void> => {
  const producer = stranger().producer({ allowAutoTopicCreation: false })
  await producer.connect()
  await producer.send({ topic, messages: [...messages] })
  await producer.disconnect()
}

effectTest("a consumer that has nothing to do wakes up a few times a second", () =>
  Effect.gen(function* () {
    const topic = yield* Effect.promise(world.topic)
    const { subscription } = yield* member(world.broker, newGroup(), topic)
    yield* world.broker.publish(numbered(topic, 1))
    yield* collect(subscription, 1, true)
    const { scheduleCheckPendingRequests } = RequestQueue.prototype
    let checks = 0
    RequestQueue.prototype.scheduleCheckPendingRequests = function () {
      checks++
      scheduleCheckPendingRequests.call(this)
    }

    const later = performance.now() + 1_000
    yield* Effect.promise(() => until("a second later", 10_000, () => performance.now() > later, 50))
    RequestQueue.prototype.scheduleCheckPendingRequests = scheduleCheckPendingRequests

    // without the guard about 900 for each connection
    expect(checks).toBeLessThan(100)
  })
)

effectTest("a consumer that kafkajs gives up says so: its lane must not wait for ever", () =>
  Effect.gen(function* () {
    const topic = yield* Effect.promise(world.topic)
    const { subscription } = yield* member(world.broker, newGroup(), topic)
    const waiting = yield* Effect.forkScoped(Effect.flip(subscription.take({ messages: 1, bytes: 1 })))
    // kafkajs takes an error that is none of its own for a bug, and ends the consumer
    yield* Effect.acquireRelease(
      Effect.sync(() => spyOn(FetchBuffer.prototype, "fetched").mockRejectedValue(new TypeError("a bug"))),
      (broken) => Effect.sync(() => broken.mockRestore())
    )
    yield* world.broker.publish(numbered(topic, 1))

    const error = yield* Fiber.join(waiting).pipe(Effect.timeout("20 seconds"))
    expect(error.message).toBe("the consumer stopped: a bug")
  })
)

effectTest("a subscription that gathers is given all that was published, in few pieces", () =>
  Effect.gen(function* () {
    const topic = yield* Effect.promise(world.topic)
    const subscription = yield* world.broker.subscribe({ group: newGroup(), topics: [topic], gathers: true })
    yield* world.broker.publish(numbered(topic, 1))
    yield* collect(subscription, 1, true)
    const since = performance.now()
    const publishing = yield* Effect.forkScoped(
      Effect.forEach(numbered(topic, 100, 1), (record) => world.broker.publish([record]), { discard: true })
    )

    const taken: Array<number> = []
    let pieces = 0
    while (taken.length < 100) {
      taken.push(...(yield* subscription.take({ messages: 1_000, bytes: 10_000_000 })).map(valueOf))
      pieces++
    }
    yield* Fiber.join(publishing)

    // one each half a second; the first may have begun before
    expect(pieces).toBeLessThanOrEqual(Math.ceil((performance.now() - since) / 500) + 2)
    expect(taken.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, n) => n + 1))
  }).pipe(Effect.timeout("40 seconds"))
)

effectTest("records come without a key or a value, and with a header that occurs twice, as they are", () =>
  Effect.gen(function* () {
    const topic = yield* Effect.promise(world.topic)
    const { subscription } = yield* member(world.broker, newGroup(), topic)
    yield* Effect.promise(() =>
      produce(topic, [
        { key: null, value: Buffer.from([0xff, 0x00]), partition: 0 },
        { key: "k", value: null, headers: { twice: ["one", "two"], bytes: Buffer.from([0xfe]) }, partition: 0 }
      ])
    )

    const [keyless, valueless] = yield* collect(subscription, 2, true)

    expect([keyless?.key, Buffer.from(keyless?.value ?? "").toHex(), keyless?.headers]).toEqual([null, "ff00", {}])
    expect([String(valueless?.key), valueless?.value]).toEqual(["k", null])
    expect(valueless?.headers).toEqual({
      twice: [Buffer.from("one"), Buffer.from("two")],
      bytes: Buffer.from([0xfe])
    })
  })
)

effectTest("a TypeError in a decision parks its message and does not stop the consumer", () =>
  Effect.gen(function* () {
    yield* Topics.create(
      { brokers, clientId: "test" },
      ["bank-commands", "bank-events"].map((name) => ({ name, partitions })),
      1
    )
    const unlucky = bank({
      decide: (_type, m) => {
        if ("amount" in m && m.amount === 13) throw new TypeError("undefined is not an object")
      }
    })
    const participant = yield* run(unlucky).pipe(
      Effect.provideService(Broker, world.broker),
      Effect.provide(layerMemory())
    )
    const send = (amount: number) =>
      Effect.promise(async () => {
        const { topic, key, value, headers } = record(Deposit.of({ account: "a", amount }))
        const texts = Object.entries(headers).map(([name, text]) => [name, String(text)])
        await produce(topic, [
          { key: String(key), value: Buffer.from(value ?? ""), headers: Object.fromEntries(texts) }
        ])
      })
    const counted = (name: "parked" | "messages", at: number) =>
      Effect.promise(() => until(`${at} ${name}`, 20_000, () => participant.counters()[name] >= at))

    yield* send(13)
    yield* counted("parked", 1)
    yield* send(1)
    yield* counted("messages", 1)

    expect(participant.health()).toEqual({ ready: true, reasons: [] })
  })
)

effectTest("a consumer goes on after its broker was killed and started again", () =>
  Effect.gen(function* () {
    const topic = yield* Effect.promise(world.topic)
    const { subscription } = yield* member(world.broker, newGroup(), topic)
    yield* world.broker.publish(numbered(topic, 5))
    yield* collect(subscription, 5, true)

    yield* Effect.promise(async () => {
      await kafka.kill()
      await kafka.restart()
    })
    yield* world.broker.publish(numbered(topic, 5, 5)).pipe(Effect.retry({ times: 20 }))
    const values = new Set<number>()
    while (![5, 6, 7, 8, 9].every((value) => values.has(value))) {
      for (const record of yield* collect(subscription, 1, true)) values.add(valueOf(record))
    }

    expect([5, 6, 7, 8, 9].every((value) => values.has(value))).toBe(true)
  })
)

effectTest("who asks a broker for positions that is away is told so", () =>
  Effect.gen(function* () {
    const [nobody = 0] = yield* Effect.promise(() => freePorts([[]]))
    const context = yield* Layer.build(layerKafkaOffsets({ brokers: [`127.0.0.1:${nobody}`], clientId: "test" }))
    const offsets = yield* Effect.provideContext(Offsets, context)

    expect(yield* Effect.flip(offsets.extents(["a"]))).toBeInstanceOf(BrokerError)
  })
)

effectTest("a member that leaves hands its partitions over at once, long before its session would time out", () =>
  Effect.gen(function* () {
    const patient = { brokers, clientId: "patient", sessionTimeoutMs: 30_000 }
    const broker = yield* Effect.provideContext(Broker, yield* Layer.build(layerKafka(patient)))
    const topic = yield* Effect.promise(world.topic)
    const group = newGroup()
    const one = yield* member(broker, group, topic)
    yield* broker.publish(numbered(topic, 3))
    yield* collect(one.subscription, 3, true)

    yield* one.close
    const left = performance.now()
    yield* broker.publish(numbered(topic, 3, 3))
    const two = yield* member(broker, group, topic)
    yield* collect(two.subscription, 3, true)

    expect(performance.now() - left).toBeLessThan(10_000)
  })
)

effectTest("a member whose pass takes longer than the session stays in its group, with a full buffer too", () =>
  Effect.gen(function* () {
    const topic = yield* Effect.promise(world.topic)
    const group = newGroup()
    const { subscription } = yield* member(world.broker, group, topic)
    const padding = "x".repeat(100_000)
    // more than the buffer holds, so that kafkajs is held back while the pass below takes its time
    const heavy = numbered(topic, 150).map((record) => ({ ...record, headers: { ...record.headers, padding } }))
    for (let n = 0; n < heavy.length; n += 10) yield* world.broker.publish(heavy.slice(n, n + 10))
    const first = yield* subscription.take({ messages: 1, bytes: 1 })
    const admin = stranger().admin()
    yield* Effect.promise(() => admin.connect())
    const memberId = Effect.promise(async () => {
      const description = await admin.describeGroups([group])
      return description.groups[0]?.members.map((each) => each.memberId)
    })

    const before = yield* memberId
    const longer = performance.now() + 2 * sessionTimeoutMs
    yield* Effect.promise(() => until("longer than a session", 60_000, () => performance.now() > longer, 250))
    const after = yield* memberId
    yield* Effect.promise(() => admin.disconnect())
    yield* subscription.processed(first)
    const buffered = yield* subscription.take({ messages: 1_000, bytes: Number.MAX_SAFE_INTEGER })
    const rest = yield* collect(subscription, 149 - buffered.length, true)

    expect(before?.length).toBe(1)
    expect(after).toEqual(before)
    // 8 MiB, and what the last fetch of three partitions brought beyond them
    expect(buffered.length).toBeLessThan(125)
    expect(new Set([...first, ...buffered, ...rest].map(valueOf)).size).toBe(150)
  })
)

test("it is told for how long topics keep what lies on them", async () => {
  const topics = [
    { name: "kept", partitions: 1, settings: { "retention.ms": "1000000", "segment.ms": "500000" } },
    { name: "forever", partitions: 1, settings: { "retention.ms": "-1" } },
    { name: "usual", partitions: 1 }
  ]
  await Effect.runPromise(Topics.create({ brokers, clientId: "test" }, topics, 1))

  const kept = await Effect.runPromise(world.offsets.kept(topics.map(({ name }) => name)))

  expect(kept).toEqual(
    new Map([
      ["kept", 1_500_000],
      ["forever", Number.POSITIVE_INFINITY],
      ["usual", 14 * 86_400_000]
    ])
  )
})
