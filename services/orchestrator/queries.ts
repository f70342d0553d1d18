/** What the orchestrator's API reads. */
import { Saga, type SagaRow, type Sql } from "oncebox"
import type { Page } from "../shell/request.ts"
import { orderView } from "./orchestrator.ts"

const { sagas, saga_log } = Saga.tables

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
  sagas: async ({ limit, after }: Page) => {
    const rows = await sql`
      select id, definition, version, state, step, attempt, position, coordination, seen, data, reason, deadline, due_at, started_at, ended_at
      from sagas
      ${after === undefined ? sql`` : sql`where id < ${after}`}
      order by id desc
      limit ${limit + 1}`
    return rows.map((row) => sagaView(sagas.decode(row)))
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

const sagaView = (saga: SagaRow) => ({
  id: saga.id,
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
