import { describe, expect, test } from "bun:test"
import { Schema } from "effect"
import { Topic, type AnyContract, type Outgoing } from "../message.ts"
import { OtherBuild, type Context } from "../participant.ts"
import { Orchestrator } from "../sagas/orchestrator.ts"
import { advance, type Advance, type SagaInput } from "../sagas/advance.ts"
import { Saga } from "../sagas/saga.ts"
import type { SagaRow, SagaTables } from "../sagas/tables.ts"
import type { Puts } from "../table.ts"
import { decidedAt, decideWith, type Input } from "../testing/index.ts"

const later = new Date("2026-03-01T12:30:00.000Z")

// A trip: opened, a seat held, the visa checked, the ticket issued and mailed. Once it is issued there is no way back.
const commands = Topic.commands("trips-commands")
const events = Topic.events("trips-events")
const trip = { tripId: Schema.String }
const refused = { ...trip, reason: Schema.String }
const key = { key: "tripId" } as const

const OpenTrip = commands.message("OpenTrip", { ...trip, city: Schema.String }, key)
const TripOpened = events.message("TripOpened", { ...trip, city: Schema.String }, key)
const CloseTrip = commands.message("CloseTrip", refused, key)
const TripClosed = events.message("TripClosed", trip, key)
const HoldSeat = commands.message("HoldSeat", trip, key)
const SeatHeld = events.message("SeatHeld", { ...trip, seat: Schema.String }, key)
const SeatRefused = events.message("SeatRefused", refused, key)
const ReleaseSeat = commands.message("ReleaseSeat", trip, key)
const SeatReleased = events.message("SeatReleased", trip, key)
const CheckVisa = commands.message("CheckVisa", { ...trip, city: Schema.String }, key)
const VisaChecked = events.message("VisaChecked", trip, key)
const VisaRefused = events.message("VisaRefused", refused, key)
const IssueTicket = commands.message("IssueTicket", { ...trip, seat: Schema.NullOr(Schema.String) }, key)
const TicketIssued = events.message("TicketIssued", trip, key)
const TicketRefused = events.message("TicketRefused", refused, key)
const CancelTrip = commands.message("CancelTrip", refused, key)
const MailTicket = commands.message("MailTicket", { ...trip, seat: Schema.NullOr(Schema.String) }, key)
const TicketMailed = events.message("TicketMailed", trip, key)

const Trip = { city: Schema.String, seat: Schema.NullOr(Schema.String) }
type Trip = { readonly city: string; readonly seat: string | null }
const step = Saga.step<Trip>()

const open = step({
  name: "open",
  ask: ({ id, data }) => OpenTrip.of({ tripId: id, city: data.city }),
  success: TripOpened,
  undo: { ask: ({ id, reason }) => CloseTrip.of({ tripId: id, reason: reason ?? "" }), done: TripClosed },
  deadline: "10 seconds",
  attempts: 2
})
const seat = step({
  name: "hold seat",
  ask: ({ id }) => HoldSeat.of({ tripId: id }),
  success: SeatHeld,
  learn: (data, held) => ({ ...data, seat: held.seat }),
  failure: SeatRefused,
  undo: { ask: ({ id }) => ReleaseSeat.of({ tripId: id }), done: SeatReleased },
  deadline: "20 seconds",
  attempts: 3
})
const visa = step({
  name: "visa",
  ask: ({ id, data }) => CheckVisa.of({ tripId: id, city: data.city }),
  success: VisaChecked,
  failure: VisaRefused,
  deadline: "30 seconds",
  attempts: 1
})
const ticket = step({
  name: "ticket",
  ask: ({ id, data }) => IssueTicket.of({ tripId: id, seat: data.seat }),
  success: TicketIssued,
  failure: TicketRefused,
  deadline: "4 minutes",
  attempts: 1
})
const mail = step({
  name: "mail",
  ask: ({ id, data }) => MailTicket.of({ tripId: id, seat: data.seat }),
  success: TicketMailed,
  deadline: "1 hour",
  attempts: 1
})
const booking = {
  name: "book-trip",
  version: 1,
  data: Trip,
  pivot: "ticket",
  deadline: "1 hour",
  cancelledBy: CancelTrip
} as const
const bookTrip = Saga.define({ ...booking, steps: [open, seat, visa, ticket, mail] })

const reasons: Readonly<Record<string, string>> = {
  SeatRefused: "SOLD_OUT",
  VisaRefused: "NO_VISA",
  TicketRefused: "TOO_LATE",
  CancelTrip: "CHANGED_MIND"
}
const answers: ReadonlyArray<AnyContract> = [...events.catalogue.values()]
const answer = (type: string, tripId = "t1", seat = "12A"): Outgoing => {
  const contract = events.catalogue.get(type) ?? commands.catalogue.get(type)
  if (contract === undefined) throw new Error(`there is no ${type}`)
  return { contract, payload: { tripId, city: "Oslo", seat, reason: reasons[type] ?? "" } }
}

