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
  /** Keys whose first parked message is wanted, as `[topic, key]`; for handlers that keep order behind one. */
  readonly parkedKeys: ReadonlyArray<readonly [topic: string, key: string]>
  /** Rows whose `due_at` has passed, oldest first; those of `skip`, and rows locked by someone else, are passed over. */
  readonly due: { readonly table: AnyTable; readonly limit: number; readonly skip: ReadonlyArray<string> } | undefined
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

/** A message as a pass parks it. */
export interface Parking extends DeadLetter {
  /** Whether this is what came of a redrive; it is counted. */
  readonly redriven: boolean
}

/** A key of `parkedKeys`, as a transaction answers it. */
export const parkedKey = (topic: string, key: string): string => `${topic}\n${key}`

/** Why a message was parked. */
export const ParkReason = Schema.Literals([
  "unreadable",
  "unknown-type",
  "decision-failed",
  "row-refused",
  "outside-window",
  "behind"
])
export type ParkReason = typeof ParkReason.Type

/** Where a parked message lies among the others: they are in the order in which they were read. */
export interface LetterPlace {
  readonly topic: string
  readonly partition: number
  readonly offset: bigint
  readonly id: string
}

/** What dead letters have in common. */
export interface LetterFilter {
  readonly reason?: ParkReason
  readonly type?: string
  readonly key?: string
  readonly topic?: string
}

/** A part of a consumer's dead letters, in their order. */
export interface LetterQuery extends LetterFilter {
  readonly ids?: ReadonlyArray<string>
  /** Without it both. */
  readonly state?: "parked" | "discarded"
  readonly after?: LetterPlace
  /**
   * Only those that were redriven in vain less often than this, and of those that wait behind others of their key only
   * those that wait for nothing but what is asked for here as well.
   */
  readonly redrivenLessThan?: number
  readonly limit: number
}

/** What became of a dead letter so far. */
interface LetterState {
  readonly parkedAt: Date
  /** How often it was redriven in vain. */
  readonly redriven: number
  /** A discarded letter is kept, and its message is never decided. */
  readonly discardedAt: Date | null
  /** Why it was discarded, and by whom, as far as that was said. */
  readonly note: string | null
}

/** A dead letter without its record. */
export interface LetterSummary extends LetterPlace, LetterState {
  readonly type: string | null
  readonly key: string | null
  readonly reason: ParkReason
  /** The beginning of it. */
  readonly detail: string
  /** The size of its record, about. */
  readonly bytes: number
}

/** The parked messages of one reason. */
export interface LetterGroup {
  readonly reason: ParkReason
  readonly count: number
  /** How many of them `redrivenLessThan` would find. */
  readonly redrivable: number
  readonly oldest: Date
  readonly newest: Date
}

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
  readonly parked: ReadonlyArray<Parking>
}

/** Where a record lies in its topic. */
export type Place = Pick<BrokerRecord, "partition" | "offset">

export const isBefore = (one: Place, other: Place): boolean =>
  one.partition === other.partition ? one.offset < other.offset : one.partition < other.partition

export interface Transaction {
  /** The transaction's start, by the database's clock. */
  readonly now: Date
  /** Of the claims, those that are new. */
  readonly claimed: ReadonlySet<string>
  /** Of the opening's `parking`, those that were decided or parked before. */
  readonly settled: ReadonlySet<string>
  /** Of the opening's `parkedKeys`, those with a parked message that is not one of `unpark`, and where the first is. */
  readonly parkedKeys: ReadonlyMap<string, Place>
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

/** A parked or discarded message as the dead letters hold it. */
export interface StoredDeadLetter extends DeadLetter, LetterState {}

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
    /** Dead letters of a consumer in the order they were read, those with these ids or, without ids, all. */
    readonly deadLetters: (
      consumer: string,
      filter: { readonly ids?: ReadonlyArray<string>; readonly limit: number }
    ) => Effect.Effect<ReadonlyArray<StoredDeadLetter>, StoreUnavailable>
    /** As `deadLetters`, without their records. */
    readonly listLetters: (
      consumer: string,
      query: LetterQuery
    ) => Effect.Effect<ReadonlyArray<LetterSummary>, StoreUnavailable>
    /** The parked messages by reason. */
    readonly groupLetters: (
      consumer: string,
      query: LetterFilter & Pick<LetterQuery, "redrivenLessThan">
    ) => Effect.Effect<ReadonlyArray<LetterGroup>, StoreUnavailable>
    /** Marks parked messages as discarded, all of them or none; answers those that were parked until now. */
    readonly discardLetters: (
      consumer: string,
      ids: ReadonlyArray<string>,
      note: string | null
    ) => Effect.Effect<ReadonlyArray<string>, StoreUnavailable>
    /** When the next row of the table falls due, or null. */
    readonly nextDue: (table: AnyTable) => Effect.Effect<Date | null, StoreUnavailable>
  }
>()("oncebox/store/Store") {}
