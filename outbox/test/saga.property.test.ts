/**
 * The rules that hold for every saga, checked on random definitions and random inputs. What is checked is the trace:
 * what was told, what was asked, what was logged. `SEED=… bun test` tries others.
 */
import { expect, test } from "bun:test"
import { Schema } from "effect"
import fc from "fast-check"
import { Topic, type AnyContract, type Outgoing } from "../message.ts"
import type { Context } from "../participant.ts"
import { advance, type Advance, type SagaInput } from "../sagas/advance.ts"
import type { SagaDefinition } from "../sagas/definition.ts"
import { Saga } from "../sagas/saga.ts"
import type { SagaRow } from "../sagas/tables.ts"

const runs = { seed: Number(process.env["SEED"] ?? 20260301), numRuns: 1_000 }

const mostSteps = 5
const commands = Topic.commands("things-commands")
const events = Topic.events("things-events")
const thing = { id: Schema.String }
const contracts = Array.from({ length: mostSteps }, (_, step) => ({
  ask: commands.message(`Do${step}`, { ...thing, trail: Schema.Array(Schema.Int) }, { key: "id" }),
  success: events.message(`Done${step}`, thing, { key: "id" }),
  failure: events.message(`Failed${step}`, { ...thing, reason: Schema.String }, { key: "id" }),
  undo: commands.message(`Undo${step}`, { ...thing, trail: Schema.Array(Schema.Int) }, { key: "id" }),
  undone: events.message(`Undone${step}`, thing, { key: "id" })
}))

interface StepShape {
  readonly mayFail: boolean
  readonly canUndo: boolean
  readonly attempts: number
  readonly deadlineMs: number
}
interface Shape {
  readonly steps: ReadonlyArray<StepShape>
  readonly pivot: number
  /** The step behind which the saga starts, or -1. */
  readonly after: number
}

const nameOf = (step: number): string => `step ${step}`

const define = ({ steps, pivot }: Shape): SagaDefinition =>
  Saga.define({
    name: "things",
    version: 1,
    data: { trail: Schema.Array(Schema.Int) },
    pivot: nameOf(pivot),
    steps: contracts.slice(0, steps.length).map(({ ask, success, failure, undo, undone }, index) => {
      const { mayFail = false, canUndo = false, attempts = 1, deadlineMs: deadline = 1 } = steps[index] ?? {}
      return Saga.step<{ readonly trail: ReadonlyArray<number> }>()({
        name: nameOf(index),
        ask: ({ id, data }) => ask.of({ id, trail: data.trail }),
        success,
        learn: ({ trail }) => ({ trail: [...trail, index] }),
        ...(mayFail ? { failure } : {}),
        ...(canUndo ? { undo: { ask: ({ id, data }) => undo.of({ id, trail: data.trail }), done: undone } } : {}),
        deadline,
        attempts
      })
    })
  })

/** What comes next: what is awaited, or anything at all, or what was told before once more. */
type Word = "answer" | "fail" | "deadline" | "again" | { readonly reply: AnyContract }

const shapes: fc.Arbitrary<Shape> = fc
  .array(
    fc.record({
      mayFail: fc.boolean(),
      canUndo: fc.boolean(),
      attempts: fc.integer({ min: 1, max: 4 }),
      deadlineMs: fc.integer({ min: 1, max: 1_000_000 })
    }),
    { minLength: 1, maxLength: mostSteps }
  )
  .chain((steps) =>
    fc
      .record({ pivot: fc.nat(steps.length - 1), after: fc.integer({ min: -1, max: steps.length - 1 }) })
      .map(({ pivot, after }): Shape => ({
        steps: steps.map((step, index) => ({ ...step, mayFail: step.mayFail && index <= pivot })),
        pivot,
        after
      }))
  )

const anyReply = fc.constantFrom(...events.catalogue.values()).map((reply): Word => ({ reply }))
const word: fc.Arbitrary<Word> = fc.oneof(
  { weight: 5, arbitrary: fc.constant<Word>("answer") },
  { weight: 1, arbitrary: fc.constant<Word>("fail") },
  { weight: 4, arbitrary: fc.constant<Word>("deadline") },
  { weight: 1, arbitrary: fc.constant<Word>("again") },
  { weight: 3, arbitrary: anyReply }
)
const words = fc.array(word, { maxLength: 60 })

