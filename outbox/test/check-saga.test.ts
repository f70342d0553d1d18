/** The checker of sagas: what is sound passes, and of what is broken it tells which rule, and the shortest way there. */
import { describe, expect, test } from "bun:test"
import { Schema } from "effect"
import fc from "fast-check"
import { rent } from "../examples/rent.ts"
import { Topic, type AnyContract, type Outgoing } from "../message.ts"
import { advance, ask, type Advance } from "../sagas/advance.ts"
import type { AnyStep, SagaDefinition, SagaView } from "../sagas/definition.ts"
import { Saga } from "../sagas/saga.ts"
import { hasEnded, type SagaRow } from "../sagas/tables.ts"
import { checkWith } from "../testing/sagas/check.ts"
import { advancing, orchestrated, type Decide } from "../testing/sagas/explore.ts"
import { checkSaga, type SagaCheck } from "../testing/index.ts"

const commands = Topic.commands("trips-commands")
const events = Topic.events("trips-events")
const trip = { id: Schema.String }
const refusal = { ...trip, reason: Schema.String }
const command = (type: string) => commands.message(type, trip, { key: "id" })
const event = (type: string) => events.message(type, trip, { key: "id" })

const BookHotel = command("BookHotel")
const HotelBooked = event("HotelBooked")
const CancelHotel = command("CancelHotel")
const HotelCancelled = event("HotelCancelled")
const FindFlight = command("FindFlight")
const FlightFound = events.message("FlightFound", { ...trip, flight: Schema.String }, { key: "id" })
const NoFlight = events.message("NoFlight", refusal, { key: "id" })
const BookFlight = commands.message("BookFlight", { ...trip, flight: Schema.String }, { key: "id" })
const FlightBooked = event("FlightBooked")
const FlightFull = events.message("FlightFull", refusal, { key: "id" })
const CancelFlight = command("CancelFlight")
const FlightCancelled = event("FlightCancelled")
const Confirm = command("Confirm")
const Confirmed = event("Confirmed")
const NotConfirmed = events.message("NotConfirmed", refusal, { key: "id" })
const Send = command("Send")
const Sent = event("Sent")
const NotSent = events.message("NotSent", refusal, { key: "id" })
const Stop = events.message("Stop", refusal, { key: "id" })

const data = { flight: Schema.NullOr(Schema.String) }
const step = Saga.step<{ readonly flight: string | null }>()
const patience = { deadline: "30 seconds", attempts: 2 } as const

const flightOf = (flight: string | null): string => {
  if (flight === null) throw new Error("no flight is known")
  return flight
}

const hotel = step({
  ...patience,
  name: "hotel",
  ask: ({ id }) => BookHotel.of({ id }),
  success: HotelBooked,
  undo: { ask: ({ id }) => CancelHotel.of({ id }), done: HotelCancelled }
})
const find = step({
  ...patience,
  name: "find",
  ask: ({ id }) => FindFlight.of({ id }),
  success: FlightFound,
  learn: (_data, { flight }) => ({ flight }),
  failure: NoFlight,
  changesNothing: true
})
const flight = step({
  ...patience,
  name: "flight",
  ask: ({ id, data }) => BookFlight.of({ id, flight: flightOf(data.flight) }),
  success: FlightBooked,
  failure: FlightFull,
  undo: { ask: ({ id }) => CancelFlight.of({ id }), done: FlightCancelled }
})
const confirm = step({
  ...patience,
  name: "confirm",
  ask: ({ id }) => Confirm.of({ id }),
  success: Confirmed,
  failure: NotConfirmed
})
const send = step({ ...patience, name: "send", ask: ({ id }) => Send.of({ id }), success: Sent })

const define = (...steps: ReadonlyArray<typeof hotel>): SagaDefinition<{ readonly flight: string | null }> =>
  Saga.define({
    name: "trip",
    version: 1,
    data,
    deadline: "5 minutes",
    cancelledBy: Stop,
    pivot: "confirm",
    steps: steps.length === 0 ? [hotel, find, flight, confirm, send] : steps
  })
const start = { data: [{ flight: null }], draws: 1 }

const found = ({ findings }: SagaCheck) => findings.map(({ rule, problem, path }) => [rule, problem, path.join(" → ")])

