/**
 * Sagas: a definition is data, and `advance` is pure. `orchestrator.ts` runs them.
 *
 * Rules that hold for every definition: a reply counts only for the step that awaits it; the ended states absorb;
 * compensation runs in reverse, takes in the step in flight when its outcome is unknown, never stops half way, and no
 * step goes forward once it began; a lost reply is asked for again after its deadline, with a new message id; attempts
 * and the time of all steps together are bounded before the pivot and unbounded from it on; a saga ends on the version
 * it started with.
 */
import { Duration, Schema } from "effect"
import { hashOf } from "./hash.ts"
import { Coordination, type AnyContract, type Contract, type Outgoing } from "./message.ts"
import type { Context, Decision } from "./participant.ts"
import { Table, type RowOf } from "./table.ts"

export const SagaState = Schema.Literals(["RUNNING", "COMPENSATING", "COMPLETED", "COMPENSATED"])

const sagas = Table.make("sagas", {
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

const tables = { sagas, saga_log: sagaLog }
export type SagaTables = typeof tables
export type SagaRow = RowOf<typeof sagas>

/** What a step may use to make its messages. */
export interface SagaView<Data> {
  readonly id: string
  readonly data: Data
  /** Why the saga is being undone. */
  readonly reason: string | null
}

/** One step: what to ask, what the answers are, and how to take it back. */
export interface Step<
  Data,
  Success extends object = object,
  Failure extends { readonly reason: string } = { readonly reason: string }
> {
  readonly name: string
  readonly ask: (saga: SagaView<Data>) => Outgoing
  readonly success: Contract<Success>
  /** What the saga remembers of the answer. */
  readonly learn?: (data: Data, event: Success) => Data
  /** The answer that nothing was done; its reason becomes the saga's. Without it the step can only succeed. */
  readonly failure?: Contract<Failure>
  /** Takes the step back, whether or not it took effect. Without it there is nothing to take back. */
  readonly undo?: { readonly ask: (saga: SagaView<Data>) => Outgoing; readonly done: Contract<never> }
  /** How long to wait for an answer; the wait doubles with each attempt. */
  readonly deadline: Duration.Input
  /** How often to ask before the saga gives the step up. From the pivot on, and when undoing, it never does. */
  readonly attempts: number
}

/** A step whose types are not known here. */
interface AnyStep {
  readonly name: string
  readonly ask: (saga: SagaView<unknown>) => Outgoing
  readonly success: AnyContract
  readonly learn: ((data: unknown, event: object) => unknown) | undefined
  readonly failure: AnyContract | undefined
  readonly undo: { readonly ask: (saga: SagaView<unknown>) => Outgoing; readonly done: AnyContract } | undefined
  readonly deadlineMs: number
  readonly attempts: number
}

export interface SagaDefinition<Data = unknown> {
  readonly name: string
  readonly version: number
  readonly steps: ReadonlyArray<AnyStep>
  /** The index of the step after which the saga only goes forward. */
  readonly pivot: number
  /** The message that asks for the saga to be undone; it counts until the pivot is asked for. */
  readonly cancelledBy: AnyContract | undefined
  /** How long the steps before the pivot may take together. */
  readonly deadlineMs: number
  /** What ends a choreographed saga that takes longer. */
  readonly cancel: ((saga: SagaView<unknown>) => Outgoing) | undefined
  readonly decode: (data: unknown) => Data
}

/** What waiting doubles up to; a deadline that is longer to begin with stays as it is. */
const longestWaitMs = 600_000

/** What `advance` is told: an answer, or that the deadline of the awaited answer has passed. */
export type SagaInput = { readonly contract: AnyContract; readonly payload: object } | "deadline"

export interface Advance {
  readonly row: SagaRow
  readonly log: ReadonlyArray<RowOf<typeof sagaLog>>
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

/** Whether nothing more will come of it. */
export const hasEnded = (saga: SagaRow): boolean => saga.state === "COMPLETED" || saga.state === "COMPENSATED"

const reasonOf = (payload: object): string => ("reason" in payload ? String(payload.reason) : "FAILED")

/** A code, whatever the step's name: reasons travel in payloads. */
const timeoutOf = (step: AnyStep): string => `${step.name.toUpperCase().replaceAll(/[^A-Z0-9]+/g, "_")}_TIMEOUT`

const forward = (definition: SagaDefinition, saga: SagaRow, index: number, context: Context): Advance =>
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

export const viewOf = (definition: SagaDefinition, saga: SagaRow): SagaView<unknown> => ({
  id: saga.id,
  data: definition.decode(saga.data),
  reason: saga.reason
})

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
  const row: SagaRow = {
    ...saga,
    step: step.name,
    attempt,
    position: saga.position + 1,
    deadline,
    due_at: lookEarlier ? saga.due_at : deadline
  }
  const id = context.newId()
  const message: Outgoing = { ...asked, id, correlation: saga.id, coordination: saga.coordination }
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

const indexOf = (definition: SagaDefinition, name: string): number => {
  const index = definition.steps.findIndex((step) => step.name === name)
  if (index < 0) throw new Error(`${definition.name} v${definition.version} has no step ${name}`)
  return index
}

/** What an orchestrator writes and sends for an advance. */
export const decisionOf = ({ row, log, send }: Advance): Decision<SagaTables, never> => ({
  put: { sagas: [row], saga_log: log },
  send
})

/** A saga before its first step. */
export const begun = (definition: SagaDefinition, id: string, data: unknown, context: Context): SagaRow => ({
  id,
  definition: definition.name,
  version: definition.version,
  state: "RUNNING",
  step: "",
  attempt: 1,
  position: 0,
  coordination: context.coordination,
  seen: [],
  data,
  reason: null,
  deadline: null,
  due_at: null,
  started_at: context.now,
  ended_at: null
})

/** A message that starts a saga which nobody started yet: its first steps, up to `after`, are done already. */
export interface SagaStart {
  readonly on: AnyContract
  readonly when: ((payload: object) => boolean) | undefined
  readonly definition: SagaDefinition
  readonly after: string
  readonly data: (payload: object) => unknown
}

export const Saga = {
  tables,

  /** A step, with its types checked against each other: `Saga.step<Data>()({ … })`. */
  step:
    <Data>() =>
    <
      Success extends object,
      Failure extends { readonly reason: string } = { readonly reason: string },
      Undone extends object = object
    >(
      step: Omit<Step<Data, Success, Failure>, "undo"> & {
        readonly undo?: { readonly ask: (saga: SagaView<Data>) => Outgoing; readonly done: Contract<Undone> }
      }
    ): Step<Data> =>
      // A step is only ever given the data of its own definition and the payloads of its own contracts.
      step as unknown as Step<Data>,

  /**
   * A definition. Throws when it breaks a rule: two steps of one name, two uses of one reply, no such pivot, a failure
   * after it, no attempts, no deadline.
   */
  define: <Fields extends Schema.Struct.Fields, Cancelled extends { readonly reason: string }>(options: {
    readonly name: string
    readonly version: number
    readonly data: Fields
    readonly pivot: string
    /** How long the steps before the pivot may take together; without it only each step has a deadline. */
    readonly deadline?: Duration.Input
    /** A message, with the saga's id as its correlation, that asks for the saga to be undone. */
    readonly cancelledBy?: Contract<Cancelled>
    /** What to send to end a choreographed saga that takes longer than its deadline. Such sagas are watched only with it. */
    readonly cancel?: (saga: SagaView<Schema.Struct.Type<Fields>>) => Outgoing
    readonly steps: ReadonlyArray<Step<Schema.Struct.Type<Fields>>>
  }): SagaDefinition<Schema.Struct.Type<Fields>> => {
    type Data = Schema.Struct.Type<Fields>
    const names = options.steps.map((step) => step.name)
    if (new Set(names).size !== names.length) throw new Error(`${options.name} has two steps of one name`)
    const pivot = names.indexOf(options.pivot)
    if (pivot < 0) throw new Error(`${options.name} has no step ${options.pivot} to be its pivot`)
    // a late reply would count for the other step, a second one for the next
    const deadlineMs = Duration.toMillis(Duration.fromInputUnsafe(options.deadline ?? Duration.infinity))
    if (deadlineMs <= 0) throw new Error(`${options.name} needs a deadline that lies ahead`)
    // a contract of any payload: it is only compared
    const cancelledBy = options.cancelledBy as unknown as AnyContract | undefined
    const replies = [
      ...options.steps.flatMap(({ success, failure, undo }) => [success, failure, undo?.done]),
      cancelledBy
    ]
    const twice = replies.find((reply, index) => reply !== undefined && replies.indexOf(reply) !== index)
    if (twice !== undefined) throw new Error(`${options.name} has two uses of the reply ${twice.type}`)
    const decode = Schema.decodeUnknownSync(Schema.Struct(options.data) as unknown as Schema.Codec<Data, Data>)
    return {
      name: options.name,
      version: options.version,
      pivot,
      deadlineMs,
      cancelledBy,
      cancel: options.cancel as SagaDefinition["cancel"],
      decode: (data) => decode(data),
      steps: options.steps.map((step, index) => {
        const { deadline, ...rest } = step
        const deadlineMs = Duration.toMillis(Duration.fromInputUnsafe(deadline))
        if (!Number.isInteger(step.attempts) || step.attempts < 1)
          throw new Error(`step ${step.name} of ${options.name} needs at least one attempt`)
        if (!Number.isFinite(deadlineMs) || deadlineMs <= 0)
          throw new Error(`step ${step.name} of ${options.name} needs a deadline that passes`)
        if (index > pivot && step.failure !== undefined)
          throw new Error(`step ${step.name} of ${options.name} comes after the pivot and can only succeed`)
        return { ...rest, deadlineMs } as unknown as AnyStep
      })
    }
  },

  /** The message that starts a saga which nobody started yet, with the types of its payload and data checked. */
  startedBy: <P extends object, Data>(options: {
    readonly on: Contract<P>
    /** Of the message's payloads, those that start this saga; all when absent. */
    readonly when?: (payload: P) => boolean
    readonly definition: SagaDefinition<Data>
    /** The step that the message shows to be done. */
    readonly after: string
    readonly data: (payload: P) => Data
  }): SagaStart => {
    indexOf(options.definition, options.after)
    return options as unknown as SagaStart
  },

  /** A new saga, asking for its first step; its id is the correlation of all its messages. */
  start: <Data>(
    definition: SagaDefinition<Data>,
    id: string,
    data: Data,
    context: Context,
    after?: string
  ): Decision<SagaTables, never> => {
    const saga = begun(definition, id, data, context)
    if (saga.coordination === "choreography" && definition.cancel === undefined)
      throw new Error(`${definition.name} says nothing of how a choreographed saga is ended`)
    const next = after === undefined ? 0 : indexOf(definition, after) + 1
    return decisionOf(forward(definition, saga, next, context))
  }
}
