/**
 * The Kafka broker, by kafkajs. Records are fetched ahead into a bounded buffer while passes run; offsets are
 * committed only for records that were marked as processed, never for those that were merely fetched.
 *
 * kafkajs needs guards, each with its reason beside it, here and in kafkajs-patches.ts: handlers whose TypeErrors stop the
 * consumer for good, a group that is left only after its session timeout, offsets of partitions that are another's by now.
 */
import { Effect, Layer, Schedule, type Scope } from "effect"
import { AssignerProtocol, CompressionTypes, Kafka, logLevel, type PartitionAssigner, type Producer } from "kafkajs"
import "./kafkajs-patches.ts"
import { Broker, BrokerError, type Outbound, type SubscribeOptions, type Subscription } from "./broker.ts"
import { FetchBuffer } from "./fetch-buffer.ts"

export interface KafkaOptions {
  readonly brokers: ReadonlyArray<string>
  readonly clientId: string
  /** How long a member may be silent before its partitions go to others. */
  readonly sessionTimeoutMs?: number
}

/** Longer than a transaction may take, so that a stalled pass is over before its partitions go to others; not longer, for a killed member keeps them until then. */
const defaultSessionTimeoutMs = 15_000

/** Below a topic's `max.message.bytes` of 1 MiB, which counts what is sent for a partition at once. */
const batchBytes = 900_000

/** What a fetch that gathers does not wait beyond. */
const gatheredBytes = 262_144

/** How often offsets are committed: a crash brings back what was processed since, and the inbox drops it. */
const commitEvery = "250 millis"

export const kafkaOf = (options: KafkaOptions): Kafka =>
  new Kafka({
    clientId: options.clientId,
    brokers: [...options.brokers],
    logLevel: logLevel.NOTHING,
    connectionTimeout: 3_000,
    requestTimeout: 30_000,
    // explicit, because kafkajs has other defaults when NODE_ENV is "test"
    retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries: 8 }
  })

const failed = (doing: string) => (cause: unknown) =>
  new BrokerError({ message: `${doing}: ${cause instanceof Error ? cause.message : String(cause)}`, cause })

/** Tries until the broker answers, for as long as it takes: a service may be up before its broker. */
const patiently = <A>(doing: string, run: () => Promise<A>): Effect.Effect<A, BrokerError> =>
  Effect.tryPromise({ try: run, catch: failed(doing) }).pipe(
    Effect.tapError((error) => Effect.logWarning(error.message)),
    Effect.retry(Schedule.spaced("1 second"))
  )

export const layerKafka = (options: KafkaOptions): Layer.Layer<Broker> =>
  Layer.effect(
    Broker,
    Effect.gen(function* () {
      const kafka = kafkaOf(options)
      let connecting: Promise<Producer> | undefined
      yield* Effect.addFinalizer(() =>
        Effect.tryPromise(async () => {
          if (connecting !== undefined) await (await connecting).disconnect()
        }).pipe(Effect.timeout("5 seconds"), Effect.ignore)
      )
      const producer = (): Promise<Producer> => {
        connecting ??= (async () => {
          const made = kafka.producer({ allowAutoTopicCreation: false, idempotent: true, maxInFlightRequests: 1 })
          await made.connect()
          return made
        })().catch((error) => {
          connecting = undefined
          throw error
        })
        return connecting
      }
      return Broker.of({
        subscribe: (how) => subscribe(kafka, options, how),
        publish: (records) =>
          Effect.forEach(
            batchesOf(records),
            (batch) =>
              Effect.tryPromise({
                try: async () => {
                  const topicMessages = [...Map.groupBy(batch, ({ topic }) => topic)].map(([topic, messages]) => ({
                    topic,
                    messages: messages.map(({ key, value, headers }) => ({
                      key,
                      value: typeof value === "string" ? value : Buffer.from(value),
                      headers: { ...headers }
                    }))
                  }))
                  await (await producer()).sendBatch({ acks: -1, compression: CompressionTypes.None, topicMessages })
                },
                catch: failed("publish")
              }).pipe(
                Effect.timeoutOrElse({
                  duration: "30 seconds",
                  orElse: () => Effect.fail(new BrokerError({ message: "publish: the broker did not answer in time" }))
                })
              ),
            { discard: true }
          )
      })
    })
  )

/** Records in their order, as many at once as all may lie on one partition: a broker takes what it is sent for one as a whole. */
const batchesOf = (records: ReadonlyArray<Outbound>): ReadonlyArray<ReadonlyArray<Outbound>> => {
  const batches: Array<Array<Outbound>> = []
  let room = 0
  for (const record of records) {
    const size = publishedSizeOf(record)
    if (batches.length === 0 || room < size) {
      batches.push([])
      room = batchBytes
    }
    batches.at(-1)?.push(record)
    room -= size
  }
  return batches
}

