import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import type { Outgoing } from "oncebox"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import {
  CancelProductReservationCommand,
  OrderQuotedEvent,
  OrderQuoteFailedEvent,
  ProductReservationCancelledEvent,
  ProductReservationFailedEvent,
  ProductReservedEvent,
  QuoteOrderCommand,
  ReserveProductCommand
} from "../contract.ts"
import {
  AddStock,
  CreateProduct,
  DiscontinueProduct,
  EditProduct,
  product,
  productView,
  type Product,
  type Reservation
} from "../product.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const otherId = "00000000-0000-4000-8000-000000000002"

const stocked = (id: string, price: number, quantity: number): Product => ({
  id,
  name: id,
  price,
  quantity,
  status: "ACTIVE",
  version: 1,
  created_at: decidedAt
})
const shop = { products: [stocked("teapot", 2000, 5), stocked("cup", 300, 5), stocked("palace", 100_000_000, 20_000)] }

const itemsOf = (wanted: Readonly<Record<string, number>>) =>
  Object.entries(wanted).map(([productId, quantity]) => ({ productId, quantity }))
const reserve = (wanted: Readonly<Record<string, number>>, order = orderId) =>
  ReserveProductCommand.of({ orderId: order, items: itemsOf(wanted) })
const cancel = (order = orderId) => CancelProductReservationCommand.of({ orderId: order })
const discontinue = (id: string, precondition: "*" | ReadonlyArray<string> = "*") => ({
  request: DiscontinueProduct,
  payload: { id, precondition }
})
const edit = (id: string, precondition: "*" | ReadonlyArray<string>) => ({
  request: EditProduct,
  payload: { id, name: "New", price: 7, precondition }
})
const add = (id: string, quantity: number) => ({ request: AddStock, payload: { id, quantity } })

const priced = {
  orderId,
  lines: [
    { productId: "teapot", quantity: 2, price: 2000 },
    { productId: "cup", quantity: 5, price: 300 }
  ],
  total: 5500
}
const reserved = ProductReservedEvent.of(priced)
const failed = (reason: string, productId: string | null = null) =>
  ProductReservationFailedEvent.of({ orderId, reason, productId })
const cancelled = ProductReservationCancelledEvent.of({ orderId })

const table = { teapot: 2, cup: 5 }
const full = { teapot: 5, cup: 5 }
const left = { teapot: 3, cup: 0 }

const stockOf = (rows: { readonly products: ReadonlyArray<Product> }) =>
  Object.fromEntries(rows.products.map(({ id, quantity }) => [id, quantity]))

const cases: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Outgoing, Readonly<Record<string, number>>]> = [
  ["an order takes its products from stock, at today's prices", [reserve(table)], reserved, left],
  ["asked twice, it takes them once and hears the same", [reserve(table), reserve(table)], reserved, left],
  ["asked twice for other things, it still has the first", [reserve(table), reserve({ teapot: 1 })], reserved, left],
  ["stock that reached zero comes back with the cancel", [reserve(table), cancel()], cancelled, full],
  ["a second cancel brings nothing more back", [reserve(table), cancel(), cancel()], cancelled, full],
  [
    "after the cancel the command is refused",
    [reserve(table), cancel(), reserve(table)],
    failed("ALREADY_CANCELLED"),
    full
  ],
  ["a cancel that comes first finds nothing to do", [cancel()], cancelled, full],
  ["a cancel that comes first refuses the command", [cancel(), reserve(table)], failed("ALREADY_CANCELLED"), full],
  ["it goes on refusing after another cancel", [cancel(), cancel(), reserve(table)], failed("ALREADY_CANCELLED"), full],
  ["an unknown product fails the order", [reserve({ cup: 1, spoon: 1 })], failed("PRODUCT_UNKNOWN", "spoon"), full],
  [
    "one product out of stock leaves the others",
    [reserve({ cup: 5, teapot: 6 })],
    failed("OUT_OF_STOCK", "teapot"),
    full
  ],
  [
    "a total above the greatest amount fails the order",
    [reserve({ palace: 10_000, cup: 1 })],
    failed("TOTAL_TOO_LARGE"),
    full
  ],
  ["what failed is cancelled without effect", [reserve({ teapot: 6 }), cancel()], cancelled, full],
  [
    "what failed and was cancelled fails as before",
    [reserve({ teapot: 6 }), cancel(), reserve({ teapot: 6 })],
    failed("OUT_OF_STOCK", "teapot"),
    full
  ],
  [
    "what failed fails again, though stock came back since",
    [reserve({ cup: 1 }, otherId), reserve({ cup: 5 }), cancel(otherId), reserve({ cup: 5 })],
    failed("OUT_OF_STOCK", "cup"),
    full
  ],
  [
    "a discontinued product fails the order",
    [discontinue("cup"), reserve(table)],
    failed("PRODUCT_DISCONTINUED", "cup"),
    full
  ],
  [
    "what was reserved of a discontinued product is still reserved",
    [reserve(table), discontinue("cup"), reserve(table)],
    reserved,
    left
  ],
  [
    "what was reserved of a discontinued product comes back with the cancel",
    [reserve(table), discontinue("cup"), cancel()],
    cancelled,
    full
  ],
  [
    "stock that was added can be ordered",
    [add("teapot", 1), reserve({ teapot: 6 })],
    ProductReservedEvent.of({ orderId, lines: [{ productId: "teapot", quantity: 6, price: 2000 }], total: 12_000 }),
    { ...full, teapot: 0 }
  ]
]

