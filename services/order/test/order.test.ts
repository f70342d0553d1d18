import { describe, expect, test } from "bun:test"
import type { Outgoing } from "oncebox"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import {
  ApproveOrderCommand,
  CancelOrderCommand,
  CreateOrderCommand,
  OrderApprovalRefusedEvent,
  OrderApprovedEvent,
  OrderCancelRequestedEvent,
  OrderCreatedEvent,
  OrderRejectedEvent,
  RejectOrderCommand,
  type OrderStatus
} from "../contract.ts"
import { ArchiveOrder, CancelOrder, order, orderView, PlaceOrder, type Order } from "../order.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const definition = "place-order" as const
const payment = { method: "card", card: "card-1" } as const
const country = "NL"
const wanted = { orderId, userId: "ann", items: [{ productId: "teapot", quantity: 2 }], payment, country, definition }
const priced = { orderId, lines: [{ productId: "teapot", quantity: 2, price: 2000 }], total: 4000 }
// what messages say of the order beside their payloads
const orchestrated = { coordination: "orchestration", definition } as const
const choreographed = { coordination: "choreography", definition } as const

const place = { request: PlaceOrder, payload: { ...wanted, coordination: "orchestration" } }
const create = CreateOrderCommand.of(wanted)
const approve = ApproveOrderCommand.of(priced)
const reject = (reason = "OUT_OF_STOCK") => RejectOrderCommand.of({ ...wanted, reason })

const created = OrderCreatedEvent.of(wanted, orchestrated)
const cancel = { request: CancelOrder, payload: { orderId } }
const archive = { request: ArchiveOrder, payload: { orderId } }
const cancelRequested = OrderCancelRequestedEvent.of({ orderId, reason: "USER_CANCELLED" }, orchestrated)
const approved = OrderApprovedEvent.of(priced, orchestrated)
const refused = (reason: string) => OrderApprovalRefusedEvent.of({ orderId, reason }, orchestrated)
const refusedUnknown = OrderApprovalRefusedEvent.of({ orderId, reason: "ORDER_UNKNOWN" })
const rejected = (reason = "OUT_OF_STOCK") => OrderRejectedEvent.of({ orderId, reason }, orchestrated)

const row: Order = {
  id: orderId,
  user_id: "ann",
  items: wanted.items,
  lines: null,
  total: null,
  payment,
  country,
  status: "CREATED",
  reason: null,
  coordination: "orchestration",
  definition,
  created_at: decidedAt,
  archived_at: null,
  due_at: decidedAt
}
const cancelling: Order = { ...row, status: "CANCELLING", reason: "USER_CANCELLED" }

const history = ({ orders_history }: { readonly orders_history: ReadonlyArray<{ readonly status: OrderStatus }> }) =>
  orders_history.map(({ status }) => status)

const cases: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Outgoing, ReadonlyArray<OrderStatus>]> = [
  ["a placed order is announced", [place], created, ["CREATED"]],
  ["a created order is announced", [create], created, ["CREATED"]],
  ["created twice, it is announced again", [create, create], created, ["CREATED"]],
  ["placed and then created, it is one order", [place, create], created, ["CREATED"]],
  ["an order is approved", [create, approve], approved, ["CREATED", "APPROVED"]],
  ["approved twice, it says so again", [create, approve, approve], approved, ["CREATED", "APPROVED"]],
  ["created again when it is approved, it says so", [create, approve, create], approved, ["CREATED", "APPROVED"]],
  ["an order that was never created is not approved", [approve], refusedUnknown, []],
  ["an order is rejected", [create, reject()], rejected(), ["CREATED", "REJECTED"]],
  [
    "rejected again, it keeps its first reason",
    [create, reject(), reject("LATE")],
    rejected(),
    ["CREATED", "REJECTED"]
  ],
  ["a rejected order is not approved", [create, reject(), approve], refused("OUT_OF_STOCK"), ["CREATED", "REJECTED"]],
  ["an order can be rejected before it is created", [reject()], rejected(), ["REJECTED"]],
  ["what was rejected first is not created", [reject("TIMEOUT"), create], rejected("TIMEOUT"), ["REJECTED"]],
  ["rejected twice and then created, it stays rejected", [reject(), reject(), create], rejected(), ["REJECTED"]],
  [
    "rejected, created and approved, it stays rejected",
    [reject(), create, approve],
    refused("OUT_OF_STOCK"),
    ["REJECTED"]
  ]
]

