/** Products and what is reserved of them. An order's reservation is the fence: it answers whatever is asked again. */
import { Schema } from "effect"
import { Participant, Request, Table, type Outgoing, type RowOf, type Rows } from "oncebox"
import {
  AddedStock,
  alreadyCancelled,
  Amount,
  greatestAmount,
  greatestStock,
  Id,
  Line,
  Name,
  OrderId,
  Price,
  Reason,
  Stock,
  Timestamp,
  type Items,
  type Lines
} from "../shell/bounds.ts"
import { isMeantFor, Precondition, Version } from "../shell/version.ts"
import { delayable, delayedCommands } from "../shell/delays.ts"
import { failedOnDemand, failsOnDemand, failureRules } from "../shell/failures.ts"
import { along } from "../shell/order-context.ts"
import {
  CancelProductReservationCommand,
  OrderQuotedEvent,
  OrderQuoteFailedEvent,
  ProductReservationCancelledEvent,
  ProductReservationFailedEvent,
  ProductReservedEvent,
  QuoteOrderCommand,
  ReserveProductCommand
} from "./contract.ts"

export const reservations = Table.make("reservations", {
  key: "order_id",
  row: {
    order_id: OrderId,
    status: Schema.Literals(["RESERVED", "FAILED", "CANCELLED"]),
    /** What was taken from stock; empty when nothing ever was. */
    lines: Schema.Array(Line),
    total: Amount,
    reason: Schema.NullOr(Reason),
    product_id: Schema.NullOr(Id),
    updated_at: Schema.Date
  }
})
export type Reservation = RowOf<typeof reservations>

export const ProductStatus = Schema.Literals(["ACTIVE", "DISCONTINUED"])
export type ProductStatus = typeof ProductStatus.Type

export const products = Table.make("products", {
  key: "id",
  row: {
    id: Id,
    name: Name,
    price: Price,
    quantity: Schema.Natural,
    status: ProductStatus,
    /** Of what clients edit: what moves stock leaves it as it is. */
    version: Version,
    created_at: Schema.Date
  }
})
export type Product = RowOf<typeof products>

// what is put aside comes first: it is locked first when it falls due, too
const tables = { delayed_commands: delayedCommands, reservations, products, failure_rules: failureRules }
type Stocked = Rows<typeof tables>["products"]

export const ProductView = Schema.Struct({
  id: Id,
  name: Name,
  price: Price,
  quantity: Schema.Natural,
  status: ProductStatus,
  version: Version,
  createdAt: Timestamp
})
export type ProductView = typeof ProductView.Type

export const CreateProduct = Request.make("CreateProduct", {
  payload: { id: Id, name: Name, price: Price, quantity: Stock },
  reply: Schema.Union([Schema.TaggedStruct("created", { product: ProductView }), Schema.TaggedStruct("exists", {})])
})

const done = Schema.TaggedStruct("done", { product: ProductView })
const unknown = Schema.TaggedStruct("unknown", {})
const stale = Schema.TaggedStruct("stale", { version: Version })
const discontinued = Schema.TaggedStruct("discontinued", {})

export const EditProduct = Request.make("EditProduct", {
  payload: { id: Id, name: Name, price: Price, precondition: Precondition },
  reply: Schema.Union([done, unknown, stale, discontinued])
})

export const DiscontinueProduct = Request.make("DiscontinueProduct", {
  payload: { id: Id, precondition: Precondition },
  reply: Schema.Union([done, unknown, stale])
})

export const AddStock = Request.make("AddStock", {
  payload: { id: Id, quantity: AddedStock },
  reply: Schema.Union([done, unknown, discontinued, Schema.TaggedStruct("full", { quantity: Schema.Natural })])
})

const byId = { products: ({ id }: { readonly id: string }) => [id] }

const reserving = delayable(tables, "reserve", ReserveProductCommand, {
  touches: {
    reservations: ({ orderId }) => [orderId],
    products: ({ items }) => items.map(({ productId }) => productId),
    failure_rules: () => ["reserve"]
  },
  decide: ({ reservations, products, failure_rules }, command, { now }) => {
    const { orderId, items, lines } = command
    const earlier = reservations.get(orderId)
    if (earlier !== undefined) return { send: [outcomeOf(earlier, command)] }
    const nothing = nothingReserved(orderId, now)
    const reservation = failsOnDemand(failure_rules.get("reserve"), orderId)
      ? failed(nothing, failedOnDemand, null)
      : reserve(nothing, items, products, lines)
    return {
      put: { reservations: [reservation], products: taken(reservation.lines, products) },
      send: [outcomeOf(reservation, command)]
    }
  }
})

