/** Topics and consumer groups of a simulation: records lie where they were put, and whoever reads them says from where on. */
import { hashOf } from "../../hash.ts"
import type { BrokerRecord, Outbound } from "../../broker/broker.ts"

const partitionsPerTopic = 2

/** Where a group stands in one partition. */
export interface Reading {
  readonly log: ReadonlyArray<BrokerRecord>
  /** The next record to take. */
  position: number
  /** What a crash or a rebalance goes back to. */
  committed: number
}

export class Topics {
  private readonly logs = new Map<string, ReadonlyArray<Array<BrokerRecord>>>()

  /** The partitions of a topic, which exists as soon as it is named. */
  partitions(topic: string): ReadonlyArray<Array<BrokerRecord>> {
    const known = this.logs.get(topic)
    if (known !== undefined) return known
    const made = Array.from({ length: partitionsPerTopic }, (): Array<BrokerRecord> => [])
    this.logs.set(topic, made)
    return made
  }

  publish({ topic, key, value, headers }: Outbound): void {
    const partition = hashOf(key) % partitionsPerTopic
    const log = this.partitions(topic)[partition]
    const bytes = typeof value === "string" ? Buffer.from(value) : value
    log?.push({ topic, partition, offset: BigInt(log.length), key: Buffer.from(key), value: bytes, headers })
  }

  /** A group that reads these topics from their beginning. */
  readings(topics: ReadonlyArray<string>): ReadonlyArray<Reading> {
    return topics.flatMap((topic) => this.partitions(topic).map((log) => ({ log, position: 0, committed: 0 })))
  }

  all(): ReadonlyArray<BrokerRecord> {
    return [...this.logs.values()].flat(2)
  }
}
