/**
 * Proves the rules of an orchestrated saga by walking every path of its definition, without running a service. What
 * decides is the orchestrator as it is in production; what holds in every state that can be reached holds in all runs.
 * Choreographed sagas are only watched: nothing is asked in their name, and nothing is said of them here.
 */
import { Effect } from "effect"
import * as Arbitrary from "effect/Arbitrary"
import { encodePayload, type AnyContract, type Outgoing } from "../../message.ts"
import type { SagaDefinition } from "../../sagas/definition.ts"
import { Saga } from "../../sagas/saga.ts"
import { decidedAt } from "../decide.ts"
import { chartOf } from "./chart.ts"
import {
  explore,
  marked,
  orchestrated,
  type Decide,
  type Exploration,
  type Move,
  type Start,
  type Told
} from "./explore.ts"
import { ambiguous, brokenBy, deadEnds, problemsOf, type Problem } from "./rules.ts"

export interface CheckSagaOptions<Data> {
  /** What sagas of the definition know at their start: one example for each case that their messages tell apart. */
  readonly data: ReadonlyArray<Data>
  /** Steps behind which sagas are started, too: those of `Saga.startedBy`. */
  readonly after?: ReadonlyArray<string>
  /** Answers to be given as they are. Those of other types are drawn from the schemas of their contracts. */
  readonly answers?: ReadonlyArray<Outgoing>
  /** How often everything is walked, each time with newly drawn answers; twice when absent. */
  readonly draws?: number
  /** More states than the saga should have: past them something grows without bound. 20,000 when absent. */
  readonly mostStates?: number
}

/** A rule that is broken, and the shortest way there: what the saga is told, one after the other. */
export interface SagaFinding extends Problem {
  readonly path: ReadonlyArray<string>
}

export interface SagaCheck {
  readonly findings: ReadonlyArray<SagaFinding>
  /** How many states were reached with one set of answers, and how many moves were judged. */
  readonly states: number
  readonly transitions: number
  /** The saga as a Mermaid state chart, without the moves that break a rule. */
  readonly chart: string
}

/**
 * Walks every path of a saga and judges each move by `sagaRules`. From each state it tries every answer of every step,
 * awaited, late or repeated, a passed deadline, the saga's own deadline, and the cancel. With `findings` empty the
 * rules hold for each order of messages; for payloads they hold as far as the answers that were drawn go.
 */
export const checkSaga = <Data>(definition: SagaDefinition<Data>, options: CheckSagaOptions<Data>): SagaCheck =>
  checkWith(definition, options, orchestrated)

/** Checks what `decides` makes of a definition. */
export const checkWith = <Data>(
  definition: SagaDefinition<Data>,
  { data, after = [], answers = [], draws = 2, mostStates = 20_000 }: CheckSagaOptions<Data>,
  decides: (definition: SagaDefinition) => Decide
): SagaCheck => {
  if (data.length === 0) throw new Error(`${definition.name} can't be checked without data to start with`)
  const stranger = after.find((done) => !definition.steps.some(({ name }) => name === done))
  if (stranger !== undefined) throw new Error(`${definition.name} v${definition.version} has no step ${stranger}`)
  const watched = marked(definition)
  const decide = decides(watched)
  const fixed = problemsOf(definition).map((problem) => ({ ...problem, path: [] }))
  const starts = startsOf(watched, data, after)
  if ("problem" in starts) return { findings: [...fixed, starts], states: 0, transitions: 0, chart: "" }
  const isBroken = (move: Move): boolean => brokenBy(move).length > 0
  const walks = Array.from({ length: draws }, (_, draw) =>
    explore(watched, starts, messagesOf(watched, answers, draw), decide, { isBroken, mostStates })
  )
  const [first] = walks
  if (first === undefined) throw new Error(`${definition.name} can't be checked without a draw of answers`)
  // what one draw finds the others find, too, but for what the answers themselves set off
  const found = walks.map((walk) => findingsOf(watched, walk, mostStates)).find((some) => some.length > 0)
  const began = first.nodes.filter(({ path }) => path.length === 0)
  return {
    findings: [...fixed, ...(found ?? [])],
    states: first.nodes.length,
    transitions: first.transitions,
    chart: chartOf(watched, began, first.edges)
  }
}

