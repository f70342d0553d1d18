/**
 * A participant: tables, and for each message, request, due row or result of a call a pure decision.
 *
 * A decision is given the rows that its `touches` named and the message; it answers with the rows to leave
 * behind, the messages to send and, for a request, the reply. It does no I/O, reads no clock and draws no
 * random number: what it needs of those is in its context. The pass (`pass/pass.ts`) does the rest in one transaction.
 */
import type { Call, Called, OutgoingCall } from "./calls/call.ts"
import type { AnyCall } from "./calls/caller.ts"
import {
  topicNamesOf,
  type AnyContract,
  type Contract,
  type Coordination,
  type Outgoing,
  type Request,
  type Topic
} from "./message.ts"
import type { Puts, RowOf, Rows, Tables } from "./table.ts"

/** What set a decision off. `correlation` is null for a request and for a due row; a call's result has its asker's. */
export interface Cause {
  readonly id: string
  readonly key: string
  readonly type: string
  readonly correlation: string | null
  readonly coordination: Coordination
  readonly definition: string | null
  readonly traceparent: string | null
}

export interface Context extends Cause {
  /** The transaction's start, by the database's clock. */
  readonly now: Date
  /** A fresh UUIDv7, for a message whose id the decision wants to note down. */
  readonly newId: () => string
}

/**
 * Thrown by a decision on a due row that only another build can make. The row stays due, for a replica of that build, and
 * this one leaves it alone for a while.
 */
export class OtherBuild extends Error {
  override readonly name = "OtherBuild"
}

export interface Decision<T extends Tables, R = unknown> {
  readonly put?: Puts<T>
  readonly send?: ReadonlyArray<Outgoing>
  /** Calls to the outside: they are carried out after the commit. See `Call.of` for what asking again does. */
  readonly call?: ReadonlyArray<OutgoingCall>
  /** The answer to a request; it is stored under the request's idempotency key. */
  readonly reply?: R
}

export interface Handler<T extends Tables, P, R> {
  /**
   * The keys to load and lock, by table. May read rows of tables declared earlier; those declared later are not
   * loaded yet. A table that is not named is not loaded.
   */
  readonly touches?: { readonly [K in keyof T]?: (payload: P, rows: Rows<T>, cause: Cause) => Iterable<string> }
  readonly decide: (rows: Rows<T>, payload: P, context: Context) => Decision<T, R>
  /** Only messages of this style are decided; the others are skipped. All are when absent. */
  readonly coordination?: Coordination
  /** The order of one key's messages carries state: behind a parked message the later ones of its key park too. */
  readonly ordered?: boolean
}

/** The payload of a contract: `PayloadOf<typeof ReserveProductCommand>`. */
export type PayloadOf<C> = C extends Contract<infer P> ? P : never

/** A handler in a registry: it is only ever given payloads that its own contract decoded. */
export interface AnyHandler {
  readonly touches: Readonly<Record<string, (payload: object, rows: Rows<Tables>, cause: Cause) => Iterable<string>>>
  readonly decide: (rows: Rows<Tables>, payload: object, context: Context) => Decision<Tables>
  readonly ordered: boolean
  readonly coordination: Coordination | undefined
}

export interface Participant<T extends Tables> {
  /** The consumer group, the inbox's consumer and the name in metrics. */
  readonly name: string
  readonly tables: T
  readonly messages: ReadonlyMap<AnyContract, AnyHandler>
  readonly requests: ReadonlyMap<string, { readonly request: Request<never, unknown>; readonly handler: AnyHandler }>
  readonly timers: ReadonlyMap<keyof T & string, AnyHandler>
  /** By kind: the decision on the result. */
  readonly calls: ReadonlyMap<string, { readonly call: AnyCall; readonly handler: AnyHandler }>
  /** The topics that carry what this participant handles, by name, each with its catalogue. */
  readonly topics: ReadonlyMap<string, Topic>
  /** Adds the decision for a message type. */
  readonly on: <P extends object>(contract: Contract<P>, handler: Handler<T, P, void>) => Participant<T>
  /** Adds the decision for a request, which is answered by `reply`. */
  readonly answers: <P extends object, R>(
    request: Request<P, R>,
    handler: Omit<Handler<T, P, R>, "decide"> & {
      readonly decide: (
        rows: Rows<T>,
        payload: P,
        context: Context
      ) => Omit<Decision<T>, "reply"> & { readonly reply: NoInfer<R> }
    }
  ) => Participant<T>
  /** Adds the decision for a row of `table` whose column `due_at` has passed. It must move or clear `due_at`. */
  readonly due: <K extends keyof T & string>(table: K, handler: Handler<T, RowOf<T[K]>, void>) => Participant<T>
  /**
   * Adds the decision on the result of a call. It is made once per call, in the transaction that marks the call as done.
   * One that throws is made again, a minute later, on the same result: the call is not carried out again for it.
   */
  readonly called: <Request extends object, Result extends object>(
    call: Call<Request, Result>,
    handler: Omit<Handler<T, Called<Request, Result>, void>, "ordered">
  ) => Participant<T>
}

const erase = <T extends Tables, P, R>(handler: Handler<T, P, R>): AnyHandler =>
  // The registry pairs each handler with the one contract whose payloads it takes.
  ({
    touches: handler.touches ?? {},
    decide: handler.decide,
    ordered: handler.ordered ?? false,
    coordination: handler.coordination
  }) as unknown as AnyHandler

const once = <K, V>(map: ReadonlyMap<K, V>, key: K, value: V, name: string): ReadonlyMap<K, V> => {
  if (map.has(key)) throw new Error(`${name} is handled twice`)
  return new Map(map).set(key, value)
}

type Parts<T extends Tables> = Pick<Participant<T>, "name" | "tables" | "messages" | "requests" | "timers" | "calls">

const topicsOf = (messages: Parts<Tables>["messages"]): ReadonlyMap<string, Topic> => {
  const topics = new Map<string, Topic>()
  for (const [{ topic }, { coordination }] of messages) {
    for (const name of topicNamesOf(topic, coordination)) {
      if ((topics.get(name) ?? topic) !== topic) throw new Error(`two catalogues are on the topic ${name}`)
      topics.set(name, topic)
    }
  }
  return topics
}

const build = <T extends Tables>(parts: Parts<T>): Participant<T> => ({
  ...parts,
  topics: topicsOf(parts.messages),
  on: (contract, handler) => {
    const key = contract as unknown as AnyContract
    return build({ ...parts, messages: once(parts.messages, key, erase(handler), contract.type) })
  },
  answers: (request, handler) => {
    const entry = { request: request as unknown as Request<never, unknown>, handler: erase(handler) }
    return build({ ...parts, requests: once(parts.requests, request.type, entry, request.type) })
  },
  due: (table, handler) => build({ ...parts, timers: once(parts.timers, table, erase(handler), `due ${table}`) }),
  called: (call, handler) => {
    const entry = { call: call as unknown as AnyCall, handler: erase(handler) }
    return build({ ...parts, calls: once(parts.calls, call.kind, entry, `the result of ${call.kind}`) })
  }
})

export const Participant = {
  make: <T extends Tables>(name: string, tables: T): Participant<T> =>
    build({ name, tables, messages: new Map(), requests: new Map(), timers: new Map(), calls: new Map() })
}
