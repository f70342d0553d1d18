/** How far a saga has come, in words of its definition: the same picture for both styles. */
import type { SagaDefinition } from "./definition.ts"
import { hasEnded, type SagaRow } from "./tables.ts"

export interface Progress {
  /** Steps that are done, in their order. When the saga is being undone: those of which it is not confirmed that they are taken back. */
  readonly done: ReadonlyArray<string>
  /** What comes next, and the types of the messages that would tell; null once the saga has ended. */
  readonly waitingFor: { readonly step: string; readonly messages: ReadonlyArray<string> } | null
  /** Steps still to be done after that; when the saga is being undone, to be taken back. */
  readonly remaining: ReadonlyArray<string>
}

export const progressOf = (definition: SagaDefinition, saga: SagaRow): Progress => {
  const { steps } = definition
  const at = steps.findIndex(({ name }) => name === saga.step)
  const names = (list: typeof steps): ReadonlyArray<string> => list.map(({ name }) => name)
  if (hasEnded(saga)) return { done: saga.state === "COMPLETED" ? names(steps) : [], waitingFor: null, remaining: [] }
  const step = steps[at]
  if (step === undefined) throw new Error(`${definition.name} v${definition.version} has no step ${saga.step}`)
  if (saga.state === "RUNNING") {
    const messages = [step.success, step.failure].flatMap((contract) => contract?.type ?? [])
    return {
      done: names(steps.slice(0, at)),
      waitingFor: { step: step.name, messages },
      remaining: names(steps.slice(at + 1))
    }
  }
  // a choreographed saga's steps are taken back in any order
  const left = steps
    .slice(0, at + 1)
    .filter(({ undo }) => undo !== undefined && !saga.seen.includes(undo.done.type))
    .toReversed()
  const [current, ...others] =
    saga.coordination === "choreography" ? left : [step, ...left.filter((one) => one !== step)]
  const messages = current?.undo === undefined ? [] : [current.undo.done.type]
  return {
    done: names(others.toReversed()),
    waitingFor: { step: current?.name ?? step.name, messages },
    remaining: names(others)
  }
}
