/**
 * The orchestrator: a participant that gives every answer and every passed deadline to the saga it belongs to.
 * A crash loses no saga: its row, its log and what it asks for are one transaction. Choreographed sagas are only watched.
 */
import type { AnyContract, Contract } from "../message.ts"
import { Participant, type Context, type Decision } from "../participant.ts"
import { advance, decisionOf, type SagaInput } from "./advance.ts"
import type { SagaDefinition } from "./definition.ts"
import { begun, Saga, type SagaStart } from "./saga.ts"
import { hasEnded, type SagaRow, type SagaTables } from "./tables.ts"
import { observe, overdue } from "./watch.ts"

/**
 * An orchestrator of these definitions; keep a version for as long as sagas run on it. Answers to sagas that don't
 * exist are dropped, unless `starts` says that they start one.
 */
const make = (
  name: string,
  definitions: ReadonlyArray<SagaDefinition>,
  options: { readonly starts: ReadonlyArray<SagaStart> }
): Participant<SagaTables> => {
  const registry = new Map(
    definitions.map((definition) => [`${definition.name} v${definition.version}`, definition as SagaDefinition])
  )
  if (registry.size !== definitions.length) throw new Error(`${name} has two definitions of one name and version`)
  const stranger = options.starts.find((start) => !definitions.includes(start.definition))
  if (stranger !== undefined)
    throw new Error(`${name} starts ${stranger.definition.name}, which is none of its definitions`)
  const definitionOf = (saga: SagaRow): SagaDefinition => {
    const found = registry.get(`${saga.definition} v${saga.version}`)
    if (found === undefined)
      throw new Error(`saga ${saga.id} runs on ${saga.definition} v${saga.version}, which this build does not have`)
    return found
  }
  const step = (saga: SagaRow, input: SagaInput, context: Context): Decision<SagaTables, never> => {
    // the definition of a saga that has ended may be gone from this build
    if (hasEnded(saga)) return {}
    const definition = definitionOf(saga)
    const next =
      saga.coordination === "orchestration"
        ? advance(definition, saga, input, context)
        : input === "deadline"
          ? overdue(definition, saga, context)
          : observe(definition, saga, input, context)
    return next === undefined ? {} : decisionOf(next)
  }
  const contracts = new Set<AnyContract>(options.starts.map((start) => start.on))
  for (const { steps, cancelledBy } of registry.values()) {
    if (cancelledBy !== undefined) contracts.add(cancelledBy)
    for (const { success, failure, undo } of steps) {
      for (const contract of [success, failure, undo?.done]) if (contract !== undefined) contracts.add(contract)
    }
  }
  const empty: Participant<SagaTables> = Participant.make(name, Saga.tables).due("sagas", {
    decide: (_rows, saga, context) =>
      saga.deadline !== null && saga.deadline > context.now
        ? { put: { sagas: [{ ...saga, due_at: saga.deadline }] } }
        : step(saga, "deadline", context)
  })
  return [...contracts].reduce(
    (participant, contract) =>
      // The payload goes to the step of this very contract.
      participant.on(contract as unknown as Contract<object>, {
        touches: { sagas: (_payload, _rows, cause) => (cause.correlation === null ? [] : [cause.correlation]) },
        decide: (rows, payload, context) => {
          if (context.correlation === null) return {}
          const input = { contract, payload }
          const saga = rows.sagas.get(context.correlation)
          if (saga !== undefined) return step(saga, input, context)
          const start = options.starts.find(({ on, when }) => on === contract && (when?.(payload) ?? true))
          if (start === undefined) return {}
          const { definition, after } = start
          const data = start.data(payload)
          if (context.coordination === "orchestration")
            return Saga.start(definition, context.correlation, data, context, after)
          if (definition.cancel === undefined) return {}
          return step(begun(definition, context.correlation, data, context), input, context)
        }
      }),
    empty
  )
}

export const Orchestrator = { make }
