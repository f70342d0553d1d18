/** Choreographed sagas: participants that go by events, and the orchestrator that watches. */
import { describe, expect, test } from "bun:test"
import { Schema } from "effect"
import fc from "fast-check"
import { Choreography } from "../choreography.ts"
import { Topic, type Contract, type Outgoing } from "../message.ts"
import { Orchestrator } from "../sagas/orchestrator.ts"
import { Participant } from "../participant.ts"
import type { SagaView } from "../sagas/definition.ts"
import { Saga } from "../sagas/saga.ts"
import type { SagaRow } from "../sagas/tables.ts"
import { Table } from "../table.ts"
import { decidedAt, decideWith } from "../testing/index.ts"

const commands = Topic.commands("trips-commands")
const events = Topic.events("trips-events", { choreographyName: "trips-choreography" })
const trip = { tripId: Schema.String }
const refused = { ...trip, reason: Schema.String }
const key = { key: "tripId" } as const
const OpenTrip = commands.message("OpenTrip", trip, key)
const TripOpened = events.message("TripOpened", { ...trip, city: Schema.String }, key)
const CloseTrip = commands.message("CloseTrip", refused, key)
const TripClosed = events.message("TripClosed", refused, key)
const HoldSeat = commands.message("HoldSeat", { ...trip, city: Schema.String }, key)
const SeatHeld = events.message("SeatHeld", { ...trip, seat: Schema.String }, key)
const SeatRefused = events.message("SeatRefused", refused, key)
const ReleaseSeat = commands.message("ReleaseSeat", trip, key)
const SeatReleased = events.message("SeatReleased", trip, key)
const Pay = commands.message("Pay", trip, key)
const Paid = events.message("Paid", trip, key)
const PayRefused = events.message("PayRefused", refused, key)
const Refund = commands.message("Refund", trip, key)
const Refunded = events.message("Refunded", trip, key)
const Issue = commands.message("Issue", trip, key)
const Issued = events.message("Issued", trip, key)
const EndTrip = commands.message("EndTrip", refused, key)

const choreographed = { coordination: "choreography", correlation: "t1" } as const

