/** The port of what a broker knows beside records: where its partitions end, how far a consumer group is and who is in it. */
import { Context, type Effect } from "effect"
import type { BrokerError } from "./broker.ts"

/** The offset of the first record that a partition still has, and the one after its last. */
export interface Extent {
  readonly first: bigint
  readonly end: bigint
}

/** By `topic/partition`. */
export type ByPartition<A> = ReadonlyMap<string, A>

export const partitionName = (topic: string, partition: number): string => `${topic}/${partition}`

export class Offsets extends Context.Service<
  Offsets,
  {
    readonly extents: (topics: ReadonlyArray<string>) => Effect.Effect<ByPartition<Extent>, BrokerError>
    /** The next offset that each partition's consumer in the group takes; without those for which it has committed none. */
    readonly committed: (
      group: string,
      topics: ReadonlyArray<string>
    ) => Effect.Effect<ByPartition<bigint>, BrokerError>
    /** How many consumers are in the group now. */
    readonly members: (group: string) => Effect.Effect<number, BrokerError>
    /** For how long topics may keep a record, in milliseconds; without those of which it is not known. */
    readonly kept: (topics: ReadonlyArray<string>) => Effect.Effect<ReadonlyMap<string, number>, BrokerError>
  }
>()("oncebox/broker/Offsets") {}