test.each(cases)("%s", (_name, inputs, answer, stock) => {
  const { send, rows } = decideWith(product, shop, ...inputs)

  expect(send).toEqual([answer])
  expect(stockOf(rows)).toEqual({ ...stock, palace: 20_000 })
})

const repeated: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Input]> = [
  ["a reservation", [reserve(table)], reserve(table)],
  ["a failed reservation", [reserve({ spoon: 1 })], reserve({ spoon: 1 })],
  ["a cancel of a failed one", [reserve({ spoon: 1 })], cancel()],
  ["a cancel", [reserve(table), cancel()], cancel()],
  ["a cancel that came first", [cancel()], cancel()],
  ["a refused reservation", [cancel()], reserve(table)]
]

test.each(repeated)("%s, asked again, writes no row", (_name, before, again) => {
  const { put } = decideWith(product, shop, ...before, again)

  expect(put).toBeUndefined()
})

test("whatever is asked, in whatever order, no product is lost and none is made", () => {
  const orders = fc.constantFrom(orderId, otherId)
  const ids = fc.constantFrom("teapot", "cup")
  const items = fc.dictionary(ids, fc.integer({ min: 1, max: 4 }), { minKeys: 1 })
  const inputs = fc.array(
    fc.oneof(
      fc.tuple(items, orders).map(([items, order]) => reserve(items, order)),
      orders.map(cancel),
      ids.map((id) => edit(id, "*")),
      ids.map((id) => discontinue(id))
    ),
    {
      maxLength: 12,
      size: "max"
    }
  )

  fc.assert(
    fc.property(inputs, (inputs) => {
      const { rows } = decideWith(product, shop, ...inputs)

      const stock = stockOf(rows)
      for (const { id, quantity } of shop.products) {
        expect(stock[id]).toBeGreaterThanOrEqual(0)
        expect(stock[id]).toBe(quantity - held(id, rows.reservations))
      }
    })
  )
})

const held = (product: string, reservations: ReadonlyArray<Reservation>): number =>
  reservations
    .filter(({ status }) => status === "RESERVED")
    .flatMap(({ lines }) => lines)
    .reduce((sum, { productId, quantity }) => sum + (productId === product ? quantity : 0), 0)

test("an order can't name a product twice", () => {
  const twice = [
    { productId: "cup", quantity: 1 },
    { productId: "cup", quantity: 2 }
  ]

  expect(() => decideWith(product, shop, ReserveProductCommand.of({ orderId, items: twice }))).toThrow(
    "each product once"
  )
})

test("a product is created once", () => {
  const payload = { id: "spoon", name: "Spoon", price: 100, quantity: 3 }
  const spoon = { request: CreateProduct, payload }

  const first = decideWith(product, {}, spoon)
  const second = decideWith(product, {}, spoon, { ...spoon, payload: { ...payload, price: 200 } })

  expect(first.reply).toEqual({
    _tag: "created",
    product: { ...payload, status: "ACTIVE", version: 1, createdAt: decidedAt.toISOString() }
  })
  expect(second.reply).toEqual({ _tag: "exists" })
  expect(second.rows).toEqual(first.rows)
})

const cup = stocked("cup", 300, 5)
const done = (change: Partial<Product>) => ({ _tag: "done", product: productView({ ...cup, ...change }) })

const changes: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Partial<Product>]> = [
  [
    "an edit changes name and price, and is a new version",
    [edit("cup", ['"1"'])],
    { name: "New", price: 7, version: 2 }
  ],
  ["an edit may name several versions", [edit("cup", ['"7"', '"1"'])], { name: "New", price: 7, version: 2 }],
  ["an edit may be meant for any version", [edit("cup", "*")], { name: "New", price: 7, version: 2 }],
  [
    "stock that moves is no new version",
    [reserve(table), edit("cup", ['"1"'])],
    { name: "New", price: 7, version: 2, quantity: 0 }
  ],
  ["stock is added", [add("cup", 3)], { quantity: 8 }],
  ["stock is added up to the most there can be", [add("cup", 999_999_995)], { quantity: 1_000_000_000 }],
  ["a product is discontinued", [discontinue("cup")], { status: "DISCONTINUED", version: 2 }],
  ["a product is discontinued in a version", [discontinue("cup", ['"1"'])], { status: "DISCONTINUED", version: 2 }]
]

test.each(changes)("%s", (_name, inputs, change) => {
  const { reply, rows } = decideWith(product, shop, ...inputs)

  expect(rows.products).toContainEqual({ ...cup, ...change })
  expect(reply).toEqual(done(change))
})