test.each(cases)("%s", (_name, inputs, answer, statuses) => {
  const { send, rows } = decideWith(order, {}, ...inputs)

  expect(send).toEqual([answer])
  expect(history(rows)).toEqual([...statuses])
  expect(rows.orders.map(({ status }) => status)).toEqual(statuses.slice(-1))
})

const repeated: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Input]> = [
  ["an order that is placed", [place], place],
  ["an order that is created", [create], create],
  ["an approval", [create, approve], approve],
  ["a rejection", [create, reject()], reject()],
  ["a rejection that came first", [reject()], reject()],
  ["a refused creation", [reject()], create],
  ["a refused approval", [create, reject()], approve]
]

test.each(repeated)("%s, asked again, writes no row", (_name, before, again) => {
  const { put } = decideWith(order, {}, ...before, again)

  expect(put).toBeUndefined()
})

test("an approved order knows its prices and is not announced any more", () => {
  const { rows } = decideWith(order, {}, create, approve)

  expect(rows.orders).toEqual([{ ...row, lines: priced.lines, total: 4000, status: "APPROVED", due_at: null }])
})

test("an order that is rejected before it is created is recorded with all that was wanted", () => {
  const { rows } = decideWith(order, {}, reject())

  expect(rows.orders).toEqual([{ ...row, status: "REJECTED", reason: "OUT_OF_STOCK", due_at: null }])
})

test("an approved order can't be rejected: that is a defect", () => {
  expect(() => decideWith(order, {}, create, approve, reject())).toThrow("can't be rejected")
})

test("an order that is being cancelled is not approved", () => {
  const { put, send } = decideWith(order, { orders: [cancelling] }, approve)

  expect(put).toBeUndefined()
  expect(send).toEqual([refused("USER_CANCELLED")])
})

test("an order that is being cancelled is rejected in the end", () => {
  const { rows, send } = decideWith(order, { orders: [cancelling] }, reject("CANCELLED"))

  expect(rows.orders).toEqual([{ ...cancelling, status: "REJECTED", due_at: null }])
  expect(send).toEqual([rejected("USER_CANCELLED")])
})

test("who places an order is shown it, without prices yet", () => {
  const { reply } = decideWith(order, {}, place)

  expect(reply).toEqual({
    id: orderId,
    sagaId: orderId,
    userId: "ann",
    items: wanted.items,
    total: null,
    payment,
    status: "CREATED",
    reason: null,
    coordination: "orchestration",
    definition,
    createdAt: "2026-01-01T00:00:00.000Z"
  })
})

test("who places an order again is shown what became of it", () => {
  const { reply, send } = decideWith(order, {}, place, approve, place)

  expect(reply).toMatchObject({ items: priced.lines, total: 4000, status: "APPROVED" })
  expect(send).toBeUndefined()
})

test("who places an order that was rejected before is shown the reason", () => {
  const { reply } = decideWith(order, {}, reject(), place)

  expect(reply).toMatchObject({ status: "REJECTED", reason: "OUT_OF_STOCK" })
})

const waits: ReadonlyArray<readonly [ageSeconds: number, waitSeconds: number]> = [
  [60, 120],
  [180, 240],
  [420, 480],
  [900, 600],
  [86_400, 600],
  // the clock was set back
  [-30, 60]
]

test.each(waits)("an order of which nothing came for %p s is announced again, and then after %p s", (age, wait) => {
  const stuck: Order = { ...row, created_at: new Date(decidedAt.getTime() - age * 1000) }

  const { send, rows } = decideWith(order, { orders: [stuck] }, { due: "orders", key: orderId })

  expect(send).toEqual([created])
  expect(rows.orders).toEqual([{ ...stuck, due_at: new Date(decidedAt.getTime() + wait * 1000) }])
})

test("the first announcement is given a minute", () => {
  const { rows } = decideWith(order, {}, create)

  expect(rows.orders[0]?.due_at).toEqual(new Date(decidedAt.getTime() + 60_000))
})

test("the cancelling of an order is announced again, and no more once the order has ended", () => {
  const due = { due: "orders", key: orderId } as const

  // with the order itself first: who never heard of it could do nothing about its cancelling
  expect(decideWith(order, { orders: [cancelling] }, due).send).toEqual([created, cancelRequested])
  const ended = decideWith(order, { orders: [{ ...cancelling, status: "REJECTED" }] }, due)
  expect(ended.send).toBeUndefined()
  expect(ended.rows.orders[0]?.due_at).toBeNull()
})

