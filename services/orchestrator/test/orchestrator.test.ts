import { expect, test } from "bun:test"
import type { Outgoing } from "oncebox"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import {
  ApproveOrderCommand,
  CreateOrderCommand,
  OrderApprovalRefusedEvent,
  OrderApprovedEvent,
  OrderCancelRequestedEvent,
  OrderCreatedEvent,
  OrderRejectedEvent,
  RejectOrderCommand,
  type OrderView
} from "../../order/contract.ts"
import {
  PaymentFailedEvent,
  PaymentProcessedEvent,
  PaymentRefundedEvent,
  ProcessPaymentCommand,
  RefundPaymentCommand
} from "../../payment/contract.ts"
import {
  CancelProductReservationCommand,
  OrderQuotedEvent,
  OrderQuoteFailedEvent,
  ProductReservationCancelledEvent,
  ProductReservationFailedEvent,
  ProductReservedEvent,
  QuoteOrderCommand,
  ReserveProductCommand
} from "../../product/contract.ts"
import {
  CancelShipmentCommand,
  CreateShipmentCommand,
  ShipmentCancelledEvent,
  ShipmentCreatedEvent,
  ShipmentFailedEvent
} from "../../shipment/contract.ts"
import { definitions } from "../definitions.ts"
import { definitionOf, orchestrator, StartOrder } from "../orchestrator.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const items = [{ productId: "teapot", quantity: 2 }]
const lines = [{ productId: "teapot", quantity: 2, price: 2000 }]
const movement = { userId: "ann", amount: 4000, balance: 6000, position: 2 }
const definition = "place-order" as const
const payment = { method: "card", card: "card-1" } as const
const wanted = { orderId, userId: "ann", items, payment, country: "NL", definition }

const start = { request: StartOrder, payload: { ...wanted, coordination: "orchestration" as const } }
const created = OrderCreatedEvent.of(wanted)
const reserved = ProductReservedEvent.of({ orderId, lines, total: 4000 })
const paid = PaymentProcessedEvent.of({ orderId, ...movement })
const shipped = ShipmentCreatedEvent.of({ orderId, shipmentId: "shipment-1" })
const approved = OrderApprovedEvent.of({ orderId, lines, total: 4000 })

const notReserved = ProductReservationFailedEvent.of({ orderId, reason: "OUT_OF_STOCK", productId: "teapot" })
const notPaid = PaymentFailedEvent.of({ orderId, reason: "INSUFFICIENT_FUNDS" })
const notShipped = ShipmentFailedEvent.of({ orderId, reason: "SHIPMENT_REFUSED" })
const notApproved = OrderApprovalRefusedEvent.of({ orderId, reason: "CANCELLED" })

const cancelled = OrderCancelRequestedEvent.of({ orderId, reason: "USER_CANCELLED" })
const rejected = OrderRejectedEvent.of({ orderId, reason: "OUT_OF_STOCK" })
const unreserved = ProductReservationCancelledEvent.of({ orderId })
const refunded = PaymentRefundedEvent.of({ orderId, refund: movement })
const unshipped = ShipmentCancelledEvent.of({ orderId })
const deadline = { due: "sagas", key: orderId }

const toPay = [created, reserved]
const toShip = [...toPay, paid]
const toApprove = [...toShip, shipped]
const undone = [unshipped, refunded, unreserved, rejected]

const create = CreateOrderCommand.of(wanted)
const reserve = ReserveProductCommand.of({ orderId, items })
const pay = ProcessPaymentCommand.of({ orderId, userId: "ann", amount: 4000, payment })
const ship = CreateShipmentCommand.of({ orderId, userId: "ann", items, country: "NL" })
const approve = ApproveOrderCommand.of({ orderId, lines, total: 4000 })
const unship = CancelShipmentCommand.of({ orderId })
const refund = RefundPaymentCommand.of({ orderId })
const unreserve = CancelProductReservationCommand.of({ orderId })
const reject = (reason: string) => RejectOrderCommand.of({ ...wanted, reason })

const asking: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Outgoing]> = [
  ["an order that is started is to be created", [start], create],
  ["a created order is to be reserved", [start, created], reserve],
  ["an order that the order service took is to be reserved", [created], reserve],
  ["a reserved order is to be paid, at the prices it was reserved for", toPay, pay],
  ["a paid order is to be shipped", toShip, ship],
  ["a shipped order is to be approved, with its prices", toApprove, approve],
  ["what is not answered is asked again", [...toPay, deadline, deadline], pay],
  ["approval is asked for as often as it takes", [...toApprove, deadline, deadline, deadline, deadline], approve],

  ["an order without its products is rejected", [created, notReserved], reject("OUT_OF_STOCK")],
  ["an order that can't be paid gives its products back", [...toPay, notPaid], unreserve],
  ["an order that can't be shipped gives the money back", [...toShip, notShipped], refund],
  ["an order that may not be approved is shipped no more", [...toApprove, notApproved], unship],
  ["what may have been shipped is undone", [...toShip, deadline, deadline, deadline], unship],
  ["after the shipment the money is given back", [...toApprove, notApproved, unshipped], refund],
  ["after the money the products are", [...toApprove, notApproved, unshipped, refunded], unreserve],
  [
    "the order is rejected last, for the first reason",
    [...toApprove, notApproved, ...undone.slice(0, 3)],
    reject("CANCELLED")
  ],
  ["a creation that nobody answers is taken back", [start, deadline, deadline, deadline], reject("CREATE_TIMEOUT")],
  ["a cancelled order gives back what it has, the step in flight first", [...toShip, cancelled], unship],
  ["a cancelled order whose products are asked for releases them", [created, cancelled], unreserve],
  ["a cancelled order is rejected for that", [created, cancelled, unreserved], reject("USER_CANCELLED")],
  ["undoing is asked for as often as it takes", [...toPay, notPaid, deadline, deadline, deadline, deadline], unreserve]
]