const noChanges: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Input, object]> = [
  ["an edit of nothing", [], edit("spoon", "*"), { _tag: "unknown" }],
  ["an edit of an older version", [edit("cup", "*")], edit("cup", ['"1"']), { _tag: "stale", version: 2 }],
  ["an edit of no version", [], edit("cup", []), { _tag: "stale", version: 1 }],
  ["an edit of a weak ETag", [], edit("cup", ['W/"1"']), { _tag: "stale", version: 1 }],
  ["an edit of what is discontinued", [discontinue("cup")], edit("cup", ['"1"']), { _tag: "discontinued" }],
  ["discontinuing nothing", [], discontinue("spoon"), { _tag: "unknown" }],
  ["discontinuing another version", [], discontinue("cup", ['"2"']), { _tag: "stale", version: 1 }],
  [
    "discontinuing it again",
    [discontinue("cup")],
    discontinue("cup", ['"1"']),
    done({ status: "DISCONTINUED", version: 2 })
  ],
  ["stock of nothing", [], add("spoon", 1), { _tag: "unknown" }],
  ["stock of what is discontinued", [discontinue("cup")], add("cup", 1), { _tag: "discontinued" }],
  ["more stock than there can be", [], add("cup", 999_999_996), { _tag: "full", quantity: 5 }]
]

test.each(noChanges)("%s changes no row", (_name, before, input, answer) => {
  const { put, reply } = decideWith(product, shop, ...before, input)

  expect(put).toBeUndefined()
  expect(reply).toEqual(answer)
})

test("a cancel is never refused, even if more stock came than there was room for", () => {
  const full = decideWith(product, shop, reserve({ cup: 5 }), add("cup", 1_000_000_000), cancel())

  expect(stockOf(full.rows)).toMatchObject({ cup: 1_000_000_005 })
})

test("a failure on demand fails an order by its own rule, and takes nothing", () => {
  const rule = (step: string, percent: number) => ({ step, above: null, percent, seed: "", delay_ms: null })
  const given = (percent: number) => ({ ...shop, failure_rules: [rule("reserve", percent), rule("pay", 100)] })

  const { send, rows } = decideWith(product, given(100), reserve(table))

  expect(send).toEqual([failed("FAILED_ON_DEMAND")])
  expect(rows.products).toEqual(shop.products)
  expect(decideWith(product, given(0), reserve(table)).send).toEqual([reserved])
})

test("an order may come to the greatest amount", () => {
  const { send } = decideWith(product, shop, reserve({ palace: 10_000 }))

  expect(send?.map(({ contract, payload }) => [contract.type, payload])).toMatchObject([
    ["ProductReservedEvent", { total: 1_000_000_000_000 }]
  ])
})

describe("a quote", () => {
  const items = itemsOf(table)
  const refusedQuote = (reason: string, productId: string) => OrderQuoteFailedEvent.of({ orderId, reason, productId })

  test("says what a reservation would, and takes nothing", () => {
    const { send, put } = decideWith(product, shop, QuoteOrderCommand.of({ orderId, items }))

    expect(send).toEqual([OrderQuotedEvent.of(priced)])
    expect(put).toBeUndefined()
  })

  test.each<readonly [string, ReadonlyArray<Input>, Readonly<Record<string, number>>, string, string]>([
    ["of more than there is", [], { teapot: 1, cup: 6 }, "OUT_OF_STOCK", "cup"],
    ["of what nobody knows", [], { teapot: 1, spoon: 1 }, "PRODUCT_UNKNOWN", "spoon"],
    ["of what is discontinued", [discontinue("cup")], table, "PRODUCT_DISCONTINUED", "cup"]
  ])("%s is refused, and says of what", (_name, before, wanted, reason, productId) => {
    const items = itemsOf(wanted)
    const { send, put } = decideWith(product, shop, ...before, QuoteOrderCommand.of({ orderId, items }))

    expect(send).toEqual([refusedQuote(reason, productId)])
    expect(put).toBeUndefined()
  })

  test("and a reservation tell what a choreographed order takes along", () => {
    const order = {
      definition: "pay-first",
      userId: "ann",
      items,
      payment: { method: "account" },
      country: null,
      lines: null,
      total: null
    } as const

    expect(decideWith(product, shop, QuoteOrderCommand.of({ orderId, items, order })).send).toEqual([
      OrderQuotedEvent.of({ ...priced, order })
    ])
    expect(decideWith(product, shop, ReserveProductCommand.of({ orderId, items, order })).send).toEqual([
      ProductReservedEvent.of({ ...priced, order })
    ])
  })
})

test("a reservation says when it was cancelled", () => {
  const { rows } = decideWith(product, shop, reserve(table))
  const reservations = rows.reservations.map((row) => ({ ...row, updated_at: new Date(0) }))

  expect(decideWith(product, { ...rows, reservations }, cancel()).rows.reservations[0]?.updated_at).toEqual(decidedAt)
})
