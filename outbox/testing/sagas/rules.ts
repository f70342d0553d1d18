/** The rules that every saga keeps to, and what to say of a move that breaks one. */
import type { AnyContract } from "../../message.ts"
import { lastMoment } from "../../sagas/advance.ts"
import type { SagaDefinition } from "../../sagas/definition.ts"
import { hasEnded, type SagaRow } from "../../sagas/tables.ts"
import { decidedAt } from "../decide.ts"
import { answered, isSame, meaningOf, type Ask, type Exploration, type History, type Move } from "./explore.ts"

/** What is proved of a saga, by rule. */
export const sagaRules = {
  undo: "each step before the pivot can be undone, or is declared to change nothing",
  end: "from every state the saga ends when what it asks for is done, and until then it has a deadline",
  reverse: "a compensated saga has undone all that was asked for, each once, in reverse, the step in flight included",
  forward: "steps are asked for in their order, and none once compensation began",
  absorb: "an ended saga takes no notice of anything",
  reply: "a reply counts exactly when its step awaits it, a cancel exactly until the pivot is asked for",
  attempts: "attempts and time are bounded before the pivot, and not from it on nor when undoing",
  pivot: "once the pivot is asked for, nothing but its own refusal takes the saga back",
  message: "each message fits its contract and carries the saga's id"
} as const
export type SagaRule = keyof typeof sagaRules

export interface Problem {
  readonly rule: SagaRule
  readonly problem: string
}

export const nameOf = ({ steps }: SagaDefinition, ask: Ask | undefined): string => {
  const name = ask === undefined ? undefined : steps[ask.step]?.name
  return name === undefined ? "nothing" : ask?.back === true ? `undo ${name}` : name
}

/** What can be said of a definition without running it. */
export const problemsOf = (definition: SagaDefinition): ReadonlyArray<Problem> => {
  const { steps, pivot, cancelledBy } = definition
  const undos = steps.flatMap(({ name, undo, changesNothing }, index): ReadonlyArray<Problem> => {
    if (undo !== undefined && changesNothing === true)
      return [{ rule: "undo", problem: `${name} is declared to change nothing and has an undo` }]
    return index < pivot && undo === undefined && changesNothing !== true
      ? [{ rule: "undo", problem: `${name} has no undo and is not declared to change nothing` }]
      : []
  })
  const replies = [...steps.flatMap(({ success, failure, undo }) => [success, failure, undo?.done]), cancelledBy]
  const twice = new Set(replies.filter((reply, index) => reply !== undefined && replies.indexOf(reply) !== index))
  return [
    ...undos,
    ...[...twice].map((reply): Problem => ({ rule: "reply", problem: `${reply?.type} is an answer to two questions` }))
  ]
}

/** What is wrong with a move. */
export const brokenBy = (move: Move): ReadonlyArray<Problem> => {
  const { definition, from, told, threw } = move
  const where = `while ${nameOf(definition, from.history.awaited)} is awaited`
  if (threw !== undefined) return [{ rule: "message", problem: `${toldName(move)} ${where}: ${threw}` }]
  if (hasEnded(from.row))
    return move.next === undefined ? [] : [{ rule: "absorb", problem: `${toldName(move)} changes an ended saga` }]
  if (told === "look") return lookedAt(move)
  const problems = [...counting(move), ...rowOf(move), ...messagesOf(move)]
  // what follows of it would only be said twice
  return problems.length > 0 ? problems : [...attemptsOf(move), ...orderOf(move), ...endOf(move)]
}

const toldName = ({ told }: Move): string =>
  told === "deadline" ? "a passed deadline" : told === "look" ? "a look before the deadline" : told.contract.type

const lookedAt = ({ next, from, asks }: Move): ReadonlyArray<Problem> => {
  if (next === undefined || next.row.due_at?.getTime() !== from.row.deadline?.getTime())
    return [{ rule: "end", problem: "a look before the deadline does not lead to one at the deadline" }]
  const { state, step, attempt } = next.row
  return asks.length > 0 || state !== from.row.state || step !== from.row.step || attempt !== from.row.attempt
    ? [{ rule: "end", problem: "a look before the deadline counts as the deadline" }]
    : []
}

