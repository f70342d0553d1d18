/** What a saga's row and its log hold. */
import { Schema } from "effect"
import { Coordination } from "../message.ts"
import { Table, type RowOf } from "../table.ts"

export const SagaState = Schema.Literals(["RUNNING", "COMPENSATING", "COMPLETED", "COMPENSATED"])

export const sagas = Table.make("sagas", {
  key: "id",
  row: {
    id: Schema.String,
    definition: Schema.String,
    version: Schema.Int,
    state: SagaState,
    /** The step whose reply is awaited, or, when compensating, whose undoing is. */
    step: Schema.String,
    attempt: Schema.Int,
    /** How many entries its log has. */
    position: Schema.Int,
    coordination: Coordination,
    /** Of a choreographed saga: the types of the messages that were seen of it. */
    seen: Schema.Array(Schema.String),
    data: Schema.Unknown,
    reason: Schema.NullOr(Schema.String),
    /** Until when the awaited answer should be there; null once the saga ended. */
    deadline: Schema.NullOr(Schema.Date),
    /** When to look at the saga, at its deadline or before: it is moved only when it has passed, to spare its index. */
    due_at: Schema.NullOr(Schema.Date),
    started_at: Schema.Date,
    ended_at: Schema.NullOr(Schema.Date)
  }
})

const sagaLog = Table.log("saga_log", {
  key: "saga_id",
  row: {
    saga_id: Schema.String,
    position: Schema.Int,
    at: Schema.Date,
    state: SagaState,
    step: Schema.String,
    attempt: Schema.Int,
    /** What brought the saga here: a message's type and id, or that its deadline passed. */
    cause_type: Schema.String,
    cause_id: Schema.NullOr(Schema.String),
    asked_type: Schema.NullOr(Schema.String),
    asked_id: Schema.NullOr(Schema.String),
    reason: Schema.NullOr(Schema.String)
  }
})

/**
 * Messages for sagas that run on a version which the build that read them does not have. They are due from then on, for a
 * build that has it.
 */
const putAside = {
  message_id: Schema.String,
  saga_id: Schema.String,
  topic: Schema.String,
  type: Schema.String,
  payload: Schema.Unknown,
  /** Null once it is decided. */
  due_at: Schema.NullOr(Schema.Date)
}
const sagaHandovers = Table.make("saga_handovers", { key: "message_id", row: putAside })

/** Messages of choreographed sagas that were read before the one that starts the saga: they are looked at again, so often. */
const sagaEarly = Table.make("saga_early", { key: "message_id", row: { ...putAside, attempt: Schema.Int } })

export const tables = { sagas, saga_log: sagaLog, saga_handovers: sagaHandovers, saga_early: sagaEarly }
export type SagaTables = typeof tables
export type SagaRow = RowOf<typeof sagas>

export type SagaHandover = RowOf<typeof sagaHandovers>

export type SagaEarly = RowOf<typeof sagaEarly>

export type SagaLogEntry = RowOf<typeof sagaLog>

/** Whether nothing more will come of it. */
export const hasEnded = (saga: SagaRow): boolean => saga.state === "COMPLETED" || saga.state === "COMPENSATED"
