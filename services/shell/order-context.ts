/** What a client wants of an order, and what the messages about it take along. */
import { Schema } from "effect"
import { Coordination } from "oncebox"
import { Amount, Country, DefinitionName, Id, Items, Lines, OrderId, PaymentMethod } from "./bounds.ts"

/** What the client itself says. No country: the shop's own. */
const asked = { userId: Id, items: Items, payment: PaymentMethod, country: Schema.NullOr(Country) }

/** What a client wants of an order: the fields of whatever creates it, or rejects it before it was created. */
export const wanted = { orderId: OrderId, ...asked, definition: DefinitionName }

/** The same as a request, to whichever service takes it; with the style. */
export const OrderRequest = Schema.Struct({ ...wanted, coordination: Coordination })
export type OrderRequest = typeof OrderRequest.Type

/** What is known of an order on its way. */
export const OrderData = Schema.Struct({
  ...asked,
  /** The items with their prices, once they are reserved or quoted. */
  lines: Schema.NullOr(Lines),
  total: Schema.NullOr(Amount)
})
export type OrderData = typeof OrderData.Type

/** What is known of an order at its start. */
export const ordered = ({ userId, items, payment, country }: Omit<OrderData, "lines" | "total">): OrderData => ({
  userId,
  items,
  payment,
  country,
  lines: null,
  total: null
})

/**
 * What a choreographed order takes along from message to message, so that whoever sees an event knows all that the command
 * it stands for would have said. Orchestrated orders do without: the saga knows it.
 */
export const OrderContext = Schema.Struct({ definition: DefinitionName, ...OrderData.fields })
export type OrderContext = typeof OrderContext.Type

/** The field of a payload that holds it. */
export const order = Schema.optionalKey(OrderContext)

/** Takes it along, if it is there. */
export const along = ({ order }: { readonly order?: OrderContext }): { readonly order?: OrderContext } =>
  order === undefined ? {} : { order }
