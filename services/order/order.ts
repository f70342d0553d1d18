/** Orders and their history. The order's row is the fence: whatever is asked again is answered from it. */
import { Schema } from "effect"
import { Coordination, Participant, Request, Table, type Outgoing, type PayloadOf, type RowOf } from "oncebox"
import { Amount, Country, DefinitionName, Id, Items, Lines, OrderId, PaymentMethod, Reason } from "../shell/bounds.ts"
import { OrderRequest } from "../shell/order-context.ts"
import { repeatAt } from "../shell/repeat.ts"
import {
  ApproveOrderCommand,
  CancelOrderCommand,
  CreateOrderCommand,
  OrderApprovalRefusedEvent,
  OrderApprovedEvent,
  OrderCancelRequestedEvent,
  OrderCreatedEvent,
  OrderRejectedEvent,
  OrderStatus,
  OrderView,
  RejectOrderCommand
} from "./contract.ts"

export const orders = Table.make("orders", {
  key: "id",
  row: {
    id: OrderId,
    user_id: Id,
    items: Items,
    /** The items with their prices, once the order is approved. */
    lines: Schema.NullOr(Lines),
    total: Schema.NullOr(Amount),
    payment: PaymentMethod,
    country: Schema.NullOr(Country),
    status: OrderStatus,
    reason: Schema.NullOr(Reason),
    coordination: Coordination,
    definition: DefinitionName,
    created_at: Schema.Date,
    /** When it was taken off the lists; it can still be read. */
    archived_at: Schema.NullOr(Schema.Date),
    /** When to announce the order, or its cancelling, again, should nothing have come of it. */
    due_at: Schema.NullOr(Schema.Date)
  }
})
export type Order = RowOf<typeof orders>

export const ordersHistory = Table.log("orders_history", {
  key: "order_id",
  row: { order_id: OrderId, status: OrderStatus, reason: Schema.NullOr(Reason), at: Schema.Date }
})

export const PlaceOrder = Request.make("PlaceOrder", {
  payload: OrderRequest.fields,
  reply: OrderView
})

export const CancelOrder = Request.make("CancelOrder", {
  payload: { orderId: OrderId },
  reply: Schema.Union([
    Schema.TaggedStruct("cancelled", { order: OrderView }),
    Schema.TaggedStruct("too-late", { order: OrderView }),
    Schema.TaggedStruct("unknown", {})
  ])
})

export const ArchiveOrder = Request.make("ArchiveOrder", {
  payload: { orderId: OrderId },
  reply: Schema.Struct({ outcome: Schema.Literals(["archived", "open", "unknown"]) })
})

const byOrder = { orders: (message: { readonly orderId: string }) => [message.orderId] }

export const order = Participant.make("order", { orders, orders_history: ordersHistory })
  .answers(PlaceOrder, {
    touches: byOrder,
    decide: ({ orders }, placed, { now }) => {
      const earlier = orders.get(placed.orderId)
      if (earlier !== undefined) return { reply: orderView(earlier) }
      const order = created(placed, placed.coordination, now)
      return { put: changed(order, now), send: announcement(order), reply: orderView(order) }
    }
  })
  // the order's row is the pivot: whichever of cancelling and approving locks it first wins
  .answers(CancelOrder, {
    touches: byOrder,
    decide: ({ orders }, { orderId }, { now }) => {
      const order = orders.get(orderId)
      if (order === undefined) return { reply: { _tag: "unknown" as const } }
      if (order.status !== "CREATED") {
        const _tag = order.reason === cancelledByUser ? ("cancelled" as const) : ("too-late" as const)
        return { reply: { _tag, order: orderView(order) } }
      }
      const cancelled = cancel(order, cancelledByUser, now)
      return {
        put: changed(cancelled, now),
        send: [news(cancelled)],
        reply: { _tag: "cancelled" as const, order: orderView(cancelled) }
      }
    }
  })
  .answers(ArchiveOrder, {
    touches: byOrder,
    decide: ({ orders }, { orderId }, { now }) => {
      const order = orders.get(orderId)
      if (order === undefined) return { reply: { outcome: "unknown" as const } }
      if (!hasEnded(order)) return { reply: { outcome: "open" as const } }
      const archived: Order = { ...order, archived_at: order.archived_at ?? now }
      return { put: { orders: [archived] }, reply: { outcome: "archived" as const } }
    }
  })
  .on(CreateOrderCommand, {
    touches: byOrder,
    decide: ({ orders }, command, { now, coordination }) => {
      const earlier = orders.get(command.orderId)
      if (earlier !== undefined) return { send: announcement(earlier) }
      const order = created(command, coordination, now)
      return { put: changed(order, now), send: announcement(order) }
    }
  })
  .on(ApproveOrderCommand, {
    touches: byOrder,
    decide: ({ orders }, { orderId, lines, total }, { now }) => {
      const order = orders.get(orderId)
      if (order?.status === "APPROVED") return { send: [news(order)] }
      if (order?.status !== "CREATED") return { send: [refusal(orderId, order)] }
      const approved: Order = { ...order, lines, total, status: "APPROVED", due_at: null }
      return { put: changed(approved, now), send: [news(approved)] }
    }
  })
  .on(RejectOrderCommand, {
    touches: byOrder,
    decide: ({ orders }, command, { now, coordination }) => {
      const order = orders.get(command.orderId) ?? created(command, coordination, now)
      // a saga undoes no order that it saw approved, so this one is parked for somebody to look at
      if (order.status === "APPROVED") throw new Error(`order ${order.id} is approved and can't be rejected`)
      return rejected(order, command.reason, now)
    }
  })
  .on(CancelOrderCommand, {
    touches: byOrder,
    decide: ({ orders }, { orderId, reason, order: known }, { now, coordination }) => {
      const order = orders.get(orderId) ?? (known && created({ orderId, ...known }, coordination, now))
      if (order === undefined) return {}
      return order.status === "APPROVED" ? { send: [news(order)] } : rejected(order, reason, now)
    }
  })
  .due("orders", {
    decide: (_rows, order, { now }) => {
      if (hasEnded(order)) return { put: { orders: [{ ...order, due_at: null }] } }
      const announced: Order = { ...order, due_at: repeatAt(order.created_at, now) }
      return { put: { orders: [announced] }, send: announcement(order) }
    }
  })