export const product = Participant.make("product", tables)
  .answers(CreateProduct, {
    touches: byId,
    decide: ({ products }, { id, name, price, quantity }, { now }) => {
      if (products.get(id) !== undefined) return { reply: { _tag: "exists" as const } }
      const product: Product = { id, name, price, quantity, status: "ACTIVE", version: 1, created_at: now }
      return { put: { products: [product] }, reply: { _tag: "created" as const, product: productView(product) } }
    }
  })
  .answers(EditProduct, {
    touches: byId,
    decide: ({ products }, { id, name, price, precondition }) => {
      const product = products.get(id)
      if (product === undefined) return { reply: { _tag: "unknown" as const } }
      const { status, version } = product
      if (status === "DISCONTINUED") return { reply: { _tag: "discontinued" as const } }
      if (!isMeantFor(precondition, version)) return { reply: { _tag: "stale" as const, version } }
      return changed({ ...product, name, price, version: version + 1 })
    }
  })
  .answers(DiscontinueProduct, {
    touches: byId,
    decide: ({ products }, { id, precondition }) => {
      const product = products.get(id)
      if (product === undefined) return { reply: { _tag: "unknown" as const } }
      const { status, version } = product
      // whoever asked for it before may not have heard that it was done
      if (status === "DISCONTINUED") return { reply: { _tag: "done" as const, product: productView(product) } }
      if (!isMeantFor(precondition, version)) return { reply: { _tag: "stale" as const, version } }
      return changed({ ...product, status: "DISCONTINUED", version: version + 1 })
    }
  })
  .answers(AddStock, {
    touches: byId,
    decide: ({ products }, { id, quantity }) => {
      const product = products.get(id)
      if (product === undefined) return { reply: { _tag: "unknown" as const } }
      if (product.status === "DISCONTINUED") return { reply: { _tag: "discontinued" as const } }
      const inStock = product.quantity + quantity
      if (inStock > greatestStock) return { reply: { _tag: "full" as const, quantity: product.quantity } }
      return changed({ ...product, quantity: inStock })
    }
  })
  .on(ReserveProductCommand, reserving.asked)
  .due("delayed_commands", reserving.due)
  .on(QuoteOrderCommand, {
    touches: {
      reservations: ({ orderId }) => [orderId],
      products: ({ items }) => items.map(({ productId }) => productId)
    },
    decide: ({ reservations, products }, command, { now }) => {
      // asked again when the order has its products already: they are its own
      const { status, lines, total, reason, product_id } =
        reservations.get(command.orderId) ?? reserve(nothingReserved(command.orderId, now), command.items, products)
      const { orderId } = command
      return {
        send: [
          status === "RESERVED"
            ? OrderQuotedEvent.of({ orderId, lines, total, ...along(command) })
            : OrderQuoteFailedEvent.of({ orderId, reason: reason ?? alreadyCancelled, productId: product_id })
        ]
      }
    }
  })
  .on(CancelProductReservationCommand, {
    touches: {
      reservations: ({ orderId }) => [orderId],
      products: ({ orderId }, { reservations }) => productsIn(reservations.get(orderId))
    },
    decide: ({ reservations, products }, { orderId }, { now }) => {
      const send = [ProductReservationCancelledEvent.of({ orderId })]
      const earlier = reservations.get(orderId)
      if (earlier === undefined) return { put: { reservations: [nothingReserved(orderId, now)] }, send }
      if (earlier.status !== "RESERVED") return { send }
      const cancelled: Reservation = { ...earlier, status: "CANCELLED", updated_at: now }
      return { put: { reservations: [cancelled], products: returned(earlier.lines, products) }, send }
    }
  })

const changed = (product: Product) => ({
  put: { products: [product] },
  reply: { _tag: "done" as const, product: productView(product) }
})

/** Left like this by a cancel that came first, it refuses the command when it comes. */
const nothingReserved = (orderId: string, now: Date): Reservation => ({
  order_id: orderId,
  status: "CANCELLED",
  lines: [],
  total: 0,
  reason: null,
  product_id: null,
  updated_at: now
})

/** All of the items, at the prices that were quoted or else at today's, or none of them. */
const reserve = (nothing: Reservation, items: Items, products: Stocked, quoted: Lines = []): Reservation => {
  const lines: Array<Line> = []
  for (const { productId, quantity } of items) {
    const product = products.get(productId)
    if (product === undefined) return failed(nothing, "PRODUCT_UNKNOWN", productId)
    if (product.status === "DISCONTINUED") return failed(nothing, "PRODUCT_DISCONTINUED", productId)
    if (product.quantity < quantity) return failed(nothing, "OUT_OF_STOCK", productId)
    const price = quoted.find((line) => line.productId === productId)?.price ?? product.price
    lines.push({ productId, quantity, price })
  }
  const total = lines.reduce((sum, { quantity, price }) => sum + quantity * price, 0)
  if (total > greatestAmount) return failed(nothing, "TOTAL_TOO_LARGE", null)
  return { ...nothing, status: "RESERVED", lines, total }
}

const failed = (nothing: Reservation, reason: string, productId: string | null): Reservation => ({
  ...nothing,
  status: "FAILED",
  reason,
  product_id: productId
})

type Command = typeof ReserveProductCommand.schema.Type

const outcomeOf = (reservation: Reservation, command: Command): Outgoing => {
  const { order_id: orderId, status, lines, total, reason, product_id: productId } = reservation
  return status === "RESERVED"
    ? ProductReservedEvent.of({ orderId, lines, total, ...along(command) })
    : ProductReservationFailedEvent.of({ orderId, reason: reason ?? alreadyCancelled, productId })
}

const productsIn = (reservation: Reservation | undefined): ReadonlyArray<string> =>
  reservation?.status === "RESERVED" ? reservation.lines.map(({ productId }) => productId) : []

const taken = (lines: Lines, products: Stocked) =>
  lines.map((line) => restocked(line.productId, -line.quantity, products))
const returned = (lines: Lines, products: Stocked) =>
  lines.map((line) => restocked(line.productId, line.quantity, products))

const restocked = (productId: string, change: number, products: Stocked): Product => {
  const product = products.get(productId)
  // products are never deleted: what was reserved can always be returned
  if (product === undefined) throw new Error(`product ${productId} is reserved and does not exist`)
  return { ...product, quantity: product.quantity + change }
}

/** A product as HTTP shows it. */
export const productView = ({ id, name, price, quantity, status, version, created_at }: Product): ProductView => ({
  id,
  name,
  price,
  quantity,
  status,
  version,
  createdAt: created_at.toISOString()
})
