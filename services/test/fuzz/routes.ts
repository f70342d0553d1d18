/** The routes of all services: what each takes, and what it says when all is well. */
import { Schema } from "effect"
import { OrderView } from "../../order/contract.ts"
import { ProductView } from "../../product/product.ts"
import { AddedStock, Amount, DepositAmount, Id, Name, Price, Stock } from "../../shell/bounds.ts"
import { NewOrder } from "../../shell/new-order.ts"
import { DepositView } from "../../user/deposit.ts"
import { UserView } from "../../user/user.ts"
import type { ServiceName } from "../../../stack/embedded.ts"

export interface Route {
  readonly service: ServiceName
  readonly admin: boolean
  readonly method: string
  readonly path: string
  readonly body: Schema.Codec<object, object> | undefined
  /** What a 2xx says, by its status; null when it says nothing. */
  readonly answers: Readonly<Record<number, Schema.Codec<unknown, unknown> | null>>
}

type AnySchema = Schema.Codec<unknown, unknown>
// plain data on both sides
const plain = (schema: Schema.Top): AnySchema => schema as unknown as AnySchema

const Text = Schema.String
const Nullable = Schema.NullOr(Text)
const page = (item: Schema.Top): AnySchema => plain(Schema.Struct({ items: Schema.Array(item), next: Nullable }))
const Saga = Schema.Struct({
  id: Text,
  done: Schema.Array(Text),
  waitingFor: Schema.Unknown,
  remaining: Schema.Array(Text),
  definition: Text,
  version: Schema.Int,
  state: Text,
  step: Text,
  attempt: Schema.Int,
  coordination: Text,
  data: Schema.Unknown,
  reason: Nullable,
  deadline: Nullable,
  startedAt: Text,
  endedAt: Nullable
})
const WholeSaga = Schema.Struct({ ...Saga.fields, waitingSince: Nullable, log: Schema.Array(Schema.Unknown) })
const Payment = Schema.Struct({
  orderId: Text,
  userId: Nullable,
  amount: Schema.NullOr(Schema.Int),
  method: Nullable,
  status: Text,
  reason: Nullable,
  updatedAt: Text
})
const Shipment = Schema.Struct({
  id: Nullable,
  orderId: Text,
  items: Schema.Array(Schema.Unknown),
  status: Text,
  reason: Nullable,
  updatedAt: Text
})
const Entry = Schema.Struct({ status: Text, reason: Nullable, at: Text })
const Bulk = Schema.Struct({
  decided: Schema.Int,
  parked: Schema.Int,
  discarded: Schema.Int,
  settled: Schema.Int,
  left: Schema.Int,
  heldBack: Schema.Int,
  letters: Schema.Array(Schema.Unknown)
})
const Letters = Schema.Struct({
  groups: Schema.Array(Schema.Unknown),
  items: Schema.Array(Schema.Unknown),
  next: Nullable
})

// e-mail addresses can't be drawn from their pattern
const Email = Schema.Literals(["a@b.c", "ann@example.org", "\u00fc@\u00e4.example", `${"x".repeat(240)}@example.org`])
const NewProduct = Schema.Struct({ id: Schema.optionalKey(Id), name: Name, price: Price, quantity: Stock })
const NewUser = Schema.Struct({ id: Schema.optionalKey(Id), name: Name, email: Email, balance: Amount })
const Choice = Schema.Struct({
  reason: Schema.optionalKey(Schema.Literals(["unreadable", "unknown-type"])),
  limit: Schema.optionalKey(Schema.Literals([1, 10, 1_000]))
})

const route = (
  service: ServiceName,
  line: string,
  answers: Route["answers"],
  body?: Schema.Top,
  admin = false
): Route => {
  const [method = "", path = ""] = line.split(" ")
  return { service, admin, method, path, body: body as unknown as Route["body"], answers }
}

const order = plain(OrderView)
const product = plain(ProductView)
const user = plain(UserView)
const deposit = plain(DepositView)
const placed = { 200: order, 202: order }
const services = ["user", "product", "order", "orchestrator", "payment", "shipment"] as const
const health = plain(Schema.Struct({ status: Schema.Literals(["live", "ready"]) }))

export const routes: ReadonlyArray<Route> = [
  route("order", "POST /orders", placed, NewOrder),
  route("orchestrator", "POST /orders", placed, NewOrder),
  route("order", "GET /orders", { 200: page(OrderView) }),
  route("order", "GET /orders/:order", { 200: order }),
  route("order", "GET /orders/:order/history", { 200: page(Entry) }),
  route("order", "POST /orders/:order/cancel", placed),
  route("order", "DELETE /orders/:order", { 204: null }),
  route("orchestrator", "GET /sagas", { 200: page(Saga) }),
  route("orchestrator", "GET /sagas/:order", { 200: plain(WholeSaga) }),
  route("product", "GET /products", { 200: page(ProductView) }),
  route("product", "POST /products", { 201: product }, NewProduct),
  route("product", "GET /products/:product", { 200: product }),
  route("product", "PUT /products/:product", { 200: product }, Schema.Struct({ name: Name, price: Price })),
  route("product", "DELETE /products/:victim", { 204: null }),
  route("product", "POST /products/:product/stock", { 200: product }, Schema.Struct({ quantity: AddedStock })),
  route("user", "GET /users", { 200: page(UserView) }),
  route("user", "POST /users", { 201: user, 202: user }, NewUser),
  route("user", "GET /users/:user", { 200: user }),
  route("user", "PUT /users/:user", { 200: user }, Schema.Struct({ name: Name, email: Email })),
  route("user", "DELETE /users/:victim", { 204: null }),
  route("user", "POST /users/:user/deposits", { 200: deposit, 202: deposit }, Schema.Struct({ amount: DepositAmount })),
  route("user", "GET /users/:user/deposits/:deposit", { 200: deposit }),
  route("payment", "GET /payments/:order", { 200: plain(Payment) }),
  route("shipment", "GET /shipments/:order", { 200: plain(Shipment) }),
  ...services.flatMap((service) => [
    route(service, "GET /health/live", { 200: health }),
    route(service, "GET /dead-letters", { 200: plain(Letters) }, undefined, true),
    route(service, "GET /dead-letters/:letter", { 200: plain(Schema.Unknown) }, undefined, true),
    route(service, "POST /dead-letters/redrive", { 200: plain(Bulk) }, Choice, true),
    route(service, "POST /dead-letters/discard", { 200: plain(Bulk) }, Choice, true),
    route(service, "POST /dead-letters/:letter/redrive", { 200: plain(Schema.Unknown) }, undefined, true),
    route(service, "POST /dead-letters/:letter/discard", { 200: plain(Schema.Unknown) }, undefined, true)
  ])
]