const cancelledByUser = "USER_CANCELLED"

const hasEnded = ({ status }: Order): boolean => status === "APPROVED" || status === "REJECTED"

const reject = (order: Order, reason: string): Order => ({ ...order, status: "REJECTED", reason, due_at: null })

/** An orchestrated order waits for its saga to undo what was done; a choreographed one is rejected, and all undo what they did. */
const cancel = (order: Order, reason: string, now: Date): Order =>
  order.coordination === "choreography"
    ? reject(order, reason)
    : { ...order, status: "CANCELLING", reason, due_at: repeatAt(now, now) }

const created = (
  { orderId, userId, items, payment, country, definition }: PayloadOf<typeof CreateOrderCommand>,
  coordination: Coordination,
  now: Date
): Order => ({
  id: orderId,
  user_id: userId,
  items,
  lines: null,
  total: null,
  payment,
  country,
  status: "CREATED",
  reason: null,
  coordination,
  definition,
  created_at: now,
  archived_at: null,
  due_at: repeatAt(now, now)
})

/** An order's new state, and the entry of its history that says so. */
const changed = (order: Order, now: Date) => ({
  orders: [order],
  orders_history: [{ order_id: order.id, status: order.status, reason: order.reason, at: now }]
})

/** Rejects an order that was not approved; for its first reason, however often. */
const rejected = (order: Order, reason: string, now: Date) => {
  if (order.status === "REJECTED") return { send: [news(order)] }
  const ended = reject(order, order.reason ?? reason)
  return { put: changed(ended, now), send: [news(ended)] }
}

/** What the others need to know of an order as it is now, whatever they heard of it before. */
const announcement = (order: Order): ReadonlyArray<Outgoing> =>
  // whoever has not heard of the order must do so before it hears of its end
  order.status === "CANCELLING" ? [creation(order), news(order)] : [news(order)]

/** The event that tells of the status that an order has. */
const news = (order: Order): Outgoing => {
  const { id: orderId, status, lines, total, reason } = order
  switch (status) {
    case "CREATED":
      return creation(order)
    case "CANCELLING":
      return OrderCancelRequestedEvent.of({ orderId, reason: reason ?? cancelledByUser }, style(order))
    case "APPROVED":
      if (lines === null || total === null) throw new Error(`order ${orderId} is approved and has no prices`)
      return OrderApprovedEvent.of({ orderId, lines, total }, style(order))
    case "REJECTED":
      return OrderRejectedEvent.of({ orderId, reason: reason ?? "CANCELLED" }, style(order))
  }
}

const creation = (order: Order): Outgoing => {
  const { id, user_id, items, payment, country, definition } = order
  return OrderCreatedEvent.of({ orderId: id, userId: user_id, items, payment, country, definition }, style(order))
}

const refusal = (orderId: string, order: Order | undefined): Outgoing =>
  order === undefined
    ? OrderApprovalRefusedEvent.of({ orderId, reason: "ORDER_UNKNOWN" })
    : OrderApprovalRefusedEvent.of({ orderId, reason: order.reason ?? "CANCELLED" }, style(order))

/** Whoever asked: what is said of an order is said in its own style and of its own saga. */
const style = ({ coordination, definition }: Order) => ({ coordination, definition })

/** An order as HTTP shows it. */
export const orderView = (order: Order): OrderView => ({
  id: order.id,
  sagaId: order.id,
  userId: order.user_id,
  items: order.lines ?? order.items,
  total: order.total,
  payment: order.payment,
  status: order.status,
  reason: order.reason,
  coordination: order.coordination,
  definition: order.definition,
  createdAt: order.created_at.toISOString()
})
