/**
 * The auditor's statements, on one database. The watermark moves only from where this auditor believes it to be, and with
 * the exceptions below it in one statement: two auditors can't get in each other's way, and a crash leaves no gap.
 *
 * Times are microseconds since 1970.
 */
import type { OutboxMessage } from "../message.ts"
import { textsOf } from "../store/arrays.ts"
import type { Sql } from "../store/connection.ts"
import { outboxColumns, type OutboxRow } from "./relay.ts"

export interface AuditedRow {
  readonly id: string
  readonly topic: string
  readonly created: number
}

export interface Exception {
  readonly id: string
  readonly topic: string
}

/** A message to publish again, and when its row was created, as `ce_time` says it. */
export interface Unseen {
  readonly message: OutboxMessage
  readonly createdAt: string
}

/** The database's time, and which transactions may still write to the outbox that began before it. */
export const lookAround = async (sql: Sql): Promise<{ readonly now: number; readonly open: ReadonlySet<string> }> => {
  // in this order: what begins after the first statement is not of interest
  const [clock, open, prepared] = await Promise.all([
    sql<Array<{ now: number }>>`select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now`,
    // who can't insert can't hold the audit up: Debezium's senders, say, when Connect does not read
    sql<Array<{ name: string }>>`
      select locks.virtualtransaction as name
      from pg_locks locks
      join pg_stat_activity sessions on sessions.pid = locks.pid
      where locks.locktype = 'virtualxid'
        and locks.mode = 'ExclusiveLock'
        and locks.pid <> pg_backend_pid()
        and sessions.datname = current_database()
        and has_table_privilege(sessions.usesysid, 'outbox', 'INSERT')`,
    sql<Array<{ name: string }>>`
      select 'prepared' as name
      from pg_prepared_xacts
      where database = current_database()
      limit 1`
  ])
  return {
    now: clock[0]?.now ?? 0,
    open: new Set([...open, ...prepared].map(({ name }) => name))
  }
}

/** How wide a slot is, and where the audit goes on: at the watermark, or at the oldest row whose id an inbox still knows. */
export const readWatermark = async (sql: Sql): Promise<{ readonly slotLength: number; readonly watermark: number }> => {
  const [found] = await sql<Array<{ slot_ms: number; watermark: number | null; oldest: number | null }>>`
    select
      slot_ms,
      (select (extract(epoch from max(watermark)) * 1000000)::bigint from audit_marks) as watermark,
      greatest(
        (select min(substr(relname, 8)::bigint)
         from pg_class
         join pg_inherits on inhrelid = oid
         where inhparent = 'outbox'::regclass and relname ~ '^outbox_[0-9]+$'),
        floor(extract(epoch from clock_timestamp()) * 1000 / slot_ms)::bigint - inbox_slots
      ) as oldest
    from oncebox_settings`
  if (found === undefined) throw new Error("oncebox_settings is empty: run the library's migrations")
  const slotLength = found.slot_ms * 1000
  return { slotLength, watermark: found.watermark ?? (found.oldest ?? 0) * slotLength }
}

/** Goes on with the summaries of a slot's index by time, and answers how many ranges it has now. */
export const summarize = async (sql: Sql, slot: number, ranges: number): Promise<number> => {
  const [found] = await sql<Array<{ ranges: number }>>`
    select oncebox_summarize_outbox(${slot}::bigint, ${ranges}::int) as ranges`
  return found?.ranges ?? ranges
}

/** The first rows that were created in [from, to), with all that were created together with the last of them. */
export const readRows = (sql: Sql, from: number, to: number, limit: number): Promise<ReadonlyArray<AuditedRow>> =>
  sql<Array<AuditedRow>>`
    select id, topic, (extract(epoch from created_at) * 1000000)::bigint as created
    from outbox
    where created_at >= ${timeOf(sql, from)} and created_at < ${timeOf(sql, to)}
    order by created_at
    fetch first ${limit} rows with ties`

/** Moves the watermark within a slot and notes the exceptions below it. False when it is not at `from`. */
export const moveWatermark = async (
  sql: Sql,
  move: { readonly slot: number; readonly from: number; readonly to: number; readonly rows: number },
  unseen: ReadonlyArray<AuditedRow>,
  dueIn: number
): Promise<boolean> => {
  const moved = await sql<Array<{ moved: boolean }>>`
    with moved as (
      insert into audit_marks as mark (slot, watermark, audited)
      values (${move.slot}, ${timeOf(sql, move.to)}, ${move.rows})
      on conflict (slot) do update
      set watermark = excluded.watermark, audited = mark.audited + excluded.audited
      where mark.watermark = ${timeOf(sql, move.from)}
      returning slot
    ), noted as (${noted(sql, unseen, dueIn)} where exists (select from moved) on conflict do nothing)
    select true as moved from moved`
  return moved.length > 0
}

