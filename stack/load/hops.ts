/**
 * How long messages take from service to service, taken from the records themselves: each names the message that caused it.
 * A hop has two parts. From the beginning of the transaction that wrote a message until it lies on its topic, and from there
 * to the beginning of the transaction in which it is decided.
 */
import { Kafka, logLevel } from "kafkajs"
import { within } from "../wait.ts"

export interface Hop {
  /** The type of the message. */
  readonly type: string
  readonly toTopicMs: ReadonlyArray<number>
  readonly toHandlerMs: ReadonlyArray<number>
}

interface Read {
  readonly id: string
  readonly type: string
  readonly causation: string | undefined
  readonly writtenMs: number
  readonly onTopicMs: number
}

const readsWithinMs = 120_000

/** Hops of the messages that came to these topics since `sinceMs`. Reads only after the fact: it costs the system nothing before. */
export const readHops = async (
  broker: string,
  topics: ReadonlyArray<string>,
  sinceMs: number
): Promise<ReadonlyArray<Hop>> => hopsOf(await readRecords(broker, topics, sinceMs))

export const hopsOf = (records: ReadonlyArray<Read>): ReadonlyArray<Hop> => {
  const hops = new Map<string, { type: string; toTopicMs: Array<number>; toHandlerMs: Array<number> }>()
  const hopOf = ({ type }: Read) => {
    const hop = hops.get(type) ?? { type, toTopicMs: [], toHandlerMs: [] }
    hops.set(type, hop)
    return hop
  }
  const byId = new Map(records.map((record) => [record.id, record]))
  for (const record of records) {
    hopOf(record).toTopicMs.push(record.onTopicMs - record.writtenMs)
    const cause = record.causation === undefined ? undefined : byId.get(record.causation)
    if (cause !== undefined) hopOf(cause).toHandlerMs.push(record.writtenMs - cause.onTopicMs)
  }
  return [...hops.values()]
}

const readRecords = async (
  broker: string,
  topics: ReadonlyArray<string>,
  sinceMs: number
): Promise<ReadonlyArray<Read>> => {
  const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING })
  const admin = kafka.admin()
  const consumer = kafka.consumer({ groupId: `load-${crypto.randomUUID()}`, maxWaitTimeInMs: 250 })
  const records: Array<Read> = []
  try {
    await Promise.all([admin.connect(), consumer.connect()])
    const missing = new Map<string, bigint>()
    const starts: Array<{ topic: string; partition: number; offset: string }> = []
    for (const topic of topics) {
      const from = new Map(
        (await admin.fetchTopicOffsetsByTimestamp(topic, sinceMs)).map(({ partition, offset }) => [partition, offset])
      )
      for (const { partition, high } of await admin.fetchTopicOffsets(topic)) {
        const offset = from.get(partition) ?? high
        starts.push({ topic, partition, offset })
        if (BigInt(offset) < BigInt(high)) missing.set(`${topic}/${partition}`, BigInt(high))
      }
    }
    const all = Promise.withResolvers<void>()
    if (missing.size === 0) return records
    await consumer.subscribe({ topics: [...topics], fromBeginning: false })
    await consumer.run({
      autoCommit: false,
      eachBatch: async ({ batch }) => {
        for (const { headers = {}, timestamp } of batch.messages) {
          const text = (name: string) => headers[name]?.toString()
          const [id, type, time] = [text("id"), text("ce_type"), text("ce_time")]
          if (id === undefined || type === undefined || time === undefined) continue
          const causation = text("causation")
          records.push({ id, type, causation, writtenMs: Date.parse(time), onTopicMs: Number(timestamp) })
        }
        const partition = `${batch.topic}/${batch.partition}`
        if (BigInt(batch.lastOffset()) + 1n >= (missing.get(partition) ?? 0n)) missing.delete(partition)
        if (missing.size === 0) all.resolve()
      }
    })
    for (const start of starts) consumer.seek(start)
    await within("reading the topics", readsWithinMs, all.promise)
    return records
  } finally {
    await Promise.allSettled([admin.disconnect(), consumer.disconnect()])
  }
}