describe("a participant that joins a choreography", () => {
  const seats = Table.make("seats", { key: "trip", row: { trip: Schema.String, status: Schema.String } })
  const desk = Participant.make("desk", { seats })
    .on(HoldSeat, {
      touches: { seats: ({ tripId }) => [tripId] },
      decide: ({ seats }, { tripId, city }) =>
        seats.get(tripId) === undefined
          ? { put: { seats: [{ trip: tripId, status: "HELD" }] }, send: [SeatHeld.of({ tripId, seat: city })] }
          : { send: [SeatRefused.of({ tripId, reason: "TAKEN" })] }
    })
    .on(ReleaseSeat, {
      touches: { seats: ({ tripId }) => [tripId] },
      decide: (_rows, { tripId }) => ({
        put: { seats: [{ trip: tripId, status: "FREE" }] },
        send: [SeatReleased.of({ tripId })]
      })
    })
  const reactions = [
    Choreography.when(TripOpened, HoldSeat, (opened) => (opened.city === "Nowhere" ? undefined : opened)),
    Choreography.when(TripClosed, ReleaseSeat, ({ tripId }) => ({ tripId })),
    Choreography.when(SeatHeld, Pay, ({ tripId }) => ({ tripId }))
  ]
  const joined = Choreography.join(desk, reactions)
  const opened = TripOpened.of({ tripId: "t1", city: "Oslo" })

  test("decides the command that the event stands for", () => {
    const asked = decideWith(joined, {}, HoldSeat.of({ tripId: "t1", city: "Oslo" }))
    const seen = decideWith(joined, {}, { ...opened, ...choreographed })

    expect(seen.put).toEqual(asked.put)
    expect(seen.send).toEqual(asked.send)
    expect(decideWith(joined, {}, { ...opened, ...choreographed }, { ...opened, ...choreographed }).send).toEqual([
      SeatRefused.of({ tripId: "t1", reason: "TAKEN" })
    ])
  })

  test("does nothing for an event that stands for none of its commands", () => {
    const nowhere = TripOpened.of({ tripId: "t1", city: "Nowhere" })

    const { put, send } = decideWith(joined, {}, { ...nowhere, ...choreographed })

    expect([put, send]).toEqual([undefined, undefined])
  })

  test("decides the first of the commands that an event may stand for", () => {
    const either = Choreography.join(desk, [...reactions, Choreography.when(TripOpened, ReleaseSeat, (trip) => trip)])
    const nowhere = TripOpened.of({ tripId: "t1", city: "Nowhere" })

    expect(decideWith(either, {}, { ...opened, ...choreographed }).send).toEqual([
      SeatHeld.of({ tripId: "t1", seat: "Oslo" })
    ])
    expect(decideWith(either, {}, { ...nowhere, ...choreographed }).send).toEqual([SeatReleased.of({ tripId: "t1" })])
  })

  test("finds rows by other rows, as for the command", () => {
    const bookings = Table.make("bookings", { key: "trip", row: { trip: Schema.String, seat: Schema.String } })
    const places = Table.make("places", { key: "seat", row: { seat: Schema.String, free: Schema.Boolean } })
    const office = Participant.make("office", { bookings, places }).on(ReleaseSeat, {
      touches: {
        bookings: ({ tripId }) => [tripId],
        places: ({ tripId }, { bookings }) => [bookings.get(tripId)?.seat ?? "none"]
      },
      decide: ({ places }) => ({ put: { places: [{ ...(places.get("12A") ?? { seat: "" }), free: true }] } })
    })
    const taken = { bookings: [{ trip: "t1", seat: "12A" }], places: [{ seat: "12A", free: false }] }
    const listening = Choreography.join(office, [Choreography.when(TripClosed, ReleaseSeat, (trip) => trip)])

    const { rows } = decideWith(listening, taken, {
      ...TripClosed.of({ tripId: "t1", reason: "NO_MONEY" }),
      ...choreographed
    })

    expect(rows.places).toEqual([{ seat: "12A", free: true }])
  })

  test("listens to what concerns it only, and there to choreographed messages only", () => {
    const types = [...joined.messages].map(([{ type }, { coordination }]) => [type, coordination])

    expect(types).toEqual([
      ["HoldSeat", undefined],
      ["ReleaseSeat", undefined],
      ["TripOpened", "choreography"],
      ["TripClosed", "choreography"]
    ])
    expect([...desk.topics.keys(), ...joined.topics.keys()]).toEqual([
      "trips-commands",
      "trips-commands",
      "trips-choreography"
    ])
  })

  test("can't react to what it handles already", () => {
    const listening = desk.on(TripOpened, { decide: () => ({}) })

    expect(() => Choreography.join(listening, reactions)).toThrow("TripOpened is handled twice")
  })
})

const step = Saga.step<{ readonly seat: string | null }>()
const patience = { deadline: "10 seconds", attempts: 2 } as const
const unbounded = {
  name: "book-trip",
  version: 1,
  data: { seat: Schema.NullOr(Schema.String) },
  pivot: "issue",
  steps: [
    step({
      ...patience,
      name: "open",
      ask: ({ id }) => OpenTrip.of({ tripId: id }),
      success: TripOpened,
      undo: { ask: ({ id, reason }) => CloseTrip.of({ tripId: id, reason: reason ?? "" }), done: TripClosed }
    }),
    step({
      ...patience,
      name: "seat",
      ask: ({ id }) => HoldSeat.of({ tripId: id, city: "" }),
      success: SeatHeld,
      learn: (_data, { seat }) => ({ seat }),
      failure: SeatRefused,
      undo: { ask: ({ id }) => ReleaseSeat.of({ tripId: id }), done: SeatReleased }
    }),
    step({
      ...patience,
      name: "pay",
      ask: ({ id }) => Pay.of({ tripId: id }),
      success: Paid,
      failure: PayRefused,
      undo: { ask: ({ id }) => Refund.of({ tripId: id }), done: Refunded }
    }),
    step({ ...patience, name: "issue", ask: ({ id }) => Issue.of({ tripId: id }), success: Issued })
  ]
}
const ending = { stalled: ({ id, reason }: SagaView<unknown>) => EndTrip.of({ tripId: id, reason: reason ?? "" }) }
const bookTrip = Saga.define({ ...unbounded, ...ending, deadline: "1 minute" })
const agencyOf = (definition: typeof bookTrip) =>
  Orchestrator.make("agency", [definition], {
    starts: [Saga.startedBy({ on: TripOpened, definition, after: "open", data: () => ({ seat: null }) })]
  })
const agency = agencyOf(bookTrip)

