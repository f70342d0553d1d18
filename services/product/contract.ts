/** What the product service is asked and what it tells. Every message is keyed by the order it is about. */
import { Schema } from "effect"
import { Topic } from "oncebox"
import { Amount, Id, Items, Lines, OrderId, Reason } from "../shell/bounds.ts"
import { order } from "../shell/order-context.ts"

export const productsCommands = Topic.commands("products-commands")
export const productsEvents = Topic.events("products-events", { choreographyName: "products-choreography" })

/** Asks what the items cost. Nothing is reserved: each product has enough in stock as far as one can tell now. */
export const QuoteOrderCommand = productsCommands.message(
  "QuoteOrderCommand",
  { orderId: OrderId, items: Items, order },
  { key: "orderId" }
)

export const OrderQuotedEvent = productsEvents.message(
  "OrderQuotedEvent",
  { orderId: OrderId, lines: Lines, total: Amount, order },
  { key: "orderId" }
)

/** PRODUCT_UNKNOWN and OUT_OF_STOCK name the product. */
export const OrderQuoteFailedEvent = productsEvents.message(
  "OrderQuoteFailedEvent",
  { orderId: OrderId, reason: Reason, productId: Schema.NullOr(Id) },
  { key: "orderId" }
)

/** `lines` are prices that were quoted before: they hold. */
export const ReserveProductCommand = productsCommands.message(
  "ReserveProductCommand",
  { orderId: OrderId, items: Items, lines: Schema.optionalKey(Lines), order },
  { key: "orderId" }
)

export const ProductReservedEvent = productsEvents.message(
  "ProductReservedEvent",
  { orderId: OrderId, lines: Lines, total: Amount, order },
  { key: "orderId" }
)

/** Nothing was reserved. PRODUCT_UNKNOWN, PRODUCT_DISCONTINUED and OUT_OF_STOCK name the product. */
export const ProductReservationFailedEvent = productsEvents.message(
  "ProductReservationFailedEvent",
  { orderId: OrderId, reason: Reason, productId: Schema.NullOr(Id) },
  { key: "orderId" }
)

export const CancelProductReservationCommand = productsCommands.message(
  "CancelProductReservationCommand",
  { orderId: OrderId },
  { key: "orderId" }
)

/** Nothing is reserved any more, or will be. */
export const ProductReservationCancelledEvent = productsEvents.message(
  "ProductReservationCancelledEvent",
  { orderId: OrderId },
  { key: "orderId" }
)
