/**
 * The orchestrator: a participant that gives every answer and every passed deadline to the saga it belongs to.
 * A crash loses no saga: its row, its log and what it asks for are one transaction. Choreographed sagas are only watched.
 *
 * Replicas of several builds may run side by side. What is read for a saga on a version that this build does not have is
 * handed over: kept as a row that is due at once, for a build that has the version. The saga's own deadlines wait for that
 * build, too.
 *
 * Of a choreographed saga messages may be read before the one that starts it, from another topic or by another replica. They
 * are put aside and looked at again.
 */
import { decodePlain, type AnyContract, type Contract } from "../message.ts"
import { OtherBuild, Participant, type Cause, type Context, type Decision, type Handler } from "../participant.ts"
import { advance, decisionOf, type SagaInput } from "./advance.ts"
import { nameOf, registryOf, type SagaDefinition } from "./definition.ts"
import { begun, Saga, type SagaStart } from "./saga.ts"
import { hasEnded, type SagaEarly, type SagaHandover, type SagaRow, type SagaTables } from "./tables.ts"
import { noted, observe, overdue } from "./watch.ts"

/** When a message is looked at that came before its saga: the wait doubles up to a bound. All looks take four minutes. */
const firstLookMs = 1_000
const longestLookMs = 15_000
const mostLooks = 20

/**
 * An orchestrator of these definitions; keep a version for as long as sagas run on it. Answers to orchestrated sagas that
 * don't exist are dropped, unless `starts` says that they start one.
 */
const make = (
  name: string,
  definitions: ReadonlyArray<SagaDefinition>,
  { starts }: { readonly starts: ReadonlyArray<SagaStart> }
): Participant<SagaTables> => {
  const stranger = starts.find((start) => !definitions.includes(start.definition))
  if (stranger !== undefined)
    throw new Error(`${name} starts ${stranger.definition.name}, which is none of its definitions`)
  const steps = stepsOf(name, definitions)
  const contracts = contractsOf(definitions, starts)
  return [...contracts].reduce(
    // The payload goes to the step of this very contract.
    (participant, contract) => participant.on(contract as unknown as Contract<object>, told(contract, steps, starts)),
    dueRows(name, contracts, steps)
  )
}

/** How this build's sagas go on. */
interface Steps {
  readonly step: (saga: SagaRow, input: SagaInput, context: Context) => Decision<SagaTables, never>
  /** Whether the saga goes on, and on a version that this build does not have. */
  readonly isOfOtherBuild: (saga: SagaRow) => boolean
  /** Throws when the saga is another build's. */
  readonly mustBeOurs: (saga: SagaRow) => void
  /** Whether choreographed sagas are watched. */
  readonly watches: boolean
}

const stepsOf = (name: string, definitions: ReadonlyArray<SagaDefinition>): Steps => {
  const known = registryOf(name, definitions)
  const definitionOf = (saga: SagaRow): SagaDefinition => {
    const found = known(saga)
    if (found !== undefined) return found
    const version = nameOf(saga.definition, saga.version)
    throw new OtherBuild(`saga ${saga.id} runs on ${version}, which this build does not have`)
  }
  // the definition of a saga that has ended may be gone from this build
  const asked = (saga: SagaRow, input: SagaInput, context: Context) =>
    hasEnded(saga) ? undefined : advance(definitionOf(saga), saga, input, context)
  const watched = (saga: SagaRow, input: SagaInput, context: Context) => {
    if (input === "deadline") return hasEnded(saga) ? undefined : overdue(definitionOf(saga), saga, context)
    return hasEnded(saga) ? noted(saga, input.contract, context) : observe(definitionOf(saga), saga, input, context)
  }
  return {
    step: (saga, input, context) => {
      const next = saga.coordination === "orchestration" ? asked(saga, input, context) : watched(saga, input, context)
      return next === undefined ? {} : decisionOf(next)
    },
    isOfOtherBuild: (saga) => !hasEnded(saga) && known(saga) === undefined,
    mustBeOurs: (saga) => {
      if (!hasEnded(saga)) definitionOf(saga)
    },
    watches: definitions.some(({ stalled }) => stalled !== undefined)
  }
}

/** All messages that sagas of these definitions are told of. */
const contractsOf = (
  definitions: ReadonlyArray<SagaDefinition>,
  starts: ReadonlyArray<SagaStart>
): ReadonlySet<AnyContract> => {
  const contracts = new Set<AnyContract>(starts.map((start) => start.on))
  for (const { steps, cancelledBy } of definitions) {
    if (cancelledBy !== undefined) contracts.add(cancelledBy)
    for (const { success, failure, undo } of steps) {
      for (const contract of [success, failure, undo?.done]) if (contract !== undefined) contracts.add(contract)
    }
  }
  return contracts
}

