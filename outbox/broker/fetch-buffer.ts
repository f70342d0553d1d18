/**
 * What was fetched ahead from Kafka and not taken yet, within a bound, and what was processed and is to be committed. A
 * crash loses both: all of it comes again.
 */
import { Effect } from "effect"
import { BrokerError, type BrokerRecord, type TakeLimit } from "./broker.ts"
import { partitionName } from "./offsets.ts"

/** The buffer's bound: fetching pauses above it. One fetch may go over it by what it brings. */
const bufferedBytes = 8_388_608
const bufferedMessages = 8_192

/** A record as kafkajs fetches it. */
interface FetchedMessage {
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers?: BrokerRecord["headers"]
  readonly offset: string
}

/** What kafkajs fetched of one partition, and what it has to be told meanwhile. */
interface Fetch {
  readonly batch: {
    readonly topic: string
    readonly partition: number
    readonly messages: ReadonlyArray<FetchedMessage>
    readonly lastOffset: () => string
  }
  readonly resolveOffset: (offset: string) => void
  readonly heartbeat: () => Promise<void>
  readonly isRunning: () => boolean
  readonly isStale: () => boolean
}

/** The next offset of a partition, as it is committed. */
interface Position {
  readonly topic: string
  readonly partition: number
  readonly offset: string
}

/** A record, and the membership of the group under which it was fetched. */
interface Fetched extends BrokerRecord {
  readonly generation: number
  /** What it takes of the buffer. */
  readonly bytes: number
}

const sizeOf = ({ key, value, headers = {} }: FetchedMessage): number => {
  let bytes = 512 + (key?.length ?? 0) + (value?.length ?? 0)
  for (const name in headers) {
    const held = headers[name] ?? ""
    // of a name that occurs several times each value
    bytes += Array.isArray(held) ? held.reduce((sum, one) => sum + (one?.length ?? 0), 0) : held.length
  }
  return bytes
}

export class FetchBuffer {
  private records: Array<Fetched> = []
  private bytes = 0
  /** Counts the times the group was joined: what was fetched before belongs to an assignment that is over. */
  private generation = 0
  private readonly toCommit = new Map<string, { topic: string; partition: number; next: bigint }>()
  private crash: BrokerError | undefined
  private wake: () => void = () => {}
  private drained: () => void = () => {}

  constructor(private readonly commitOffsets: (offsets: Array<Position>) => Promise<void>) {}

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
  async fetched({ batch, resolveOffset, heartbeat, isRunning, isStale }: Fetch): Promise<void> {
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

  private push(topic: string, partition: number, generation: number, message: FetchedMessage): void {
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
      this.toCommit.set(partitionName(topic, partition), { topic, partition, next: offset + 1n })
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
      return Effect.tryPromise(() => this.commitOffsets(offsets)).pipe(
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