const noon = Date.parse("2026-03-01T12:00:00.000Z")
const contextOf = (type: string, count: number): Context => ({
  id: `cause-${count}`,
  key: "t1",
  type,
  correlation: type.startsWith("due ") ? null : "t1",
  coordination: "orchestration",
  // an answer says what its participant was asked with: a saga goes by its own
  definition: "another",
  traceparent: null,
  now: new Date(noon + count * 1_000),
  newId: () => `ask-${count}`
})

interface Played {
  readonly row: SagaRow
  readonly log: Advance["log"]
  readonly sent: ReadonlyArray<Outgoing>
  /** The inputs that changed nothing. */
  readonly ignored: ReadonlyArray<string>
}

const start = (): Played => {
  const { put, send = [] } = Saga.start(bookTrip, "t1", { city: "Oslo", seat: null }, contextOf("BookTrip", 0))
  const [row] = put?.sagas ?? []
  if (row === undefined) throw new Error("no saga was started")
  return { row, log: put?.saga_log ?? [], sent: send, ignored: [] }
}

const play = (words: ReadonlyArray<string>, from = start()): Played =>
  words.reduce<Played>((played, word, index) => {
    const input: SagaInput = word === "deadline" ? word : answer(word)
    const type = word === "deadline" ? "due sagas" : word
    const next = advance(bookTrip, played.row, input, contextOf(type, played.log.length + index + 1))
    return next === undefined
      ? { ...played, ignored: [...played.ignored, word] }
      : { row: next.row, log: [...played.log, ...next.log], sent: [...played.sent, ...next.send], ignored: [] }
  }, from)

const asked = ({ sent }: Played): ReadonlyArray<string> => sent.map(({ contract }) => contract.type)
const times = (count: number, word: string): ReadonlyArray<string> => Array.from({ length: count }, () => word)

interface Path {
  readonly name: string
  readonly when: ReadonlyArray<string>
  readonly asks: ReadonlyArray<string>
  readonly ends: SagaRow["state"]
  readonly reason: string | null
}

const toTicket = ["TripOpened", "SeatHeld", "VisaChecked"]
const askedToTicket = ["OpenTrip", "HoldSeat", "CheckVisa", "IssueTicket"]