/** An ask as the trace shows it: of which step, forward or back. */
interface Ask {
  readonly step: number
  readonly back: boolean
}
interface Moment {
  readonly input: SagaInput | "start"
  readonly before: SagaRow | undefined
  /** What had been asked last. */
  readonly awaited: Ask | undefined
  readonly next: Advance | undefined
  readonly now: Date
}
interface Trace {
  readonly shape: Shape
  readonly words: ReadonlyArray<Word>
  readonly definition: SagaDefinition
  readonly moments: ReadonlyArray<Moment>
  readonly row: SagaRow
  readonly asks: ReadonlyArray<Ask>
}

const askOf = ({ contract }: Outgoing): Ask => ({
  step: Number(contract.type.replace(/\D/g, "")),
  back: contract.type.startsWith("Undo")
})
const isRunning = (row: SagaRow | undefined): boolean => row?.state === "RUNNING" || row?.state === "COMPENSATING"

const replyTo = (awaited: Ask | undefined, kind: "success" | "failure"): AnyContract | undefined => {
  const of = awaited === undefined ? undefined : contracts[awaited.step]
  if (of === undefined) return undefined
  return events.catalogue.get(awaited?.back === true ? of.undone.type : of[kind].type)
}

const inputOf = (word: Word, awaited: Ask | undefined, last: SagaInput | "start"): SagaInput => {
  if (word === "deadline") return word
  if (word === "again") return last === "start" ? "deadline" : last
  const reply = typeof word === "object" ? word.reply : replyTo(awaited, word === "fail" ? "failure" : "success")
  return reply === undefined ? "deadline" : { contract: reply, payload: { id: "s", reason: "REFUSED" } }
}

const contextAt = (position: number, input: SagaInput | "start"): Context => ({
  id: `cause-${position}`,
  key: "s",
  type: input === "start" ? "Start" : input === "deadline" ? "due sagas" : input.contract.type,
  correlation: "s",
  coordination: "orchestration",
  definition: null,
  traceparent: null,
  now: new Date(1_000_000 * position),
  newId: () => `ask-${position}`
})

const play = (shape: Shape, words: ReadonlyArray<Word>): Trace => {
  const definition = define(shape)
  const begin = contextAt(0, "start")
  const { put, send = [] } = Saga.start(
    definition,
    "s",
    { trail: [] },
    begin,
    shape.after < 0 ? undefined : nameOf(shape.after)
  )
  let [row] = put?.sagas ?? []
  if (row === undefined) throw new Error("no saga was started")
  const started: Moment = {
    input: "start",
    before: undefined,
    awaited: undefined,
    next: { row, log: put?.saga_log ?? [], send },
    now: begin.now
  }
  const moments = [started]
  const asks = send.map(askOf)
  for (const [index, word] of words.entries()) {
    const before = row
    const awaited = isRunning(row) ? asks.at(-1) : undefined
    const input = inputOf(word, awaited, moments.at(-1)?.input ?? "start")
    const context = contextAt(index + 1, input)
    const next = advance(definition, Object.freeze(before), input, context)
    moments.push({ input, before, awaited, next, now: context.now })
    asks.push(...(next?.send ?? []).map(askOf))
    row = next?.row ?? row
  }
  return { shape, words, definition, moments, row, asks }
}

const holds = (rule: (trace: Trace) => void): void => {
  fc.assert(
    fc.property(shapes, words, (shape, given) => rule(play(shape, given))),
    runs
  )
}
const stepOf = ({ shape }: Trace, index: number): StepShape => {
  const step = shape.steps[index]
  if (step === undefined) throw new Error(`there is no step ${index}`)
  return step
}
const isTold = (input: Moment["input"], kind: "success" | "failure", step: number): boolean =>
  typeof input === "object" && input.contract.type === contracts[step]?.[kind].type

