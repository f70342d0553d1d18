/** What events stand for when an order is choreographed, where it matters that it is not another thing. */
import { describe, expect, test } from "bun:test"
import { Choreography } from "oncebox"
import { decidedAt, decideWith } from "oncebox/testing"
import { PaymentProcessedEvent } from "../../payment/contract.ts"
import { OrderQuotedEvent, OrderQuoteFailedEvent, QuoteOrderCommand } from "../../product/contract.ts"
import { product } from "../../product/product.ts"
import { choreography } from "../choreography.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const items = [{ productId: "tea", quantity: 2 }]
const linesAt = (price: number) => [{ productId: "tea", quantity: 2, price }]
const tea = (quantity: number, price: number) => ({
  products: [{ id: "tea", name: "Tea", price, quantity, status: "ACTIVE" as const, version: 1, created_at: decidedAt }]
})
const joined = Choreography.join(product, choreography)
const paid = (amount: number, quoted: number) => ({
  ...PaymentProcessedEvent.of({
    orderId,
    userId: "ann",
    amount,
    balance: 0,
    position: 2,
    order: {
      definition: "pay-first",
      userId: "ann",
      items,
      payment: { method: "account" },
      country: null,
      lines: linesAt(quoted / 2),
      total: quoted
    }
  }),
  coordination: "choreography" as const
})

test("what was paid is reserved at the prices that were paid, whatever they are by now", () => {
  const { send, rows } = decideWith(joined, tea(5, 999), paid(400, 400))

  expect(send?.map(({ contract, payload }) => [contract.type, payload])).toMatchObject([
    ["ProductReservedEvent", { total: 400, lines: linesAt(200) }]
  ])
  expect(rows.products[0]?.quantity).toBe(3)
})

test("an order that was quoted anew after it was paid is not reserved at the other price", () => {
  const { send, rows } = decideWith(joined, tea(5, 300), paid(400, 600))

  expect(send).toBeUndefined()
  expect(rows.reservations).toEqual([])
})

test("a quote that is asked for again is answered from what the order has: it does not run out of its own stock", () => {
  const quote = QuoteOrderCommand.of({ orderId, items })

  const { send } = decideWith(joined, tea(2, 200), paid(400, 400), quote)

  expect(send).toEqual([OrderQuotedEvent.of({ orderId, lines: linesAt(200), total: 400 })])
})

test("a quote for an order that was cancelled is refused", () => {
  const cancelled = {
    order_id: orderId,
    status: "CANCELLED" as const,
    lines: [],
    total: 0,
    reason: null,
    product_id: null,
    updated_at: decidedAt
  }

  const { send } = decideWith(
    joined,
    { ...tea(2, 200), reservations: [cancelled] },
    QuoteOrderCommand.of({ orderId, items })
  )

  expect(send).toEqual([OrderQuoteFailedEvent.of({ orderId, reason: "ALREADY_CANCELLED", productId: null })])
})

/** The commands that an event of an order stands for, with what they say. */
type Asked = readonly [type: string, payload: object]
const asked = (type: string, payload: object): ReadonlyArray<Asked> =>
  choreography.flatMap(({ event, command, asks }) => {
    const said = event.type === type ? asks(payload) : undefined
    return said === undefined ? [] : [[command.type, said]]
  })
const placed = { userId: "ann", items, payment: { method: "card", card: "card-1" }, country: "NL" } as const
const contextOf = (definition: string) => ({ definition, ...placed, lines: linesAt(200), total: 400 })

describe.each(["place-order", "pay-first"])("an order of definition %s", (definition) => {
  const order = contextOf(definition)
  const paysFirst = definition === "pay-first"
  const toPay: Asked = [
    "ProcessPaymentCommand",
    { orderId, userId: "ann", amount: 400, payment: placed.payment, order }
  ]
  const toShip: Asked = ["CreateShipmentCommand", { orderId, userId: "ann", items, country: "NL", order }]
  const toReserve: Asked = ["ReserveProductCommand", { orderId, items, lines: linesAt(200), order }]

  test("is begun by its first step, with all that the others will need", () => {
    const first = paysFirst ? "QuoteOrderCommand" : "ReserveProductCommand"

    expect(asked("OrderCreatedEvent", { orderId, definition, ...placed })).toEqual([
      [first, { orderId, items, order: { ...order, lines: null, total: null } }]
    ])
  })

  test.each<readonly [string, object, ReadonlyArray<Asked>]>([
    ["OrderQuotedEvent", {}, paysFirst ? [toPay] : []],
    ["ProductReservedEvent", {}, [paysFirst ? toShip : toPay]],
    ["PaymentProcessedEvent", { amount: 400 }, [paysFirst ? toReserve : toShip]],
    ["ShipmentCreatedEvent", {}, [["ApproveOrderCommand", { orderId, lines: linesAt(200), total: 400 }]]]
  ])("goes on after %s with what comes next in it", (type, more, commands) => {
    expect(asked(type, { orderId, ...more, order })).toEqual(commands)
  })

  test("takes its prices from the event that tells them", () => {
    const unpriced = { ...order, lines: null, total: null }
    const type = paysFirst ? "OrderQuotedEvent" : "ProductReservedEvent"

    expect(asked(type, { orderId, lines: linesAt(200), total: 400, order: unpriced })).toEqual([toPay])
    expect(asked(type, { orderId, order: unpriced })).toEqual([])
  })
})

test.each(["OrderQuoteFailedEvent", "ProductReservationFailedEvent", "PaymentFailedEvent", "ShipmentFailedEvent"])(
  "%s ends an order, and says why",
  (type) => {
    expect(asked(type, { orderId, reason: "OUT_OF_STOCK" })).toEqual([
      ["CancelOrderCommand", { orderId, reason: "OUT_OF_STOCK" }]
    ])
  }
)

test("an order that is rejected is taken back by everybody", () => {
  expect(asked("OrderRejectedEvent", { orderId, reason: "OUT_OF_STOCK" })).toEqual(
    ["CancelProductReservationCommand", "RefundPaymentCommand", "CancelShipmentCommand"].map((command) => [
      command,
      { orderId }
    ])
  )
})
