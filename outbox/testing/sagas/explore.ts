/**
 * Walks every path of a saga: from each state that it can reach, everything that may come next. States are the same when
 * they differ in ids and times only. Of time counts whether the saga's own deadline has passed; an attempt counts up to
 * one more than any step has, then it is a million, so that a bound that should not be there is met.
 */
import type { AnyContract, Outgoing } from "../../message.ts"
import type { advance } from "../../sagas/advance.ts"
import type { SagaDefinition, SagaView } from "../../sagas/definition.ts"
import { Orchestrator } from "../../sagas/orchestrator.ts"
import { hasEnded, type SagaRow } from "../../sagas/tables.ts"
import { decidedAt, decideWith } from "../decide.ts"

/** What a saga is told: a message, that its deadline passed, or that it was looked at before its deadline. */
export type Told = { readonly contract: AnyContract; readonly payload: object } | "deadline" | "look"

/** A saga's row after it was told something, and what it sends; undefined when nothing changes. */
export interface Next {
  readonly row: SagaRow
  readonly send: ReadonlyArray<Outgoing>
}
export type Decide = (saga: SagaRow, told: Told) => Next | undefined

/** A step that is asked for, or whose undoing is. */
export interface Ask {
  readonly step: number
  readonly back: boolean
}

/** What was asked and answered, whatever the saga's row says of it. */
export interface History {
  /** What was asked for last, while it is not answered. */
  readonly awaited: Ask | undefined
  /** How often in a row it was asked for. */
  readonly times: number
  /** The steps that were asked for, those before the start included. */
  readonly asked: ReadonlyArray<number>
  /** Those that answered that they did nothing. */
  readonly refused: ReadonlyArray<number>
  /** Those that answered that they are taken back. */
  readonly undone: ReadonlyArray<number>
  /** What began the compensation. */
  readonly cause: string | undefined
}

export interface Node {
  readonly row: SagaRow
  /** Whether the saga's own deadline has passed. */
  readonly late: boolean
  readonly history: History
  /** The shortest way there. */
  readonly path: ReadonlyArray<string>
}

/** What a state is told, and what came of it. */
export interface Move {
  readonly definition: SagaDefinition
  readonly from: Node
  readonly told: Told
  readonly late: boolean
  readonly next: Next | undefined
  /** What the sent messages ask for; undefined for a message that is of no step. */
  readonly asks: ReadonlyArray<Ask | undefined>
  /** The error of a decision that threw. */
  readonly threw: string | undefined
}

export interface Edge {
  readonly from: Node
  readonly to: Node
  readonly told: Told
}

/** What a message means for what is awaited; undefined when it is none of its answers. */
export type Meaning = "success" | "failure" | "undone" | "cancel"

export const meaningOf = ({ definition, from, told }: Pick<Move, "definition" | "from" | "told">) => {
  const { awaited } = from.history
  if (typeof told === "string" || awaited === undefined || hasEnded(from.row)) return undefined
  const step = definition.steps[awaited.step]
  const meanings: ReadonlyArray<readonly [Meaning, AnyContract | undefined]> = awaited.back
    ? [["undone", step?.undo?.done]]
    : [
        ["success", step?.success],
        ["failure", step?.failure],
        ["cancel", awaited.step < definition.pivot ? definition.cancelledBy : undefined]
      ]
  return meanings.find(([, contract]) => contract === told.contract)?.[0]
}

/** The history with an answer to what was awaited. */
export const answered = (history: History, meaning: Meaning | undefined): History => {
  const { awaited, refused, undone } = history
  if (awaited === undefined || meaning === undefined || meaning === "cancel") return history
  const done = { ...history, awaited: undefined, times: 0 }
  if (meaning === "failure") return { ...done, refused: [...refused, awaited.step] }
  return meaning === "undone" ? { ...done, undone: [...undone, awaited.step] } : done
}

export const isSame = (a: Ask | undefined, b: Ask | undefined): boolean => a?.step === b?.step && a?.back === b?.back