/** The participant as far as it decides rows that are due: deadlines, and messages that were put aside. */
const dueRows = (
  name: string,
  contracts: ReadonlySet<AnyContract>,
  { step, mustBeOurs }: Steps
): Participant<SagaTables> => {
  const contractOf = ({ topic, type }: SagaHandover): AnyContract | undefined =>
    [...contracts].find((one) => one.topic.name === topic && one.type === type)
  /** Decides what was put aside as the message that it was. */
  const afterAll = (saga: SagaRow | undefined, aside: SagaHandover, context: Context): Decision<SagaTables, never> => {
    if (saga !== undefined) mustBeOurs(saga)
    const contract = contractOf(aside)
    if (saga === undefined || contract === undefined) return {}
    const payload = decodePlain(contract.type, contract.schema, aside.payload)
    const cause = { id: aside.message_id, type: aside.type, correlation: saga.id }
    return step(saga, { contract, payload }, { ...context, ...cause })
  }
  return Participant.make(name, Saga.tables)
    .due("sagas", {
      decide: (_rows, saga, context) =>
        saga.deadline !== null && saga.deadline > context.now
          ? { put: { sagas: [{ ...saga, due_at: saga.deadline }] } }
          : step(saga, "deadline", context)
    })
    .due("saga_handovers", {
      touches: { sagas: ({ saga_id }) => [saga_id] },
      decide: (rows, handover, context) => {
        const decision = afterAll(rows.sagas.get(handover.saga_id), handover, context)
        return { ...decision, put: { ...decision.put, saga_handovers: [{ ...handover, due_at: null }] } }
      }
    })
    .due("saga_early", {
      touches: { sagas: ({ saga_id }) => [saga_id] },
      decide: (rows, early, context) => {
        const saga = rows.sagas.get(early.saga_id)
        if (saga === undefined) return { put: { saga_early: [lookedAt(early, context.now)] } }
        const decision = afterAll(saga, early, context)
        return { ...decision, put: { ...decision.put, saga_early: [{ ...early, due_at: null }] } }
      }
    })
}

/** The decision on a message: it goes to its saga, starts one, or is put aside. */
const told = (
  contract: AnyContract,
  { step, isOfOtherBuild, watches }: Steps,
  starts: ReadonlyArray<SagaStart>
): Handler<SagaTables, object, void> => {
  const isStart = starts.some(({ on }) => on === contract)
  /** Whether it tells of a choreographed saga whose beginning is yet to be heard of. */
  const isEarly = ({ coordination }: Cause): boolean => watches && coordination === "choreography" && !isStart
  return {
    touches: {
      sagas: (_payload, _rows, { correlation }) => (correlation === null ? [] : [correlation]),
      saga_handovers: (_payload, rows, { id, correlation }) => {
        const saga = correlation === null ? undefined : rows.sagas.get(correlation)
        return saga !== undefined && isOfOtherBuild(saga) ? [id] : []
      },
      saga_early: (_payload, rows, cause) =>
        isEarly(cause) && cause.correlation !== null && rows.sagas.get(cause.correlation) === undefined
          ? [cause.id]
          : []
    },
    decide: (rows, payload, context) => {
      const { correlation } = context
      if (correlation === null) return {}
      const input = { contract, payload }
      const saga = rows.sagas.get(correlation)
      if (saga !== undefined && isOfOtherBuild(saga))
        return { put: { saga_handovers: [asideOf(saga.id, input, context)] } }
      if (saga !== undefined) return step(saga, input, context)
      if (isEarly(context)) {
        const early = { ...asideOf(correlation, input, context), attempt: 0 }
        return { put: { saga_early: [lookedAt(early, context.now)] } }
      }
      const start = starts.find(({ on, when }) => on === contract && (when?.(payload) ?? true))
      if (start === undefined) return {}
      const { definition, after } = start
      const data = start.data(payload)
      if (context.coordination === "orchestration") return Saga.start(definition, correlation, data, context, after)
      if (definition.stalled === undefined) return {}
      return step(begun(definition, correlation, data, context), input, context)
    }
  }
}

/** A message that came before its saga, after another look in vain. */
const lookedAt = (early: SagaEarly, now: Date): SagaEarly => {
  const attempt = early.attempt + 1
  const due_at =
    attempt > mostLooks ? null : new Date(now.getTime() + Math.min(longestLookMs, firstLookMs * 2 ** (attempt - 1)))
  return { ...early, attempt, due_at }
}

/** A message, as it is found later. */
const asideOf = (
  saga_id: string,
  { contract, payload }: { readonly contract: AnyContract; readonly payload: object },
  context: Context
): SagaHandover => ({
  message_id: context.id,
  saga_id,
  topic: contract.topic.name,
  type: contract.type,
  payload,
  due_at: context.now
})

export const Orchestrator = { make }
