/**
 * Who reacts to what when an order is choreographed: for each event, the command that it stands for. The decisions are the
 * same as in an orchestrated order; nobody asks for them.
 */
import { Choreography, type Reaction } from "oncebox"
import * as order from "../order/contract.ts"
import * as payment from "../payment/contract.ts"
import * as product from "../product/contract.ts"
import * as shipment from "../shipment/contract.ts"
import type { DefinitionName } from "./bounds.ts"
import { ordered, type OrderContext } from "./order-context.ts"

const { when } = Choreography

interface OrderEvent {
  readonly orderId: string
  readonly order?: OrderContext
}

/** The event's order, if it runs this definition; with what the event says of prices. */
const orderOf = <E extends OrderEvent>(definition: DefinitionName, event: E): Priced | undefined => {
  if (event.order?.definition !== definition) return undefined
  const { lines, total } = { ...event.order, ...event }
  return lines === null || total === null ? undefined : { ...event.order, lines, total }
}
type Priced = OrderContext & { readonly lines: NonNullable<OrderContext["lines"]>; readonly total: number }

const begun = (definition: DefinitionName, event: typeof order.OrderCreatedEvent.schema.Type) =>
  event.definition === definition
    ? { orderId: event.orderId, items: event.items, order: { definition, ...ordered(event) } }
    : undefined

const pay =
  (definition: DefinitionName) =>
  (event: OrderEvent): typeof payment.ProcessPaymentCommand.schema.Type | undefined => {
    const known = orderOf(definition, event)
    const { orderId } = event
    return known && { orderId, userId: known.userId, amount: known.total, payment: known.payment, order: known }
  }
const reserve =
  (definition: DefinitionName) =>
  (
    event: typeof payment.PaymentProcessedEvent.schema.Type
  ): typeof product.ReserveProductCommand.schema.Type | undefined => {
    const known = orderOf(definition, event)
    // quoted anew after it was paid: it can't be had for what was paid, so nothing more comes of it
    if (known?.total !== event.amount) return undefined
    return known && { orderId: event.orderId, items: known.items, lines: known.lines, order: known }
  }
const ship =
  (definition: DefinitionName) =>
  (event: OrderEvent): typeof shipment.CreateShipmentCommand.schema.Type | undefined => {
    const known = orderOf(definition, event)
    const { orderId } = event
    return known && { orderId, userId: known.userId, items: known.items, country: known.country, order: known }
  }
const approve = (event: OrderEvent): typeof order.ApproveOrderCommand.schema.Type | undefined => {
  const known = event.order && orderOf(event.order.definition, event)
  return known && { orderId: event.orderId, lines: known.lines, total: known.total }
}
const cancel = ({ orderId, reason }: { readonly orderId: string; readonly reason: string }) => ({ orderId, reason })
const undo = ({ orderId }: { readonly orderId: string }) => ({ orderId })

/** created → reserved → paid → shipped → approved */
const placeOrder: ReadonlyArray<Reaction> = [
  when(order.OrderCreatedEvent, product.ReserveProductCommand, (event) => begun("place-order", event)),
  when(product.ProductReservedEvent, payment.ProcessPaymentCommand, pay("place-order")),
  when(payment.PaymentProcessedEvent, shipment.CreateShipmentCommand, ship("place-order"))
]

/** created → quoted → paid → reserved → shipped → approved */
const payFirst: ReadonlyArray<Reaction> = [
  when(order.OrderCreatedEvent, product.QuoteOrderCommand, (event) => begun("pay-first", event)),
  when(product.OrderQuotedEvent, payment.ProcessPaymentCommand, pay("pay-first")),
  when(payment.PaymentProcessedEvent, product.ReserveProductCommand, reserve("pay-first")),
  when(product.ProductReservedEvent, shipment.CreateShipmentCommand, ship("pay-first"))
]

/** In both: the end, what goes wrong, and how it is taken back. */
const both: ReadonlyArray<Reaction> = [
  when(shipment.ShipmentCreatedEvent, order.ApproveOrderCommand, approve),
  when(product.OrderQuoteFailedEvent, order.CancelOrderCommand, cancel),
  when(product.ProductReservationFailedEvent, order.CancelOrderCommand, cancel),
  when(payment.PaymentFailedEvent, order.CancelOrderCommand, cancel),
  when(shipment.ShipmentFailedEvent, order.CancelOrderCommand, cancel),
  when(order.OrderRejectedEvent, product.CancelProductReservationCommand, undo),
  when(order.OrderRejectedEvent, payment.RefundPaymentCommand, undo),
  when(order.OrderRejectedEvent, shipment.CancelShipmentCommand, undo)
]

export const choreography = [...placeOrder, ...payFirst, ...both]