const counting = (move: Move): ReadonlyArray<Problem> => {
  const { definition, from, told, next } = move
  const awaited = nameOf(definition, from.history.awaited)
  if (told === "deadline")
    return next === undefined
      ? [{ rule: "end", problem: `a deadline that passes while ${awaited} is awaited changes nothing` }]
      : []
  const counts = meaningOf(move) !== undefined
  if (counts === (next !== undefined)) return []
  const verb = counts ? "does not count" : "counts"
  return [{ rule: "reply", problem: `${toldName(move)} ${verb} while ${awaited} is awaited` }]
}

const rowOf = (move: Move): ReadonlyArray<Problem> => {
  const { next, from } = move
  if (next === undefined) return []
  const { deadline, due_at, ended_at, ...row } = next.row
  const problems: Array<Problem> = []
  if (row.started_at.getTime() !== from.row.started_at.getTime())
    problems.push({ rule: "attempts", problem: "the saga's start is moved, and its deadline with it" })
  if (row.id !== from.row.id || row.definition !== from.row.definition || row.version !== from.row.version)
    problems.push({ rule: "message", problem: "the saga does not stay what it is: id, definition and version" })
  if (!hasEnded(next.row)) return [...problems, ...waitOf(move, next.row)]
  return deadline === null && due_at === null && ended_at !== null
    ? problems
    : [...problems, { rule: "end", problem: `a saga that is ${row.state} still waits for something` }]
}

/** What is wrong with how long a saga waits. */
const waitOf = ({ definition, asks: [ask], late }: Move, row: SagaRow): ReadonlyArray<Problem> => {
  if (ask === undefined)
    return [{ rule: "end", problem: `the saga is ${row.state} at ${row.step} and asks for nothing` }]
  const waits = `the saga waits for ${nameOf(definition, ask)}`
  const { deadline, due_at } = row
  if (deadline === null || due_at === null || !(due_at <= deadline))
    return [{ rule: "end", problem: `${waits} without a deadline` }]
  const isBounded = !ask.back && ask.step < definition.pivot
  if (isBounded && deadline.getTime() > lastMoment(definition, row))
    return [{ rule: "attempts", problem: `${waits} past its own deadline` }]
  if (!(isBounded && late) && deadline <= decidedAt)
    return [{ rule: "end", problem: `${waits} with a deadline that has passed` }]
  return []
}

const messagesOf = ({ next, asks, from }: Move): ReadonlyArray<Problem> => {
  const send = next?.send ?? []
  const stray = send.find((_message, index) => asks[index] === undefined)
  if (stray !== undefined) return [{ rule: "message", problem: `no step asks for ${stray.contract.type}` }]
  if (send.length > 1) return [{ rule: "message", problem: "more than one message is sent at a time" }]
  return send.every(({ correlation }) => correlation === from.row.id)
    ? []
    : [{ rule: "message", problem: "a message does not carry the saga's id as its correlation" }]
}

/** Whether the awaited step is at the pivot or past it. */
const isFinal = ({ definition, from: { history } }: Move): boolean =>
  history.awaited?.back === false && history.awaited.step >= definition.pivot

const attemptsOf = (move: Move): ReadonlyArray<Problem> => {
  const { definition, from, told, late, next } = move
  const [ask] = move.asks
  const { awaited, times } = from.history
  const step = awaited === undefined ? undefined : definition.steps[awaited.step]
  const isAgain = told === "deadline" && isSame(ask, awaited)
  if (ask !== undefined && next?.row.attempt !== (isAgain ? from.row.attempt + 1 : 1))
    return [{ rule: "attempts", problem: `the attempts of ${nameOf(definition, ask)} are not counted` }]
  if (told !== "deadline" || awaited === undefined || step === undefined) return []
  const name = nameOf(definition, awaited)
  if (awaited.back || isFinal(move))
    return isAgain ? [] : [{ rule: "attempts", problem: `${name} is given up, which has to be done` }]
  if (isAgain && late) return [{ rule: "attempts", problem: `${name} is asked for past the saga's own deadline` }]
  if (isAgain && times >= step.attempts)
    return [{ rule: "attempts", problem: `${name} is asked for more than the ${step.attempts} times it may be` }]
  return isAgain || late || times >= step.attempts
    ? []
    : [{ rule: "attempts", problem: `${name} is given up after ${times} of ${step.attempts} attempts` }]
}

/** The step that is to be undone next: the last that was asked for and may have taken effect. */
const owed = ({ steps }: SagaDefinition, { asked, refused, undone }: History): number | undefined =>
  asked
    .filter((step) => steps[step]?.undo !== undefined && !refused.includes(step) && !undone.includes(step))
    .toSorted((a, b) => b - a)[0]