test("the random sagas reach every end and every kind of ask", () => {
  const seen = new Set<string>()
  holds(({ row, asks, moments, shape }) => {
    seen.add(row.state)
    if (asks.some(({ back }) => back)) seen.add("undo")
    if (asks.some(({ step, back }) => !back && step > shape.pivot)) seen.add("after the pivot")
    if (row.reason?.endsWith("_TIMEOUT") === true) seen.add("given up")
    if (moments.some(({ next, before }) => next === undefined && isRunning(before))) seen.add("ignored")
  })

  expect([...seen].sort()).toEqual(
    ["COMPENSATED", "COMPENSATING", "COMPLETED", "RUNNING", "after the pivot", "given up", "ignored", "undo"].sort()
  )
})

test("no step goes forward once compensation began", () => {
  holds(({ asks }) => {
    const firstBack = asks.findIndex(({ back }) => back)

    expect(firstBack < 0 || asks.slice(firstBack).every(({ back }) => back)).toBe(true)
  })
})

test("steps are asked one after the other and undone in reverse", () => {
  holds(({ asks, shape }) => {
    const forward = new Set(asks.filter(({ back }) => !back).map(({ step }) => step))
    const back = asks.filter((ask) => ask.back).map(({ step }) => step)

    expect([...forward]).toEqual([...forward].map((_, index) => shape.after + 1 + index))
    expect(back.every((step, index) => index === 0 || step <= (back[index - 1] ?? -1))).toBe(true)
  })
})

test("only what was asked before is undone, and only what can be", () => {
  holds((trace) => {
    for (const [index, { step, back }] of trace.asks.entries()) {
      if (!back) continue
      const asked = trace.asks.slice(0, index).some((earlier) => !earlier.back && earlier.step === step)
      expect(asked || step <= trace.shape.after).toBe(true)
      expect(stepOf(trace, step).canUndo).toBe(true)
    }
  })
})

test("a compensated saga undid every step that took effect or may have: all but the one that said it failed", () => {
  holds((trace) => {
    if (trace.row.state !== "COMPENSATED") return
    const reached = Math.max(trace.shape.after, ...trace.asks.map(({ step }) => step))
    const failed = trace.moments.find(
      ({ input, next, awaited }) =>
        next !== undefined && awaited?.back === false && isTold(input, "failure", awaited.step)
    )?.awaited?.step
    const expected = trace.shape.steps
      .map((_, step) => step)
      .filter((step) => step <= reached && step !== failed && stepOf(trace, step).canUndo)

    const undone = new Set(trace.asks.filter(({ back }) => back).map(({ step }) => step))

    expect([...undone].sort()).toEqual(expected)
  })
})

test("a reply counts exactly when its step awaits it", () => {
  holds((trace) => {
    for (const { input, next, awaited } of trace.moments) {
      if (typeof input !== "object") continue
      const of = awaited === undefined ? undefined : contracts[awaited.step]
      const counting =
        awaited === undefined || of === undefined
          ? []
          : awaited.back
            ? [of.undone.type]
            : [of.success.type, ...(stepOf(trace, awaited.step).mayFail ? [of.failure.type] : [])]
      expect(next !== undefined).toBe(counting.includes(input.contract.type))
    }
  })
})

test("an ended saga absorbs whatever comes, and waits for nothing", () => {
  holds(({ moments, row }) => {
    for (const { before, next, now } of moments) {
      if (before !== undefined && !isRunning(before)) expect(next).toBeUndefined()
      if (next !== undefined) {
        expect(next.row.deadline === null).toBe(!isRunning(next.row))
        expect(next.row.ended_at).toEqual(isRunning(next.row) ? null : now)
      }
    }
    expect(row.state === "COMPLETED" || row.state === "RUNNING").toBe(row.reason === null)
  })
})

test("attempts are bounded before the pivot, and not from it on nor when undoing", () => {
  holds((trace) => {
    for (const { input, awaited, next, before } of trace.moments) {
      if (input !== "deadline" || awaited === undefined) continue
      const [again] = (next?.send ?? []).map(askOf)
      const { attempts } = stepOf(trace, awaited.step)
      const givesUp = !awaited.back && awaited.step < trace.shape.pivot && before?.attempt === attempts
      expect(next).toBeDefined()
      if (givesUp) expect(again?.back ?? true).toBe(true)
      else expect(again).toEqual(awaited)
    }
    for (const [step, { attempts }] of trace.shape.steps.entries()) {
      const asked = trace.asks.filter((ask) => !ask.back && ask.step === step)
      if (step < trace.shape.pivot) expect(asked.length).toBeLessThanOrEqual(attempts)
    }
  })
})

