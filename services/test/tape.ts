/**
 * Everything that lies on the topics, read once and kept in memory, and a way to put more there: raw records, to a
 * partition of one's choice. Reads on by itself when the broker was away.
 */
import { randomUUID } from "node:crypto"
import { Kafka, logLevel, type Admin, type IHeaders, type KafkaMessage, type Producer } from "kafkajs"
import type { Coordination } from "oncebox"
import { allTopicNames } from "../shell/topics.ts"
import { Hopeless, until, within } from "../../stack/wait.ts"

export interface Taped {
  readonly topic: string
  readonly partition: number
  readonly offset: bigint
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: IHeaders
  readonly id: string
  readonly type: string
  readonly coordination: Coordination
  /** A test put it there under an id of its own, and said so. */
  readonly injected: boolean
  /** Who wrote it: a number that the broker gave, to each task of a connector another one. Who repeats no writes has none. */
  readonly producer: string | undefined
  /** When its producer made it, in milliseconds. */
  readonly at: number
}

export type Raw = Pick<Taped, "topic" | "partition" | "key" | "value" | "headers">

export interface Tape {
  readonly records: ReadonlyArray<Taped>
  /** Tells of each record that is read from now on. */
  readonly follow: (listener: (record: Taped) => void) => () => void
  /** Appends records as they are, each to its partition. */
  readonly produce: (records: ReadonlyArray<Raw>) => Promise<void>
  /** Log ends, by `topic/partition`; the tape has been read up to them. */
  readonly caughtUp: () => Promise<ReadonlyMap<string, bigint>>
  readonly admin: <A>(use: (admin: Admin) => Promise<A>) => Promise<A>
  readonly stop: () => Promise<void>
}

// kafkajs reads headers without a value, and would write them, but for taking the size of null.
const byteLength = Buffer.byteLength
Buffer.byteLength = (value, encoding) => (value === null ? 0 : byteLength(value, encoding))

/** Marks what a test produced under an id of its own. */
export const injectedHeader = "test_injected"

const readsWithinMs = 60_000
const endsWithinMs = 30_000
const sessionMs = 10_000
const commitsEveryMs = 5_000

export interface TapeOptions {
  /** For long runs: of what was read it keeps no more than which record it is. Listeners are given all of it. */
  readonly slim: boolean
}

export const startTape = async (brokers: string, { slim }: TapeOptions = { slim: false }): Promise<Tape> => {
  const kafka = new Kafka({
    clientId: "e2e",
    brokers: brokers.split(","),
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 50, maxRetryTime: 1_000, retries: 20 }
  })
  const consumer = kafka.consumer({
    groupId: `e2e-${randomUUID()}`,
    sessionTimeout: sessionMs,
    heartbeatInterval: 1_000,
    maxWaitTimeInMs: 100,
    allowAutoTopicCreation: false,
    retry: { initialRetryTime: 50, maxRetryTime: 1_000, retries: 20, restartOnFailure: async () => true }
  })
  const records: Array<Taped> = []
  const next = new Map<string, bigint>()
  const listeners = new Set<(record: Taped) => void>()
  const gaps: Array<string> = []
  const note = (record: Taped): void => {
    const partition = partitionOf(record)
    const due = next.get(partition) ?? record.offset
    // after a rejoin it is read again: all of it, or, in long runs, what was read since the last commit
    if (record.offset < due) return
    if (record.offset > due) gaps.push(`${partition} from ${due} to ${record.offset}`)
    next.set(partition, record.offset + 1n)
    records.push(slim ? slimmed(record) : record)
    for (const listener of listeners) listener(record)
  }
  await consumer.connect()
  await consumer.subscribe({ topics: [...allTopicNames], fromBeginning: true })
  await consumer.run({
    autoCommit: slim,
    autoCommitInterval: commitsEveryMs,
    eachBatch: async ({ batch: { topic, partition, messages } }) => {
      for (const message of messages) {
        const { key, value, headers, offset, timestamp } = message
        const [producer, at] = [producerOf(message), Number(timestamp)]
        note({
          topic,
          partition,
          offset: BigInt(offset),
          key,
          value,
          headers: headers ?? {},
          ...labels(headers),
          producer,
          at
        })
      }
    }
  })

  const admin: Tape["admin"] = async (use) => {
    const client = kafka.admin()
    await client.connect()
    try {
      return await use(client)
    } finally {
      await client.disconnect()
    }
  }
  let connecting: Promise<Producer> | undefined
  const producer = (): Promise<Producer> =>
    (connecting ??= (async () => {
      const made = kafka.producer({ allowAutoTopicCreation: false })
      await made.connect()
      return made
    })())

  return {
    records,
    follow: (listener) => {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    produce: async (given) => {
      const byTopic = Map.groupBy(given, (record) => record.topic)
      const topicMessages = [...byTopic].map(([topic, list]) => ({
        topic,
        messages: list.map(({ partition, key, value, headers }) => ({ partition, key, value, headers }))
      }))
      if (topicMessages.length > 0) await (await producer()).sendBatch({ acks: -1, topicMessages })
    },
    caughtUp: async () => {
      const ends = await admin(logEnds)
      await until("the tape at the logs' ends", readsWithinMs, () =>
        [...ends].every(([partition, end]) => (next.get(partition) ?? 0n) >= end)
      )
      if (gaps.length > 0) throw new Hopeless(`the tape lacks ${gaps.join(", ")}`)
      return ends
    },
    admin,
    stop: async () => {
      await within("the end of the tape", endsWithinMs, consumer.disconnect())
      if (connecting !== undefined)
        await within("the end of its producer", endsWithinMs, (await connecting).disconnect())
    }
  }
}