const seen = <P extends object>(contract: Contract<P>, payload: P): Outgoing => ({
  ...contract.of(payload),
  ...choreographed
})
const opened = seen(TripOpened, { tripId: "t1", city: "Oslo" })
const held = seen(SeatHeld, { tripId: "t1", seat: "12A" })
const paid = seen(Paid, { tripId: "t1" })
const issued = seen(Issued, { tripId: "t1" })
const noSeat = seen(SeatRefused, { tripId: "t1", reason: "SOLD_OUT" })
const notPaid = seen(PayRefused, { tripId: "t1", reason: "NO_MONEY" })
const closed = seen(TripClosed, { tripId: "t1", reason: "NO_MONEY" })
const released = seen(SeatReleased, { tripId: "t1" })
const refunded = seen(Refunded, { tripId: "t1" })
const due = { due: "sagas", key: "t1" } as const

const watched = (...inputs: ReadonlyArray<Outgoing>) => decideWith(agency, {}, ...inputs).rows
const sagaOf = (...inputs: ReadonlyArray<Outgoing>): SagaRow => {
  const [saga] = watched(...inputs).sagas
  if (saga === undefined) throw new Error("there is no saga")
  return saga
}

describe("a choreographed saga that is watched", () => {
  test.each<readonly [string, ReadonlyArray<Outgoing>, SagaRow["state"], string, string | null]>([
    ["has begun", [opened], "RUNNING", "seat", null],
    ["has its seat", [opened, held], "RUNNING", "pay", null],
    ["is paid, of which only the payment was seen", [opened, paid], "RUNNING", "issue", null],
    ["has ended well", [opened, held, paid, issued], "COMPLETED", "issue", null],
    ["has ended well, though a refusal was seen", [opened, notPaid, issued], "COMPLETED", "issue", null],
    ["found no seat", [opened, noSeat], "COMPENSATING", "pay", "SOLD_OUT"],
    ["was not paid", [opened, held, notPaid], "COMPENSATING", "pay", "NO_MONEY"],
    [
      "waits for the seat to be released",
      [opened, held, notPaid, closed, refunded],
      "COMPENSATING",
      "seat",
      "NO_MONEY"
    ],
    ["is undone", [opened, held, notPaid, closed, released, refunded], "COMPENSATED", "open", "NO_MONEY"]
  ])("%s", (_name, inputs, state, at, reason) => {
    expect(sagaOf(...inputs)).toMatchObject({ id: "t1", state, step: at, reason, coordination: "choreography" })
  })

  test("goes on once its pivot is done, whatever else was seen", () => {
    const paidLast = agencyOf(Saga.define({ ...unbounded, ...ending, pivot: "pay" }))

    const { rows } = decideWith(paidLast, {}, opened, closed, paid)

    expect(rows.sagas).toMatchObject([{ state: "RUNNING", step: "issue" }])
  })

  test("is undone for the reason that whoever undoes it gives, not for an echo of it", () => {
    const echo = seen(SeatRefused, { tripId: "t1", reason: "ALREADY_RELEASED" })
    const wanted = seen(TripClosed, { tripId: "t1", reason: "CHANGED_MIND" })

    expect(sagaOf(opened, echo, wanted).reason).toBe("CHANGED_MIND")
    expect(sagaOf(opened, wanted, echo).reason).toBe("CHANGED_MIND")
  })

  test("asks nobody for anything", () => {
    for (const inputs of [[opened], [opened, held, paid, issued], [opened, held, notPaid, closed, released, refunded]])
      for (let count = 1; count <= inputs.length; count++)
        expect(decideWith(agency, {}, ...inputs.slice(0, count)).send ?? []).toEqual([])
  })

  test("logs each event once, with its cause", () => {
    const { saga_log } = watched(opened, held, held, paid, opened, issued, paid)

    expect(saga_log.map(({ position, cause_type, asked_type }) => [position, cause_type, asked_type])).toEqual([
      [1, "TripOpened", null],
      [2, "SeatHeld", null],
      [3, "Paid", null],
      [4, "Issued", null]
    ])
  })

  test("has in its log what is only seen after its end, and stays ended", () => {
    const before = sagaOf(opened, paid, issued)
    const { saga_log, sagas } = watched(opened, paid, issued, held, held)

    expect(saga_log.map(({ position, state, cause_type }) => [position, state, cause_type])).toEqual([
      [1, "RUNNING", "TripOpened"],
      [2, "RUNNING", "Paid"],
      [3, "COMPLETED", "Issued"],
      [4, "COMPLETED", "SeatHeld"]
    ])
    expect(sagas).toEqual([{ ...before, seen: [...before.seen, "SeatHeld"], position: 4 }])
  })

  test("learns what an orchestrated one learns", () => {
    expect(sagaOf(opened, held).data).toEqual({ seat: "12A" })
  })

  test("stands where it stands in whatever order the events are seen, however often", () => {
    const courses = [
      [held, paid, issued],
      [noSeat, closed, released, refunded],
      [held, notPaid, closed, released, refunded],
      [held, paid, closed, released, refunded]
    ]
    for (const course of courses) {
      const { state, step, data, ended_at } = sagaOf(opened, ...course)
      expect(ended_at).not.toBeNull()
      fc.assert(
        fc.property(fc.shuffledSubarray([...course, ...course], { minLength: 2 * course.length }), (shuffled) => {
          const saga = sagaOf(opened, ...shuffled)
          expect({ state: saga.state, step: saga.step }).toEqual({ state, step })
          if (state === "COMPLETED" && shuffled.indexOf(held) < shuffled.indexOf(issued))
            expect(saga.data).toEqual(data)
        }),
        { seed: 20261121, numRuns: 200 }
      )
    }
  })
})

