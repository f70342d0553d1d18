/** What a saga's definition says of its steps. */
import { type Duration } from "effect"
import type { AnyContract, Contract, Outgoing } from "../message.ts"
import type { SagaRow } from "./tables.ts"

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
  /** Says that the step has no undo on purpose. Nothing goes by it but `checkSaga` of `oncebox/testing`. */
  readonly changesNothing?: true
  /** How long to wait for an answer; the wait doubles with each attempt. */
  readonly deadline: Duration.Input
  /** How often to ask before the saga gives the step up. From the pivot on, and when undoing, it never does. */
  readonly attempts: number
}

/** A step whose types are not known here. */
export interface AnyStep {
  readonly name: string
  readonly ask: (saga: SagaView<unknown>) => Outgoing
  readonly success: AnyContract
  readonly learn: ((data: unknown, event: object) => unknown) | undefined
  readonly failure: AnyContract | undefined
  readonly undo: { readonly ask: (saga: SagaView<unknown>) => Outgoing; readonly done: AnyContract } | undefined
  readonly changesNothing?: true
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
  readonly stalled: ((saga: SagaView<unknown>) => Outgoing) | undefined
  readonly decode: (data: unknown) => Data
}

/** What a definition is called, in one version. */
export const nameOf = (name: string, version: number): string => `${name} v${version}`

/**
 * Finds a saga's definition, in the version that it runs on, among those that `owner` has; undefined when this build has it
 * no more, or not yet. Throws when two are one.
 */
export const registryOf = <Data>(owner: string, definitions: ReadonlyArray<SagaDefinition<Data>>) => {
  const known = new Map(definitions.map((one) => [nameOf(one.name, one.version), one]))
  if (known.size !== definitions.length) throw new Error(`${owner} has two definitions of one name and version`)
  return (saga: Pick<SagaRow, "definition" | "version">): SagaDefinition<Data> | undefined =>
    known.get(nameOf(saga.definition, saga.version))
}

export const viewOf = (definition: SagaDefinition, saga: SagaRow): SagaView<unknown> => ({
  id: saga.id,
  data: definition.decode(saga.data),
  reason: saga.reason
})
