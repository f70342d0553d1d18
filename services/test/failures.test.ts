/** Failures on demand: by rules in the services' own databases, the same ones every time. */
import { describe, expect, test } from "bun:test"
import { decidedAt, decideWith } from "oncebox/testing"
import { PaymentFailedEvent, ProcessPaymentCommand } from "../payment/contract.ts"
import { payment } from "../payment/payment.ts"
import { ProductReservationFailedEvent, ReserveProductCommand } from "../product/contract.ts"
import { product } from "../product/product.ts"
import { failsOnDemand } from "../shell/failures.ts"
import { CreateShipmentCommand, ShipmentFailedEvent } from "../shipment/contract.ts"
import { shipment } from "../shipment/shipment.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const reason = "FAILED_ON_DEMAND"
const items = [{ productId: "tea", quantity: 1 }]
const rule = (step: string, change: { above?: number; percent?: number } = {}) => ({
  failure_rules: [{ step, above: null, percent: 0, seed: "s", ...change }]
})
const account = {
  user_id: "ann",
  opening_balance: 1_000,
  balance: 1_000,
  position: 1,
  opened_at: decidedAt,
  closed_at: null
}
const pay = (amount: number) =>
  ProcessPaymentCommand.of({ orderId, userId: "ann", amount, payment: { method: "account" } })

describe("a rule", () => {
  test("declines payments above its amount, and no others", () => {
    const rows = { accounts: [account], ...rule("pay", { above: 500 }) }

    expect(decideWith(payment, rows, pay(501)).send).toEqual([PaymentFailedEvent.of({ orderId, reason })])
    expect(decideWith(payment, rows, pay(500)).send?.[0]?.contract.type).toBe("PaymentProcessedEvent")
  })

  test("fails a service's step, and nothing is taken", () => {
    const tea = {
      id: "tea",
      name: "Tea",
      price: 100,
      quantity: 5,
      status: "ACTIVE",
      version: 1,
      created_at: decidedAt
    } as const
    const reserving = decideWith(
      product,
      { products: [tea], ...rule("reserve", { percent: 100 }) },
      ReserveProductCommand.of({ orderId, items })
    )
    const shipping = decideWith(
      shipment,
      rule("ship", { percent: 100 }),
      CreateShipmentCommand.of({ orderId, userId: "ann", items, country: null })
    )

    expect(reserving.send).toEqual([ProductReservationFailedEvent.of({ orderId, reason, productId: null })])
    expect(reserving.rows.products).toEqual([tea])
    expect(shipping.send).toEqual([ShipmentFailedEvent.of({ orderId, reason })])
  })

  test("of a rate fails about so many of a hundred orders, the same ones for the same seed, others for another", () => {
    const failing = (percent: number, seed: string, step = "pay") =>
      Array.from({ length: 10_000 }, (_, n) => `order ${n}`).filter((id) =>
        failsOnDemand({ step, above: null, percent, seed }, id)
      )

    for (const percent of [0, 10, 20, 30, 100]) {
      expect(Math.abs(failing(percent, "a").length - percent * 100)).toBeLessThan(200)
      expect(failing(percent, "a")).toEqual(failing(percent, "a"))
    }
    expect(failing(20, "a")).not.toEqual(failing(20, "b"))
    // or the orders that fail at one step would be those that never get to the next
    const both = new Set(failing(20, "a")).intersection(new Set(failing(20, "a", "reserve")))
    expect(Math.abs(both.size - 400)).toBeLessThan(100)
  })

  test("that is not there fails nothing", () => {
    expect(failsOnDemand(undefined, orderId, 1_000_000)).toBe(false)
  })
})