const asking = (history: History, ask: Ask): History => ({
  ...history,
  awaited: ask,
  times: isSame(history.awaited, ask) ? history.times + 1 : 1,
  asked: ask.back || history.asked.includes(ask.step) ? history.asked : [...history.asked, ask.step]
})

const mark = Symbol("the step that asks")
type Marked = Outgoing & { readonly [mark]?: Ask }
const askOf = (message: Marked): Ask | undefined => message[mark]

/** The definition, with every message marked by the step that asks for it. */
export const marked = (definition: SagaDefinition): SagaDefinition => ({
  ...definition,
  steps: definition.steps.map((step, index) => {
    const marking = (ask: (saga: SagaView<unknown>) => Outgoing, back: boolean) => (saga: SagaView<unknown>) => {
      const message: Marked = { ...ask(saga), [mark]: { step: index, back } }
      return message
    }
    const { undo } = step
    return {
      ...step,
      ask: marking(step.ask, false),
      undo: undo === undefined ? undefined : { ...undo, ask: marking(undo.ask, true) }
    }
  })
})

/** Decides as an orchestrator of this definition does, in full. */
export const orchestrated = (definition: SagaDefinition): Decide => {
  const orchestrator = Orchestrator.make("checked", [definition], { starts: [] })
  return (saga, told) => {
    const { id: key, coordination } = saga
    const input =
      typeof told === "string" ? { due: "sagas", key, at: decidedAt } : { ...told, correlation: key, coordination }
    const { put, send = [] } = decideWith(orchestrator, { sagas: [saga] }, input)
    const [row] = put?.sagas ?? []
    return row === undefined && send.length === 0 ? undefined : { row: row ?? saga, send }
  }
}

/** Decides by this function in place of the library's. */
export const advancing =
  (by: typeof advance) =>
  (definition: SagaDefinition): Decide =>
  (saga, told) => {
    if (told === "look") return { row: { ...saga, due_at: saga.deadline }, send: [] }
    const type = told === "deadline" ? "due sagas" : told.contract.type
    const { id: correlation, coordination, definition: name } = saga
    const newId = () => "00000000-0000-7000-8000-000000000002"
    const context = {
      id: newId(),
      key: correlation,
      type,
      correlation,
      coordination,
      definition: name,
      traceparent: null,
      newId
    }
    return by(definition, saga, told, { ...context, now: decidedAt })
  }

const farAttempt = 1_000_000
/** A minute; how far a deadline is away does not count. */
const aheadMs = 60_000

/** The saga's row at the one time there is, when it is told this. */
const rowAt = (row: SagaRow, told: Told, startedAt: Date): SagaRow => {
  if (hasEnded(row)) return { ...row, started_at: startedAt }
  const ahead = new Date(decidedAt.getTime() + aheadMs)
  const due = told === "look" || told === "deadline" ? decidedAt : new Date(decidedAt.getTime() + aheadMs / 2)
  return { ...row, started_at: startedAt, due_at: due, deadline: told === "deadline" ? decidedAt : ahead }
}

const labelOf = (told: Told, isNewlyLate: boolean): string => {
  const names = { deadline: "no answer in time", look: "a look before the deadline" }
  return `${typeof told === "string" ? names[told] : told.contract.type}${isNewlyLate ? ", past the saga's own deadline" : ""}`
}

export interface Exploration {
  readonly nodes: ReadonlyArray<Node>
  readonly edges: ReadonlyArray<Edge>
  /** How often a state was told something. */
  readonly transitions: number
  readonly problems: ReadonlyArray<{ readonly from: Node; readonly move: Move; readonly path: ReadonlyArray<string> }>
  /** By contract: the steps that asked with it. */
  readonly asked: ReadonlyMap<AnyContract, ReadonlyArray<Ask>>
  /** Whether there are more states than were looked at. */
  readonly isCut: boolean
}

export interface Start {
  readonly next: Next
  /** The step that is done already. */
  readonly after: number
}

