/** The saga of an order: what is asked of whom, what the answers mean, and how each step is taken back. */
import { Schema } from "effect"
import { Coordination, Orchestrator, Request, Saga, type SagaRow, type SagaView } from "oncebox"
import {
  ApproveOrderCommand,
  CreateOrderCommand,
  OrderApprovalRefusedEvent,
  OrderApprovedEvent,
  OrderCreatedEvent,
  OrderRejectedEvent,
  OrderView,
  RejectOrderCommand,
  type OrderStatus
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
  ProductReservationCancelledEvent,
  ProductReservationFailedEvent,
  ProductReservedEvent,
  ReserveProductCommand
} from "../product/contract.ts"
import { Amount, Id, Items, Lines, OrderId } from "../shell/bounds.ts"
import {
  CancelShipmentCommand,
  CreateShipmentCommand,
  ShipmentCancelledEvent,
  ShipmentCreatedEvent,
  ShipmentFailedEvent
} from "../shipment/contract.ts"

const PlaceOrderData = Schema.Struct({
  userId: Id,
  items: Items,
  /** Null until the products are reserved. */
  lines: Schema.NullOr(Lines),
  total: Schema.NullOr(Amount)
})
type PlaceOrderData = typeof PlaceOrderData.Type

const step = Saga.step<PlaceOrderData>()
const patience = { deadline: "30 seconds", attempts: 3 } as const

export const placeOrder = Saga.define({
  name: "place-order",
  version: 1,
  data: PlaceOrderData.fields,
  pivot: "approve",
  steps: [
    step({
      ...patience,
      name: "create",
      ask: ({ id, data: { userId, items } }) => CreateOrderCommand.of({ orderId: id, userId, items }),
      success: OrderCreatedEvent,
      undo: {
        ask: ({ id, data: { userId, items }, reason }) =>
          RejectOrderCommand.of({ orderId: id, userId, items, reason: reason ?? "CANCELLED" }),
        done: OrderRejectedEvent
      }
    }),
    step({
      ...patience,
      name: "reserve",
      ask: ({ id, data: { items } }) => ReserveProductCommand.of({ orderId: id, items }),
      success: ProductReservedEvent,
      learn: (data, { lines, total }) => ({ ...data, lines, total }),
      failure: ProductReservationFailedEvent,
      undo: {
        ask: ({ id }) => CancelProductReservationCommand.of({ orderId: id }),
        done: ProductReservationCancelledEvent
      }
    }),
    step({
      ...patience,
      name: "pay",
      ask: (saga) =>
        ProcessPaymentCommand.of({ orderId: saga.id, userId: saga.data.userId, amount: priced(saga).total }),
      success: PaymentProcessedEvent,
      failure: PaymentFailedEvent,
      undo: { ask: ({ id }) => RefundPaymentCommand.of({ orderId: id }), done: PaymentRefundedEvent }
    }),
    step({
      ...patience,
      name: "ship",
      ask: ({ id, data: { userId, items } }) => CreateShipmentCommand.of({ orderId: id, userId, items }),
      success: ShipmentCreatedEvent,
      failure: ShipmentFailedEvent,
      undo: { ask: ({ id }) => CancelShipmentCommand.of({ orderId: id }), done: ShipmentCancelledEvent }
    }),
    step({
      ...patience,
      name: "approve",
      ask: (saga) => ApproveOrderCommand.of({ orderId: saga.id, ...priced(saga) }),
      success: OrderApprovedEvent,
      failure: OrderApprovalRefusedEvent
    })
  ]
})

/** What the steps after "reserve" know. */
const priced = ({ id, data: { lines, total } }: SagaView<PlaceOrderData>) => {
  if (lines === null || total === null) throw new Error(`order ${id} is past its reservation and has no prices`)
  return { lines, total }
}

const ordered = ({ userId, items }: Pick<PlaceOrderData, "userId" | "items">): PlaceOrderData => ({
  userId,
  items,
  lines: null,
  total: null
})

export const StartOrder = Request.make("StartOrder", {
  payload: { orderId: OrderId, userId: Id, items: Items, coordination: Coordination },
  reply: OrderView
})

export const orchestrator = Orchestrator.make("orchestrator", [placeOrder], {
  starts: [Saga.startedBy({ on: OrderCreatedEvent, definition: placeOrder, after: "create", data: ordered })]
}).answers(StartOrder, {
  touches: { sagas: ({ orderId }) => [orderId] },
  decide: ({ sagas }, { orderId, coordination, ...order }, context) => {
    const earlier = sagas.get(orderId)
    if (earlier !== undefined) return { reply: orderView(earlier) }
    const data = ordered(order)
    const reply = orderView({
      id: orderId,
      state: "RUNNING",
      data,
      reason: null,
      coordination,
      started_at: context.now
    })
    return { ...Saga.start(placeOrder, orderId, data, { ...context, coordination }), reply }
  }
})

const statusOf: Readonly<Record<SagaRow["state"], OrderStatus>> = {
  RUNNING: "CREATED",
  COMPENSATING: "CANCELLING",
  COMPLETED: "APPROVED",
  COMPENSATED: "REJECTED"
}

/** An order as HTTP shows it, by what its saga knows of it. */
export const orderView = (
  saga: Pick<SagaRow, "id" | "state" | "data" | "reason" | "coordination" | "started_at">
): OrderView => {
  const { userId, items, lines, total } = placeOrder.decode(saga.data)
  return {
    id: saga.id,
    sagaId: saga.id,
    userId,
    items: lines ?? items,
    total,
    status: statusOf[saga.state],
    reason: saga.reason,
    coordination: saga.coordination,
    createdAt: saga.started_at.toISOString()
  }
}