test("a sound saga has no findings, and its chart shows every step, every undoing and both ends", () => {
  const { findings, states, chart } = checkSaga(define(), { ...start, after: ["hotel"] })

  expect(findings).toEqual([])
  expect(states).toBe(204)
  expect(chart.split("\n")).toEqual([
    "stateDiagram-v2",
    '  state "confirm (pivot)" as confirm',
    '  state "undo flight" as undo_flight',
    '  state "undo hotel" as undo_hotel',
    "  [*] --> hotel",
    "  [*] --> find",
    "  hotel --> find: HotelBooked",
    "  hotel --> undo_hotel: Stop, no answer",
    "  find --> flight: FlightFound",
    "  find --> undo_hotel: NoFlight, Stop, no answer",
    "  flight --> confirm: FlightBooked",
    "  flight --> undo_flight: Stop, no answer",
    "  flight --> undo_hotel: FlightFull",
    "  confirm --> send: Confirmed",
    "  confirm --> undo_flight: NotConfirmed",
    "  send --> COMPLETED: Sent",
    "  undo_flight --> undo_hotel: FlightCancelled",
    "  undo_hotel --> COMPENSATED: HotelCancelled",
    "  COMPLETED --> [*]",
    "  COMPENSATED --> [*]"
  ])
})

test("the README's saga has no findings", () => {
  expect(checkSaga(rent, { data: [{ productId: "teapot" }] }).findings).toEqual([])
})

test("states are counted modulo ids and time", () => {
  const { states, transitions } = checkSaga({ ...define(confirm), cancelledBy: undefined }, start)

  // asked once, twice, three times and more often, each in time and late; from each of them two ends
  expect(states).toBe(2 * 4 + 2 * 2 * 4)
  // told: two answers, that none came and, while it waits, that it is looked at; a saga in time becomes late by each
  expect(transitions).toBe(4 * (2 + 1) * 4 + 8 * (2 + 1) * 3)
})

test("names that mean something to Mermaid, or are not words, are given others in the chart", () => {
  const named = define(
    { ...hotel, name: "end" },
    { ...flight, name: "a b", ask: hotel.ask },
    { ...find, name: "a_b" },
    confirm
  )

  const { chart } = checkSaga(named, start)

  expect(chart).toContain('state "end" as s0_end')
  expect(chart).toContain('state "a b" as s1_a_b')
  expect(chart).toContain("s0_end --> s1_a_b: HotelBooked")
  expect(chart).toContain("s1_a_b --> s2_a_b: FlightBooked")
})

const edited = (name: string, edit: (step: AnyStep) => AnyStep): SagaDefinition => {
  const sound = define()
  return { ...sound, steps: sound.steps.map((one) => (one.name === name ? edit(one) : one)) }
}
const undoneBy = (name: string, ask: (saga: SagaView<unknown>) => Outgoing) =>
  edited(name, ({ undo, ...one }) => ({ ...one, undo: undo === undefined ? undefined : { ...undo, ask } }))
const hold = step({
  ...patience,
  name: "hold",
  ask: ({ id }) => FindFlight.of({ id }),
  success: FlightFound,
  learn: (_data, { flight }) => ({ flight }),
  undo: { ask: ({ data }) => CancelFlight.of({ id: flightOf(data.flight) }), done: FlightCancelled }
})
const erased = (contract: { readonly type: string }) => contract as unknown as AnyContract

