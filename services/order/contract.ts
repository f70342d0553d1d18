/** What the order service is asked and what it tells. Every message is keyed by its order. */
import { Schema } from "effect"
import { Coordination, Topic } from "oncebox"
import {
  Amount,
  DefinitionName,
  Id,
  Lines,
  OrderId,
  PaymentMethod,
  Price,
  Quantity,
  Reason,
  Timestamp
} from "../shell/bounds.ts"
import { order, wanted } from "../shell/order-context.ts"

export const ordersCommands = Topic.commands("orders-commands")
export const ordersEvents = Topic.events("orders-events", { choreographyName: "orders-choreography" })

export const CreateOrderCommand = ordersCommands.message("CreateOrderCommand", wanted, { key: "orderId" })

export const OrderCreatedEvent = ordersEvents.message("OrderCreatedEvent", wanted, { key: "orderId" })

export const ApproveOrderCommand = ordersCommands.message(
  "ApproveOrderCommand",
  { orderId: OrderId, lines: Lines, total: Amount },
  { key: "orderId" }
)

export const OrderApprovedEvent = ordersEvents.message(
  "OrderApprovedEvent",
  { orderId: OrderId, lines: Lines, total: Amount },
  { key: "orderId" }
)

/** The order is being cancelled, or was rejected: it can't be approved any more. */
export const OrderApprovalRefusedEvent = ordersEvents.message(
  "OrderApprovalRefusedEvent",
  { orderId: OrderId, reason: Reason },
  { key: "orderId" }
)

/** Carries the whole order, so that one which was never created can be recorded as rejected. */
export const RejectOrderCommand = ordersCommands.message(
  "RejectOrderCommand",
  { ...wanted, reason: Reason },
  { key: "orderId" }
)

/** The user wants the order cancelled, and it was not too late: it will be rejected, and all steps so far undone. */
export const OrderCancelRequestedEvent = ordersEvents.message(
  "OrderCancelRequestedEvent",
  { orderId: OrderId, reason: Reason },
  { key: "orderId" }
)

/**
 * Ends a choreographed order: something failed, or it took too long. It is rejected unless it was approved, and the answer
 * says which. `order` lets one that was never created be recorded as rejected.
 */
export const CancelOrderCommand = ordersCommands.message(
  "CancelOrderCommand",
  { orderId: OrderId, reason: Reason, order },
  { key: "orderId" }
)

/** When the order is choreographed, everybody takes back what was done for it. */
export const OrderRejectedEvent = ordersEvents.message(
  "OrderRejectedEvent",
  { orderId: OrderId, reason: Reason },
  { key: "orderId" }
)

export const OrderStatus = Schema.Literals(["CREATED", "CANCELLING", "APPROVED", "REJECTED"])
export type OrderStatus = typeof OrderStatus.Type

/** An order as HTTP shows it. Prices and the total are known once the products were reserved. */
export const OrderView = Schema.Struct({
  id: OrderId,
  sagaId: OrderId,
  userId: Id,
  items: Schema.Array(Schema.Struct({ productId: Id, quantity: Quantity, price: Schema.optionalKey(Price) })),
  total: Schema.NullOr(Amount),
  payment: PaymentMethod,
  status: OrderStatus,
  reason: Schema.NullOr(Reason),
  coordination: Coordination,
  definition: DefinitionName,
  createdAt: Timestamp
})
export type OrderView = typeof OrderView.Type