/** Walks on from the starts, over every move that is not refused by `isBroken`. */
export const explore = (
  definition: SagaDefinition,
  starts: ReadonlyArray<Start>,
  messages: ReadonlyArray<Exclude<Told, string>>,
  decide: Decide,
  { isBroken, mostStates }: { readonly isBroken: (move: Move) => boolean; readonly mostStates: number }
): Exploration => {
  const nodes = new Map<string, Node>()
  const edges: Array<Edge> = []
  const problems: Array<Exploration["problems"][number]> = []
  const asked = new Map<AnyContract, Array<Ask>>()
  const lateStart = new Date(decidedAt.getTime() - definition.deadlineMs)
  const timesAt = ({ late }: Node) => (late ? [true] : Number.isFinite(definition.deadlineMs) ? [false, true] : [false])
  const queue: Array<Node> = []
  const arrive = (node: Node): Node => {
    const settled = settle(definition, node)
    const key = keyOf(settled)
    const known = nodes.get(key)
    if (known !== undefined) return known
    nodes.set(key, settled)
    queue.push(settled)
    return settled
  }
  for (const start of starts) {
    note(asked, start.next)
    arrive(startedAs(start))
  }
  let transitions = 0
  // the queue grows while it is walked
  for (const from of queue) {
    if (nodes.size > mostStates) return { nodes: queue, edges, transitions, problems, asked, isCut: true }
    for (const late of timesAt(from)) {
      for (const told of [...messages, "deadline", ...(hasEnded(from.row) ? [] : ["look" as const])] as const) {
        const row = rowAt(from.row, told, late ? lateStart : decidedAt)
        const move = moved(definition, { ...from, row }, told, late, decide)
        const path = [...from.path, labelOf(told, late && !from.late)]
        transitions++
        note(asked, move.next)
        if (isBroken(move)) problems.push({ from, move, path })
        else if (move.next !== undefined) edges.push({ from, to: arrive(landing(move, move.next, path)), told })
      }
    }
  }
  return { nodes: queue, edges, transitions, problems, asked, isCut: false }
}

const note = (asked: Map<AnyContract, Array<Ask>>, next: Next | undefined): void => {
  for (const message of next?.send ?? []) {
    const [ask, before] = [askOf(message), asked.get(message.contract) ?? []]
    if (ask !== undefined && !before.some((one) => isSame(one, ask))) asked.set(message.contract, [...before, ask])
  }
}

const moved = (definition: SagaDefinition, from: Node, told: Told, late: boolean, decide: Decide): Move => {
  try {
    const next = decide(from.row, told)
    return { definition, from, told, late, next, asks: next?.send.map(askOf) ?? [], threw: undefined }
  } catch (cause) {
    const threw = cause instanceof Error ? cause.message : String(cause)
    return { definition, from, told, late, next: undefined, asks: [], threw }
  }
}

const startedAs = ({ next: { row, send }, after }: Start): Node => {
  const before = { awaited: undefined, times: 0, refused: [], undone: [], cause: undefined }
  const history: History = { ...before, asked: Array.from({ length: after + 1 }, (_, step) => step) }
  const ask = send.map(askOf)[0]
  return { row, late: false, history: ask === undefined ? history : asking(history, ask), path: [] }
}

/** Where a move leads. */
const landing = (move: Move, { row }: Next, path: ReadonlyArray<string>): Node => {
  const { from, told, late, asks } = move
  const [ask] = asks
  const since = answered(from.history, meaningOf(move))
  const cause = from.row.state === "RUNNING" && isTakenBack(row) ? labelOf(told, false) : since.cause
  return { row, late, history: { ...(ask === undefined ? since : asking(since, ask)), cause }, path }
}

const isTakenBack = ({ state }: SagaRow): boolean => state === "COMPENSATING" || state === "COMPENSATED"

const settle = (definition: SagaDefinition, { row, history, ...node }: Node): Node => {
  const most = Math.max(...definition.steps.map(({ attempts }) => attempts)) + 1
  const attempt = row.attempt > most ? farAttempt : row.attempt
  return { ...node, row: { ...row, attempt }, history: { ...history, times: Math.min(history.times, most) } }
}

const keyOf = ({ row: { state, step, attempt, data, reason }, late, history }: Node): string =>
  JSON.stringify([state, step, attempt, data, reason, late, history])
