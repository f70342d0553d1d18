/** Orders and their history. The order's row is the fence: whatever is asked again is answered from it. */
import { Schema } from "effect"
import { Coordination, Participant, Request, Table, type Outgoing, type RowOf } from "oncebox"
import { Amount, Id, Items, Lines, OrderId, Reason } from "../shell/bounds.ts"
import {
  ApproveOrderCommand,
  CreateOrderCommand,
  OrderApprovalRefusedEvent,
  OrderApprovedEvent,
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
    status: OrderStatus,
    reason: Schema.NullOr(Reason),
    coordination: Coordination,
    created_at: Schema.Date,
    /** When to announce the order again, should nothing have come of it. */
    due_at: Schema.NullOr(Schema.Date)
  }
})
export type Order = RowOf<typeof orders>

export const ordersHistory = Table.log("orders_history", {
  key: "order_id",
  row: { order_id: OrderId, status: OrderStatus, reason: Schema.NullOr(Reason), at: Schema.Date }
})

export const PlaceOrder = Request.make("PlaceOrder", {
  payload: { orderId: OrderId, userId: Id, items: Items, coordination: Coordination },
  reply: OrderView
})

const byOrder = { orders: (message: { readonly orderId: string }) => [message.orderId] }

export const order = Participant.make("order", { orders, orders_history: ordersHistory })
  .answers(PlaceOrder, {
    touches: byOrder,
    decide: ({ orders }, placed, { now }) => {
      const earlier = orders.get(placed.orderId)
      if (earlier !== undefined) return { reply: orderView(earlier) }
      const order = created(placed, placed.coordination, now)
      return { put: changed(order, now), send: [announcement(order)], reply: orderView(order) }
    }
  })
  .on(CreateOrderCommand, {
    touches: byOrder,
    decide: ({ orders }, command, { now, coordination }) => {
      const earlier = orders.get(command.orderId)
      if (earlier?.status === "REJECTED") return { send: [rejection(earlier)] }
      if (earlier !== undefined) return { send: [announcement(earlier)] }
      const order = created(command, coordination, now)
      return { put: changed(order, now), send: [announcement(order)] }
    }
  })
  .on(ApproveOrderCommand, {
    touches: byOrder,
    decide: ({ orders }, { orderId, lines, total }, { now }) => {
      const order = orders.get(orderId)
      if (order?.status === "APPROVED") return { send: [OrderApprovedEvent.of({ orderId })] }
      if (order?.status !== "CREATED") return { send: [refusal(orderId, order)] }
      const approved: Order = { ...order, lines, total, status: "APPROVED", due_at: null }
      return { put: changed(approved, now), send: [OrderApprovedEvent.of({ orderId })] }
    }
  })
  .on(RejectOrderCommand, {
    touches: byOrder,
    decide: ({ orders }, command, { now, coordination }) => {
      const order = orders.get(command.orderId) ?? created(command, coordination, now)
      // a saga undoes no order that it saw approved, so this one is parked for somebody to look at
      if (order.status === "APPROVED") throw new Error(`order ${order.id} is approved and can't be rejected`)
      if (order.status === "REJECTED") return { send: [rejection(order)] }
      const rejected: Order = { ...order, status: "REJECTED", reason: command.reason, due_at: null }
      return { put: changed(rejected, now), send: [rejection(rejected)] }
    }
  })
  .due("orders", {
    decide: (_rows, order, { now }) => {
      if (order.status !== "CREATED") return { put: { orders: [{ ...order, due_at: null }] } }
      const announced: Order = { ...order, due_at: nextAnnouncement(order.created_at, now) }
      return { put: { orders: [announced] }, send: [announcement(order)] }
    }
  })

const created = (
  { orderId, userId, items }: { readonly orderId: string; readonly userId: string; readonly items: Items },
  coordination: Coordination,
  now: Date
): Order => ({
  id: orderId,
  user_id: userId,
  items,
  lines: null,
  total: null,
  status: "CREATED",
  reason: null,
  coordination,
  created_at: now,
  due_at: nextAnnouncement(now, now)
})

/** An order's new state, and the entry of its history that says so. */
const changed = (order: Order, now: Date) => ({
  orders: [order],
  orders_history: [{ order_id: order.id, status: order.status, reason: order.reason, at: now }]
})

const firstWaitMs = 60_000
const longestWaitMs = 600_000

/** The wait doubles: after one, three and seven minutes, that is once the order's age and the first wait passed again. */
const nextAnnouncement = (createdAt: Date, now: Date): Date => {
  const ageMs = Math.max(0, now.getTime() - createdAt.getTime())
  return new Date(now.getTime() + Math.min(longestWaitMs, ageMs + firstWaitMs))
}

const announcement = ({ id, user_id, items, coordination }: Order): Outgoing =>
  OrderCreatedEvent.of({ orderId: id, userId: user_id, items }, { coordination })

const rejection = ({ id, reason }: Order): Outgoing =>
  OrderRejectedEvent.of({ orderId: id, reason: reason ?? "CANCELLED" })

const refusal = (orderId: string, order: Order | undefined): Outgoing =>
  OrderApprovalRefusedEvent.of({
    orderId,
    reason: order === undefined ? "ORDER_UNKNOWN" : (order.reason ?? "CANCELLED")
  })

/** An order as HTTP shows it. */
export const orderView = (order: Order): OrderView => ({
  id: order.id,
  sagaId: order.id,
  userId: order.user_id,
  items: order.lines ?? order.items,
  total: order.total,
  status: order.status,
  reason: order.reason,
  coordination: order.coordination,
  createdAt: order.created_at.toISOString()
})