test("past the pivot a saga only goes forward", () => {
  holds(({ asks, row, shape }) => {
    if (!asks.some(({ step, back }) => !back && step > shape.pivot)) return

    expect(asks.some(({ back }) => back)).toBe(false)
    expect(row.state === "RUNNING" || row.state === "COMPLETED").toBe(true)
  })
})

test("each change is one entry of the log, whose positions have no gap", () => {
  holds(({ moments, row }) => {
    const changes = moments.flatMap(({ next }) => next ?? [])

    expect(changes.flatMap(({ log }) => log.map(({ position }) => position))).toEqual(
      changes.map((_, index) => index + 1)
    )
    expect(row.position).toBe(changes.length)
    for (const { row: changed, log, send } of changes) {
      const { state, step, attempt, reason } = changed
      const asked = { asked_id: send[0]?.id ?? null, asked_type: send[0]?.contract.type ?? null }
      expect(log).toMatchObject([{ saga_id: "s", state, step, attempt, reason, ...asked }])
    }
  })
})

test("every ask has an id of its own and the saga's correlation; at most one is asked at a time", () => {
  holds(({ moments }) => {
    const sent = moments.map(({ next }) => next?.send ?? [])

    expect(sent.every((messages) => messages.length <= 1)).toBe(true)
    expect(new Set(sent.flat().map(({ id }) => id)).size).toBe(sent.flat().length)
    expect(sent.flat().every(({ correlation }) => correlation === "s")).toBe(true)
  })
})

test("the wait doubles with each attempt, up to ten minutes unless the step says more, and up to a quarter is added", () => {
  holds((trace) => {
    let repeats = 0
    for (const { next, awaited, now } of trace.moments) {
      const [ask] = (next?.send ?? []).map(askOf)
      if (next === undefined || ask === undefined) continue
      repeats = ask.step === awaited?.step && ask.back === awaited.back ? repeats + 1 : 0
      const { deadlineMs } = stepOf(trace, ask.step)
      const waitMs = Math.max(deadlineMs, Math.min(600_000, deadlineMs * 2 ** repeats))
      const waited = (next.row.deadline?.getTime() ?? Number.NaN) - now.getTime()
      expect(waited).toBeGreaterThanOrEqual(waitMs)
      expect(waited).toBeLessThanOrEqual(repeats === 0 ? waitMs : Math.ceil(waitMs * 1.25))
    }
  })
})

test("a step is learned from once, however often its reply comes", () => {
  holds(({ moments, row }) => {
    const counted = moments.flatMap(({ input, next, awaited }) =>
      next !== undefined && awaited !== undefined && isTold(input, "success", awaited.step) ? [awaited.step] : []
    )

    expect(row.data).toEqual({ trail: counted })
  })
})

test("answering everything ends it, from wherever it is", () => {
  holds(({ shape, definition, row, asks }) => {
    let [at, last] = [row, asks.at(-1)]
    for (let answers = 0; isRunning(at); answers++) {
      expect(answers).toBeLessThanOrEqual(shape.steps.length)
      const input = inputOf("answer", last, "start")
      const next = advance(definition, at, input, contextAt(1_000 + answers, input))
      last = next?.send.map(askOf)[0] ?? last
      at = next?.row ?? at
    }

    const ends = {
      RUNNING: "COMPLETED",
      COMPENSATING: "COMPENSATED",
      COMPLETED: "COMPLETED",
      COMPENSATED: "COMPENSATED"
    }
    expect(at.state as string).toBe(ends[row.state])
  })
})

test("the same inputs lead to the same end", () => {
  fc.assert(
    fc.property(shapes, words, (shape, given) => expect(play(shape, given).row).toEqual(play(shape, given).row))
  )
})
