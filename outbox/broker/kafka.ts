/**
 * The Kafka broker, by kafkajs. Records are fetched ahead into a bounded buffer while passes run; offsets are
 * committed only for records that were marked as processed, never for those that were merely fetched.
 *
 * kafkajs needs guards, each with its reason beside it: an idle timer that spins, handlers whose TypeErrors stop the
 * consumer for good, a group that is left only after its session timeout, offsets of partitions that are another's by now.
 */
import { Effect, Layer, Schedule, type Scope } from "effect"
import {
  AssignerProtocol,
  CompressionTypes,
  Kafka,
  logLevel,
  type Consumer,
  type EachBatchPayload,
  type KafkaMessage,
  type PartitionAssigner,
  type Producer
} from "kafkajs"
import RequestQueue from "kafkajs/src/network/requestQueue/index.js"
import {
  Broker,
  BrokerError,
  type BrokerRecord,
  type Outbound,
  type SubscribeOptions,
  type Subscription,
  type TakeLimit
} from "./broker.ts"

// Without this every connection re-arms a timer of 1 ms for ever, about 4 % of a core when idle (tulios/kafkajs#1751).
const { scheduleCheckPendingRequests } = RequestQueue.prototype
RequestQueue.prototype.scheduleCheckPendingRequests = function (this: { readonly pending: ReadonlyArray<unknown> }) {
  if (this.pending.length > 0) scheduleCheckPendingRequests.call(this)
}

export interface KafkaOptions {
  readonly brokers: ReadonlyArray<string>
  readonly clientId: string
  /** How long a member may be silent before its partitions go to others. */
  readonly sessionTimeoutMs?: number
}

/** Longer than a transaction may take, so that a stalled pass is over before its partitions go to others; not longer, for a killed member keeps them until then. */
const defaultSessionTimeoutMs = 15_000

/** The buffer's bound: fetching pauses above it. One fetch may go over it by what it brings. */
const bufferedBytes = 8_388_608
const bufferedMessages = 8_192

