/** What a simulation plays: who takes part, what clients ask for, and what must hold. */
import type { Caller } from "../../calls/caller.ts"
import type { BrokerRecord } from "../../broker/broker.ts"
import type { Coordination, OutboxMessage } from "../../message.ts"
import type { Participant } from "../../participant.ts"
import type { StoreLane } from "../../store/store.ts"
import type { Tables } from "../../table.ts"
import type { Choices } from "./choices.ts"

// A simulation treats all participants alike: handlers are only ever given rows of their own tables.
export type AnyParticipant = Pick<
  Participant<Tables>,
  "name" | "messages" | "requests" | "timers" | "calls" | "topics"
> & {
  readonly tables: Tables
}

/** What a client asks of a participant. It may send it several times, always under the same key. */
export interface ClientRequest {
  /** The participant's name. */
  readonly to: string
  readonly request: { readonly type: string }
  /** Made anew each time it is sent, as an HTTP edge makes it; what must be the same is the fingerprint. */
  readonly payload: (newId: () => string) => object
  readonly idempotencyKey: string
  readonly fingerprint: string
  readonly coordination?: Coordination
  readonly definition?: string
  /** What the client does once it was answered. */
  readonly answered?: (reply: unknown, choices: Choices) => ReadonlyArray<ClientRequest>
}

export interface Plan {
  /** Rows that are there from the beginning, by participant and table. */
  readonly given: Readonly<Record<string, Readonly<Record<string, ReadonlyArray<object>>>>>
  readonly requests: ReadonlyArray<ClientRequest>
  /** What carries out the calls of a participant, by its name: models whose `carry` answers with an Effect that does not wait. */
  readonly callers?: Readonly<Record<string, ReadonlyArray<Caller>>>
  /** What must hold when all is quiet: what is wrong, or nothing. */
  readonly holds: (end: Quiet) => ReadonlyArray<string>
  /** How often each thing is found at the end that must be met now and then, or the simulation shows nothing. */
  readonly seen?: (end: Quiet) => Readonly<Record<string, number>>
}

export interface Scenario {
  readonly participants: ReadonlyArray<AnyParticipant>
  /**
   * Later builds of some of them, in their order. Each takes over at some moment, while a replica of the one before it may
   * still be there.
   */
  readonly laterBuilds?: ReadonlyArray<AnyParticipant>
  /** Builds may be left out: any of them may meet a replica of any other. */
  readonly leavesOutBuilds?: boolean
  /** What is asked for in one run. */
  readonly plan: (choices: Choices) => Plan
  /** Whether participants make up by themselves for the loss of this record on its way to one of them. */
  readonly heals?: (record: Pick<BrokerRecord, "topic" | "headers">, participant: string) => boolean
  /** Wraps what a participant's passes run on: the place to plant a store's faults. */
  readonly store?: (lane: StoreLane, participant: string) => StoreLane
  /** Looks at every row that is written; answers what is wrong with it. */
  readonly watch?: (participant: string, table: string, before: object | undefined, after: object) => string | undefined
}

/** All there is once nothing moves any more. */
export interface Quiet {
  readonly rows: (participant: string, table: string) => ReadonlyArray<object>
  /** A log's entries, in the order in which they were written. */
  readonly entries: (participant: string, table: string) => ReadonlyArray<object>
  readonly sent: ReadonlyArray<OutboxMessage>
  /** Answers of requests, by idempotency key. */
  readonly replies: ReadonlyMap<string, unknown>
}