const orderOf = (move: Move): ReadonlyArray<Problem> => {
  const { definition, from, told, asks } = move
  const [ask] = asks
  const meaning = meaningOf(move)
  // one that is asked for again after its success is seen by where that leads: to no end
  if (ask === undefined || (isSame(ask, from.history.awaited) && (told === "deadline" || meaning === "success")))
    return []
  const since = answered(from.history, meaning)
  const name = nameOf(definition, ask)
  if (!ask.back) {
    if (from.row.state === "COMPENSATING" || from.history.awaited?.back === true)
      return [{ rule: "forward", problem: `${name} is asked for while the saga is being undone` }]
    return meaning === "success" && ask.step === (from.history.awaited?.step ?? -1) + 1
      ? []
      : [{ rule: "forward", problem: `${name} is asked for out of its turn` }]
  }
  if (isFinal(move) && !isRefusal(move)) return [{ rule: "pivot", problem: `${name} is asked for: too late` }]
  if (meaning === "success") return [{ rule: "forward", problem: `${name} is asked for, and nothing failed` }]
  const step = owed(definition, since)
  if (step === ask.step) return []
  const instead = step === undefined ? "nothing is left to undo" : `${definition.steps[step]?.name} comes first`
  return [{ rule: "reverse", problem: `${name} is asked for where ${instead}` }]
}

/** Whether the pivot itself says that it will not be done. */
const isRefusal = (move: Move): boolean =>
  move.from.history.awaited?.step === move.definition.pivot && meaningOf(move) === "failure"

const endOf = (move: Move): ReadonlyArray<Problem> => {
  const { definition, from, next } = move
  if (next === undefined || !hasEnded(next.row)) return []
  const { awaited } = from.history
  const meaning = meaningOf(move)
  if (next.row.state === "COMPLETED")
    return meaning === "success" && awaited?.step === definition.steps.length - 1
      ? []
      : [{ rule: "forward", problem: `the saga is COMPLETED while ${nameOf(definition, awaited)} is awaited` }]
  if (isFinal(move) && !isRefusal(move))
    return [{ rule: "pivot", problem: `the saga is COMPENSATED while ${nameOf(definition, awaited)} is awaited` }]
  if (meaning === "success") return [{ rule: "forward", problem: "the saga is COMPENSATED, and nothing failed" }]
  const step = owed(definition, answered(from.history, meaning))
  return step === undefined
    ? []
    : [{ rule: "reverse", problem: `the saga is COMPENSATED and ${definition.steps[step]?.name} is not undone` }]
}

/** A message that is asked for in two ways: who is asked could not tell a step from its undoing, or from another's. */
export const ambiguous = (
  definition: SagaDefinition,
  asked: ReadonlyMap<AnyContract, ReadonlyArray<Ask>>
): ReadonlyArray<Problem> =>
  [...asked].flatMap(([{ type }, asks]): ReadonlyArray<Problem> => {
    const back = asks.find((ask) => ask.back)
    const other = asks.find((ask) => back !== undefined && !isSame(ask, back))
    return back === undefined || other === undefined
      ? []
      : [
          {
            rule: "undo",
            problem: `${type} is sent for ${nameOf(definition, back)} and for ${nameOf(definition, other)}`
          }
        ]
  })

/** States from which no end is reached when everything that is asked for is done; the nearest first. */
export const deadEnds = (definition: SagaDefinition, { nodes, edges, problems }: Exploration) => {
  const answers = edges.filter(({ from, told }) => {
    const meaning = meaningOf({ definition, from, told })
    return meaning === "success" || meaning === "undone"
  })
  // where a rule is broken already, nothing is known of what comes after
  const broken = new Set(problems.map(({ from }) => from))
  const leading = new Set(nodes.filter((node) => hasEnded(node.row) || broken.has(node)))
  for (let before = -1; before !== leading.size;) {
    before = leading.size
    for (const { from, to } of answers) if (leading.has(to)) leading.add(from)
  }
  return nodes
    .filter((node) => !leading.has(node))
    .map(({ history, path }) => ({
      rule: "end" as const,
      problem: `with ${nameOf(definition, history.awaited)} done, and all that is asked for then, the saga does not end`,
      path
    }))
}
