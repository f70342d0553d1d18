/** Dead letters in Postgres: written within the pass that parks, read for a redrive. */
import { storable } from "../delivery/dead-letter.ts"
import type { BrokerRecord } from "../broker/broker.ts"
import type { Sql } from "./connection.ts"
import type { DeadLetter, ParkReason, StoredDeadLetter } from "./store.ts"

const hex = (bytes: Uint8Array | null): string | null => (bytes === null ? null : Buffer.from(bytes).toString("hex"))

/** Headers as JSON: each value base64, an array where a name occurs twice. */
const headersToJson = (headers: BrokerRecord["headers"]): Record<string, Array<string>> =>
  Object.fromEntries(
    Object.entries(headers).map(([name, values]) => [
      storable(name),
      [values].flat().flatMap((value) => (value === undefined ? [] : [Buffer.from(value).toString("base64")]))
    ])
  )

const headersFromJson = (headers: Readonly<Record<string, ReadonlyArray<string>>>): BrokerRecord["headers"] =>
  Object.fromEntries(
    Object.entries(headers).map(([name, values]) => {
      const bytes = values.map((value) => Buffer.from(value, "base64"))
      return [name, bytes.length === 1 ? bytes[0] : bytes]
    })
  )

/** Writes letters, unless their message was decided already. One that is parked again keeps its newest reason. */
export const writeLetters = (sql: Sql, consumer: string, letters: ReadonlyArray<DeadLetter>) =>
  sql.unsafe(
    `insert into dead_letters (
       consumer, message_id, topic, "partition", "offset", key, type, reason, detail, record_key, headers, value
     )
     select
       $1, r.id, r.topic, r."partition", r."offset", r.key, r.type, r.reason, r.detail,
       decode(r.record_key, 'hex'), r.headers, decode(r.value, 'hex')
     from jsonb_to_recordset($2::text::jsonb) as r(
       id uuid, topic text, "partition" int, "offset" bigint, key text, type text, reason text, detail text,
       record_key text, headers jsonb, value text
     )
     where not exists (select from inbox i where i.consumer = $1 and i.message_id = r.id)
     on conflict (consumer, message_id) do update set reason = excluded.reason, detail = excluded.detail`,
    [
      consumer,
      JSON.stringify(
        letters.map(({ id, key, type, reason, detail, record }) => ({
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
          value: hex(record.value)
        }))
      )
    ],
    { prepare: true }
  )

interface Row {
  readonly message_id: string
  readonly topic: string
  readonly partition: number
  readonly offset: number
  readonly key: string | null
  readonly type: string | null
  readonly reason: ParkReason
  readonly detail: string
  readonly record_key: Uint8Array | null
  readonly headers: Readonly<Record<string, ReadonlyArray<string>>>
  readonly value: Uint8Array | null
  readonly parked_at: Date
}

export const readLetters = async (
  sql: Sql,
  consumer: string,
  filter: { readonly ids?: ReadonlyArray<string>; readonly limit: number }
): Promise<ReadonlyArray<StoredDeadLetter>> => {
  const rows = await sql<Array<Row>>`
    select message_id, topic, "partition", "offset", key, type, reason, detail, record_key, headers, value, parked_at
    from dead_letters
    where consumer = ${consumer}
      and (${filter.ids === undefined} or message_id in (
        select id::uuid from jsonb_array_elements_text(${JSON.stringify(filter.ids ?? [])}::text::jsonb) as ids(id)
      ))
    order by topic, "partition", "offset", parked_at
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
    parkedAt: row.parked_at
  }))
}
