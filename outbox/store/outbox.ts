/**
 * The outbox and the inbox on their own, for a service that is not a participant: both work inside the caller's own
 * transaction, so that a message exists if and only if the change it tells of does.
 */
import { encodePayload, type OutboxMessage, type Outgoing } from "../message.ts"
import type { Sql, SqlTransaction } from "./connection.ts"
import { bucketOf, isUuid } from "./inbox.ts"

export const appendStatement = `
  insert into outbox (id, topic, key, type, payload, correlation, causation, coordination, traceparent, schema_version)
  select id, topic, key, type, payload, correlation, causation, coordination, traceparent, schema_version
  from jsonb_to_recordset($1::text::jsonb) as r(
    id uuid, topic text, key text, type text, payload jsonb, correlation text,
    causation text, coordination text, traceparent text, schema_version int
  )`

/** The messages as `appendStatement` takes them. Payloads are JSON text already: they are put in as they are. */
export const outboxRows = (messages: ReadonlyArray<OutboxMessage>): string =>
  `[${messages
    .map(({ payload, schemaVersion, ...envelope }) => {
      const rest = JSON.stringify({ ...envelope, schema_version: schemaVersion })
      return `${rest.slice(0, -1)},"payload":${payload}}`
    })
    .join(",")}]`

export const Outbox = {
  /**
   * Appends messages to the outbox inside the caller's transaction; they are published when it commits, and never
   * when it rolls back. Answers their ids. Throws when a payload breaks its contract: let it roll your transaction back.
   */
  append: async (transaction: SqlTransaction, messages: ReadonlyArray<Outgoing>): Promise<ReadonlyArray<string>> => {
    const rows = messages.map((outgoing): OutboxMessage => {
      const payload = encodePayload(outgoing)
      // The contract's key function takes the payload that was just checked against its schema.
      const key = (outgoing.contract as unknown as { key: (payload: object) => string }).key(outgoing.payload)
      return {
        id: outgoing.id ?? Bun.randomUUIDv7(),
        topic: outgoing.contract.topic.name,
        key,
        type: outgoing.contract.type,
        payload,
        correlation: outgoing.correlation ?? key,
        causation: null,
        coordination: outgoing.coordination ?? "orchestration",
        traceparent: null,
        schemaVersion: outgoing.contract.schemaVersion
      }
    })
    if (rows.length > 0) await transaction.unsafe(appendStatement, [outboxRows(rows)], { prepare: true })
    return rows.map(({ id }) => id)
  }
}

/** An id that can't be claimed: its slot of the inbox is gone already, or it is dated in the future. */
export class OutsideWindow extends Error {
  override readonly name = "OutsideWindow"
}

export const Inbox = {
  /**
   * Claims message ids for a consumer inside the caller's transaction and answers those that are new: work on these
   * only. A claim holds when the transaction commits and is gone when it rolls back. An id that another transaction
   * is claiming is waited for.
   */
  claim: async (
    transaction: SqlTransaction,
    consumer: string,
    ids: ReadonlyArray<string>
  ): Promise<ReadonlySet<string>> => {
    if (ids.length === 0) return new Set()
    const [settings] = await transaction<Array<{ slot_ms: number; inbox_slots: number; now: Date }>>`
      select slot_ms, inbox_slots, now() as now from oncebox_settings`
    if (settings === undefined) throw new Error("oncebox_settings is empty: run the library's migrations")
    const window = { slotMs: settings.slot_ms, slots: settings.inbox_slots }
    const claims = [...new Set(ids)].map((id) => {
      if (!isUuid(id)) throw new Error(`${JSON.stringify(id)} is not a UUID in its lower-case form`)
      const bucket = bucketOf(id, settings.now.getTime(), window)
      if (bucket === "outside-window")
        throw new OutsideWindow(`id ${id} is dated outside the window in which its claim could be kept`)
      return { id, bucket }
    })
    const claimed = await transaction<Array<{ message_id: string }>>`
      insert into inbox (message_id, consumer, bucket)
      select c.id, ${consumer}, c.bucket
      from jsonb_to_recordset(${JSON.stringify(claims)}::text::jsonb) as c(id uuid, bucket int)
      order by c.id
      on conflict do nothing
      returning message_id`
    return new Set(claimed.map((row) => row.message_id))
  }
}

export type { Sql, SqlTransaction }