// each line: what is wrong, the definition, and what is found
const brokenDefinitions: ReadonlyArray<readonly [string, SagaDefinition, ReadonlyArray<ReadonlyArray<string>>]> = [
  [
    "a step before the pivot has no undo",
    edited("flight", (one) => ({ ...one, undo: undefined })),
    [["undo", "flight has no undo and is not declared to change nothing", ""]]
  ],
  [
    "a step that changes nothing has an undo",
    edited("hotel", (one) => ({ ...one, changesNothing: true })),
    [["undo", "hotel is declared to change nothing and has an undo", ""]]
  ],
  [
    "an undo takes back another step",
    undoneBy("flight", ({ id }) => CancelHotel.of({ id })),
    [["undo", "CancelHotel is sent for undo hotel and for undo flight", ""]]
  ],
  [
    "an undo asks for the step itself",
    undoneBy("hotel", ({ id }) => BookHotel.of({ id })),
    [["undo", "BookHotel is sent for undo hotel and for hotel", ""]]
  ],
  [
    "a step after the pivot can fail",
    edited("send", (one) => ({ ...one, failure: erased(NotSent) })),
    [["pivot", "undo flight is asked for: too late", "HotelBooked → FlightFound → FlightBooked → Confirmed → NotSent"]]
  ],
  [
    "two steps have one answer",
    edited("send", (one) => ({ ...one, success: erased(Confirmed) })),
    [["reply", "Confirmed is an answer to two questions", ""]]
  ],
  [
    "a step needs what an earlier one has not told",
    define(hotel, flight, find, confirm),
    [["message", "HotelBooked while hotel is awaited: no flight is known", "HotelBooked"]]
  ],
  [
    "an undo needs what a step in flight may not have told",
    define(hotel, hold, confirm),
    [
      ["message", "Stop while hold is awaited: no flight is known", "HotelBooked → Stop"],
      [
        "message",
        "a passed deadline while hold is awaited: no flight is known",
        "HotelBooked → no answer in time, past the saga's own deadline"
      ]
    ]
  ],
  [
    "a message breaks its contract",
    edited("send", (one) => ({ ...one, ask: ({ id }) => ({ contract: erased(Send), payload: { trip: id } }) })),
    [
      [
        "message",
        expect.stringContaining("Confirmed while confirm is awaited: Send breaks its contract"),
        "HotelBooked → FlightFound → FlightBooked → Confirmed"
      ]
    ]
  ],
  [
    "the first message breaks its contract",
    edited("hotel", (one) => ({ ...one, ask: () => ({ contract: erased(BookHotel), payload: {} }) })),
    [["message", expect.stringContaining("BookHotel breaks its contract"), ""]]
  ],
  [
    "the first step can't be asked for",
    edited("hotel", (one) => ({ ...one, ask: () => BookHotel.of({ id: flightOf(null) }) })),
    [["message", "no flight is known", ""]]
  ]
]

describe("a broken definition is found:", () => {
  test.each(brokenDefinitions)("%s", (_name, definition, expected) => {
    expect(found(checkSaga(definition, start))).toEqual(expected.map((line) => [...line]))
  })
})

type Advancing = typeof advance

const isTold = (input: Parameters<Advancing>[2], contract: { readonly type: string }): boolean =>
  typeof input === "object" && input.contract.type === contract.type
const told = (contract: { readonly type: string }) => ({
  contract: erased(contract),
  payload: { id: "1", flight: "KL1", reason: "R" }
})

/** Advances as the library does, but for what `instead` has an answer to; null is that nothing changes. */
const but =
  (instead: (...given: Parameters<Advancing>) => Advance | null | undefined): Advancing =>
  (...given) => {
    const other = instead(...given)
    return other === null ? undefined : (other ?? advance(...given))
  }
/** Advances as the library does, and changes what comes of it. */
const then =
  (change: (next: Advance, ...given: Parameters<Advancing>) => Advance): Advancing =>
  (...given) => {
    const next = advance(...given)
    return next === undefined ? undefined : change(next, ...given)
  }
const withRow = (next: Advance, row: Partial<SagaRow>): Advance => ({ ...next, row: { ...next.row, ...row } })
const withSteps = (definition: SagaDefinition, change: Partial<AnyStep>): SagaDefinition => ({
  ...definition,
  steps: definition.steps.map((one) => ({ ...one, ...change }))
})

