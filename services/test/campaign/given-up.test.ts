/** Which orders may have ended in a timeout: the saga's log has to show it, and nothing may be left. */
import { expect, test } from "bun:test"
import { snapshotOf } from "./fixture.ts"
import type { LogEntry, SagaRow, Snapshot } from "./dump.ts"
import { givenUp, tooMany } from "./given-up.ts"

type World = Snapshot["world"]

const second = (n: number): Date => new Date(Date.UTC(2026, 0, 1) + n * 1_000)

const entry = (at: number, given: Partial<LogEntry>): Omit<LogEntry, "position"> => ({
  saga_id: "o1",
  at: second(at),
  state: "RUNNING",
  step: "ship",
  attempt: 1,
  cause_type: "PaymentProcessedEvent",
  asked_type: "CreateShipmentCommand",
  reason: null,
  ...given
})
const numbered = (entries: ReadonlyArray<Omit<LogEntry, "position">>): ReadonlyArray<LogEntry> =>
  entries.map((one, n) => ({ ...one, position: n + 1 }))

const again = (at: number, attempt: number) => entry(at, { attempt, cause_type: "due sagas" })
const gaveUp = (at: number, given: Partial<LogEntry> = {}) =>
  entry(at, {
    state: "COMPENSATING",
    cause_type: "due sagas",
    asked_type: "CancelShipmentCommand",
    reason: "SHIP_TIMEOUT",
    ...given
  })
const paid = entry(1, { step: "pay" })
// 30, 60 and 120 seconds
const inVain = [paid, entry(2, {}), again(32, 2), again(92, 3), gaveUp(212)]

// of rows only some columns are looked at
const saga = (given: Partial<SagaRow> = {}) =>
  ({
    id: "o1",
    definition: "place-order",
    coordination: "orchestration",
    state: "COMPENSATED",
    started_at: second(0),
    ...given
  }) as unknown as World["sagas"][number]
const order = (reason: string | null, status = "REJECTED") =>
  ({ id: "o1", status, reason }) as unknown as World["orders"][number]

const names = (
  entries: ReadonlyArray<Omit<LogEntry, "position">>,
  given: Partial<World> & { readonly reason?: string } = {}
): ReadonlyArray<string> => {
  const { reason = "SHIP_TIMEOUT", ...rows } = given
  const { world } = snapshotOf({ orders: [order(reason)], sagas: [saga()], sagaLog: numbered(entries), ...rows })
  // dates are texts after they were written and read
  return [...givenUp(JSON.parse(JSON.stringify(world)) as World)]
}

test("a step that was asked for as often as it may be, each time for as long as it must, may be given up", () => {
  expect(names(inVain)).toEqual(["o1"])
  expect(names([], { sagaLog: numbered(inVain).toReversed() })).toEqual(["o1"])
  expect(names(inVain.slice(1))).toEqual(["o1"])
})

test.each<[string, ReadonlyArray<Omit<LogEntry, "position">>]>([
  ["an attempt is missing", [paid, entry(2, {}), again(32, 2), gaveUp(212)]],
  ["the first attempt was too short", [paid, entry(2, {}), again(31, 2), again(92, 3), gaveUp(212)]],
  ["the second attempt was too short", [paid, entry(2, {}), again(32, 2), again(91, 3), gaveUp(212)]],
  ["the last attempt was too short", [paid, entry(2, {}), again(32, 2), again(92, 3), gaveUp(211)]],
  ["attempts were not counted", [paid, entry(2, {}), again(32, 1), again(92, 3), gaveUp(212)]],
  ["there was one attempt more", [...inVain.slice(0, 4), again(213, 4), gaveUp(500 - 220)]],
  [
    "another step was waiting",
    [entry(1, {}), ...inVain.slice(1, 4).map((one) => ({ ...one, step: "pay" })), gaveUp(212)]
  ],
  ["a message ended it", [...inVain.slice(0, 4), gaveUp(212, { cause_type: "OrderCancelRequestedEvent" })]],
  ["the log has another reason", [...inVain.slice(0, 4), gaveUp(212, { reason: "USER_CANCELLED" })]],
  ["nothing of it is in the log", []],
  ["the log begins with its end", [gaveUp(212)]],
  ["the log has no end", inVain.slice(0, 4)],
  ["the step is none", inVain.map((one) => ({ ...one, step: "dance", reason: "DANCE_TIMEOUT" }))]
])("not when %s", (_, entries) => {
  expect(names(entries)).toEqual([])
})

