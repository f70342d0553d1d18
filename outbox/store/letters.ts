/** Dead letters in Postgres: written within the pass that parks, listed and discarded for who looks after them. */
import { storable } from "../delivery/dead-letter.ts"
import type { BrokerRecord } from "../broker/broker.ts"
import type { Sql } from "./connection.ts"
import type {
  LetterFilter,
  LetterGroup,
  LetterQuery,
  LetterSummary,
  Parking,
  ParkReason,
  StoredDeadLetter
} from "./store.ts"

const hex = (bytes: Uint8Array | null): string | null => (bytes === null ? null : Buffer.from(bytes).toString("hex"))

/** Headers as JSON: for each name the values it has, in base64. */
const headersToJson = (headers: BrokerRecord["headers"]): Record<string, Array<string | null>> =>
  Object.fromEntries(
    Object.entries(headers).map(([name, values]) => [
      storable(name),
      [values]
        .flat()
        .flatMap((value) =>
          value === undefined ? [] : [value === null ? null : Buffer.from(value).toString("base64")]
        )
    ])
  )

const headersFromJson = (headers: Readonly<Record<string, ReadonlyArray<string | null>>>): BrokerRecord["headers"] =>
  Object.fromEntries(
    Object.entries(headers).map(([name, values]) => {
      const bytes = values.map((value) => (value === null ? null : Buffer.from(value, "base64")))
      return [name, bytes.length === 1 ? bytes[0] : bytes]
    })
  )

/** Writes letters, unless their message was decided already. One that is parked again keeps its newest reason. */
export const writeLetters = (sql: Sql, consumer: string, letters: ReadonlyArray<Parking>) =>
  sql.unsafe(
    `insert into dead_letters (
       consumer, message_id, topic, "partition", "offset", key, type, reason, detail, record_key, headers, value, redriven
     )
     select
       $1, r.id, r.topic, r."partition", r."offset", r.key, r.type, r.reason, r.detail,
       decode(r.record_key, 'hex'), r.headers, decode(r.value, 'hex'), r.redriven::int
     from jsonb_to_recordset($2::text::jsonb) as r(
       id uuid, topic text, "partition" int, "offset" bigint, key text, type text, reason text, detail text,
       record_key text, headers jsonb, value text, redriven boolean
     )
     where not exists (select from inbox i where i.consumer = $1 and i.message_id = r.id)
     on conflict (consumer, message_id) do update
     set
       reason = excluded.reason,
       detail = excluded.detail,
       redriven = dead_letters.redriven + excluded.redriven
     where dead_letters.discarded_at is null`,
    [
      consumer,
      JSON.stringify(
        letters.map(({ id, key, type, reason, detail, record, redriven }) => ({
          id,
          topic: record.topic,
          partition: record.partition,
          offset: String(record.offset),
          key: key === null ? null : storable(key),
          type: type === null ? null : storable(type),
          reason,
          detail: storable(detail, 16_000),
          record_key: hex(record.key),
          headers: headersToJson(record.headers),
          value: hex(record.value),
          redriven
        }))
      )
    ],
    { prepare: true }
  )

interface SummaryRow {
  readonly message_id: string
  readonly topic: string
  readonly partition: number
  readonly offset: number
  readonly key: string | null
  readonly type: string | null
  readonly reason: ParkReason
  readonly detail: string
  readonly parked_at: Date
  readonly redriven: number
  readonly discarded_at: Date | null
  readonly note: string | null
}

const stateOf = ({ parked_at, redriven, discarded_at, note }: SummaryRow) => ({
  parkedAt: parked_at,
  redriven,
  discardedAt: discarded_at,
  note
})

interface Row extends SummaryRow {
  readonly record_key: Uint8Array | null
  readonly headers: Readonly<Record<string, ReadonlyArray<string | null>>>
  readonly value: Uint8Array | null
}

export const readLetters = async (
  sql: Sql,
  consumer: string,
  filter: { readonly ids?: ReadonlyArray<string>; readonly limit: number }
): Promise<ReadonlyArray<StoredDeadLetter>> => {
  const rows = await sql<Array<Row>>`
    select
      message_id, topic, "partition", "offset", key, type, reason, detail, record_key, headers, value, parked_at, redriven,
      discarded_at, note
    from dead_letters
    where consumer = ${consumer} ${filter.ids === undefined ? sql`` : among(sql, filter.ids)}
    order by topic, "partition", "offset", message_id
    limit ${filter.limit}`
  return rows.map((row) => ({
    id: row.message_id,
    type: row.type,
    key: row.key,
    reason: row.reason,
    detail: row.detail,
    record: {
      topic: row.topic,
      partition: row.partition,
      offset: BigInt(row.offset),
      key: row.record_key,
      value: row.value,
      headers: headersFromJson(row.headers)
    },
    ...stateOf(row)
  }))
}