// each line: what is wrong, what advances, and what is found, among other things
const brokenAdvances: ReadonlyArray<readonly [string, Advancing, string, string, string]> = [
  [
    "a saga that has ended is undone",
    but((definition, saga, input, context) =>
      hasEnded(saga) && isTold(input, Stop)
        ? advance(definition, { ...saga, state: "RUNNING", step: "hotel" }, input, context)
        : undefined
    ),
    "absorb",
    "Stop changes an ended saga",
    "Stop → HotelCancelled → Stop"
  ],
  [
    "a reply counts whichever step awaits it",
    but((definition, saga, input, context) => {
      const awaiting = definition.steps.find((one) => typeof input === "object" && one.success === input.contract)
      return awaiting === undefined || saga.state !== "RUNNING" || typeof input === "string"
        ? undefined
        : advance(definition, { ...saga, step: awaiting.name }, input, context)
    }),
    "reply",
    "FlightFound counts while hotel is awaited",
    "FlightFound"
  ],
  [
    "a late reply counts when the saga is being undone",
    but((definition, saga, input, context) =>
      saga.state === "COMPENSATING" && isTold(input, FlightBooked)
        ? advance(definition, saga, "deadline", context)
        : undefined
    ),
    "reply",
    "FlightBooked counts while undo hotel is awaited",
    "Stop → FlightBooked"
  ],
  [
    "a failure is not heard",
    but((_definition, _saga, input) => (isTold(input, NoFlight) ? null : undefined)),
    "reply",
    "NoFlight does not count while find is awaited",
    "HotelBooked → NoFlight"
  ],
  [
    "a cancel is not heard",
    but((_definition, _saga, input) => (isTold(input, Stop) ? null : undefined)),
    "reply",
    "Stop does not count while hotel is awaited",
    "Stop"
  ],
  [
    "a cancel counts when the pivot is asked for",
    but((definition, saga, input, context) =>
      saga.step === "confirm" && isTold(input, Stop)
        ? advance(definition, saga, told(NotConfirmed), context)
        : undefined
    ),
    "reply",
    "Stop counts while confirm is awaited",
    "HotelBooked → FlightFound → FlightBooked → Stop"
  ],
  [
    "a step is asked for after one was undone",
    but((definition, saga, input, context) =>
      isTold(input, HotelCancelled) && saga.state === "COMPENSATING" && saga.step === "hotel"
        ? ask(definition, { ...saga, state: "RUNNING" }, 1, 1, context)
        : undefined
    ),
    "forward",
    "find is asked for while the saga is being undone",
    "Stop → HotelCancelled"
  ],
  [
    "a step is left out",
    but((definition, saga, input, context) =>
      isTold(input, HotelBooked) && saga.state === "RUNNING" && saga.step === "hotel"
        ? ask(definition, { ...saga, data: { flight: "KL1" } }, 2, 1, context)
        : undefined
    ),
    "forward",
    "flight is asked for out of its turn",
    "HotelBooked"
  ],
  [
    "a step that is done is undone",
    but((definition, saga, input, context) =>
      isTold(input, HotelBooked) && saga.state === "RUNNING" && saga.step === "hotel"
        ? advance(definition, saga, told(Stop), context)
        : undefined
    ),
    "forward",
    "undo hotel is asked for, and nothing failed",
    "HotelBooked"
  ],
  [
    "a saga ends as compensated when a step is done",
    but((definition, saga, input, context) =>
      isTold(input, HotelBooked) && saga.state === "RUNNING" && saga.step === "hotel"
        ? advance(definition, { ...saga, state: "COMPENSATING" }, told(HotelCancelled), context)
        : undefined
    ),
    "forward",
    "the saga is COMPENSATED, and nothing failed",
    "HotelBooked"
  ],
  [
    "a saga is completed before its last step",
    but((definition, saga, input, context) =>
      saga.step === "confirm" && isTold(input, Confirmed)
        ? advance(definition, { ...saga, step: "send" }, told(Sent), context)
        : undefined
    ),
    "forward",
    "the saga is COMPLETED while confirm is awaited",
    "HotelBooked → FlightFound → FlightBooked → Confirmed"
  ],
  [
    "the step in flight is not undone",
    but((definition, saga, input, context) =>
      saga.step === "flight" && saga.state === "RUNNING" && isTold(input, Stop)
        ? advance(definition, { ...saga, step: "find" }, input, context)
        : undefined
    ),
    "reverse",
    "undo hotel is asked for where flight comes first",
    "HotelBooked → FlightFound → Stop"
  ],
  [
    "a step that did nothing is undone",
    but((definition, saga, input, context) =>
      saga.step === "flight" && isTold(input, FlightFull) && saga.state === "RUNNING"
        ? advance(definition, saga, told(Stop), context)
        : undefined
    ),
    "reverse",
    "undo flight is asked for where hotel comes first",
    "HotelBooked → FlightFound → FlightFull"
  ],
  [
    "the undoing stops half way",
    but((definition, saga, input, context) =>
      saga.step === "flight" && isTold(input, FlightCancelled) && saga.state === "COMPENSATING"
        ? advance(definition, { ...saga, step: "hotel" }, told(HotelCancelled), context)
        : undefined
    ),
    "reverse",
    "the saga is COMPENSATED and hotel is not undone",
    "HotelBooked → FlightFound → Stop → FlightCancelled"
  ],
  [
    "a step is undone twice",
    but((definition, saga, input, context) =>
      saga.step === "hotel" && isTold(input, HotelCancelled) && saga.state === "COMPENSATING"
        ? advance(definition, saga, "deadline", context)
        : undefined
    ),
    "reverse",
    "undo hotel is asked for where nothing is left to undo",
    "Stop → HotelCancelled"
  ],
  [
    "an undoing has no deadline",
    then((next) => (next.row.state === "COMPENSATING" ? withRow(next, { deadline: null }) : next)),
    "end",
    "the saga waits for undo hotel without a deadline",
    "Stop"
  ],
  [
    "a saga is looked at only after its deadline",
    then((next) => withRow(next, { due_at: next.row.due_at && new Date(next.row.due_at.getTime() + 3_600_000) })),
    "end",
    "the saga waits for find without a deadline",
    "HotelBooked"
  ],
  [
    "a saga that has ended is looked at again",
    then((next, _definition, saga) => withRow(next, { due_at: next.row.due_at ?? saga.due_at })),
    "end",
    "a saga that is COMPENSATED still waits for something",
    "Stop → HotelCancelled"
  ],
  [
    "a lost confirmation is not asked for again",
    but((_definition, saga, input) => (saga.state === "COMPENSATING" && input === "deadline" ? null : undefined)),
    "end",
    "a deadline that passes while undo hotel is awaited changes nothing",
    "Stop → no answer in time"
  ],
  [
    "a step that is done is asked for again",
    but((definition, saga, input, context) =>
      saga.step === "hotel" && isTold(input, HotelBooked) && saga.state === "RUNNING"
        ? ask(definition, saga, 0, 1, context)
        : undefined
    ),
    "end",
    "with hotel done, and all that is asked for then, the saga does not end",
    ""
  ],
  [
    "a saga waits and asks for nothing",
    then((next) => (next.row.step === "send" && !hasEnded(next.row) ? { ...next, send: [] } : next)),
    "end",
    "the saga is RUNNING at send and asks for nothing",
    "HotelBooked → FlightFound → FlightBooked → Confirmed"
  ],
  [
    "attempts before the pivot are not bounded",
    (definition, ...given) => advance(withSteps(definition, { attempts: 1_000 }), ...given),
    "attempts",
    "hotel is asked for more than the 2 times it may be",
    "no answer in time → no answer in time"
  ],
  [
    "a step is given up early",
    (definition, ...given) => advance(withSteps(definition, { attempts: 1 }), ...given),
    "attempts",
    "hotel is given up after 1 of 2 attempts",
    "no answer in time"
  ],
  [
    "the pivot is given up",
    but((definition, saga, input, context) =>
      saga.step === "confirm" && input === "deadline" && saga.attempt >= 2
        ? advance(definition, saga, told(NotConfirmed), context)
        : undefined
    ),
    "attempts",
    "confirm is given up, which has to be done",
    "HotelBooked → FlightFound → FlightBooked → no answer in time → no answer in time"
  ],
  [
    "an undoing is given up, after many attempts",
    but((definition, saga, input, context) =>
      saga.step === "hotel" && saga.state === "COMPENSATING" && input === "deadline" && saga.attempt > 50
        ? advance(definition, saga, told(HotelCancelled), context)
        : undefined
    ),
    "attempts",
    "undo hotel is given up, which has to be done",
    ["Stop", ...Array<string>(4).fill("no answer in time")].join(" → ")
  ],
  [
    "the saga's own deadline is not heeded",
    but((definition, saga, input, context) =>
      input === "deadline" && saga.step === "hotel" && saga.state === "RUNNING" && saga.attempt < 2
        ? ask(definition, saga, 0, saga.attempt + 1, context)
        : undefined
    ),
    "attempts",
    "hotel is asked for past the saga's own deadline",
    "no answer in time, past the saga's own deadline"
  ],
  [
    "the saga's own deadline starts anew with each step",
    then((next, _definition, _saga, _input, { now }) => withRow(next, { started_at: now })),
    "attempts",
    "the saga's start is moved, and its deadline with it",
    "HotelBooked, past the saga's own deadline"
  ],
  [
    "the step in flight may wait past the saga's own deadline",
    then((next, _definition, _saga, _input, { now }) =>
      next.row.step === "find" && !hasEnded(next.row)
        ? withRow(next, { deadline: new Date(now.getTime() + 600_000) })
        : next
    ),
    "attempts",
    "the saga waits for find past its own deadline",
    "HotelBooked"
  ],
  [
    "the saga's own deadline counts after the pivot",
    then((next, definition, saga) => {
      const deadline = new Date(saga.started_at.getTime() + definition.deadlineMs)
      return next.row.step === "send" && !hasEnded(next.row) ? withRow(next, { deadline, due_at: deadline }) : next
    }),
    "end",
    "the saga waits for send with a deadline that has passed",
    "HotelBooked → FlightFound → FlightBooked → Confirmed, past the saga's own deadline"
  ],
  [
    "attempts are not counted",
    then((next) => withRow(next, { attempt: 1 })),
    "attempts",
    "the attempts of hotel are not counted",
    "no answer in time"
  ],
  [
    "what comes after the pivot is given up and undone",
    but((definition, saga, input, context) =>
      saga.step === "send" && input === "deadline"
        ? advance(definition, { ...saga, step: "flight" }, told(Stop), context)
        : undefined
    ),
    "pivot",
    "undo flight is asked for: too late",
    "HotelBooked → FlightFound → FlightBooked → Confirmed → no answer in time"
  ],
  [
    "a saga is given up at its pivot",
    but((definition, saga, input, context) =>
      saga.step === "confirm" && input === "deadline"
        ? advance(definition, { ...saga, step: "hotel", state: "COMPENSATING" }, told(HotelCancelled), context)
        : undefined
    ),
    "pivot",
    "the saga is COMPENSATED while confirm is awaited",
    "HotelBooked → FlightFound → FlightBooked → no answer in time"
  ],
  [
    "two messages are sent at a time",
    then((next) => ({ ...next, send: [...next.send, ...next.send] })),
    "message",
    "more than one message is sent at a time",
    "HotelBooked"
  ],
  [
    "a message is of no step",
    then((next) => ({ ...next, send: next.send.map(() => Send.of({ id: "1" })) })),
    "message",
    "no step asks for Send",
    "HotelBooked"
  ],
  [
    "a message has another correlation",
    then((next) => ({ ...next, send: next.send.map((message) => ({ ...message, correlation: "another" })) })),
    "message",
    "a message does not carry the saga's id as its correlation",
    "HotelBooked"
  ],
  [
    "a saga goes on with another version",
    then((next) => withRow(next, { version: 2 })),
    "message",
    "the saga does not stay what it is: id, definition and version",
    "HotelBooked"
  ]
]