describe("what is seen of a choreographed saga before it begins", () => {
  const asideOf = ({ saga_early }: ReturnType<typeof watched>) => {
    const [row] = saga_early
    if (row === undefined) throw new Error("nothing was put aside")
    return row
  }

  test("is put aside, and counts once the saga has begun", () => {
    const before = watched(held)
    const early = asideOf(before)
    expect(before.sagas).toEqual([])
    expect([early.saga_id, early.type, early.attempt]).toEqual(["t1", "SeatHeld", 1])
    expect(early.due_at).toEqual(new Date(decidedAt.getTime() + 1_000))

    const look = { due: "saga_early", key: early.message_id } as const
    const { rows, send } = decideWith(agency, before, opened, look)

    expect([rows.sagas[0]?.state, rows.sagas[0]?.step, rows.sagas[0]?.seen]).toEqual([
      "RUNNING",
      "pay",
      ["TripOpened", "SeatHeld"]
    ])
    expect(rows.saga_log.at(-1)).toMatchObject({ cause_type: "SeatHeld", cause_id: early.message_id })
    expect(rows.saga_early).toEqual([{ ...early, due_at: null }])
    expect(send ?? []).toEqual([])
  })

  test("is looked at again at growing intervals, for four minutes, and then given up", () => {
    let rows = watched(held)
    const waits: Array<number> = []
    for (let look = 0; look < 50; look++) {
      const { due_at, message_id } = asideOf(rows)
      if (due_at === null) break
      const at = new Date(due_at.getTime())
      rows = decideWith(agency, rows, { due: "saga_early", key: message_id, at }).rows
      waits.push(((asideOf(rows).due_at ?? at).getTime() - at.getTime()) / 1_000)
    }

    expect(waits).toEqual([2, 4, 8, ...Array.from({ length: 16 }, () => 15), 0])
    expect(rows.sagas).toEqual([])
  })

  test("is dropped when it is of an orchestrated saga, and when choreographed ones are not watched", () => {
    const unwatched = Orchestrator.make("agency", [Saga.define({ ...unbounded, deadline: "1 minute" })], { starts: [] })

    expect(decideWith(agency, {}, SeatHeld.of({ tripId: "t1", seat: "12A" })).rows.saga_early).toEqual([])
    expect(decideWith(unwatched, {}, held).rows.saga_early).toEqual([])
  })
})

