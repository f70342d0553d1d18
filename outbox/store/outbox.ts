/**
 * The outbox and the inbox on their own, for a service that is not a participant: both work inside the caller's own
 * transaction, so that a message exists if and only if the change it tells of does.
 */
import { seal, type Origin, type OutboxMessage, type Outgoing } from "../message.ts"
import { arraysOf, unnested, type Column } from "./arrays.ts"
import type { Claim } from "./store.ts"
import { bucketOf, isUuid } from "./inbox.ts"

/**
 * A transaction of the caller's own `postgres` client, however that is configured: what `sql.begin((transaction) => …)`
 * gives. A pool has no savepoints, so nothing is appended or claimed outside a transaction.
 */
export interface OpenTransaction {
  readonly savepoint: (...parameters: Array<never>) => unknown
  readonly unsafe: (
    text: string,
    parameters: Array<string>,
    options: { readonly prepare: boolean }
  ) => PromiseLike<ReadonlyArray<object>>
}

const outboxColumns: ReadonlyArray<Column> = [
  { name: "id", type: "uuid" },
  { name: "topic", type: "text" },
  { name: "key", type: "text" },
  { name: "type", type: "text" },
  { name: "correlation", type: "text" },
  { name: "causation", type: "text" },
  { name: "coordination", type: "text" },
  { name: "definition", type: "text" },
  { name: "traceparent", type: "text" },
  { name: "schemaVersion", type: "int" },
  // it goes in as it is
  { name: "payload", type: "text", encoded: true }
]

export const appendStatement = `
  insert into outbox (id, topic, key, type, correlation, causation, coordination, definition, traceparent, schema_version, payload)
  select id, topic, key, type, correlation, causation, coordination, definition, traceparent, "schemaVersion", payload::jsonb
  from ${unnested(outboxColumns)}`

/** The messages as `appendStatement` takes them. */
export const outboxRows = (messages: ReadonlyArray<OutboxMessage>): Array<string> => arraysOf(outboxColumns, messages)

/** A message that no other message caused. */
const ownOrigin: Origin = {
  correlation: null,
  causation: null,
  coordination: "orchestration",
  definition: null,
  traceparent: null
}

export const Outbox = {
  /**
   * Makes the partitions of the coming time slots. A participant does so by itself; who uses only the two halves calls
   * it at start and then every quarter of a slot (six hours with slots of a day), or appending fails once they run out.
   */
  preparePartitions: async (sql: Pick<OpenTransaction, "unsafe">): Promise<void> => {
    await sql.unsafe("select oncebox_prepare_partitions()", [], { prepare: false })
  },

  /**
   * Appends messages to the outbox inside the caller's transaction; they are published when it commits, and never
   * when it rolls back. Answers their ids. Throws when a payload breaks its contract: let it roll your transaction back.
   */
  append: async (transaction: OpenTransaction, messages: ReadonlyArray<Outgoing>): Promise<ReadonlyArray<string>> => {
    const rows = messages.map((outgoing) => seal(outgoing, ownOrigin, () => Bun.randomUUIDv7()))
    if (rows.length > 0) await transaction.unsafe(appendStatement, outboxRows(rows), { prepare: true })
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
    transaction: OpenTransaction,
    consumer: string,
    ids: ReadonlyArray<string>
  ): Promise<ReadonlySet<string>> => {
    if (ids.length === 0) return new Set()
    const [settings] = texts(await transaction.unsafe(settingsStatement, [], { prepare: true }))
    if (settings === undefined) throw new Error("oncebox_settings is empty: run the library's migrations")
    const [slotMs = Number.NaN, slots = Number.NaN, nowMs = Number.NaN] = settings.split(" ").map(Number)
    const window = { slotMs, slots }
    const claims = [...new Set(ids)].map((id) => {
      if (!isUuid(id)) throw new Error(`${JSON.stringify(id)} is not a UUID in its lower-case form`)
      const bucket = bucketOf(id, nowMs, window)
      if (bucket === "outside-window")
        throw new OutsideWindow(`id ${id} is dated outside the window in which its claim could be kept`)
      return { id, bucket }
    })
    const claimed = await transaction.unsafe(claimStatement, [consumer, ...claimRows(claims)], { prepare: true })
    return new Set(texts(claimed))
  }
}

const settingsStatement = `
  select concat_ws(' ', slot_ms, inbox_slots, floor(extract(epoch from now()) * 1000))
  from oncebox_settings`

const claimColumns: ReadonlyArray<Column> = [
  { name: "id", type: "uuid" },
  { name: "bucket", type: "int" }
]

/** Claims as a table expression with `id` and `bucket`; its parameters begin at $2. */
export const claimedIds = unnested(claimColumns, 2)

export const claimRows = (claims: ReadonlyArray<Claim>): Array<string> => arraysOf(claimColumns, claims)

const claimStatement = `
  insert into inbox (message_id, consumer, bucket)
  select id, $1, bucket
  from ${claimedIds}
  order by id
  on conflict do nothing
  returning message_id::text`

/** The only column of each row: a caller's client may rename columns and parse types, but text stays text. */
const texts = (rows: ReadonlyArray<object>): Array<string> => rows.map((row) => String(Object.values(row)[0]))