test("a step that only goes forward is never given up", () => {
  const approving = [paid, ...inVain.slice(1).map((one) => ({ ...one, step: "approve" }))]
  const end = approving.map((one) => (one.state === "RUNNING" ? one : { ...one, reason: "APPROVE_TIMEOUT" }))

  expect(names(end, { reason: "APPROVE_TIMEOUT" })).toEqual([])
})

test("the reason names the step", () => {
  expect(names(inVain, { reason: "PAY_TIMEOUT" })).toEqual([])
  const both = inVain.map((one) => (one.state === "RUNNING" ? one : { ...one, reason: "PAY_TIMEOUT" }))
  expect(names(both, { reason: "PAY_TIMEOUT" })).toEqual([])
})

test("or the saga's own five minutes were over", () => {
  expect(names([paid, entry(290, {}), gaveUp(300)])).toEqual(["o1"])
  expect(names([paid, entry(290, {}), gaveUp(299)])).toEqual([])
})

const stalled = (at: number, given: Partial<LogEntry> = {}) =>
  entry(at, { cause_type: "due sagas", asked_type: "CancelOrderCommand", ...given })
const watched: Partial<World> & { readonly reason?: string } = {
  sagas: [saga({ coordination: "choreography" })],
  reason: "TIMEOUT"
}

test("a choreographed saga is ended when its own time was over", () => {
  expect(names([paid, stalled(300)], watched)).toEqual(["o1"])
  expect(names([paid, stalled(299)], watched)).toEqual([])
  expect(names([paid, stalled(300, { asked_type: null })], watched)).toEqual([])
  expect(names([paid, stalled(300, { cause_type: "OrderRejectedEvent" })], watched)).toEqual([])
  expect(names([paid, stalled(300)], { ...watched, reason: "SHIP_TIMEOUT" })).toEqual([])
  expect(names(inVain, watched)).toEqual([])
})

test("the saga ended with all undone, and the order was rejected for it", () => {
  expect(names(inVain, { sagas: [saga({ state: "COMPENSATING" })] })).toEqual([])
  expect(names(inVain, { sagas: [] })).toEqual([])
  expect(names(inVain, { sagas: [saga({ definition: "unknown" })] })).toEqual([])
  expect(names(inVain, { orders: [order("SHIP_TIMEOUT", "CANCELLING")] })).toEqual([])
  expect(names(inVain, { orders: [order(null)] })).toEqual([])
  expect(names(inVain, { orders: [order("OUT_OF_STOCK")] })).toEqual([])
})

const row = (status: string, order_id = "o1") => ({ order_id, status })

test.each<[string, Partial<World>, ReadonlyArray<string>]>([
  ["stock", { reservations: [row("RESERVED")] as unknown as World["reservations"] }, []],
  ["money", { payments: [row("PROCESSED")] as unknown as World["payments"] }, []],
  ["money that is still given back", { payments: [row("REFUNDING")] as unknown as World["payments"] }, []],
  ["a shipment", { shipments: [row("CREATED")] as unknown as World["shipments"] }, []],
  ["a charge", { charges: [{ key: "charge:o1", status: "CHARGED" }] as unknown as World["charges"] }, []],
  [
    "nothing any more",
    {
      reservations: [row("CANCELLED")] as unknown as World["reservations"],
      payments: [row("REFUNDED")] as unknown as World["payments"],
      shipments: [row("FAILED")] as unknown as World["shipments"],
      charges: [{ key: "charge:o1", status: "REFUNDED" }] as unknown as World["charges"]
    },
    ["o1"]
  ],
  [
    "nothing, but another one does",
    { reservations: [row("RESERVED", "o2")] as unknown as World["reservations"] },
    ["o1"]
  ]
])("an order that was given up holds %s", (_, rows, found) => {
  expect(names(inVain, rows)).toEqual([...found])
})

test("none in a small run, and one of a hundred in a large one", () => {
  expect(tooMany(0, 2_000)).toEqual([])
  expect(tooMany(1, 9_999)).toEqual(["1 of 9999 orders were given up, more than 0"])
  expect(tooMany(100, 10_000)).toEqual([])
  expect(tooMany(500, 50_000)).toEqual([])
  expect(tooMany(501, 50_000)).toHaveLength(1)
  expect(tooMany(101, 10_050)).toHaveLength(1)
})