describe("a broken advance is found:", () => {
  test.each(brokenAdvances)("%s", (_name, by, rule, problem, path) => {
    const findings = found(checkWith(define(), start, advancing(by)))

    expect(findings).toContainEqual([rule, problem, path])
  })
})

// each line: what is wrong, what decides when a saga is looked at before its deadline, and what is found
const brokenLooks: ReadonlyArray<readonly [string, (saga: SagaRow, decide: Decide) => ReturnType<Decide>, string]> = [
  [
    "a look before the deadline asks again",
    (saga, decide) => {
      const next = decide({ ...saga, deadline: saga.due_at }, "deadline")
      return next === undefined ? next : { ...next, row: { ...next.row, due_at: saga.deadline } }
    },
    "a look before the deadline counts as the deadline"
  ],
  [
    "a look before the deadline is the last",
    (saga) => ({ row: { ...saga, due_at: null }, send: [] }),
    "a look before the deadline does not lead to one at the deadline"
  ],
  [
    "a look before the deadline changes nothing",
    () => undefined,
    "a look before the deadline does not lead to one at the deadline"
  ]
]

describe("a broken orchestrator is found:", () => {
  test.each(brokenLooks)("%s", (_name, looks, problem) => {
    const broken = (definition: SagaDefinition): Decide => {
      const decide = orchestrated(definition)
      return (saga, told) => (told === "look" ? looks(saga, decide) : decide(saga, told))
    }

    expect(found(checkWith(define(), start, broken))).toContainEqual(["end", problem, "a look before the deadline"])
  })
})

