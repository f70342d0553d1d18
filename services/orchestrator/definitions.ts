/** The sagas of an order: what is asked of whom, what the answers mean, and how each step is taken back. */
import { Saga, type SagaDefinition, type SagaView } from "oncebox"
import {
  ApproveOrderCommand,
  CancelOrderCommand,
  CreateOrderCommand,
  OrderApprovalRefusedEvent,
  OrderApprovedEvent,
  OrderCancelRequestedEvent,
  OrderCreatedEvent,
  OrderRejectedEvent,
  RejectOrderCommand
} from "../order/contract.ts"
import {
  PaymentFailedEvent,
  PaymentProcessedEvent,
  PaymentRefundedEvent,
  ProcessPaymentCommand,
  RefundPaymentCommand
} from "../payment/contract.ts"
import {
  CancelProductReservationCommand,
  OrderQuotedEvent,
  OrderQuoteFailedEvent,
  ProductReservationCancelledEvent,
  ProductReservationFailedEvent,
  ProductReservedEvent,
  QuoteOrderCommand,
  ReserveProductCommand
} from "../product/contract.ts"
import type { DefinitionName } from "../shell/bounds.ts"
import { OrderData } from "../shell/order-context.ts"
import {
  CancelShipmentCommand,
  CreateShipmentCommand,
  ShipmentCancelledEvent,
  ShipmentCreatedEvent,
  ShipmentFailedEvent
} from "../shipment/contract.ts"

const step = Saga.step<OrderData>()
const patience = { deadline: "30 seconds", attempts: 3 } as const

const create = (definition: DefinitionName) => {
  const wanted = ({ id, data: { userId, items, payment, country } }: SagaView<OrderData>) => ({
    orderId: id,
    userId,
    items,
    payment,
    country,
    definition
  })
  return step({
    ...patience,
    name: "create",
    ask: (saga) => CreateOrderCommand.of(wanted(saga)),
    success: OrderCreatedEvent,
    undo: {
      ask: (saga) => RejectOrderCommand.of({ ...wanted(saga), reason: saga.reason ?? "CANCELLED" }),
      done: OrderRejectedEvent
    }
  })
}

const quote = step({
  ...patience,
  name: "quote",
  ask: ({ id, data: { items } }) => QuoteOrderCommand.of({ orderId: id, items }),
  success: OrderQuotedEvent,
  learn: (data, { lines, total }) => ({ ...data, lines, total }),
  failure: OrderQuoteFailedEvent,
  changesNothing: true
})

const reserve = step({
  ...patience,
  name: "reserve",
  // what was quoted is what was paid: the prices of then hold
  ask: ({ id, data: { items, lines } }) =>
    ReserveProductCommand.of({ orderId: id, items, ...(lines === null ? {} : { lines }) }),
  success: ProductReservedEvent,
  learn: (data, { lines, total }) => ({ ...data, lines, total }),
  failure: ProductReservationFailedEvent,
  undo: {
    ask: ({ id }) => CancelProductReservationCommand.of({ orderId: id }),
    done: ProductReservationCancelledEvent
  }
})

const pay = step({
  ...patience,
  name: "pay",
  ask: (saga) => {
    const { userId, payment } = saga.data
    return ProcessPaymentCommand.of({ orderId: saga.id, userId, amount: priced(saga).total, payment })
  },
  success: PaymentProcessedEvent,
  failure: PaymentFailedEvent,
  undo: { ask: ({ id }) => RefundPaymentCommand.of({ orderId: id }), done: PaymentRefundedEvent }
})

const ship = step({
  ...patience,
  name: "ship",
  ask: ({ id, data: { userId, items, country } }) => CreateShipmentCommand.of({ orderId: id, userId, items, country }),
  success: ShipmentCreatedEvent,
  failure: ShipmentFailedEvent,
  undo: { ask: ({ id }) => CancelShipmentCommand.of({ orderId: id }), done: ShipmentCancelledEvent }
})

const approve = step({
  ...patience,
  name: "approve",
  ask: (saga) => ApproveOrderCommand.of({ orderId: saga.id, ...priced(saga) }),
  success: OrderApprovedEvent,
  // who only watches may have missed it before
  learn: (data, { lines, total }) => ({ ...data, lines, total }),
  failure: OrderApprovalRefusedEvent
})

const define = (name: DefinitionName, steps: ReadonlyArray<ReturnType<typeof step>>) =>
  Saga.define({
    name,
    version: 1,
    data: OrderData.fields,
    deadline: "5 minutes",
    cancelledBy: OrderCancelRequestedEvent,
    stalled: ({ id, data, reason }) =>
      CancelOrderCommand.of({ orderId: id, reason: reason ?? "TIMEOUT", order: { definition: name, ...data } }),
    pivot: "approve",
    steps: [create(name), ...steps]
  })

export const placeOrder = define("place-order", [reserve, pay, ship, approve])
export const payFirst = define("pay-first", [quote, pay, reserve, ship, approve])

export const definitions: Readonly<Record<DefinitionName, SagaDefinition<OrderData>>> = {
  "place-order": placeOrder,
  "pay-first": payFirst
}

/** What the steps after "reserve" or "quote" know. */
const priced = ({ id, data: { lines, total } }: SagaView<OrderData>) => {
  if (lines === null || total === null) throw new Error(`order ${id} is past its pricing and has no prices`)
  return { lines, total }
}