/** kafkajs has it, and does not say so. */
const producerOf = (message: KafkaMessage): string | undefined => {
  const batch: unknown = Reflect.get(message, "batchContext")
  const id = typeof batch === "object" && batch !== null ? String(Reflect.get(batch, "producerId")) : "-1"
  return id === "-1" ? undefined : id
}

const slimmed = (record: Taped): Taped => {
  const mark = record.headers[injectedHeader]
  return {
    ...record,
    // a slice would hold on to all that was fetched with it
    key: record.key === null ? null : Buffer.from(record.key),
    value: null,
    headers: mark === undefined ? {} : { [injectedHeader]: mark.toString() }
  }
}

const logEnds = async (admin: Admin): Promise<ReadonlyMap<string, bigint>> => {
  const ends = await Promise.all(
    allTopicNames.map(async (topic) =>
      (await admin.fetchTopicOffsets(topic)).map(
        ({ partition, high }) => [partitionOf({ topic, partition }), BigInt(high)] as const
      )
    )
  )
  return new Map(ends.flat())
}

export const partitionOf = ({ topic, partition }: { readonly topic: string; readonly partition: number }): string =>
  `${topic}/${partition}`

const labels = (headers: IHeaders | undefined): Pick<Taped, "id" | "type" | "coordination" | "injected"> => ({
  id: textOf(headers, "id"),
  type: textOf(headers, "ce_type"),
  coordination: textOf(headers, "coordination") === "choreography" ? "choreography" : "orchestration",
  injected: headers?.[injectedHeader] !== undefined
})

const textOf = (headers: IHeaders | undefined, name: string): string => headers?.[name]?.toString() ?? ""

/** The same command once more, as somebody would ask again who never heard an answer: all the same but its id. */
export const askedAgain = ({ topic, partition, key, value, headers }: Taped): Raw & { readonly id: string } => {
  const id = Bun.randomUUIDv7()
  return { topic, partition, key, value, headers: { ...headers, id, ce_id: id, [injectedHeader]: "asked again" }, id }
}

/**
 * Produces a copy of every record that is read from now on, once for each id. `stop` returns when all copies are there.
 */
export const echo = (tape: Tape, copyOf: (record: Taped) => Raw | undefined) => {
  const copied: Array<Taped> = []
  const ids = new Set<string>()
  let pending: Array<Raw> = []
  let sending: Promise<void> = Promise.resolve()
  const unfollow = tape.follow((record) => {
    if (record.injected || ids.has(record.id)) return
    const copy = copyOf(record)
    if (copy === undefined) return
    ids.add(record.id)
    copied.push(record)
    if (pending.push(copy) > 1) return
    sending = sending.then(async () => {
      const batch = pending
      pending = []
      await tape.produce(batch)
    })
    // told by stop
    sending.catch(() => {})
  })
  return {
    stop: async (): Promise<ReadonlyArray<Taped>> => {
      await tape.caughtUp()
      unfollow()
      await sending
      return copied
    }
  }
}