test("what grows without bound is told as such", () => {
  const counts = then((next, _definition, saga) => withRow(next, { data: { flight: `${JSON.stringify(saga.data)}+` } }))

  const { findings } = checkWith(define(), { ...start, mostStates: 300 }, advancing(counts))

  expect(findings).toEqual([{ rule: "end", problem: "there are more than 300 states", path: [] }])
})

test("answers that are given are taken in place of drawn ones", () => {
  const learning = define(
    hotel,
    { ...find, learn: (_data, event) => ({ flight: "flight" in event ? String(event.flight) : null }) },
    flight,
    confirm
  )
  const picky = {
    ...learning,
    steps: learning.steps.map((one) => (one.name === "flight" ? { ...one, ask: onlyKL1 } : one))
  }

  expect(checkSaga(picky, start).findings).toMatchObject([{ rule: "message", path: ["HotelBooked", "FlightFound"] }])
  expect(checkSaga(picky, { ...start, answers: [FlightFound.of({ id: "1", flight: "KL1" })] }).findings).toEqual([])
})

const onlyKL1 = ({ id, data }: SagaView<unknown>) => {
  if (JSON.stringify(data) !== '{"flight":"KL1"}') throw new Error("another flight")
  return BookFlight.of({ id, flight: "KL1" })
}