const paths: ReadonlyArray<Path> = [
  {
    name: "every step succeeds: completed",
    when: [...toTicket, "TicketIssued", "TicketMailed"],
    asks: [...askedToTicket, "MailTicket"],
    ends: "COMPLETED",
    reason: null
  },
  {
    name: "the second step fails: only the first is undone",
    when: ["TripOpened", "SeatRefused", "TripClosed"],
    asks: ["OpenTrip", "HoldSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "SOLD_OUT"
  },
  {
    name: "the third step fails: the two before it are undone, in reverse",
    when: ["TripOpened", "SeatHeld", "VisaRefused", "SeatReleased", "TripClosed"],
    asks: ["OpenTrip", "HoldSeat", "CheckVisa", "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "NO_VISA"
  },
  {
    name: "the pivot fails: all that can be undone is undone, and the step without undo passed over",
    when: [...toTicket, "TicketRefused", "SeatReleased", "TripClosed"],
    asks: [...askedToTicket, "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "TOO_LATE"
  },
  {
    name: "the first step gives no answer: asked twice, then undone itself",
    when: ["deadline", "deadline", "TripClosed"],
    asks: ["OpenTrip", "OpenTrip", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "OPEN_TIMEOUT"
  },
  {
    name: "the second step gives no answer: asked three times, then undone although nobody knows whether it took effect",
    when: ["TripOpened", ...times(3, "deadline"), "SeatReleased", "TripClosed"],
    asks: ["OpenTrip", ...times(3, "HoldSeat"), "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "HOLD_SEAT_TIMEOUT"
  },
  {
    name: "a step without undo gives no answer: those before it are undone",
    when: ["TripOpened", "SeatHeld", "deadline", "SeatReleased", "TripClosed"],
    asks: ["OpenTrip", "HoldSeat", "CheckVisa", "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "VISA_TIMEOUT"
  },
  {
    name: "it is cancelled while its first step is in flight: that is undone, and its late answer counts for nothing",
    when: ["CancelTrip", "TripOpened", "TripClosed"],
    asks: ["OpenTrip", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "CHANGED_MIND"
  },
  {
    name: "it is cancelled while a later step is in flight: all are undone, that one first",
    when: ["TripOpened", "CancelTrip", "SeatReleased", "TripClosed"],
    asks: ["OpenTrip", "HoldSeat", "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "CHANGED_MIND"
  },
  {
    name: "it is cancelled while it is being undone already: nothing changes",
    when: ["TripOpened", "SeatRefused", "CancelTrip", "TripClosed"],
    asks: ["OpenTrip", "HoldSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "SOLD_OUT"
  },
  {
    name: "it is cancelled after the pivot was asked for: the pivot decides, for",
    when: [...toTicket, "CancelTrip", "TicketIssued", "CancelTrip", "TicketMailed", "CancelTrip"],
    asks: [...askedToTicket, "MailTicket"],
    ends: "COMPLETED",
    reason: null
  },
  {
    name: "it is cancelled after the pivot was asked for: the pivot decides, or against",
    when: [...toTicket, "CancelTrip", "TicketRefused", "SeatReleased", "TripClosed"],
    asks: [...askedToTicket, "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "TOO_LATE"
  },
  {
    name: "the pivot gives no answer for long: asked again for as long as it takes",
    when: [...toTicket, ...times(40, "deadline"), "TicketIssued", "TicketMailed"],
    asks: [...askedToTicket, ...times(40, "IssueTicket"), "MailTicket"],
    ends: "COMPLETED",
    reason: null
  },
  {
    name: "the pivot fails after it was asked again: the others are undone all the same",
    when: [...toTicket, "deadline", "TicketRefused", "SeatReleased", "TripClosed"],
    asks: [...askedToTicket, "IssueTicket", "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "TOO_LATE"
  },
  {
    name: "a step after the pivot gives no answer for long: asked again for as long as it takes",
    when: [...toTicket, "TicketIssued", ...times(40, "deadline"), "TicketMailed"],
    asks: [...askedToTicket, "MailTicket", ...times(40, "MailTicket")],
    ends: "COMPLETED",
    reason: null
  },
  {
    name: "an undo gives no answer for long: asked again for as long as it takes, then on to the next",
    when: ["TripOpened", "SeatHeld", "VisaRefused", ...times(40, "deadline"), "SeatReleased", "deadline", "TripClosed"],
    asks: ["OpenTrip", "HoldSeat", "CheckVisa", ...times(41, "ReleaseSeat"), "CloseTrip", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "NO_VISA"
  },
  {
    name: "an answer comes after the step was asked again: it counts, and its double does not",
    when: ["deadline", "TripOpened", "TripOpened", "SeatHeld", "VisaChecked", "TicketIssued", "TicketMailed"],
    asks: ["OpenTrip", ...askedToTicket, "MailTicket"],
    ends: "COMPLETED",
    reason: null
  },
  {
    name: "the answer of a step comes when it is being undone: too late",
    when: ["TripOpened", ...times(3, "deadline"), "SeatHeld", "SeatReleased", "SeatHeld", "TripClosed"],
    asks: ["OpenTrip", ...times(3, "HoldSeat"), "ReleaseSeat", "CloseTrip"],
    ends: "COMPENSATED",
    reason: "HOLD_SEAT_TIMEOUT"
  }
]

describe("a saga's paths", () => {
  test.each(paths.map((path) => [path.name, path] as const))("%s", (_name, { when, asks, ends, reason }) => {
    const played = play(when)

    expect(asked(played)).toEqual([...asks])
    expect(played.row).toMatchObject({ state: ends, reason, due_at: null })
    expect(played.row.ended_at).toEqual(played.log.at(-1)?.at ?? null)
  })

  test("what a step learned is in later asks, and what is undone knows the reason", () => {
    const played = play([...toTicket, "TicketRefused", "SeatReleased"])

    expect(played.sent.map(({ payload }) => payload)).toEqual([
      { tripId: "t1", city: "Oslo" },
      { tripId: "t1" },
      { tripId: "t1", city: "Oslo" },
      { tripId: "t1", seat: "12A" },
      { tripId: "t1" },
      { tripId: "t1", reason: "TOO_LATE" }
    ])
  })

  test("every ask carries saga's id, style and definition, and an id of its own even when it repeats another", () => {
    const { sent } = play(["deadline", "TripOpened", "deadline", "deadline", "deadline", "deadline"])

    const headers = { correlation: "t1", coordination: "orchestration", definition: "book-trip" } as const
    expect(
      sent.map(({ correlation, coordination, definition }) => ({ correlation, coordination, definition }))
    ).toEqual(sent.map(() => headers))
    expect(new Set(sent.map(({ id }) => id)).size).toBe(sent.length)
    expect(sent).toHaveLength(7)
  })

  test("the log tells each step: what brought the saga there and what it asked", () => {
    const { log, row } = play(["deadline", "TripOpened", "SeatRefused", "TripClosed"])

    expect(log.map(({ at: _at, saga_id: _id, ...entry }) => Object.values(entry).join(" "))).toEqual([
      "1 RUNNING open 1 BookTrip cause-0 OpenTrip ask-0 ",
      "2 RUNNING open 2 due sagas  OpenTrip ask-2 ",
      "3 RUNNING hold seat 1 TripOpened cause-4 HoldSeat ask-4 ",
      "4 COMPENSATING open 1 SeatRefused cause-6 CloseTrip ask-6 SOLD_OUT",
      "5 COMPENSATED open 1 TripClosed cause-8   SOLD_OUT"
    ])
    expect(row.position).toBe(5)
  })
})

describe("a saga's deadlines", () => {
  const waits = (words: ReadonlyArray<string>): number => {
    const { row, log } = play(words)
    return ((row.deadline?.getTime() ?? Number.NaN) - (log.at(-1)?.at.getTime() ?? Number.NaN)) / 1_000
  }
  const minutes = 60

  test.each([
    ["the first attempt waits as long as its step says", ["TripOpened"], 20],
    ["an undo begins with its step's wait again", ["TripOpened", ...times(3, "deadline")], 20],
    ["the next step begins with its own wait", ["deadline", "TripOpened"], 20],
    ["a step that says an hour waits an hour", [...toTicket, "TicketIssued"], 60 * minutes]
  ])("%s", (_name, words, seconds) => {
    expect(waits(words)).toBe(seconds)
  })

  test.each([
    ["the second attempt waits twice as long", ["TripOpened", "deadline"], 40],
    ["the third waits four times as long", ["TripOpened", "deadline", "deadline"], 80],
    ["an undo asked again waits twice as long", ["TripOpened", ...times(4, "deadline")], 40],
    ["doubling ends at ten minutes", [...toTicket, "deadline", "deadline"], 10 * minutes],
    ["ten minutes it stays", [...toTicket, ...times(2_000, "deadline")], 10 * minutes],
    ["an hour stays an hour", [...toTicket, "TicketIssued", "deadline"], 60 * minutes]
  ])("%s, and up to a quarter more", (_name, words, seconds) => {
    expect(waits(words)).toBeGreaterThan(seconds)
    expect(waits(words)).toBeLessThan(seconds * 1.25)
    // of its own, but always the same
    expect(waits(words)).toBe(waits(words))
  })

  test("sagas that were held up together don't ask again together", () => {
    const deadlines = Array.from({ length: 100 }, (_, saga) => {
      const held = { ...start().row, id: `t${saga}` }
      return advance(bookTrip, held, "deadline", contextOf("due sagas", 1))?.row.deadline?.getTime() ?? Number.NaN
    })

    expect(new Set(deadlines).size).toBeGreaterThan(95)
    expect(Math.max(...deadlines) - Math.min(...deadlines)).toBeGreaterThan(4_000)
  })

  test("one saga adds another part of its own at each attempt and at each step", () => {
    const partsOf = (words: ReadonlyArray<string>, seconds: number) => waits(words) / seconds - 1
    const undoing = ["TripOpened", "SeatHeld", "VisaRefused", "SeatReleased"]
    const parts = [
      partsOf(["TripOpened", "deadline"], 40),
      partsOf(["TripOpened", "deadline", "deadline"], 80),
      partsOf([...undoing, "deadline"], 20),
      partsOf([...undoing, "deadline", "deadline"], 40)
    ]

    expect(new Set(parts.map((part) => part.toFixed(4))).size).toBe(parts.length)
  })

  test("the next look at a saga in time stays where it is; it is moved when it is passed, or would be too late", () => {
    const begun = play(["TripOpened"]).row
    const after = (row: SagaRow, input: SagaInput, seconds: number) =>
      advance(bookTrip, row, input, { ...contextOf("late", 1), now: new Date(noon + seconds * 1_000) })?.row
    const first = begun.due_at
    if (first === null) throw new Error("nobody looks at it")

    const inTime = after(begun, answer("SeatHeld"), 5)
    expect(inTime?.due_at).toEqual(first)
    expect(inTime?.deadline).toEqual(new Date(noon + 35_000))
    expect(after(begun, answer("SeatHeld"), 200)?.due_at).toEqual(new Date(noon + 230_000))
    const farOff = { ...begun, due_at: new Date(noon + 500_000) }
    expect(after(farOff, answer("SeatHeld"), 5)?.due_at).toEqual(new Date(noon + 35_000))
  })

  test("all steps before the pivot share one, and it cuts the last wait short", () => {
    const begun = play(["TripOpened"])
    const late = (minutesLater: number): Context => ({
      ...contextOf("due sagas", 99),
      now: new Date(noon + minutesLater * 60_000)
    })

    const last = advance(bookTrip, begun.row, "deadline", late(59.9))
    expect(last?.send.map(({ contract }) => contract.type)).toEqual(["HoldSeat"])
    expect(last?.row.deadline).toEqual(new Date(noon + 60 * 60_000))

    const over = advance(bookTrip, begun.row, "deadline", late(60))
    expect(over?.send.map(({ contract }) => contract.type)).toEqual(["ReleaseSeat"])
    expect(over?.row).toMatchObject({ state: "COMPENSATING", reason: "HOLD_SEAT_TIMEOUT" })

    const pivot = advance(bookTrip, play(toTicket).row, "deadline", late(60))
    expect(pivot?.send.map(({ contract }) => contract.type)).toEqual(["IssueTicket"])
    expect(pivot?.row.deadline?.getTime()).toBeGreaterThan(noon + 60 * 60_000)
  })
})

describe("replies that nobody awaits", () => {
  // every state that a saga can be in, by the words that lead there, and the replies that count in it
  const states: ReadonlyArray<readonly [words: ReadonlyArray<string>, awaited: ReadonlyArray<string>]> = [
    [[], ["TripOpened"]],
    [["deadline"], ["TripOpened"]],
    [["TripOpened"], ["SeatHeld", "SeatRefused"]],
    [
      ["TripOpened", "SeatHeld"],
      ["VisaChecked", "VisaRefused"]
    ],
    [toTicket, ["TicketIssued", "TicketRefused"]],
    [
      [...toTicket, "deadline"],
      ["TicketIssued", "TicketRefused"]
    ],
    [[...toTicket, "TicketIssued"], ["TicketMailed"]],
    [[...toTicket, "TicketIssued", "TicketMailed"], []],
    [[...toTicket, "TicketRefused"], ["SeatReleased"]],
    [["TripOpened", ...times(4, "deadline")], ["SeatReleased"]],
    [["TripOpened", "SeatRefused"], ["TripClosed"]],
    [["deadline", "deadline"], ["TripClosed"]],
    [["TripOpened", "SeatRefused", "TripClosed"], []]
  ]

  test.each(states.map(([words, awaited]) => [words.join(", ") || "nothing", words, awaited] as const))(
    "after %s: only what is awaited counts",
    (_name, words, awaited) => {
      const before = play(words)

      const counted = answers.filter(({ type }) => play([type], before).ignored.length === 0)

      expect(counted.map(({ type }) => type).sort()).toEqual([...awaited].sort())
    }
  )

  test("an ended saga takes no deadline either", () => {
    const completed = play([...toTicket, "TicketIssued", "TicketMailed"])
    const compensated = play(["TripOpened", "SeatRefused", "TripClosed"])

    expect(play(["deadline"], completed)).toEqual({ ...completed, ignored: ["deadline"] })
    expect(play(["deadline"], compensated)).toEqual({ ...compensated, ignored: ["deadline"] })
  })

  test("a running saga at a step that its definition lacks says so", () => {
    const { row } = play(["TripOpened"])

    expect(() => advance(bookTrip, { ...row, step: "visit" }, "deadline", contextOf("due sagas", 9))).toThrow(
      "saga t1 is at step visit, which book-trip v1 does not have"
    )
  })
})

describe("the orchestrator", () => {
  const startedByTrip = Saga.startedBy({
    on: TripOpened,
    definition: bookTrip,
    after: "open",
    data: ({ city }) => ({ city, seat: null })
  })
  const desk = Orchestrator.make("desk", [bookTrip], { starts: [startedByTrip] })

  /** What each input made it ask, and the rows that all of them left. */
  const tell = (inputs: ReadonlyArray<Input>, given: Puts<SagaTables> = {}, by = desk) =>
    inputs.reduce<{ readonly rows: Puts<SagaTables>; readonly asked: ReadonlyArray<Outgoing> }>(
      ({ rows, asked }, input) => {
        const decided = decideWith(by, rows, input)
        return { rows: decided.rows, asked: [...asked, ...(decided.send ?? [])] }
      },
      { rows: given, asked: [] }
    )
  const sagaOf = ({ sagas }: Puts<SagaTables>, id: string): SagaRow => {
    const found = sagas?.find((row) => row.id === id)
    if (found === undefined) throw new Error(`there is no saga ${id}`)
    return found
  }
  const running = (words: ReadonlyArray<string>) => ({ sagas: [play(words).row] })

  test("listens to every reply of its sagas and to nothing else", () => {
    expect([...desk.messages.keys()].sort((a, b) => (a.type < b.type ? -1 : 1))).toEqual(
      [...answers, CancelTrip as unknown as AnyContract].sort((a, b) => (a.type < b.type ? -1 : 1))
    )
    expect(new Set(desk.topics.values())).toEqual(new Set([events, commands]))
  })

  test("a message that nobody started a saga for starts it, behind the step that it shows to be done", () => {
    const { rows, asked } = tell([answer("TripOpened")])

    expect(sagaOf(rows, "t1")).toMatchObject({ state: "RUNNING", step: "hold seat", position: 1, attempt: 1 })
    expect(asked.map(({ contract }) => contract.type)).toEqual(["HoldSeat"])
    expect(rows.saga_log).toHaveLength(1)
  })

  test("a saga started by a message undoes the step that it was started behind", () => {
    const { rows, asked } = tell(["TripOpened", "SeatRefused", "TripClosed"].map((type) => answer(type)))

    expect(asked.map(({ contract }) => contract.type)).toEqual(["HoldSeat", "CloseTrip"])
    expect(sagaOf(rows, "t1").state).toBe("COMPENSATED")
  })

  test("the message that started a saga does not start it again, neither while it runs nor after its end", () => {
    const words = ["TripOpened", "TripOpened", "SeatRefused", "TripOpened", "TripClosed", "TripOpened"]

    const { rows, asked } = tell(words.map((type) => answer(type)))

    expect(asked.map(({ contract }) => contract.type)).toEqual(["HoldSeat", "CloseTrip"])
    expect(rows.sagas).toHaveLength(1)
    expect(rows.saga_log).toHaveLength(3)
  })

  test("a saga that was started by hand takes the same message as its step's reply", () => {
    const { rows, asked } = tell([answer("TripOpened")], running([]))

    expect(sagaOf(rows, "t1")).toMatchObject({ step: "hold seat", position: 2 })
    expect(asked.map(({ contract }) => contract.type)).toEqual(["HoldSeat"])
  })

  test("replies to a saga that does not exist are dropped", () => {
    const strangers = answers.filter(({ type }) => type !== "TripOpened").map(({ type }) => answer(type))

    const { rows, asked } = tell(strangers)

    expect(rows.sagas).toEqual([])
    expect(rows.saga_log).toEqual([])
    expect(asked).toEqual([])
  })

  test("choreographed messages start nothing when the definition doesn't say how such a saga is ended", () => {
    const { rows, asked } = tell([{ ...answer("TripOpened", "t2"), coordination: "choreography" }], { sagas: [] })

    expect(rows.sagas).toEqual([])
    expect(asked).toEqual([])
  })

  test("a deadline that passed is the row that fell due", () => {
    const given = running(["TripOpened"])

    const { rows, asked } = tell([{ due: "sagas", key: "t1", at: later }], given)

    expect(sagaOf(rows, "t1")).toMatchObject({ step: "hold seat", attempt: 2 })
    expect(asked.map(({ contract }) => contract.type)).toEqual(["HoldSeat"])
    expect(rows.saga_log).toMatchObject([{ cause_type: "due sagas", cause_id: null }])
  })

  test("a look before the deadline only moves the next look to it", () => {
    const row = play(["TripOpened"]).row
    const lookAt = new Date((row.deadline?.getTime() ?? Number.NaN) - 1)

    const { rows, asked } = tell([{ due: "sagas", key: "t1", at: lookAt }], { sagas: [{ ...row, due_at: lookAt }] })

    expect(asked).toEqual([])
    expect(rows.sagas).toEqual([{ ...row, due_at: row.deadline }])
    expect(rows.saga_log).toEqual([])
  })

  test("two sagas whose messages come in turns keep their data apart", () => {
    const turns = ["TripOpened", "SeatHeld", "VisaChecked"].flatMap((type) => [
      answer(type, "t1", "1A"),
      answer(type, "t2", "2B")
    ])

    const { rows, asked } = tell([...turns, answer("TicketRefused", "t2"), answer("TicketIssued", "t1")])

    const issue = asked.filter(({ contract }) => contract.type === "IssueTicket").map(({ payload }) => payload)
    expect(issue).toEqual([
      { tripId: "t1", seat: "1A" },
      { tripId: "t2", seat: "2B" }
    ])
    expect(sagaOf(rows, "t1")).toMatchObject({ state: "RUNNING", step: "mail", data: { seat: "1A" }, reason: null })
    expect(sagaOf(rows, "t2")).toMatchObject({ state: "COMPENSATING", data: { seat: "2B" }, reason: "TOO_LATE" })
    for (const id of ["t1", "t2"]) {
      const positions = rows.saga_log?.filter((entry) => entry.saga_id === id).map(({ position }) => position)
      expect(positions).toEqual([1, 2, 3, 4])
    }
  })

  test("a saga ends on the version it started with", () => {
    const shorter = Saga.define({ ...booking, version: 2, steps: [open, seat, ticket] })
    const both = Orchestrator.make("desk", [bookTrip, shorter], { starts: [] })
    const given = { sagas: [play(["TripOpened"]).row, { ...play(["TripOpened"]).row, id: "t2", version: 2 }] }

    const { asked } = tell([answer("SeatHeld", "t1"), answer("SeatHeld", "t2")], given, both)

    expect(asked.map(({ contract }) => contract.type)).toEqual(["CheckVisa", "IssueTicket"])
  })

  describe("beside a build with another version", () => {
    const shorter = Saga.define({ ...booking, version: 2, steps: [open, seat, ticket] })
    const next = Orchestrator.make("desk", [bookTrip, shorter], { starts: [] })
    const missing = "saga t1 runs on book-trip v2, which this build does not have"
    const newer = (words: ReadonlyArray<string>): SagaRow => ({ ...play(words).row, version: 2 })
    const key = "00000000-0000-7000-8000-000000000009"
    const handover = {
      message_id: key,
      saga_id: "t1",
      topic: SeatHeld.topic.name,
      type: "SeatHeld",
      payload: { tripId: "t1", seat: "1A" },
      due_at: decidedAt
    }

    test("a reply to a saga of that version is handed over, and the saga stays as it is", () => {
      const saga = newer(["TripOpened"])

      const { rows, asked } = tell([answer("SeatHeld", "t1", "1A")], { sagas: [saga] })

      expect(asked).toEqual([])
      expect(rows.sagas).toEqual([saga])
      expect(rows.saga_log).toEqual([])
      expect(rows.saga_handovers).toMatchObject([{ ...handover, message_id: expect.any(String) }])
      // toMatchObject takes any date for any other
      expect(rows.saga_handovers?.map(({ due_at }) => due_at)).toEqual([decidedAt])
    })

    test("a build that has the version decides what was handed over as it would have decided the message, once", () => {
      const saga = newer(["TripOpened"])

      const told = tell([{ due: "saga_handovers", key }], { sagas: [saga], saga_handovers: [handover] }, next)

      const directly = tell([answer("SeatHeld", "t1", "1A")], { sagas: [saga] }, next)
      expect(told.rows.sagas).toEqual(directly.rows.sagas)
      expect(told.asked.map(({ contract }) => contract.type)).toEqual(["IssueTicket"])
      expect(told.rows.saga_log).toMatchObject([{ cause_type: "SeatHeld", cause_id: key }])
      expect(told.rows.saga_handovers).toEqual([{ ...handover, due_at: null }])
      // by then it is an answer that the saga does not await any more
      expect(tell([{ due: "saga_handovers", key }], { ...told.rows, saga_handovers: [handover] }, next).asked).toEqual(
        []
      )
    })

    test("what was handed over, and the saga's deadline, wait for a build that has the version", () => {
      const unheardOf = { ...handover, message_id: `${key.slice(0, -1)}8`, type: "SeatBlessed" }
      const given = { sagas: [newer(["TripOpened"])], saga_handovers: [handover, unheardOf] }

      for (const due of [
        { due: "saga_handovers", key },
        { due: "saga_handovers", key: unheardOf.message_id },
        { due: "sagas", key: "t1", at: later }
      ]) {
        expect(() => tell([due], given)).toThrow(missing)
        expect(() => tell([due], given)).toThrow(OtherBuild)
      }
    })

    test("what was handed over is settled when the saga has ended meanwhile", () => {
      const ended = newer(["TripOpened", "SeatRefused", "TripClosed"])
      const given = { sagas: [ended], saga_handovers: [handover] }

      const { rows, asked } = tell([{ due: "saga_handovers", key }], given)

      expect(asked).toEqual([])
      expect(rows.sagas).toEqual([ended])
      expect(rows.saga_handovers).toEqual([{ ...handover, due_at: null }])
    })

    test("what was handed over is settled when no definition awaits its type any more", () => {
      const given = { sagas: [newer(["TripOpened"])], saga_handovers: [{ ...handover, type: "SeatBlessed" }] }

      const { rows, asked } = tell([{ due: "saga_handovers", key }], given, next)

      expect(asked).toEqual([])
      expect(rows.saga_handovers).toMatchObject([{ type: "SeatBlessed", due_at: null }])
    })

    test("a late reply to an ended saga of that version is no trouble", () => {
      const ended = newer(["TripOpened", "SeatRefused", "TripClosed"])

      const { rows, asked } = tell([answer("TripClosed"), answer("TripOpened")], { sagas: [ended] })

      expect(rows.sagas).toEqual([ended])
      expect(rows.saga_handovers).toEqual([])
      expect(asked).toEqual([])
    })

    test("a message of a choreographed saga is handed over, too", () => {
      const saga: SagaRow = { ...newer(["TripOpened"]), coordination: "choreography" }
      const seen = { ...answer("SeatHeld"), coordination: "choreography" as const }

      const { rows } = tell([seen], { sagas: [saga] })

      expect(rows.sagas).toEqual([saga])
      expect(rows.saga_handovers).toMatchObject([{ saga_id: "t1", type: "SeatHeld" }])
      const told = tell([{ due: "saga_handovers", key: rows.saga_handovers?.[0]?.message_id ?? "" }], rows, next)
      expect(sagaOf(told.rows, "t1")).toMatchObject({ seen: ["SeatHeld"], step: "ticket" })
    })
  })

  test("a saga that is started behind its last step is completed at once and absorbs what comes", () => {
    const posted = Saga.startedBy({
      on: TicketMailed,
      definition: bookTrip,
      after: "mail",
      data: () => ({ city: "", seat: null })
    })
    const office = Orchestrator.make("desk", [bookTrip], { starts: [posted] })

    const { rows, asked } = tell([answer("TicketMailed"), answer("TicketMailed"), answer("SeatHeld")], {}, office)

    expect(sagaOf(rows, "t1")).toMatchObject({ state: "COMPLETED", position: 1, due_at: null })
    expect(asked).toEqual([])
  })

  test("two definitions of one name and version are refused, and a start of a definition it does not have", () => {
    const other = Saga.define({ ...booking, steps: [open, ticket] })

    expect(() => Orchestrator.make("desk", [bookTrip, other], { starts: [] })).toThrow(
      "desk has two definitions of one name and version"
    )
    expect(() => Orchestrator.make("desk", [other], { starts: [startedByTrip] })).toThrow(
      "desk starts book-trip, which is none of its definitions"
    )
  })
})

describe("a definition is refused when", () => {
  const steps = [open, seat, visa, ticket, mail]

  test.each([
    [
      "two steps have one name",
      { steps: [open, step({ ...seat, name: "open" }), ticket] },
      "book-trip has two steps of one name"
    ],
    ["its pivot is no step", { pivot: "tickets" }, "book-trip has no step tickets to be its pivot"],
    ["it has no steps at all", { steps: [] }, "book-trip has no step ticket to be its pivot"],
    [
      "a step is never asked",
      { steps: [step({ ...open, attempts: 0 }), ticket] },
      "step open of book-trip needs at least one attempt"
    ],
    [
      "a step is asked one and a half times",
      { steps: [step({ ...open, attempts: 1.5 }), ticket] },
      "step open of book-trip needs at least one attempt"
    ],
    [
      "a step gives no time to answer",
      { steps: [step({ ...open, deadline: 0 }), ticket] },
      "step open of book-trip needs a deadline that passes"
    ],
    [
      "a step waits for ever",
      { steps: [step({ ...open, deadline: Number.POSITIVE_INFINITY }), ticket] },
      "step open of book-trip needs a deadline that passes"
    ],
    ["its name fits in no header", { name: "trip é", steps }, '"trip é" is no name of a saga'],
    [
      "a step after the pivot may fail",
      { pivot: "hold seat", steps },
      "step visa of book-trip comes after the pivot and can only succeed"
    ],
    ["it gives no time", { deadline: 0 }, "book-trip needs a deadline that lies ahead"],
    [
      "it is cancelled by what a step fails with",
      { cancelledBy: SeatRefused },
      "book-trip has two uses of the reply SeatRefused"
    ],
    [
      "two steps share a reply",
      { steps: [open, step({ ...visa, success: TripOpened }), ticket] },
      "book-trip has two uses of the reply TripOpened"
    ],
    [
      "success and failure are one reply",
      { steps: [step({ ...visa, success: VisaRefused }), ticket] },
      "book-trip has two uses of the reply VisaRefused"
    ],
    [
      "an undo is confirmed by what confirms the step",
      { steps: [step({ ...open, success: TripClosed }), ticket] },
      "book-trip has two uses of the reply TripClosed"
    ]
  ])("%s", (_name, changed, message) => {
    expect(() => Saga.define({ ...booking, steps, ...changed })).toThrow(message)
  })

  test("a start behind a step that it lacks is refused", () => {
    const behind = { on: TripOpened, definition: bookTrip, after: "opened", data: () => ({ city: "", seat: null }) }

    expect(() => Saga.startedBy(behind)).toThrow("book-trip v1 has no step opened")
    expect(() => Saga.start(bookTrip, "t1", { city: "", seat: null }, contextOf("BookTrip", 0), "opened")).toThrow(
      "book-trip v1 has no step opened"
    )
  })
})