describe("cancelling", () => {
  test("sets an open order to be cancelled, and asks its saga to undo it", () => {
    const { reply, send, rows } = decideWith(order, {}, create, cancel)

    expect(reply).toMatchObject({ _tag: "cancelled", order: { status: "CANCELLING", reason: "USER_CANCELLED" } })
    expect(send).toEqual([cancelRequested])
    expect(history(rows)).toEqual(["CREATED", "CANCELLING"])
  })

  test("wins over an approval that comes later, and the order is rejected for it in the end", () => {
    const { rows, send } = decideWith(order, {}, create, cancel, approve)
    expect(send).toEqual([refused("USER_CANCELLED")])
    expect(history(rows)).toEqual(["CREATED", "CANCELLING"])

    const ended = decideWith(order, {}, create, cancel, approve, reject("SAGA"))
    expect(ended.send).toEqual([rejected("USER_CANCELLED")])
    expect(history(ended.rows)).toEqual(["CREATED", "CANCELLING", "REJECTED"])
  })

  test.each<readonly [string, ReadonlyArray<Input>, string]>([
    ["an approved order is too late", [create, approve], "APPROVED"],
    ["a rejected order is too late", [create, reject()], "REJECTED"]
  ])("%s, and changes nothing", (_name, before, status) => {
    const { reply, send, put } = decideWith(order, {}, ...before, cancel)

    expect(reply).toMatchObject({ _tag: "too-late", order: { status } })
    expect([send, put]).toEqual([undefined, undefined])
  })

  test("a second time is told the same, and sends nothing", () => {
    for (const again of [[cancel], [cancel, reject("SAGA")]]) {
      const { reply, send, put } = decideWith(order, {}, create, ...again, cancel)

      expect(reply).toMatchObject({ _tag: "cancelled" })
      expect([send, put]).toEqual([undefined, undefined])
    }
  })

  test("an order that nobody knows is told so", () => {
    expect(decideWith(order, {}, cancel).reply).toEqual({ _tag: "unknown" })
  })

  test("a choreographed order rejects it at once: everybody undoes what they did", () => {
    const orders = [{ ...row, coordination: "choreography" as const }]

    const { reply, send, rows } = decideWith(order, { orders }, cancel)

    expect(reply).toMatchObject({ _tag: "cancelled", order: { status: "REJECTED" } })
    expect(send).toEqual([OrderRejectedEvent.of({ orderId, reason: "USER_CANCELLED" }, choreographed)])
    expect(history(rows)).toEqual(["REJECTED"])
  })
})

describe("ending a choreographed order", () => {
  const context = { definition, userId: "ann", items: wanted.items, payment, country, lines: null, total: null }
  const end = (reason: string) => CancelOrderCommand.of({ orderId, reason, order: context })

  test.each<readonly [string, ReadonlyArray<Input>, Outgoing, ReadonlyArray<OrderStatus>]>([
    ["rejects an open one", [create, end("TIMEOUT")], rejected("TIMEOUT"), ["CREATED", "REJECTED"]],
    ["says so again", [create, end("TIMEOUT"), end("LATE")], rejected("TIMEOUT"), ["CREATED", "REJECTED"]],
    ["comes too late for an approved one", [create, approve, end("TIMEOUT")], approved, ["CREATED", "APPROVED"]],
    ["records one that was never created", [end("TIMEOUT")], rejected("TIMEOUT"), ["REJECTED"]],
    ["records one that is created later", [end("TIMEOUT"), create], rejected("TIMEOUT"), ["REJECTED"]]
  ])("%s", (_name, inputs, answer, statuses) => {
    const { send, rows } = decideWith(order, {}, ...inputs)

    expect(send).toEqual([answer])
    expect(history(rows)).toEqual([...statuses])
  })

  test("does nothing for one of which nothing is known", () => {
    expect(decideWith(order, {}, CancelOrderCommand.of({ orderId, reason: "TIMEOUT" })).send).toBeUndefined()
  })
})