test("what can't be checked is refused: no data, no such step, an answer that can't be drawn", () => {
  const never = Schema.String.check(Schema.makeFilter(() => false))
  const Unheard = events.message("Unheard", { id: never }, { key: "id" })

  expect(() => checkSaga(define(), { data: [] })).toThrow("trip can't be checked without data to start with")
  expect(() => checkSaga(define(), { ...start, after: ["rest"] })).toThrow("trip v1 has no step rest")
  expect(() => checkSaga(define(hotel, { ...confirm, failure: Unheard as never }), start)).toThrow(
    "no payload of Unheard can be drawn: give one in the answers of the check of trip"
  )
})

const things = Array.from({ length: 4 }, (_, index) => ({
  ask: command(`Do${index}`),
  success: event(`Done${index}`),
  failure: events.message(`Failed${index}`, refusal, { key: "id" }),
  undo: command(`Undo${index}`),
  done: event(`Undone${index}`)
}))
const shape = fc.record({ mayFail: fc.boolean(), canUndo: fc.boolean(), attempts: fc.integer({ min: 1, max: 3 }) })
const shapes = fc.record({
  steps: fc.array(shape, { minLength: 1, maxLength: things.length }),
  pivot: fc.nat(things.length - 1),
  after: fc.nat(things.length - 1),
  isBounded: fc.boolean(),
  canCancel: fc.boolean()
})

test("no definition that keeps to the form has findings", () => {
  fc.assert(
    fc.property(shapes, ({ steps, isBounded, canCancel, ...shape }) => {
      const pivot = shape.pivot % steps.length
      const definition = Saga.define({
        name: "things",
        version: 1,
        data: {},
        pivot: `step ${pivot}`,
        ...(isBounded ? { deadline: "1 minute" as const } : {}),
        ...(canCancel ? { cancelledBy: Stop } : {}),
        steps: things.slice(0, steps.length).map(({ ask, success, failure, undo, done }, index) =>
          Saga.step<object>()({
            name: `step ${index}`,
            ask: ({ id }) => ask.of({ id }),
            success,
            ...(steps[index]?.mayFail === true && index <= pivot ? { failure } : {}),
            ...(steps[index]?.canUndo === true
              ? { undo: { ask: ({ id }) => undo.of({ id }), done } }
              : { changesNothing: true as const }),
            deadline: "30 seconds",
            attempts: steps[index]?.attempts ?? 1
          })
        )
      })

      const { findings } = checkSaga(definition, {
        data: [{}],
        after: [`step ${shape.after % steps.length}`],
        draws: 1
      })

      expect(findings).toEqual([])
    }),
    { seed: Number(process.env["SEED"] ?? 20260301), numRuns: 25 }
  )
}, 60_000)
