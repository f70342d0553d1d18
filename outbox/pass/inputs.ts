/** What a pass is given and what it answers: messages, requests and due rows, and how each of them ended. */
import { Schema } from "effect"
import type { Envelope, OutboxMessage } from "../message.ts"
import type { BrokerRecord } from "../broker/broker.ts"
import type { AnyHandler, Cause, Participant } from "../participant.ts"
import type { InboxWindow } from "../store/inbox.ts"
import type { DeadLetter, NewCall, ParkReason, StoreLane } from "../store/store.ts"
import { Table, type AnyTable, type Tables } from "../table.ts"

/** A decoded message from a topic. `redrive` says that it lies in the dead letters and is to be decided after all. */
export interface MessageInput {
  readonly _tag: "message"
  readonly envelope: Envelope
  readonly payload: object
  readonly handler: AnyHandler
  readonly record: BrokerRecord
  readonly redrive: boolean
}

/** A record that can't be decided: it goes to the dead letters. */
export interface UnreadableInput {
  readonly _tag: "unreadable"
  readonly letter: DeadLetter
  readonly redrive: boolean
}

export interface RequestInput {
  readonly _tag: "request"
  readonly cause: Cause
  /** What its messages are said to be caused by; null when it is nothing that others could know. */
  readonly causation: string | null
  readonly payload: object
  readonly handler: AnyHandler
  /** The client's Idempotency-Key, or the request's own id. */
  readonly idempotencyKey: string
  /** What the key was used for; the same key for something else is refused. */
  readonly fingerprint: string
}

/** "Take what is due": the rows are found inside the pass. */
export interface DueInput {
  readonly _tag: "due"
  readonly table: AnyTable
  readonly handler: AnyHandler
  readonly limit: number
}

export type Input = MessageInput | UnreadableInput | RequestInput

export type Outcome =
  | { readonly _tag: "done"; readonly reply?: unknown }
  | { readonly _tag: "duplicate" }
  | { readonly _tag: "parked"; readonly reason: ParkReason; readonly detail: string }
  /** A request's key was used for another request before. */
  | { readonly _tag: "key-reused" }
  /** A request whose decision is at fault: nothing was written for it. */
  | { readonly _tag: "failed"; readonly message: string }

/** What a pass runs on. */
export interface PassEnvironment {
  readonly consumer: string
  readonly tables: Tables
  readonly lane: StoreLane
  readonly window: InboxWindow
  /** The calls on whose results something is decided. */
  readonly calls: Participant<Tables>["calls"]
  readonly newId: () => string
  /** Told what was committed; the embedded relay takes the messages from here, the calls lane what was asked for. */
  readonly committed: (messages: ReadonlyArray<OutboxMessage>, calls: ReadonlyArray<NewCall>) => void
}

/** Replies to requests, by idempotency key. Written with the request's own effects, read before it is decided. */
export const idempotencyKeys = Table.reference("idempotency_keys", {
  key: "key",
  row: { key: Schema.String, fingerprint: Schema.String, reply: Schema.Unknown }
})
/** Why an input can't be decided, or what it decided can't be written. */
export interface Fault {
  readonly reason: ParkReason
  readonly detail: string
  /** A replica of another build can decide it. */
  readonly ofOtherBuild?: boolean
}

export type Faults = ReadonlyMap<Input, Fault>
