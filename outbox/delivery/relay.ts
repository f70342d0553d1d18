/**
 * The relay publishes outbox rows without Debezium: messages are handed over after their commit, and what the outbox
 * still holds is published again at start, because a crash may have come between commit and publishing. The inbox
 * makes that harmless. It never looks for "rows after the last one": commit order is not the order of ids or times.
 */
import { Cause, Effect, Queue, Schedule, type Scope } from "effect"
import { Broker, type Outbound } from "../broker/broker.ts"
import type { OutboxMessage } from "../message.ts"
import type { Sql } from "../store/connection.ts"
import { StoreUnavailable } from "../store/store.ts"

/** The record that Debezium would make of the row. */
export const recordOf = (message: OutboxMessage, source: string, createdAt: Date): Outbound => {
  const { topic, key, payload: value, causation, definition, traceparent } = message
  const headers: Record<string, string> = {
    id: message.id,
    ce_id: message.id,
    ce_type: message.type,
    ce_source: source,
    ce_time: createdAt.toISOString(),
    ce_specversion: "1.0",
    correlation: message.correlation,
    coordination: message.coordination,
    schema_version: String(message.schemaVersion)
  }
  if (causation !== null) headers["causation"] = causation
  if (definition !== null) headers["definition"] = definition
  if (traceparent !== null) headers["traceparent"] = traceparent
  return { topic, key, value, headers }
}

/** A row of the outbox as `outboxColumns` reads it. */
export type OutboxRow = Omit<OutboxMessage, "schemaVersion"> & { readonly schema_version: number }

/** What a message is made of; the payload as the text that it is. */
export const outboxColumns =
  "outbox.id, topic, key, type, payload::text as payload, correlation, causation, coordination, definition, traceparent, schema_version"

export interface Relay {
  /** Takes a committed transaction's messages; call it in the order of the commits. */
  readonly committed: (messages: ReadonlyArray<OutboxMessage>) => void
}

/** How many messages one publish takes. */
const batchSize = 1_000

/** Starts a relay for one database. `source` names the service in the records' `ce_source`. */
export const startRelay = (sql: Sql, source: string): Effect.Effect<Relay, StoreUnavailable, Broker | Scope.Scope> =>
  Effect.gen(function* () {
    const broker = yield* Broker
    const queue = yield* Queue.unbounded<OutboxMessage>()
    const publish = (messages: ReadonlyArray<OutboxMessage>) =>
      broker.publish(messages.map((message) => recordOf(message, source, new Date()))).pipe(
        Effect.tapError((error) => Effect.logWarning(`relay of ${source}: ${error.message}`)),
        Effect.retry(Schedule.spaced("1 second")),
        Effect.orDie
      )
    yield* Queue.takeBetween(queue, 1, batchSize).pipe(Effect.flatMap(publish), Effect.forever, Effect.forkScoped)
    yield* republish(sql, publish)
    return { committed: (messages) => void Queue.offerAllUnsafe(queue, messages) }
  })

/** Publishes all rows that the outbox holds, in the order in which they were inserted. */
const republish = (sql: Sql, publish: (messages: ReadonlyArray<OutboxMessage>) => Effect.Effect<void>) =>
  Effect.tryPromise({
    try: async () => {
      let rows = 0
      await sql<Array<OutboxRow>>`
        select ${sql.unsafe(outboxColumns)}
        from outbox
        order by created_at, id`.cursor(batchSize, async (batch) => {
        rows += batch.length
        await Effect.runPromise(
          publish(batch.map(({ schema_version, ...message }) => ({ ...message, schemaVersion: schema_version })))
        )
      })
      return rows
    },
    catch: (cause) =>
      new StoreUnavailable({ message: `the outbox can't be read: ${Cause.pretty(Cause.die(cause))}`, cause })
  })
