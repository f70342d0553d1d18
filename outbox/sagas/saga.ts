/** How sagas are defined and begun. */
import { Duration, Schema } from "effect"
import { isHeaderText, type AnyContract, type Contract, type Outgoing } from "../message.ts"
import type { Context, Decision } from "../participant.ts"
import { decisionOf, forward } from "./advance.ts"
import { registryOf, type AnyStep, type SagaDefinition, type SagaView, type Step } from "./definition.ts"
import { tables, type SagaRow, type SagaTables } from "./tables.ts"

const indexOf = (definition: SagaDefinition, name: string): number => {
  const index = definition.steps.findIndex((step) => step.name === name)
  if (index < 0) throw new Error(`${definition.name} v${definition.version} has no step ${name}`)
  return index
}

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
  registryOf,

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
   * A definition. Throws when it breaks a rule: a name that no header can hold, two steps of one name, two uses of one reply, no such pivot, a failure
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
    readonly stalled?: (saga: SagaView<Schema.Struct.Type<Fields>>) => Outgoing
    readonly steps: ReadonlyArray<Step<Schema.Struct.Type<Fields>>>
  }): SagaDefinition<Schema.Struct.Type<Fields>> => {
    type Data = Schema.Struct.Type<Fields>
    if (!isHeaderText(options.name))
      throw new Error(`${JSON.stringify(options.name)} is no name of a saga: 256 characters of printable ASCII at most`)
    const names = options.steps.map((step) => step.name)
    if (new Set(names).size !== names.length) throw new Error(`${options.name} has two steps of one name`)
    const pivot = names.indexOf(options.pivot)
    if (pivot < 0) throw new Error(`${options.name} has no step ${options.pivot} to be its pivot`)
    const deadlineMs = Duration.toMillis(Duration.fromInputUnsafe(options.deadline ?? Duration.infinity))
    if (deadlineMs <= 0) throw new Error(`${options.name} needs a deadline that lies ahead`)
    // a contract of any payload: it is only compared
    const cancelledBy = options.cancelledBy as unknown as AnyContract | undefined
    // a late reply would count for the other step, a second one for the next
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
      stalled: options.stalled as SagaDefinition["stalled"],
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
    if (saga.coordination === "choreography" && definition.stalled === undefined)
      throw new Error(`${definition.name} says nothing of how a choreographed saga is ended`)
    const next = after === undefined ? 0 : indexOf(definition, after) + 1
    return decisionOf(forward(definition, saga, next, context))
  }
}