const among = (sql: Sql, ids: ReadonlyArray<string>) => sql`
  and message_id in (select id::uuid from jsonb_array_elements_text(${JSON.stringify(ids)}::text::jsonb) as ids(id))`

const matching = (sql: Sql, { reason, type, key, topic }: LetterFilter) => sql`
  ${reason === undefined ? sql`` : sql`and reason = ${reason}`}
  ${type === undefined ? sql`` : sql`and type = ${type}`}
  ${key === undefined ? sql`` : sql`and key = ${key}`}
  ${topic === undefined ? sql`` : sql`and topic = ${topic}`}`

/**
 * A table expression of a consumer's parked messages that says of each whether a redrive of all that match takes it: it does
 * not, when it was redriven too often, nor when it is behind one that the redrive leaves where it is.
 */
const redrivables = (sql: Sql, consumer: string, filter: LetterFilter, redrivenLessThan: number) => sql`(
  select
    *,
    taken and (reason <> 'behind' or coalesce(bool_and(taken) over before, true)) as redrivable
  from (
    select *, coalesce(redriven < ${redrivenLessThan} ${matching(sql, filter)}, false) as taken
    from dead_letters
    where consumer = ${consumer} and discarded_at is null
  ) as parked
  window before as (
    partition by topic, key
    order by "partition", "offset", message_id
    rows between unbounded preceding and 1 preceding
  )
)`

export const listLetters = async (
  sql: Sql,
  consumer: string,
  query: LetterQuery
): Promise<ReadonlyArray<LetterSummary>> => {
  const { ids, state, after, redrivenLessThan, limit } = query
  const rows = await sql<Array<SummaryRow & { readonly bytes: number }>>`
    select
      message_id, topic, "partition", "offset", key, type, reason, left(detail, 300) as detail, parked_at, redriven,
      discarded_at, note,
      coalesce(octet_length(record_key), 0) + coalesce(octet_length(value), 0) + octet_length(headers::text) as bytes
    from ${redrivenLessThan === undefined ? sql`dead_letters` : redrivables(sql, consumer, query, redrivenLessThan)} as letters
    where consumer = ${consumer}
      ${matching(sql, query)}
      ${ids === undefined ? sql`` : among(sql, ids)}
      ${state === undefined ? sql`` : state === "parked" ? sql`and discarded_at is null` : sql`and discarded_at is not null`}
      ${after === undefined ? sql`` : sql`and (topic, "partition", "offset", message_id) > (${after.topic}, ${after.partition}::int, ${String(after.offset)}::text::bigint, ${after.id}::uuid)`}
      ${redrivenLessThan === undefined ? sql`` : sql`and redrivable`}
    order by topic, "partition", "offset", message_id
    limit ${limit}`
  return rows.map((row) => ({
    id: row.message_id,
    topic: row.topic,
    partition: row.partition,
    offset: BigInt(row.offset),
    type: row.type,
    key: row.key,
    reason: row.reason,
    detail: row.detail,
    bytes: row.bytes,
    ...stateOf(row)
  }))
}

export const groupLetters = async (
  sql: Sql,
  consumer: string,
  query: LetterFilter & Pick<LetterQuery, "redrivenLessThan">
): Promise<ReadonlyArray<LetterGroup>> => sql<Array<LetterGroup>>`
  select
    reason,
    count(*) as count,
    count(*) filter (where redrivable) as redrivable,
    min(parked_at) as oldest,
    max(parked_at) as newest
  from ${redrivables(sql, consumer, query, query.redrivenLessThan ?? greatestInt)} as letters
  where consumer = ${consumer} ${matching(sql, query)}
  group by reason
  order by reason`

const greatestInt = 2_147_483_647

export const discardLetters = async (
  sql: Sql,
  consumer: string,
  ids: ReadonlyArray<string>,
  note: string | null
): Promise<ReadonlyArray<string>> => {
  const rows = await sql<Array<{ readonly id: string }>>`
    update dead_letters
    set discarded_at = now(), note = ${note === null ? null : storable(note)}
    where consumer = ${consumer} and discarded_at is null ${among(sql, ids)}
    returning message_id as id`
  return rows.map(({ id }) => id)
}