const payFirst = { ...wanted, definition: "pay-first" } as const
const createdToPay = OrderCreatedEvent.of(payFirst)
const quoted = OrderQuotedEvent.of({ orderId, lines, total: 4000 })
const notQuoted = OrderQuoteFailedEvent.of({ orderId, reason: "OUT_OF_STOCK", productId: "teapot" })
const rejectToPay = RejectOrderCommand.of({ ...payFirst, reason: "OUT_OF_STOCK" })

const payingFirst: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Outgoing]> = [
  ["an order that pays first is to be quoted", [createdToPay], QuoteOrderCommand.of({ orderId, items })],
  ["a quoted order is to be paid", [createdToPay, quoted], pay],
  [
    "a quoted order that is paid is to be reserved at the quoted prices",
    [createdToPay, quoted, paid],
    ReserveProductCommand.of({ orderId, items, lines })
  ],
  ["an order that can't be quoted is rejected", [createdToPay, notQuoted], rejectToPay],
  ["an order that was paid first and is not reserved is refunded", [createdToPay, quoted, paid, notReserved], refund],
  ["and then rejected: a quote holds nothing", [createdToPay, quoted, paid, notReserved, refunded], rejectToPay]
]

test.each([
  ...asking.map(([name, ...rest]) => [name, "place-order", ...rest] as const),
  ...payingFirst.map(([name, ...rest]) => [name, "pay-first", ...rest] as const)
])("%s (%s)", (_name, definition, inputs, asked) => {
  const { send } = decideWith(orchestrator, {}, ...inputs)

  expect(send).toMatchObject([{ ...asked, correlation: orderId, coordination: "orchestration", definition }])
})

const ignored: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Input]> = [
  ["an order announced again", [created], created],
  ["an order announced again when it is paid", toShip, created],
  ["an answer to a step that is past", toShip, reserved],
  ["a failure of a step that is past", toShip, notReserved],
  ["an answer that comes while its step is undone", [...toPay, notPaid], paid],
  ["an answer that comes after the end", [...toApprove, approved], notApproved],
  ["a cancelling once the approval was asked for: the order decides", toApprove, cancelled],
  ["a cancelling of what is being undone", [...toPay, notPaid], cancelled],
  ["a cancelling after the end", [...toApprove, approved], cancelled],
  ["an order announced again after the end", [created, notReserved, rejected], created],
  ["an answer to nobody", [], paid]
]

test.each(ignored)("%s changes nothing", (_name, before, input) => {
  const { put, send } = decideWith(orchestrator, {}, ...before, input)

  expect(put).toBeUndefined()
  expect(send).toBeUndefined()
})

const views: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Partial<OrderView>]> = [
  ["a new order", [], { status: "CREATED", items, total: null, reason: null }],
  ["an order with prices", [start, ...toPay], { status: "CREATED", items: lines, total: 4000 }],
  ["an order that is being undone", [start, ...toPay, notPaid], { status: "CANCELLING", reason: "INSUFFICIENT_FUNDS" }],
  ["an approved order", [start, ...toApprove, approved], { status: "APPROVED", total: 4000, reason: null }],
  ["a rejected order", [start, created, notReserved, rejected], { status: "REJECTED", reason: "OUT_OF_STOCK" }]
]

test.each(views)("%s is shown to who asks for it to be started", (_name, before, view) => {
  const { reply } = decideWith(orchestrator, {}, ...before, start)

  expect(reply).toMatchObject({
    id: orderId,
    sagaId: orderId,
    userId: "ann",
    coordination: "orchestration",
    createdAt: decidedAt.toISOString(),
    ...view
  })
})

test("a saga is read by the version that it runs on, or by none; one that has ended by today's", () => {
  const [saga] = decideWith(orchestrator, {}, start).rows.sagas
  if (saga === undefined) throw new Error("there is no saga")

  expect(definitionOf(saga)).toBe(definitions[definition])
  expect(definitionOf({ ...saga, version: 2 })).toBeUndefined()
  expect(definitionOf({ ...saga, version: 2, state: "COMPLETED" })).toBe(definitions[definition])
})

test("an order is started once", () => {
  const { put, send } = decideWith(orchestrator, {}, start, start)

  expect(put).toBeUndefined()
  expect(send).toBeUndefined()
})
