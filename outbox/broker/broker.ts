/**
 * The broker port. Delivery is at least once: whatever was not marked as processed comes again after a crash
 * or a rebalance. Records of one partition are taken in their order.
 */
import { Context, type Effect, Schema, type Scope } from "effect"

/** A record as it lies on a topic. Header values are bytes, or null; a name that occurs twice has an array. */
export interface BrokerRecord {
  readonly topic: string
  readonly partition: number
  readonly offset: bigint
  readonly key: Uint8Array | null
  readonly value: Uint8Array | null
  readonly headers: Readonly<Record<string, HeaderValue | ReadonlyArray<HeaderValue> | undefined>>
}
type HeaderValue = Uint8Array | string | null

export interface Outbound {
  readonly topic: string
  readonly key: string
  readonly value: string | Uint8Array
  readonly headers: Readonly<Record<string, string>>
}

/** A bound of one `take`: it ends at whichever is reached first, and holds at least one record. */
export interface TakeLimit {
  readonly messages: number
  readonly bytes: number
}

export interface SubscribeOptions {
  readonly group: string
  readonly topics: ReadonlyArray<string>
  /** One member of the group gets all partitions, and another one when it is gone. */
  readonly exclusive?: boolean
  /** Records may come half a second late, and then together: less work for who is in no hurry. */
  readonly gathers?: boolean
}

export interface Subscription {
  /** Waits until records are there and takes them; what is left over stays buffered, within a bound. */
  readonly take: (limit: TakeLimit) => Effect.Effect<ReadonlyArray<BrokerRecord>, BrokerError>
  /** Says that these records' effects are committed: their offsets may be. Stale ones, from before a rebalance, are ignored. */
  readonly processed: (records: ReadonlyArray<BrokerRecord>) => Effect.Effect<void>
}

export class BrokerError extends Schema.TaggedError<BrokerError>()("BrokerError", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

export class Broker extends Context.Service<
  Broker,
  {
    /** Joins a consumer group, from the earliest record where the group has no offset. Closing the scope leaves it. */
    readonly subscribe: (options: SubscribeOptions) => Effect.Effect<Subscription, BrokerError, Scope.Scope>
    /** Appends records; returns when the broker has them all. */
    readonly publish: (records: ReadonlyArray<Outbound>) => Effect.Effect<void, BrokerError>
  }
>()("oncebox/broker/Broker") {}
