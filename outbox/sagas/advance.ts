/**
 * Sagas: a definition is data, and `advance` is pure. `orchestrator.ts` runs them.
 *
 * Rules that hold for every definition: a reply counts only for the step that awaits it; the ended states absorb;
 * compensation runs in reverse, takes in the step in flight when its outcome is unknown, never stops half way, and no
 * step goes forward once it began; a lost reply is asked for again after its deadline, with a new message id; attempts
 * and the time of all steps together are bounded before the pivot and unbounded from it on; a saga ends on the version
 * it started with.
 */
import { hashOf } from "../hash.ts"
import type { AnyContract, Outgoing } from "../message.ts"
import type { Context, Decision } from "../participant.ts"
import { viewOf, type AnyStep, type SagaDefinition } from "./definition.ts"
import { hasEnded, type SagaLogEntry, type SagaRow, type SagaTables } from "./tables.ts"

/** What waiting doubles up to; a deadline that is longer to begin with stays as it is. */
const longestWaitMs = 600_000

/** What `advance` is told: an answer, or that the deadline of the awaited answer has passed. */
export type SagaInput = { readonly contract: AnyContract; readonly payload: object } | "deadline"

export interface Advance {
  readonly row: SagaRow
  readonly log: ReadonlyArray<SagaLogEntry>
  readonly send: ReadonlyArray<Outgoing>
}

/**
 * The saga's next state after an input, or undefined when the input is none that it awaits: a late reply, a second
 * one, or anything after its end.
 */
export const advance = (
  definition: SagaDefinition,
  saga: SagaRow,
  input: SagaInput,
  context: Context
): Advance | undefined => {
  if (hasEnded(saga)) return undefined
  const index = definition.steps.findIndex((step) => step.name === saga.step)
  const step = definition.steps[index]
  if (step === undefined)
    throw new Error(
      `saga ${saga.id} is at step ${saga.step}, which ${definition.name} v${definition.version} does not have`
    )
  if (saga.state === "RUNNING") {
    if (input === "deadline") {
      const outOfTime = context.now.getTime() >= lastMoment(definition, saga)
      if (index >= definition.pivot || (saga.attempt < step.attempts && !outOfTime))
        return ask(definition, saga, index, saga.attempt + 1, context)
      return compensate(definition, { ...saga, reason: timeoutOf(step) }, index, context)
    }
    // once the pivot is asked for, it alone decides
    if (input.contract === definition.cancelledBy && index < definition.pivot)
      return compensate(definition, { ...saga, reason: reasonOf(input.payload) }, index, context)
    if (input.contract === step.success) {
      const data = step.learn === undefined ? saga.data : step.learn(definition.decode(saga.data), input.payload)
      return forward(definition, { ...saga, data }, index + 1, context)
    }
    if (input.contract === step.failure) {
      return compensate(definition, { ...saga, reason: reasonOf(input.payload) }, index - 1, context)
    }
  }
  if (saga.state === "COMPENSATING") {
    if (input === "deadline") return undo(saga, step, saga.attempt + 1, definition, context)
    if (input.contract === step.undo?.done) return compensate(definition, saga, index - 1, context)
  }
  return undefined
}

const reasonOf = (payload: object): string => ("reason" in payload ? String(payload.reason) : "FAILED")

/** A code, whatever the step's name: reasons travel in payloads. */
const timeoutOf = (step: AnyStep): string => `${step.name.toUpperCase().replaceAll(/[^A-Z0-9]+/g, "_")}_TIMEOUT`

export const forward = (definition: SagaDefinition, saga: SagaRow, index: number, context: Context): Advance =>
  index === definition.steps.length
    ? end({ ...saga, state: "COMPLETED" }, context)
    : ask(definition, saga, index, 1, context)

/** Undoes the nearest step at or before `index` that can be undone. */
const compensate = (definition: SagaDefinition, saga: SagaRow, index: number, context: Context): Advance => {
  const step = definition.steps.slice(0, Math.max(0, index + 1)).findLast(({ undo }) => undo !== undefined)
  return step === undefined
    ? end({ ...saga, state: "COMPENSATED" }, context)
    : undo({ ...saga, state: "COMPENSATING" }, step, 1, definition, context)
}

export const ask = (
  definition: SagaDefinition,
  saga: SagaRow,
  index: number,
  attempt: number,
  context: Context
): Advance => {
  const step = definition.steps[index]
  if (step === undefined) throw new Error(`${definition.name} has no step ${index}`)
  const until = index < definition.pivot ? lastMoment(definition, saga) : Number.POSITIVE_INFINITY
  return wait(saga, step, attempt, step.ask(viewOf(definition, saga)), context, until)
}

/** The deadline of the steps before the pivot, in milliseconds since the epoch. */
export const lastMoment = (definition: SagaDefinition, saga: SagaRow): number =>
  saga.started_at.getTime() + definition.deadlineMs

const undo = (saga: SagaRow, step: AnyStep, attempt: number, definition: SagaDefinition, context: Context): Advance => {
  if (step.undo === undefined) throw new Error(`step ${step.name} of ${definition.name} has no undo`)
  return wait(saga, step, attempt, step.undo.ask(viewOf(definition, saga)), context)
}

const wait = (
  saga: SagaRow,
  step: AnyStep,
  attempt: number,
  asked: Outgoing,
  context: Context,
  until = Number.POSITIVE_INFINITY
): Advance => {
  const deadline = new Date(Math.min(context.now.getTime() + waitMs(saga, step, attempt), until))
  const lookEarlier = saga.due_at !== null && saga.due_at > context.now && saga.due_at <= deadline
  return asking(
    { ...saga, step: step.name, attempt, deadline, due_at: lookEarlier ? saga.due_at : deadline },
    asked,
    context
  )
}

/** The saga after it asked for something: with that in its log, under an id of its own. */
export const asking = (saga: SagaRow, asked: Outgoing, context: Context): Advance => {
  const row: SagaRow = { ...saga, position: saga.position + 1 }
  const id = context.newId()
  const { coordination, definition } = saga
  const message: Outgoing = { ...asked, id, correlation: saga.id, coordination, definition }
  return { row, log: [entry(row, context, { type: asked.contract.type, id })], send: [message] }
}

/** The wait doubles with each attempt. Sagas that were held up together don't ask again together: each adds up to a quarter of its own. */
export const waitMs = (saga: SagaRow, step: AnyStep, attempt: number): number => {
  const wait = Math.max(step.deadlineMs, Math.min(longestWaitMs, step.deadlineMs * 2 ** (attempt - 1)))
  return attempt === 1 ? wait : Math.round(wait * (1 + hashOf(`${saga.id} ${step.name} ${attempt}`) / 2 ** 34))
}

const end = (saga: SagaRow, context: Context): Advance => {
  const row: SagaRow = { ...saga, position: saga.position + 1, deadline: null, due_at: null, ended_at: context.now }
  return { row, log: [entry(row, context, undefined)], send: [] }
}

export const entry = (
  row: SagaRow,
  context: Context,
  asked: { readonly type: string; readonly id: string } | undefined
) => ({
  saga_id: row.id,
  position: row.position,
  at: context.now,
  state: row.state,
  step: row.step,
  attempt: row.attempt,
  cause_type: context.type,
  cause_id: context.type.startsWith("due ") ? null : context.id,
  asked_type: asked?.type ?? null,
  asked_id: asked?.id ?? null,
  reason: row.reason
})

/** What an orchestrator writes and sends for an advance. */
export const decisionOf = ({ row, log, send }: Advance): Decision<SagaTables, never> => ({
  put: { sagas: [row], saga_log: log },
  send
})
