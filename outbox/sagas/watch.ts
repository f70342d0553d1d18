/**
 * Watching a choreographed saga: nobody is asked for anything, the participants go by each other's events. The saga's row and
 * log are kept all the same, from what is seen on the topics, in whatever order it is seen: where the saga stands follows from
 * the set of what was seen. One thing is sent: when the saga takes too long, the message that ends it, until it has ended.
 */
import type { AnyContract } from "../message.ts"
import type { Context } from "../participant.ts"
import { ask, asking, entry, lastMoment, waitMs, type Advance } from "./advance.ts"
import { viewOf, type SagaDefinition } from "./definition.ts"
import type { SagaRow } from "./tables.ts"

/** Where a choreographed saga stands after an event; undefined when the event is nothing new. */
export const observe = (
  definition: SagaDefinition,
  saga: SagaRow,
  { contract, payload }: { readonly contract: AnyContract; readonly payload: object },
  context: Context
): Advance | undefined => {
  if (saga.seen.includes(contract.type)) return undefined
  const step = definition.steps.find(({ success }) => success === contract)
  const data = step?.learn === undefined ? saga.data : step.learn(definition.decode(saga.data), payload)
  const given = "reason" in payload ? String(payload.reason) : null
  // what takes a step back tells why; a failure may only be an echo of it
  const isUndo = definition.steps.some(({ undo }) => undo?.done === contract)
  const reason = isUndo ? (given ?? saga.reason) : (saga.reason ?? given)
  const stands = standing(definition, [...saga.seen, contract.type])
  const ended = stands.state === "COMPLETED" || stands.state === "COMPENSATED"
  const row: SagaRow = {
    ...saga,
    ...stands,
    data,
    reason: stands.state === "COMPLETED" ? null : reason,
    seen: [...saga.seen, contract.type],
    position: saga.position + 1,
    ...(ended ? { deadline: null, due_at: null, ended_at: context.now } : timer(definition, saga, context))
  }
  return { row, log: [entry(row, context, undefined)], send: [] }
}

/** An event of a saga that has ended changes nothing any more; its log tells of it all the same. */
export const noted = (saga: SagaRow, { type }: AnyContract, context: Context): Advance | undefined => {
  if (saga.seen.includes(type)) return undefined
  const row: SagaRow = { ...saga, seen: [...saga.seen, type], position: saga.position + 1 }
  return { row, log: [entry(row, context, undefined)], send: [] }
}

/** What to do when a choreographed saga's deadline has passed. */
export const overdue = (definition: SagaDefinition, saga: SagaRow, context: Context): Advance | undefined => {
  const late = context.now.getTime() >= lastMoment(definition, saga)
  // asked for here, and never begun
  if (!late && saga.seen.length === 0) return ask(definition, saga, 0, saga.attempt + 1, context)
  if (!late) return { row: { ...saga, ...timer(definition, saga, context) }, log: [], send: [] }
  const [first] = definition.steps
  if (definition.stalled === undefined || first === undefined)
    throw new Error(`${definition.name} v${definition.version} says nothing of how a choreographed saga is ended`)
  const attempt = saga.attempt + 1
  const deadline = new Date(context.now.getTime() + waitMs(saga, first, attempt))
  const asked = definition.stalled({ ...viewOf(definition, saga), reason: saga.reason ?? "TIMEOUT" })
  return asking({ ...saga, attempt, deadline, due_at: deadline }, asked, context)
}

/** The saga's one deadline; once that has passed, the one it has. */
const timer = (definition: SagaDefinition, saga: SagaRow, context: Context): Pick<SagaRow, "deadline" | "due_at"> => {
  const last = lastMoment(definition, saga)
  if (last <= context.now.getTime()) return { deadline: saga.deadline, due_at: saga.due_at }
  const deadline = new Date(Math.min(last, context.now.getTime() + longestLookMs))
  return { deadline, due_at: deadline }
}
/** A definition without a deadline of its own is looked at now and then. */
const longestLookMs = 86_400_000

/** Where a saga stands of which these types of messages were seen. An event tells that all before it happened, too. */
const standing = (definition: SagaDefinition, seen: ReadonlyArray<string>): Pick<SagaRow, "state" | "step"> => {
  const has = (contract: AnyContract | undefined): boolean => contract !== undefined && seen.includes(contract.type)
  const { steps } = definition
  const done = steps.findLastIndex(({ success }) => has(success))
  const current = steps[Math.min(done + 1, steps.length - 1)]?.name ?? ""
  if (done === steps.length - 1) return { state: "COMPLETED", step: current }
  const failed = steps.some(({ failure, undo }) => has(failure) || has(undo?.done))
  if (!failed || done >= definition.pivot) return { state: "RUNNING", step: current }
  const left = steps.findLast(({ undo }) => undo !== undefined && !has(undo.done))
  return left === undefined
    ? { state: "COMPENSATED", step: steps.find(({ undo }) => undo !== undefined)?.name ?? current }
    : { state: "COMPENSATING", step: left.name }
}
