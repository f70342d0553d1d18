/** Founding document 001, the organisation of four services: its fixture (money in minor units) and its three flows. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import { expectSaid, payloadOf, undone, wasSaid, well } from "./conversation.ts"
import { place, prepare } from "./orders.ts"
import {
  approved,
  approvedRows,
  ask,
  balancesOf,
  get,
  isAt,
  nth,
  rejected,
  rejectedRows,
  rowsOf,
  shop,
  shopping,
  stockOf,
  waitFor
} from "./shopping.ts"
import { frozen, onStack, useStack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

/** Its prices 20, 30 and 50, its stock of 5 each, and the balances of its users. */
const fixture = {
  products: { "1": [2_000, 5], "2": [3_000, 5], "3": [5_000, 5] },
  users: { "1": 10_000, "2": 10_000, "3": 20_000 }
} as const

describe("document 001", () => {
  onStack(
    "payment rejections: user 1 buys product 3 twice (COMPLETED), the third is PAYMENT_REJECTED, its stock is back",
    async (stack) => {
      const bought = { user: "1", items: { "3": 1 } }
      const outcome = rejected("INSUFFICIENT_FUNDS")
      const plan = shopping("d001money", { ...fixture, orders: [bought, bought, { ...bought, outcome }] })
      await prepare(stack, plan)

      const { placed, ids } = await shop(stack, plan)
      await expectExactlyOnce(stack, plan, placed)

      const [first = "", second = "", third = ""] = ids
      for (const [id, balance] of [
        [first, 5_000],
        [second, 0]
      ] as const) {
        expectSaid(stack, id, well.approved)
        expect(payloadOf(stack, id, "PaymentProcessedEvent")).toMatchObject({ amount: 5_000, balance })
        expect(await rowsOf(stack, id)).toEqual(approvedRows(5_000))
      }
      const failed = ["payments-commands ProcessPaymentCommand", "payments-events PaymentFailedEvent"]
      expectSaid(stack, third, [...well.reserved, ...failed, ...undone.reserve, ...undone.create])
      expect(await rowsOf(stack, third)).toEqual(
        rejectedRows("INSUFFICIENT_FUNDS", {
          reservations: { status: "CANCELLED", reason: null, total: 5_000 },
          payments: { status: "FAILED", reason: "INSUFFICIENT_FUNDS", amount: 5_000 }
        })
      )
      expect(await get(stack, "order", `/orders/${third}`)).toMatchObject({ status: "REJECTED" })
      expect(await stockOf(stack, plan)).toEqual({ "1": 5, "2": 5, "3": 3 })
      expect(await balancesOf(stack, plan)).toEqual({ "1": 0, "2": 10_000, "3": 20_000 })
    }
  )

  onStack("stock insufficiency: user 3 buys product 1 six times, the sixth is UNAVAILABLE", async (stack) => {
    const bought = { user: "3", items: { "1": 1 }, entry: "orchestrator" } as const
    const outcomes = [approved, approved, approved, approved, approved, rejected("OUT_OF_STOCK")]
    const plan = shopping("d001stock", { ...fixture, orders: outcomes.map((outcome) => ({ ...bought, outcome })) })
    await prepare(stack, plan)

    const { placed, ids } = await shop(stack, plan)
    await expectExactlyOnce(stack, plan, placed)

    const asked = "orders-commands CreateOrderCommand"
    for (const id of ids.slice(0, 5)) {
      expectSaid(stack, id, [asked, ...well.approved])
      expect(await rowsOf(stack, id)).toEqual(approvedRows(2_000))
    }
    const sixth = ids[5] ?? ""
    const failed = ["products-commands ReserveProductCommand", "products-events ProductReservationFailedEvent"]
    expectSaid(stack, sixth, [asked, ...well.created, ...failed, ...undone.create])
    const reservations = { status: "FAILED", reason: "OUT_OF_STOCK", total: 0 }
    expect(await rowsOf(stack, sixth)).toEqual(rejectedRows("OUT_OF_STOCK", { reservations }))
    expect(await get(stack, "order", `/orders/${sixth}`)).toMatchObject({ status: "REJECTED", reason: "OUT_OF_STOCK" })
    expect(await stockOf(stack, plan)).toEqual({ "1": 0, "2": 5, "3": 5 })
    expect(await balancesOf(stack, plan)).toEqual({ "1": 10_000, "2": 10_000, "3": 10_000 })
  })

  onStack(
    "stock that has reached 0 is added back: an order for all of it is cancelled while its payment is awaited",
    async (stack) => {
      const outcome = rejected("USER_CANCELLED")
      const plan = shopping("d001cancel", { ...fixture, orders: [{ user: "3", items: { "2": 5 }, outcome }] })
      await prepare(stack, plan)

      let id = ""
      await frozen(stack.service("payment"), async () => {
        id = await place(stack, nth(plan, 0))
        await isAt(stack, id, "RUNNING", "pay")
        expect(await stockOf(stack, plan)).toEqual({ "1": 5, "2": 0, "3": 5 })
        const { status, body } = await ask(stack, "POST", "order", `/orders/${id}/cancel`)
        expect([status, body["status"]]).toEqual([202, "CANCELLING"])
        await waitFor("a refund asked for", () => wasSaid(stack, id, "RefundPaymentCommand"))
      })
      await expectExactlyOnce(stack, plan, new Map([[id, nth(plan, 0)]]))

      // the payment was asked for before: it is taken, and then given back
      const cancelled = ["orders-events OrderCancelRequestedEvent", ...undone.pay, ...undone.reserve, ...undone.create]
      expectSaid(stack, id, well.paid, cancelled)
      expect(await rowsOf(stack, id)).toEqual(
        rejectedRows("USER_CANCELLED", {
          orders_history: ["CREATED", "CANCELLING", "REJECTED"],
          reservations: { status: "CANCELLED", reason: null, total: 15_000 },
          payments: { status: "REFUNDED", reason: null, amount: 15_000 },
          ledger: [-15_000, 15_000]
        })
      )
      expect(await stockOf(stack, plan)).toEqual({ "1": 5, "2": 5, "3": 5 })
      expect(await balancesOf(stack, plan)).toEqual({ "1": 10_000, "2": 10_000, "3": 20_000 })
      expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ status: "REJECTED", reason: "USER_CANCELLED" })
    }
  )
})
