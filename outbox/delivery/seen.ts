/**
 * What the auditor has seen on the topics, as far as it still needs it: ids of messages that are newer than the watermark
 * of the outbox they come from. Times are microseconds since 1970, which are exact numbers until 2255.
 *
 * An offset may be committed once all records before it are older than their outboxes' watermarks: whoever reads on from
 * there learns all that was forgotten here. So nothing is forgotten for want of room; the auditor stops reading instead.
 */
import type { BrokerRecord } from "../broker/broker.ts"
import { isUuid } from "../store/inbox.ts"
import { partitionName, type ByPartition, type Extent } from "../broker/offsets.ts"

export interface SeenMessage {
  /** The `ce_source` of the outbox. */
  readonly source: string
  readonly id: string
  readonly topic: string
}

interface Remembered extends SeenMessage {
  readonly created: number
  readonly record: BrokerRecord
}

interface Partition {
  /** The offset after the last record that was read. */
  next: bigint
  /** What was read and is newer than the watermarks, in its order. */
  waiting: Array<Remembered>
  /** Offsets up to this record's may be committed. */
  done: BrokerRecord | undefined
}

interface Source {
  watermark: number
  /** Where each message was seen, by its id. */
  readonly messages: Map<string, Remembered>
}

/** How far a database's clock may be ahead of ours, in microseconds. */
const aheadMost = 3_600_000_000

export class Seen {
  private readonly sources: ReadonlyMap<string, Source>
  private readonly partitions = new Map<string, Partition>()
  private waiting = 0

  constructor(
    sources: ReadonlyArray<string>,
    /** How many messages to remember. One batch of records may go over it. */
    private readonly bound: number
  ) {
    this.sources = new Map(sources.map((name) => [name, { watermark: 0, messages: new Map() }]))
  }

  /** Notes a record that was read. Answers whose message it is; undefined when it is nobody's that is audited here. */
  note(record: BrokerRecord, now: number): SeenMessage | undefined {
    const partition = this.partitionOf(record)
    if (record.offset < partition.next) {
      // the group was joined again and reads on from what was committed
      this.waiting -= partition.waiting.length
      partition.waiting = []
      partition.done = undefined
    }
    partition.next = record.offset + 1n
    const slim: BrokerRecord = { ...record, key: null, value: null, headers: {} }
    const id = textOf(record, "id")
    const name = textOf(record, "ce_source")
    const source = this.sources.get(name)
    const created = microsecondsOf(textOf(record, "ce_time"))
    if (source === undefined || !isUuid(id) || created === undefined) {
      if (partition.waiting.length === 0) partition.done = slim
      return undefined
    }
    const remembered = { source: name, id, topic: record.topic, created, record: slim }
    // one that says it is of the future would be waited for
    if (created >= source.watermark && created < now + aheadMost) {
      source.messages.set(id, remembered)
      partition.waiting.push(remembered)
      this.waiting++
    } else if (partition.waiting.length === 0) partition.done = slim
    return remembered
  }

  /** Whether this message, newer than the watermark, was seen on its topic. */
  has({ source, id, topic }: SeenMessage): boolean {
    return this.sources.get(source)?.messages.get(id)?.topic === topic
  }

  /** All of the outbox that was created before the watermark was audited: what was seen of it is not needed any more. */
  audited(name: string, watermark: number): void {
    const source = this.sources.get(name)
    if (source === undefined || watermark === source.watermark) return
    source.watermark = watermark
    for (const { id, created } of source.messages.values()) if (created < watermark) source.messages.delete(id)
    for (const partition of this.partitions.values()) {
      const first = partition.waiting.findIndex((one) => one.created >= (this.sources.get(one.source)?.watermark ?? 0))
      const over = partition.waiting.splice(0, first === -1 ? partition.waiting.length : first)
      partition.done = over.at(-1)?.record ?? partition.done
      this.waiting -= over.length
    }
  }

  /** The records up to which offsets may be committed, one for each partition; each is told once. */
  done(): ReadonlyArray<BrokerRecord> {
    return [...this.partitions.values()].flatMap((partition) => {
      const { done } = partition
      partition.done = undefined
      return done === undefined ? [] : [done]
    })
  }

  /** Whether all was read that the partitions held. What this group has committed was read by someone. */
  reaches(extents: ByPartition<Extent>, committed: ByPartition<bigint>): boolean {
    return [...extents].every(([name, { first, end }]) => {
      const next = this.partitions.get(name)?.next ?? committed.get(name) ?? first
      return next >= end || first >= end
    })
  }

  get full(): boolean {
    return this.waiting >= this.bound
  }

  get size(): number {
    return this.waiting
  }

  private partitionOf({ topic, partition }: BrokerRecord): Partition {
    const name = partitionName(topic, partition)
    const found = this.partitions.get(name) ?? { next: 0n, waiting: [], done: undefined }
    this.partitions.set(name, found)
    return found
  }
}

const textOf = ({ headers }: BrokerRecord, name: string): string => {
  const value = headers[name]
  if (typeof value === "string") return value
  return value instanceof Uint8Array ? Buffer.from(value).toString() : ""
}

/** A time of RFC 3339 in UTC, such as a row's `created_at` in a header. */
export const microsecondsOf = (time: string): number | undefined => {
  const found = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z$/.exec(time)
  if (found === null) return undefined
  const milliseconds = Date.parse(`${found[1]}Z`)
  return Number.isNaN(milliseconds)
    ? undefined
    : milliseconds * 1000 + Number((found[2] ?? "").padEnd(6, "0").slice(0, 6))
}