/** Below a topic's `max.message.bytes` of 1 MiB, which counts what is sent for a partition at once. */
const batchBytes = 900_000

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
        Effect.promise(async () => {
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
  { group, topics, exclusive = false }: SubscribeOptions
): Effect.Effect<Subscription, BrokerError, Scope.Scope> =>
  Effect.gen(function* () {
    const sessionTimeout = options.sessionTimeoutMs ?? defaultSessionTimeoutMs
    const consumer = kafka.consumer({
      groupId: group,
      ...(exclusive ? { partitionAssigners: [allToOne] } : {}),
      sessionTimeout,
      rebalanceTimeout: 2 * sessionTimeout,
      heartbeatInterval: Math.floor(sessionTimeout / 10),
      // bounds how long a stop or an idle heartbeat waits for the fetch under way; delivery doesn't wait for it
      maxWaitTimeInMs: 500,
      minBytes: 1,
      maxBytesPerPartition: 1_048_576,
      allowAutoTopicCreation: false,
      retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries: 8, restartOnFailure: async () => true }
    })
    const buffer = new FetchBuffer(consumer)
    yield* patiently(`connect to ${options.brokers.join(", ")}`, () => consumer.connect())
    yield* Effect.addFinalizer(() =>
      // leaves the group at once; otherwise its partitions wait for the session timeout
      buffer
        .commit()
        .pipe(Effect.andThen(Effect.promise(() => consumer.disconnect())), Effect.timeout("8 seconds"), Effect.ignore)
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

/** A record, and the membership of the group under which it was fetched. */
interface Fetched extends BrokerRecord {
  readonly generation: number
  /** What it takes of the buffer. */
  readonly bytes: number
}

const sizeOf = ({ key, value, headers = {} }: KafkaMessage): number =>
  [key, value, ...Object.values(headers).flat()].reduce((bytes, part) => bytes + (part?.length ?? 0), 512)

class FetchBuffer {
  private records: Array<Fetched> = []
  private bytes = 0
  /** Counts the times the group was joined: what was fetched before belongs to an assignment that is over. */
  private generation = 0
  private readonly toCommit = new Map<string, { topic: string; partition: number; next: bigint }>()
  private crash: BrokerError | undefined
  private wake: () => void = () => {}
  private drained: () => void = () => {}

  constructor(private readonly consumer: Consumer) {}

  /** kafkajs goes on from the committed offsets now: what was buffered comes again, if it is still ours. */
  joined(): void {
    this.generation++
    this.records = []
    this.bytes = 0
    this.toCommit.clear()
    this.drained()
  }

  crashed(error: Error): void {
    this.crash = new BrokerError({ message: `the consumer stopped: ${error.message}`, cause: error })
    this.wake()
  }

  /** Takes a fetched batch into the buffer and holds kafkajs back while that is full, with heartbeats. */
  async fetched({ batch, resolveOffset, heartbeat, isRunning, isStale }: EachBatchPayload): Promise<void> {
    const generation = this.generation
    if (!isRunning() || isStale()) return
    const wasEmpty = this.records.length === 0
    for (const message of batch.messages) this.push(batch.topic, batch.partition, generation, message)
    // moves the fetch position only; nothing is committed before it was processed
    resolveOffset(batch.lastOffset())
    // the other partitions of the same fetch follow within this turn of the event loop: they belong to the same pass
    if (wasEmpty) setImmediate(() => this.wake())
    while (this.full() && isRunning() && generation === this.generation) {
      await this.roomOrTimeout(500)
      await heartbeat()
    }
  }

  private push(topic: string, partition: number, generation: number, message: KafkaMessage): void {
    const { key, value, headers, offset } = message
    const bytes = sizeOf(message)
    const position = { topic, partition, offset: BigInt(offset) }
    this.records.push({ ...position, key, value, headers: headers ?? {}, generation, bytes })
    this.bytes += bytes
  }

  private full(): boolean {
    return this.bytes > bufferedBytes || this.records.length > bufferedMessages
  }

  private roomOrTimeout(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.drained = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  take(limit: TakeLimit): Effect.Effect<ReadonlyArray<BrokerRecord>, BrokerError> {
    return Effect.callback<ReadonlyArray<BrokerRecord>, BrokerError>((resume) => {
      const attempt = (): void => {
        if (this.crash === undefined && this.records.length === 0) return
        // before it is resumed: who took may take again at once
        this.wake = () => {}
        resume(this.crash === undefined ? Effect.succeed(this.takeNow(limit)) : Effect.fail(this.crash))
      }
      this.wake = attempt
      attempt()
      return Effect.sync(() => {
        this.wake = () => {}
      })
    })
  }

  private takeNow(limit: TakeLimit): ReadonlyArray<BrokerRecord> {
    let count = 0
    let bytes = 0
    while (count < this.records.length && count < limit.messages && (count === 0 || bytes < limit.bytes)) {
      bytes += this.records[count]?.bytes ?? 0
      count++
    }
    const taken = this.records.splice(0, count)
    this.bytes -= bytes
    if (!this.full()) this.drained()
    return taken
  }

  processed(records: ReadonlyArray<BrokerRecord>): void {
    for (const record of records) {
      // Records that a subscription gives back are its own; one of an assignment that is over may be another's by now.
      if ((record as Fetched).generation !== this.generation) continue
      const { topic, partition, offset } = record
      this.toCommit.set(`${topic}/${partition}`, { topic, partition, next: offset + 1n })
    }
  }

  /** Commits what was processed since the last time, and what failed then. Meanwhile a crash brings those records again. */
  commit(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.toCommit.size === 0) return Effect.void
      const { generation } = this
      const committing = [...this.toCommit]
      const offsets = [...this.toCommit.values()].map(({ topic, partition, next }) => ({
        topic,
        partition,
        offset: String(next)
      }))
      this.toCommit.clear()
      return Effect.tryPromise(() => this.consumer.commitOffsets(offsets)).pipe(
        Effect.timeout("10 seconds"),
        Effect.catch(() =>
          Effect.sync(() => {
            if (generation !== this.generation) return
            for (const [partition, offset] of committing)
              if (!this.toCommit.has(partition)) this.toCommit.set(partition, offset)
          })
        )
      )
    })
  }
}

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
      (admin) => Effect.promise(() => admin.disconnect()).pipe(Effect.timeout("5 seconds"), Effect.ignore)
    )
}