/** Notes exceptions above the watermark, as long as that is where this auditor believes it to be. */
export const noteExceptions = async (
  sql: Sql,
  watermark: number,
  unseen: ReadonlyArray<AuditedRow>,
  dueIn: number
): Promise<void> => {
  await sql`
    ${noted(sql, unseen, dueIn)}
    where coalesce((select max(watermark) from audit_marks), ${timeOf(sql, watermark)}) = ${timeOf(sql, watermark)}
    on conflict do nothing`
}

const noted = (sql: Sql, unseen: ReadonlyArray<AuditedRow>, dueIn: number) => sql`
  insert into audit_exceptions (id, topic, created_at, due_at)
  select id, topic, timestamptz 'epoch' + created * interval '1 microsecond', now() + ${dueIn}::bigint * interval '1 microsecond'
  from unnest(
    ${textsOf(unseen.map(({ id }) => id))}::uuid[],
    ${textsOf(unseen.map(({ topic }) => topic))}::text[],
    ${textsOf(unseen.map(({ created }) => String(created)))}::bigint[]
  ) as unseen(id, topic, created)`

/** Exceptions that are due to be published again, the oldest first. */
export const dueExceptions = (sql: Sql, limit: number): Promise<ReadonlyArray<Exception>> =>
  sql<Array<Exception>>`
    select id, topic
    from audit_exceptions
    where due_at <= now()
    order by due_at
    limit ${limit}`

/**
 * Takes due exceptions to publish them: each is due again after a pause that doubles. Answers their rows, in the order in
 * which they were created; another auditor's are left out.
 */
export const takeExceptions = async (
  sql: Sql,
  ids: ReadonlyArray<string>,
  pause: { readonly first: number; readonly most: number }
): Promise<ReadonlyArray<Unseen>> => {
  const rows = await sql<Array<OutboxRow & { readonly created_text: string }>>`
    with taken as (
      update audit_exceptions
      set attempts = attempts + 1,
        published_at = now(),
        due_at = now() + least(${pause.first} * 2 ^ least(attempts, 40), ${pause.most}) * interval '1 microsecond'
      where id in (
        select id
        from audit_exceptions
        where id = any(${textsOf(ids)}::uuid[]) and due_at <= now()
        for update skip locked
      )
      returning id, created_at
    )
    select ${sql.unsafe(outboxColumns)},
      to_char(outbox.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as created_text
    from taken
    join outbox on outbox.created_at = taken.created_at and outbox.id = taken.id
    -- what the index by time can be asked for
    where outbox.created_at between (select min(created_at) from taken) and (select max(created_at) from taken)
    order by outbox.created_at, outbox.id`
  return rows.map(({ schema_version, created_text, ...message }) => ({
    message: { ...message, schemaVersion: schema_version },
    createdAt: created_text
  }))
}

/** These were seen on their topics. Answers how often each that was an exception had been published again. */
export const resolveExceptions = async (sql: Sql, seen: ReadonlyArray<Exception>): Promise<ReadonlyArray<number>> => {
  if (seen.length === 0) return []
  const gone = await sql<Array<{ attempts: number }>>`
    delete from audit_exceptions as exception
    using unnest(${textsOf(seen.map(({ id }) => id))}::uuid[], ${textsOf(seen.map(({ topic }) => topic))}::text[])
      as seen(id, topic)
    where exception.id = seen.id and exception.topic = seen.topic
    returning exception.attempts`
  return gone.map(({ attempts }) => attempts)
}

/** How many exceptions are open, and when the oldest of their rows was created. */
export const openExceptions = async (
  sql: Sql
): Promise<{ readonly count: number; readonly oldest: number | undefined }> => {
  const [found] = await sql<Array<{ count: number; oldest: number | null }>>`
    select count(*) as count, (extract(epoch from min(created_at)) * 1000000)::bigint as oldest
    from audit_exceptions`
  return { count: found?.count ?? 0, oldest: found?.oldest ?? undefined }
}

const timeOf = (sql: Sql, time: number) => sql`(timestamptz 'epoch' + ${time}::bigint * interval '1 microsecond')`