const startsOf = (
  definition: SagaDefinition,
  data: ReadonlyArray<unknown>,
  after: ReadonlyArray<string>
): ReadonlyArray<Start> | SagaFinding => {
  const id = "00000000-0000-7000-8000-000000000001"
  const context = {
    id,
    key: id,
    type: "start",
    correlation: id,
    coordination: "orchestration",
    definition: definition.name,
    traceparent: null
  } as const
  const start = (known: unknown, done: string | undefined): Start => {
    const { put, send = [] } = Saga.start(definition, id, known, { ...context, now: decidedAt, newId: () => id }, done)
    send.forEach(encodePayload)
    const [row] = put?.sagas ?? []
    if (row === undefined) throw new Error(`${definition.name} does not start`)
    return { next: { row, send }, after: definition.steps.findIndex(({ name }) => name === done) }
  }
  try {
    return data.flatMap((known) => [undefined, ...after].map((done) => start(known, done)))
  } catch (cause) {
    return { rule: "message", problem: cause instanceof Error ? cause.message : String(cause), path: [] }
  }
}

/** One payload for each message that the saga may be told. */
const messagesOf = ({ name, steps, cancelledBy }: SagaDefinition, answers: ReadonlyArray<Outgoing>, draw: number) => {
  const replies = steps.flatMap(({ success, failure, undo }) => [success, failure, undo?.done])
  const contracts = new Set([...replies, cancelledBy].filter((contract) => contract !== undefined))
  return [...contracts].map((contract): Exclude<Told, string> => {
    const given = answers.filter((answer) => answer.contract === contract)
    return { contract, payload: given[draw % given.length]?.payload ?? drawn(name, contract, draw) }
  })
}

/** Of that many payloads one can be sent: texts that Postgres can't store are rare. */
const mostDrawn = 50

const drawn = (saga: string, contract: AnyContract, draw: number): object => {
  const refused = `no payload of ${contract.type} can be drawn: give one in the answers of the check of ${saga}`
  try {
    const payloads = Arbitrary.schema(contract.schema)
    for (let again = 0; again < mostDrawn; again++) {
      // the seed makes each type's payloads different, and the same in every run
      const options = { count: 1, seed: `${contract.type} ${draw} ${again}`, size: 3 }
      const [payload] = Effect.runSync(Arbitrary.sampleEffect(payloads, options))
      if (payload !== undefined && isSendable(contract, payload)) return payload
    }
  } catch (cause) {
    throw new Error(refused, { cause })
  }
  throw new Error(refused)
}

const isSendable = (contract: AnyContract, payload: object): boolean => {
  try {
    encodePayload({ contract, payload })
    return true
  } catch {
    return false
  }
}

const findingsOf = (
  definition: SagaDefinition,
  walked: Exploration,
  mostStates: number
): ReadonlyArray<SagaFinding> => {
  const moves = walked.problems.flatMap(({ move, path }) => brokenBy(move).map((problem) => ({ ...problem, path })))
  const roles = ambiguous(definition, walked.asked).map((problem) => ({ ...problem, path: [] }))
  const all = walked.isCut
    ? [...moves, { rule: "end" as const, problem: `there are more than ${mostStates} states`, path: [] }]
    : [...moves, ...roles, ...deadEnds(definition, walked)]
  const first = new Map<string, SagaFinding>()
  // the shortest way comes first
  for (const finding of all) {
    const name = `${finding.rule} ${finding.problem}`
    if (!first.has(name)) first.set(name, finding)
  }
  return [...first.values()]
}
