/**
 * The store port: what a pass asks of a database. One `begin` opens a transaction, claims message ids and loads
 * the first rows; `commit` writes all and ends it. Nothing between them is visible to anyone else.
 */
import { Context, type Effect, Schema, type Scope } from "effect"
import type { BrokerRecord } from "../broker/broker.ts"
import type { Coordination, OutboxMessage } from "../message.ts"
import type { AnyTable } from "../table.ts"
import type { InboxWindow } from "./inbox.ts"

export interface Load {
  readonly table: AnyTable
  readonly keys: ReadonlyArray<string>
}

export interface Claim {
  readonly id: string
  readonly bucket: number
}

export interface Opening {
  readonly consumer: string
  /** Ids to claim in the inbox. One that was claimed before, or is parked, is not claimed again. */
  readonly claims: ReadonlyArray<Claim>
  /** Parked ids to take out of the dead letters first, so that they can be claimed: a redrive. */
  readonly unpark: ReadonlyArray<string>
  /** Ids that are to be parked without having been claimed: which of them were decided or parked before is wanted. */
  readonly parking: ReadonlyArray<string>
  /** Keys whose parked ids are wanted, as `[topic, key]`; for handlers that keep order behind a parked message. */
  readonly parkedKeys: ReadonlyArray<readonly [topic: string, key: string]>
  /** Rows whose `due_at` has passed, oldest first; rows locked by someone else are passed over. */
  readonly due: { readonly table: AnyTable; readonly limit: number } | undefined
  readonly loads: ReadonlyArray<Load>
}

/** A message set aside, with all that is needed to decide it later. */
export interface DeadLetter {
  readonly id: string
  readonly type: string | null
  readonly key: string | null
  readonly reason: ParkReason
  readonly detail: string
  readonly record: BrokerRecord
}

/** A key of `parkedKeys`, as a transaction answers it. */
export const parkedKey = (topic: string, key: string): string => `${topic}\n${key}`

/** Why a message was parked. */
export type ParkReason = "unreadable" | "unknown-type" | "decision-failed" | "row-refused" | "outside-window" | "behind"

/** A call as the pass that asks for it writes it; `request` is JSON text. What it is asked by is kept for its result. */
export interface NewCall {
  /** Kind and key, as `kind:key`. */
  readonly id: string
  readonly kind: string
  readonly key: string
  readonly request: string
  readonly correlation: string | null
  readonly causation: string | null
  readonly coordination: Coordination
  readonly definition: string | null
  readonly traceparent: string | null
}

/** A call that is ours until its lease is over. */
export interface TakenCall extends Omit<NewCall, "request"> {
  readonly request: unknown
  /** What came of it, when that is known and could not be decided; else null. */
  readonly result: unknown
  /** How often it was taken, this time included. */
  readonly attempt: number
}

/** A call that is given back, to be taken again later. */
export interface PostponedCall {
  readonly id: string
  /** The attempt that gives it back: when the call was taken again since, nothing happens. */
  readonly attempt: number
  readonly afterMs: number
  /** Null leaves the last error as it is. */
  readonly error: string | null
  /** What came of it, as JSON text, to be decided next time; null leaves it as it is. */
  readonly result: string | null
}

export interface Writes {
  readonly changes: ReadonlyArray<{
    readonly table: AnyTable
    /** Rows that were absent at load: inserted plainly, never upserted. */
    readonly inserts: ReadonlyArray<object>
    readonly updates: ReadonlyArray<object>
    /** The columns in which any of the updates differs from what was loaded. */
    readonly changed: ReadonlySet<string>
  }>
  readonly outbox: ReadonlyArray<OutboxMessage>
  /** Calls to the outside. One that exists is left as it is; when it asks for something else, the row is refused. */
  readonly calls: ReadonlyArray<NewCall>
  readonly parked: ReadonlyArray<DeadLetter>
}

export interface Transaction {
  /** The transaction's start, by the database's clock. */
  readonly now: Date
  /** Of the claims, those that are new. */
  readonly claimed: ReadonlySet<string>
  /** Of the opening's `parking`, those that were decided or parked before. */
  readonly settled: ReadonlySet<string>
  /** Of the opening's `parkedKeys`, those with a parked message. */
  readonly parkedKeys: ReadonlySet<string>
  readonly due: ReadonlyArray<object>
  /** The rows of each of the opening's loads. */
  readonly rows: ReadonlyArray<ReadonlyArray<object>>
  readonly load: (loads: ReadonlyArray<Load>) => Effect.Effect<ReadonlyArray<ReadonlyArray<object>>, StoreError>
  /** Writes and commits. On failure nothing was written, or, after a lost answer, the claims will tell. */
  readonly commit: (writes: Writes) => Effect.Effect<void, StoreError>
  readonly rollback: Effect.Effect<void>
}

/** A lane's own connection: one transaction at a time, used by nobody else. */
export interface StoreLane {
  readonly begin: (opening: Opening) => Effect.Effect<Transaction, StoreError>
}

/** The lane of the calls: what it takes and gives back is committed at once, between its transactions. */
export interface CallsLane extends StoreLane {
  /**
   * Takes calls that are due, oldest first, for as long as the lease. Several replicas never take the same call, unless
   * its lease is over and it was neither done nor given back: then its taker is taken for dead.
   */
  readonly take: (
    kind: string,
    limit: number,
    leaseMs: number
  ) => Effect.Effect<ReadonlyArray<TakenCall>, StoreUnavailable>
  /** Gives calls back that are not done. */
  readonly postpone: (calls: ReadonlyArray<PostponedCall>) => Effect.Effect<void, StoreUnavailable>
}

/** Nobody's fault, or not the message's: the same pass may well succeed later. Never parks anything. */
export class StoreUnavailable extends Schema.TaggedError<StoreUnavailable>()("StoreUnavailable", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/** Someone else inserted a row between this pass's load and its write: run the pass again, it will find the row. */
export class KeyTaken extends Schema.TaggedError<KeyTaken>()("KeyTaken", { table: Schema.String }) {}

/** A participant's own table, or the outbox's size check, refused what a decision put: that message's fault. */
export class RowRefused extends Schema.TaggedError<RowRefused>()("RowRefused", {
  table: Schema.String,
  message: Schema.String
}) {}

export type StoreError = StoreUnavailable | KeyTaken | RowRefused

/** A parked message as the dead letters hold it. */
export interface StoredDeadLetter extends DeadLetter {
  readonly parkedAt: Date
}

export class Store extends Context.Service<
  Store,
  {
    readonly window: InboxWindow
    /** Opens a lane for a participant's tables. Fails when a table or a column that it names does not exist. */
    readonly lane: (
      name: string,
      tables: ReadonlyArray<AnyTable>
    ) => Effect.Effect<StoreLane, StoreUnavailable, Scope.Scope>
    /** As `lane`, for a participant that calls to the outside. */
    readonly callsLane: (
      name: string,
      tables: ReadonlyArray<AnyTable>
    ) => Effect.Effect<CallsLane, StoreUnavailable, Scope.Scope>
    /** Parked messages of a consumer in the order they were read, those with these ids or, without ids, all. */
    readonly deadLetters: (
      consumer: string,
      filter: { readonly ids?: ReadonlyArray<string>; readonly limit: number }
    ) => Effect.Effect<ReadonlyArray<StoredDeadLetter>, StoreUnavailable>
    /** When the next row of the table falls due, or null. */
    readonly nextDue: (table: AnyTable) => Effect.Effect<Date | null, StoreUnavailable>
  }
>()("oncebox/store/Store") {}
