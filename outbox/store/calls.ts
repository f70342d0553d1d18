/**
 * The table `calls`: what is to be called outside, and what came of it.
 *
 * A call is due when it was asked for, when the lease of whoever took it is over, and when it is to be tried again; it is
 * never due once it is done. So a crash needs no repair: what was taken by the dead falls due by itself.
 */
import { Schema } from "effect"
import { storable } from "../delivery/dead-letter.ts"
import { Table } from "../table.ts"
import { arraysOf, unnested, type Column } from "./arrays.ts"
import type { NewCall, PostponedCall } from "./store.ts"

/** As the pass sees it that decides results: loaded and locked after the participant's own tables, then marked as done. */
export const calls = Table.make("calls", {
  key: "id",
  row: {
    id: Schema.String,
    kind: Schema.String,
    key: Schema.String,
    request: Schema.Unknown,
    result: Schema.Unknown,
    attempt: Schema.Int,
    due_at: Schema.NullOr(Schema.Date),
    done_at: Schema.NullOr(Schema.Date),
    last_error: Schema.NullOr(Schema.String),
    correlation: Schema.NullOr(Schema.String),
    causation: Schema.NullOr(Schema.String),
    coordination: Schema.String,
    definition: Schema.NullOr(Schema.String),
    traceparent: Schema.NullOr(Schema.String)
  }
})

/** Whether asking for the one is asking for the other. */
export const sameRequest = (one: Pick<NewCall, "request">, other: Pick<NewCall, "request">): boolean =>
  one.request === other.request || Bun.deepEquals(JSON.parse(one.request), JSON.parse(other.request))

export const otherRequest = (call: string): string => `${call} was asked for with another request before`

/** Bounds what an error may say of itself. */
export const errorText = (error: string): string => storable(error, 16_000)

const newColumns: ReadonlyArray<Column> = [
  { name: "id", type: "text" },
  { name: "kind", type: "text" },
  { name: "key", type: "text" },
  // JSON text already: it goes in as it is
  { name: "request", type: "text" },
  { name: "correlation", type: "text" },
  { name: "causation", type: "text" },
  { name: "coordination", type: "text" },
  { name: "definition", type: "text" },
  { name: "traceparent", type: "text" }
]

/** Broken by whoever asks for something else under a key that is taken: see the migration. */
export const oneRequestPerKey = "calls_one_request_per_key"

// in the order of ids, so that two that ask for the same calls never wait for each other
export const askStatement = `
  insert into calls (id, kind, key, request, correlation, causation, coordination, definition, traceparent)
  select id, kind, key, request::jsonb, correlation, causation, coordination, definition, traceparent
  from ${unnested(newColumns)}
  order by id
  on conflict (id) do update
  set attempt = -1
  where calls.request <> excluded.request`

export const askRows = (asked: ReadonlyArray<NewCall>): Array<string> => arraysOf(newColumns, asked)

/** $1: the kind. $2: how many. $3: the lease in milliseconds. */
export const takeStatement = `
  with due as materialized (
    select id
    from calls
    where kind = $1 and due_at <= now()
    order by due_at
    limit $2::int
    for update skip locked
  )
  update calls as c
  set attempt = c.attempt + 1, due_at = now() + $3::float8 * interval '1 millisecond'
  from due
  where c.id = due.id
  returning
    c.id, c.kind, c.key, c.request, c.result, c.attempt, c.correlation, c.causation, c.coordination,
    c.definition, c.traceparent`

const postponedColumns: ReadonlyArray<Column> = [
  { name: "id", type: "text" },
  { name: "attempt", type: "int" },
  { name: "afterMs", type: "float8" },
  { name: "error", type: "text" },
  { name: "result", type: "text" }
]

export const postponeStatement = `
  update calls as c
  set
    due_at = now() + r."afterMs" * interval '1 millisecond',
    last_error = coalesce(r.error, c.last_error),
    result = coalesce(r.result::jsonb, c.result)
  from ${unnested(postponedColumns)}
  where c.id = r.id and c.attempt = r.attempt and c.done_at is null`

export const postponedRows = (postponed: ReadonlyArray<PostponedCall>): Array<string> =>
  arraysOf(
    postponedColumns,
    postponed.map((call) => ({ ...call, error: call.error === null ? null : errorText(call.error) }))
  )