describe("the deadline of a choreographed saga", () => {
  const row = sagaOf(opened)
  const late: SagaRow = { ...row, started_at: new Date(decidedAt.getTime() - 60_000) }

  test("is the definition's, whatever is seen", () => {
    const end = new Date(decidedAt.getTime() + 60_000)

    for (const saga of [row, sagaOf(opened, held), sagaOf(opened, noSeat)])
      expect([saga.deadline, saga.due_at]).toEqual([end, end])
  })

  test("asks for the saga's end, again and again at growing intervals, until it has ended", () => {
    let saga = late
    let last = 0
    for (let times = 1; times <= 5; times++) {
      const { send, rows } = decideWith(agency, { sagas: [{ ...saga, deadline: decidedAt, due_at: decidedAt }] }, due)
      expect(send).toMatchObject([{ ...EndTrip.of({ tripId: "t1", reason: "TIMEOUT" }), ...choreographed }])
      saga = rows.sagas[0] ?? saga
      expect(saga.due_at).toEqual(saga.deadline)
      const wait = (saga.deadline?.getTime() ?? 0) - decidedAt.getTime()
      expect(wait).toBeGreaterThan(last)
      last = wait
    }
    expect(saga.attempt).toBe(6)

    const ended = decideWith(agency, { sagas: [saga] }, closed, released, refunded)
    expect(ended.rows.sagas).toMatchObject([{ state: "COMPENSATED", deadline: null, due_at: null }])
    expect(decideWith(agency, { sagas: [saga] }, issued).rows.sagas).toMatchObject([{ state: "COMPLETED" }])
  })

  test("that has passed is not moved by what is seen, nor is the next look", () => {
    const next = new Date(decidedAt.getTime() + 9_000)
    const pressed = { ...late, deadline: next, due_at: next }

    const [saga] = decideWith(agency, { sagas: [pressed] }, held).rows.sagas

    expect([saga?.step, saga?.deadline, saga?.due_at]).toEqual(["pay", next, next])
  })

  test("presses a saga that is stuck while it is being undone, for the reason it is undone for", () => {
    const stuck = {
      ...sagaOf(opened, held, notPaid),
      started_at: late.started_at,
      deadline: decidedAt,
      due_at: decidedAt
    }

    const { send } = decideWith(agency, { sagas: [stuck] }, due)

    expect(send).toMatchObject([EndTrip.of({ tripId: "t1", reason: "NO_MONEY" })])
  })

  test("of a saga that was started here and of which nothing was seen asks for its first step again", () => {
    const cause = { ...choreographed, id: "c", key: "t1", type: "Book", definition: null, traceparent: null }
    const start = Saga.start(bookTrip, "t1", { seat: null }, { ...cause, now: decidedAt, newId: () => "ask" })
    expect(start.send).toMatchObject([{ ...OpenTrip.of({ tripId: "t1" }), coordination: "choreography" }])
    const [begun] = start.put?.sagas ?? []
    if (begun === undefined) throw new Error("there is no saga")

    const again = decideWith(agency, { sagas: [{ ...begun, deadline: decidedAt, due_at: decidedAt }] }, due)

    expect(again.send).toMatchObject([OpenTrip.of({ tripId: "t1" })])
    expect(again.rows.sagas).toMatchObject([{ attempt: 2 }])
  })

  test("of a saga that has ended asks for nothing", () => {
    const over = { ...sagaOf(opened, paid, issued), started_at: late.started_at, due_at: decidedAt }

    const { put, send } = decideWith(agency, { sagas: [over] }, due)

    expect([put, send]).toEqual([undefined, undefined])
  })

  test("is not there when its definition has none: the saga is looked at once a day, and nobody is asked", () => {
    const patient = agencyOf(Saga.define({ ...unbounded, ...ending }))
    const day = 86_400_000
    let { sagas } = decideWith(patient, {}, opened).rows
    expect(sagas[0]?.due_at).toEqual(new Date(decidedAt.getTime() + day))

    for (let days = 1; days <= 3; days++) {
      const { rows, send } = decideWith(patient, { sagas }, due)
      sagas = rows.sagas

      expect(send).toEqual([])
      expect(sagas[0]?.due_at).toEqual(new Date(decidedAt.getTime() + (days + 1) * day))
      expect(rows.saga_log).toEqual([])
    }
  })

  test("needs a definition that says how such a saga is ended", () => {
    const endless = Saga.define({ ...unbounded, deadline: "1 minute" })
    const context = {
      id: "c",
      key: "t1",
      type: "Book",
      definition: null,
      traceparent: null,
      now: decidedAt,
      newId: () => "ask"
    }
    const message = "book-trip v1 says nothing of how a choreographed saga is ended"

    expect(() => Saga.start(endless, "t1", { seat: null }, { ...choreographed, ...context })).toThrow(
      message.replace(" v1", "")
    )
    expect(() =>
      decideWith(agencyOf(endless), { sagas: [{ ...late, deadline: decidedAt, due_at: decidedAt }] }, due)
    ).toThrow(message)
  })
})
