/** How far a saga has come, in both styles. */
import { expect, test } from "bun:test"
import { Schema } from "effect"
import { Topic } from "../message.ts"
import { progressOf } from "../sagas/progress.ts"
import { Saga } from "../sagas/saga.ts"
import type { SagaRow } from "../sagas/tables.ts"
import { decidedAt } from "../testing/index.ts"

const topic = Topic.events("things")
const message = (type: string) => topic.message(type, { id: Schema.String, reason: Schema.String }, { key: "id" })
const [asked, opened, closed, held, refused, released, checked, ended] = [
  "Asked",
  "Opened",
  "Closed",
  "Held",
  "Refused",
  "Released",
  "Checked",
  "Ended"
].map(message)
if (!asked || !opened || !closed || !held || !refused || !released || !checked || !ended) throw new Error("contracts")

const ask = () => asked.of({ id: "s", reason: "" })
const step = Saga.step<object>()
const patience = { ask, deadline: "10 seconds", attempts: 2 } as const
const open = step({ ...patience, name: "open", success: opened, undo: { ask, done: closed } })
const hold = step({ ...patience, name: "hold", success: held, failure: refused, undo: { ask, done: released } })
const check = step({ ...patience, name: "check", success: checked })
const end = step({ ...patience, name: "end", success: ended })
const things = { name: "things", version: 1, data: {}, pivot: "end" } as const
const definition = Saga.define({ ...things, steps: [open, hold, check, end] })

const saga = (change: Partial<SagaRow>): SagaRow => ({
  id: "s",
  definition: "things",
  version: 1,
  state: "RUNNING",
  step: "open",
  attempt: 1,
  position: 1,
  coordination: "orchestration",
  seen: [],
  data: {},
  reason: null,
  deadline: decidedAt,
  due_at: decidedAt,
  started_at: decidedAt,
  ended_at: null,
  ...change
})
const undoing = { state: "COMPENSATING", reason: "NO" } as const
const choreographed = { coordination: "choreography" } as const

test.each<
  readonly [
    string,
    Partial<SagaRow>,
    ReadonlyArray<string>,
    readonly [string, ReadonlyArray<string>] | null,
    ReadonlyArray<string>
  ]
>([
  ["begins", {}, [], ["open", ["Opened"]], ["hold", "check", "end"]],
  ["is half way", { step: "hold" }, ["open"], ["hold", ["Held", "Refused"]], ["check", "end"]],
  ["is nearly there", { step: "end" }, ["open", "hold", "check"], ["end", ["Ended"]], []],
  ["ended well", { state: "COMPLETED", step: "end", ended_at: decidedAt }, ["open", "hold", "check", "end"], null, []],
  ["is undone step by step", { ...undoing, step: "hold" }, ["open"], ["hold", ["Released"]], ["open"]],
  ["has one step left to undo", { ...undoing, step: "open" }, [], ["open", ["Closed"]], []],
  ["was undone", { state: "COMPENSATED", step: "open", ended_at: decidedAt }, [], null, []],
  [
    "is choreographed",
    { ...choreographed, step: "check", seen: ["Opened", "Held"] },
    ["open", "hold"],
    ["check", ["Checked"]],
    ["end"]
  ],
  [
    "is choreographed and undone",
    { ...choreographed, ...undoing, step: "hold", seen: ["Opened", "Refused"] },
    ["open"],
    ["hold", ["Released"]],
    ["open"]
  ],
  [
    "is choreographed and undone but for one",
    { ...choreographed, ...undoing, step: "hold", seen: ["Closed"] },
    [],
    ["hold", ["Released"]],
    []
  ]
])(
  "a saga that %s says what is done, what it waits for and what remains",
  (_name, change, done, waiting, remaining) => {
    expect(progressOf(definition, saga(change))).toEqual({
      done,
      waitingFor: waiting === null ? null : { step: waiting[0], messages: waiting[1] },
      remaining
    })
  }
)

test("a saga that is undone says what is left of its steps that can be, the last of them first", () => {
  const pay = step({ ...patience, name: "pay", success: message("Paid"), undo: { ask, done: message("Repaid") } })
  const longer = Saga.define({ ...things, steps: [open, check, hold, pay, end] })
  const left = {
    done: ["open", "hold"],
    waitingFor: { step: "pay", messages: ["Repaid"] },
    remaining: ["hold", "open"]
  }

  expect(progressOf(longer, saga({ ...undoing, step: "pay" }))).toEqual(left)
  expect(progressOf(longer, saga({ ...undoing, ...choreographed, step: "pay", seen: ["Paid"] }))).toEqual(left)
})

test("a saga at a step that its definition does not have is a defect", () => {
  expect(() => progressOf(definition, saga({ step: "other" }))).toThrow("things v1 has no step other")
})
