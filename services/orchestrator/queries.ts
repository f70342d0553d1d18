/** What the orchestrator's API reads. */
import { Schema } from "effect"
import { progressOf, Saga, SagaState, type SagaRow, type Sql } from "oncebox"
import type { Page } from "../shell/request.ts"
import { definitionOf, orderView } from "./orchestrator.ts"

const { sagas, saga_log } = Saga.tables

/** A saga is stuck when what it waits for was asked for more often than this, and still is. */
const stuckAfter = 3
const isStuck = (sql: Sql) => sql`due_at is not null and attempt > ${stuckAfter}`
// more than this is no other news
const countLimit = 10_000

export const StateFilter = Schema.Literals([...SagaState.literals, "stuck"])

// a saga that can't be ended for days asks again and again
const logLimit = 1_000

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  saga: async (id: string) => {
    const rows = await sql`
      select id, definition, version, state, step, attempt, position, coordination, seen, data, reason, deadline, due_at, started_at, ended_at
      from sagas
      where id = ${id}`
    return rows.map((row) => sagaView(sagas.decode(row)))[0]
  },

  /** The newest first: ids grow with time. */
  sagas: async ({ limit, after, where: { state } }: Page<{ readonly state?: typeof StateFilter.Type }>) => {
    const rows = await sql`
      select id, definition, version, state, step, attempt, position, coordination, seen, data, reason, deadline, due_at, started_at, ended_at
      from sagas
      where true
        ${after === undefined ? sql`` : sql`and id < ${after}`}
        ${state === undefined ? sql`` : state === "stuck" ? sql`and ${isStuck(sql)}` : sql`and state = ${state}`}
      order by id desc
      limit ${limit + 1}`
    return rows.map((row) => sagaView(sagas.decode(row)))
  },

  /** How many sagas are stuck and how many messages wait, for another build or for their saga; up to what is worth counting. */
  gauges: async () => {
    const [row] = await sql<Array<Readonly<Record<"sagas_stuck" | "saga_handovers" | "saga_early", number>>>>`
      select
        (select count(*)::int from (select from sagas where ${isStuck(sql)} limit ${countLimit}) as stuck) as sagas_stuck,
        (select count(*)::int from (select from saga_handovers where due_at is not null limit ${countLimit}) as waiting)
          as saga_handovers,
        (select count(*)::int from (select from saga_early where due_at is not null limit ${countLimit}) as waiting)
          as saga_early`
    return { ...row }
  },

  /** Of these sagas, the orders of those that ended. */
  ended: async (ids: ReadonlyArray<string>) => {
    const rows = await sql`
      select id, definition, version, state, step, attempt, position, coordination, seen, data, reason, deadline, due_at, started_at, ended_at
      from sagas
      where id = any(array(select id from jsonb_array_elements_text(${JSON.stringify(ids)}::text::jsonb) as ids(id)))
        and ended_at is not null`
    return rows.map((row) => orderView(sagas.decode(row)))
  },

  log: async (id: string) => {
    const rows = await sql`
      select saga_id, position, at, state, step, attempt, cause_type, cause_id, asked_type, asked_id, reason
      from saga_log
      where saga_id = ${id}
      order by position
      limit ${logLimit}`
    return rows.map((row) => logView(row))
  }
})

/** Since when a saga waits for what it waits for: the first of the log's last entries that are of the same step. */
export const waitingSince = (
  { endedAt }: { readonly endedAt: string | null },
  log: ReadonlyArray<{ readonly at: string; readonly state: string; readonly step: string }>
): string | null => {
  const last = log.at(-1)
  if (endedAt !== null || last === undefined) return null
  const before = log.findLastIndex(({ state, step }) => state !== last.state || step !== last.step)
  return log[before + 1]?.at ?? null
}

/** How far a saga has come. A build that lacks its version can tell no more than its step. */
const progressIn = (definition: ReturnType<typeof definitionOf>, saga: SagaRow) =>
  definition === undefined
    ? { done: null, waitingFor: { step: saga.step, messages: null }, remaining: null }
    : progressOf(definition, saga)

const sagaView = (saga: SagaRow) => ({
  id: saga.id,
  ...progressIn(definitionOf(saga), saga),
  definition: saga.definition,
  version: saga.version,
  state: saga.state,
  step: saga.step,
  attempt: saga.attempt,
  coordination: saga.coordination,
  data: saga.data,
  reason: saga.reason,
  deadline: saga.deadline?.toISOString() ?? null,
  startedAt: saga.started_at.toISOString(),
  endedAt: saga.ended_at?.toISOString() ?? null
})

const logView = (row: unknown) => {
  const { position, at, state, step, attempt, cause_type, cause_id, asked_type, asked_id, reason } =
    saga_log.decode(row)
  return {
    position,
    at: at.toISOString(),
    state,
    step,
    attempt,
    cause: { type: cause_type, id: cause_id },
    asked: asked_type === null ? null : { type: asked_type, id: asked_id },
    reason
  }
}
