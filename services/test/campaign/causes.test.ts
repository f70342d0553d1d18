/** What messages caused, and how sagas went: each check finds what it is for, and nothing in a sound run. */
import { expect, test } from "bun:test"
import { decidedTwice, strayed, unanswered, unfenced } from "./causes.ts"
import type { Commit } from "./dump.ts"
import { commit as row } from "./fixture.ts"

const commit = (given: Partial<Commit>): Commit =>
  row("m1", 1, { database: "products", type: "ProductReservedEvent", cause: "c1", ...given })

test("what was sent twice for one message was decided twice", () => {
  const [answer, again] = [commit({}), commit({ id: "m2" })]
  expect(decidedTwice([answer, commit({ id: "m2", cause: "c2" })])).toEqual([])
  expect(decidedTwice([answer, commit({ id: "m2", key: "o2" })])).toEqual([])
  expect(decidedTwice([answer, commit({ id: "m2", type: "OrderQuotedEvent" })])).toEqual([])
  expect(decidedTwice([answer, commit({ id: "m2", database: "payments" })])).toEqual([])
  expect(decidedTwice([answer, again].map((one) => ({ ...one, cause: null })))).toEqual([])
  expect(decidedTwice([answer, again])).toHaveLength(1)
})

test("a command that was decided was answered", () => {
  const command = commit({ id: "c1", database: "sagas", topic: "products-commands", cause: null })
  const seen = [{ consumer: "product", id: "c1" }]
  expect(unanswered([command, commit({})], seen)).toEqual([])
  expect(unanswered([command], [])).toEqual([])
  expect(unanswered([command, commit({ database: "payments" })], seen)).toHaveLength(1)
  expect(unanswered([command, commit({ cause: "c2" })], seen)).toHaveLength(1)
  const shipping = { ...command, topic: "shipments-commands" }
  const shipped = [{ consumer: "shipment", id: "c1" }]
  expect(unanswered([shipping, commit({ database: "shipments" })], shipped)).toEqual([])
  expect(unanswered([shipping, commit({})], shipped)).toHaveLength(1)
  expect(unanswered([{ ...command, topic: "payments-commands" }], [{ consumer: "payment", id: "c1" }])).toEqual([])
})

test("an undo leaves a row, whatever it found", () => {
  const undo = commit({ id: "u1", topic: "products-commands", type: "CancelProductReservationCommand" })
  const news = commit({ id: "u1", topic: "orders-events", type: "OrderRejectedEvent" })
  const sent = { id: "u1", topic: "t", type: "T", coordination: "choreography" as const }
  const inbox = [{ consumer: "product", id: "u1" }]
  const world = { inbox, outbox: [], reservations: [], payments: [], shipments: [] }
  // only the order is looked at
  const reservations = [{ order_id: "o1" }] as unknown as Parameters<typeof unfenced>[1]["reservations"]

  expect(unfenced([undo], world)).toHaveLength(1)
  expect(unfenced([undo], { ...world, reservations })).toEqual([])
  expect(unfenced([undo], { ...world, inbox: [{ consumer: "payment", id: "u1" }] })).toEqual([])
  expect(unfenced([news], world)).toEqual([])
  expect(unfenced([news], { ...world, outbox: [sent] })).toHaveLength(1)
  expect(unfenced([news], { ...world, outbox: [sent], reservations })).toEqual([])
})

test.each([
  ["RefundPaymentCommand", "payment", "payments"],
  ["CancelShipmentCommand", "shipment", "shipments"]
] as const)("%s leaves a row, too", (type, consumer, rows) => {
  const undo = commit({ id: "u1", type })
  const nothing = { inbox: [{ consumer, id: "u1" }], outbox: [], reservations: [], payments: [], shipments: [] }
  // only the order is looked at
  const there = [{ order_id: "o1" }] as unknown as []

  expect(unfenced([undo], nothing)).toEqual([`${consumer} took back o1 for ${type} u1 and has no row of it`])
  expect(unfenced([undo], { ...nothing, [rows]: there })).toEqual([])
  expect(unfenced([undo], { ...nothing, inbox: [] })).toEqual([])
})

const saga = { id: "s", definition: "place-order", coordination: "orchestration" } as const
const log = (
  ...went: ReadonlyArray<readonly [state: "RUNNING" | "COMPENSATING" | "COMPENSATED" | "COMPLETED", step: string]>
) => went.map(([state, step], n) => ({ saga_id: "s", position: n + 1, state, step, attempt: n + 1 }))

test("a saga goes forward, then back, and ends", () => {
  const sound = log(["RUNNING", "create"], ["RUNNING", "reserve"], ["RUNNING", "reserve"], ["RUNNING", "pay"])
  const undone = [
    ["COMPENSATING", "pay"],
    ["COMPENSATING", "reserve"],
    ["COMPENSATED", "reserve"]
  ] as const
  expect(strayed([saga], sound)).toEqual([])
  expect(strayed([saga], sound.toReversed())).toEqual([])
  expect(strayed([saga], log(["RUNNING", "pay"], ...undone))).toEqual([])
  expect(strayed([saga], log(["RUNNING", "pay"], ["RUNNING", "reserve"]))).toEqual([
    "saga s went to RUNNING reserve from RUNNING pay"
  ])
  expect(strayed([saga], log(["COMPENSATING", "reserve"], ["COMPENSATING", "pay"]))).toHaveLength(1)
  expect(strayed([saga], log(["COMPENSATING", "reserve"], ["RUNNING", "reserve"]))).toHaveLength(1)
  expect(strayed([saga], log(["RUNNING", "pay"], ...undone, ["COMPENSATED", "reserve"]))).toHaveLength(1)
  expect(strayed([saga], log(["COMPLETED", "approve"], ["COMPENSATED", "approve"]))).toHaveLength(1)
  expect(strayed([saga], log(["RUNNING", "approve"], ["COMPLETED", "approve"]))).toEqual([])
  expect(strayed([saga], log(["COMPENSATING", "pay"], ["COMPENSATING", "pay"]))).toEqual([])
  expect(strayed([saga], [])).toEqual([])
  const unknown = { ...saga, definition: "unknown" }
  expect(strayed([unknown], log(["RUNNING", "pay"], ["RUNNING", "pay"]))).toEqual([])
  const again = log(["RUNNING", "pay"], ["RUNNING", "pay"])
  expect(strayed([saga], again)).toEqual([])
  expect(
    strayed(
      [saga],
      again.map((entry) => ({ ...entry, attempt: 1 }))
    )
  ).toHaveLength(1)
  const watched = { ...saga, coordination: "choreography" } as const
  expect(strayed([watched], log(["RUNNING", "pay"], ["RUNNING", "reserve"]))).toEqual([])
})