const publishedSizeOf = ({ key, value, headers }: Outbound): number => {
  const texts: ReadonlyArray<string> = [key, ...Object.entries(headers).flat()]
  return texts.reduce((bytes, text) => bytes + Buffer.byteLength(text) + 5, Buffer.byteLength(value) + 64)
}

/** Gives every partition to one member of the group; the others stand by. */
const allToOne: PartitionAssigner = ({ cluster }) => ({
  name: "AllToOneAssigner",
  version: 0,
  assign: async ({ members, topics }) => {
    const [first] = members.map(({ memberId }) => memberId).toSorted()
    if (first === undefined) return []
    const all = topics.map((topic) => [
      topic,
      cluster.findTopicPartitionMetadata(topic).map(({ partitionId }) => partitionId)
    ])
    const assignment = AssignerProtocol.MemberAssignment.encode({
      version: 0,
      assignment: Object.fromEntries(all),
      userData: Buffer.alloc(0)
    })
    return [{ memberId: first, memberAssignment: assignment }]
  },
  protocol: ({ topics }) => ({
    name: "AllToOneAssigner",
    metadata: AssignerProtocol.MemberMetadata.encode({ version: 0, topics, userData: Buffer.alloc(0) })
  })
})

const subscribe = (
  kafka: Kafka,
  options: KafkaOptions,
  { group, topics, exclusive = false, gathers = false }: SubscribeOptions
): Effect.Effect<Subscription, BrokerError, Scope.Scope> =>
  Effect.gen(function* () {
    const sessionTimeout = options.sessionTimeoutMs ?? defaultSessionTimeoutMs
    const consumer = kafka.consumer({
      groupId: group,
      ...(exclusive ? { partitionAssigners: [allToOne] } : {}),
      sessionTimeout,
      rebalanceTimeout: 2 * sessionTimeout,
      heartbeatInterval: Math.floor(sessionTimeout / 10),
      // bounds how long a stop or an idle heartbeat waits for the fetch under way; delivery doesn't wait for it, unless it gathers
      maxWaitTimeInMs: 500,
      minBytes: gathers ? gatheredBytes : 1,
      maxBytesPerPartition: 1_048_576,
      allowAutoTopicCreation: false,
      retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries: 8, restartOnFailure: async () => true }
    })
    const buffer = new FetchBuffer((offsets) => consumer.commitOffsets(offsets))
    yield* patiently(`connect to ${options.brokers.join(", ")}`, () => consumer.connect())
    yield* Effect.addFinalizer(() =>
      // leaves the group at once; otherwise its partitions wait for the session timeout
      buffer
        .commit()
        .pipe(
          Effect.andThen(Effect.tryPromise(() => consumer.disconnect())),
          Effect.timeout("8 seconds"),
          Effect.ignore
        )
    )
    yield* patiently(`subscribe ${group}`, () => consumer.subscribe({ topics: [...topics], fromBeginning: true }))
    consumer.on(consumer.events.GROUP_JOIN, () => buffer.joined())
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      // kafkajs rejoins by itself unless it holds the error for a bug; then it would live on and consume nothing
      if (!payload.restart) buffer.crashed(payload.error)
    })
    yield* patiently(`run ${group}`, () =>
      consumer.run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        eachBatch: (payload) => buffer.fetched(payload)
      })
    )
    yield* Effect.forkScoped(buffer.commit().pipe(Effect.delay(commitEvery), Effect.forever))
    return { take: (limit) => buffer.take(limit), processed: (records) => Effect.sync(() => buffer.processed(records)) }
  })

/** The job that makes topics, each with its number of partitions. Those that exist are left as they are. */
export const Topics = {
  create: (
    options: KafkaOptions,
    topics: ReadonlyArray<{
      readonly name: string
      readonly partitions: number
      /** Settings such as `retention.ms`, for those that the broker's own don't fit. */
      readonly settings?: Readonly<Record<string, string>>
    }>,
    replicationFactor: number
  ): Effect.Effect<void, BrokerError> =>
    Effect.acquireUseRelease(
      Effect.sync(() => kafkaOf(options).admin()),
      (admin) =>
        Effect.tryPromise({
          try: async () => {
            await admin.connect()
            await admin.createTopics({
              waitForLeaders: true,
              timeout: 15_000,
              topics: topics.map(({ name, partitions, settings = {} }) => ({
                topic: name,
                numPartitions: partitions,
                replicationFactor,
                configEntries: Object.entries(settings).map(([name, value]) => ({ name, value }))
              }))
            })
          },
          catch: failed("create topics")
        }).pipe(
          Effect.timeoutOrElse({
            duration: "60 seconds",
            orElse: () => Effect.fail(new BrokerError({ message: "create topics: no answer in time" }))
          })
        ),
      (admin) => Effect.tryPromise(() => admin.disconnect()).pipe(Effect.timeout("5 seconds"), Effect.ignore)
    )
}