test.each<readonly [string, ReadonlyArray<Input>, string, boolean]>([
  ["an approved order", [create, approve], "archived", true],
  ["a rejected order", [create, reject()], "archived", true],
  ["an open order", [create], "open", false],
  ["an order that is being cancelled", [create, cancel], "open", false]
])("archiving %s: %s", (_name, before, outcome, archived) => {
  const once = decideWith(order, {}, ...before, archive)
  const twice = decideWith(order, {}, ...before, archive, archive)

  expect([once.reply, twice.reply]).toEqual([{ outcome }, { outcome }])
  expect(twice.rows.orders[0]?.archived_at).toEqual(archived ? decidedAt : null)
})

test("an order that nobody knows can't be archived", () => {
  expect(decideWith(order, {}, archive).reply).toEqual({ outcome: "unknown" })
})

test("an order is announced in the style it was placed in, whatever it is asked in", () => {
  const orders = [{ ...row, coordination: "choreography" as const }]

  const again = decideWith(order, { orders }, { ...create, ...orchestrated, definition: "pay-first" })
  const due = decideWith(order, { orders }, { due: "orders", key: orderId })

  const announced = OrderCreatedEvent.of(wanted, choreographed)
  expect([again.send, due.send]).toEqual([[announced], [announced]])
})

test("an order's id is written in lower case, as Postgres writes it", () => {
  const upper = "ABCDEF00-0000-4000-8000-000000000001"

  expect(() => decideWith(order, {}, CreateOrderCommand.of({ ...wanted, orderId: upper }))).toThrow("lower case")
})

test("a view shows the prices once they are known", () => {
  expect(orderView(row).items).toEqual(wanted.items)
  expect(orderView({ ...row, lines: priced.lines }).items).toEqual(priced.lines)
})

describe("an order's style, and what else it was placed with,", () => {
  const style = { coordination: "choreography" } as const

  test.each<readonly [string, Input]>([
    ["are kept and announced when it is placed", { request: PlaceOrder, payload: { ...wanted, ...style } }],
    ["are kept and announced when it is created", { ...CreateOrderCommand.of(wanted), ...style }]
  ])("%s", (_name, input) => {
    const { send, rows } = decideWith(order, {}, input)

    expect(rows.orders).toMatchObject([{ country, ...style }])
    expect(send).toEqual([OrderCreatedEvent.of(wanted, { ...style, definition })])
  })

  test("are kept when it is rejected before it was created", () => {
    const { orderId: _orderId, ...context } = { ...wanted, lines: null, total: null }
    for (const input of [reject("TIMEOUT"), CancelOrderCommand.of({ orderId, reason: "TIMEOUT", order: context })]) {
      const { send, rows } = decideWith(order, {}, { ...input, ...style })

      expect(rows.orders).toMatchObject([{ status: "REJECTED", country, ...style }])
      expect(send).toEqual([OrderRejectedEvent.of({ orderId, reason: "TIMEOUT" }, { ...style, definition })])
    }
  })
})

test("an order's history says why", () => {
  const { orders_history } = decideWith(order, {}, create, cancel, reject("SAGA")).rows

  expect(orders_history.map(({ status, reason }) => [status, reason])).toEqual([
    ["CREATED", null],
    ["CANCELLING", "USER_CANCELLED"],
    ["REJECTED", "USER_CANCELLED"]
  ])
})

test("an order that is being cancelled keeps its reason, in what is announced and when it is ended", () => {
  const suspected: Order = { ...cancelling, reason: "SUSPICIOUS" }

  const announced = decideWith(order, { orders: [suspected] }, { due: "orders", key: orderId })
  const ended = decideWith(order, { orders: [suspected] }, CancelOrderCommand.of({ orderId, reason: "TIMEOUT" }))

  expect(announced.send?.at(-1)).toEqual(OrderCancelRequestedEvent.of({ orderId, reason: "SUSPICIOUS" }, orchestrated))
  expect(ended.send).toEqual([rejected("SUSPICIOUS")])
})

test("a cancelling is announced again after a minute, however old the order is", () => {
  const old: Order = { ...row, created_at: new Date(0), due_at: new Date(decidedAt.getTime() + 600_000) }

  const { rows } = decideWith(order, { orders: [old] }, cancel)

  expect(rows.orders[0]?.due_at).toEqual(new Date(decidedAt.getTime() + 60_000))
})

test("an order that is archived stays archived since then", () => {
  const archived: Order = { ...row, status: "REJECTED", archived_at: new Date(0) }

  expect(decideWith(order, { orders: [archived] }, archive).rows.orders[0]?.archived_at).toEqual(new Date(0))
})
