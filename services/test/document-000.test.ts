/** Founding document 000, "Kafka Orchestration-Based Saga Design Pattern": its seventeen steps, on the real stack. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import { expectSaid, payloadOf, undone, well } from "./conversation.ts"
import { prepare } from "./orders.ts"
import { approvedRows, ask, get, rejected, rejectedRows, rowsOf, shop, shopping, stockOf } from "./shopping.ts"
import { onStack, useStack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

describe("document 000", () => {
  onStack("steps 1-9: an order of several products, each with its price at purchase, is APPROVED", async (stack) => {
    const plan = shopping("d000well", {
      products: { tea: [700, 10], cup: [1_200, 4], pot: [3_000, 2] },
      users: { ann: 10_000 },
      orders: [{ user: "ann", items: { tea: 2, cup: 1, pot: 1 } }]
    })
    await prepare(stack, plan)

    const { placed, ids } = await shop(stack, plan)
    const [id = ""] = ids
    await expectExactlyOnce(stack, plan, placed)

    expectSaid(stack, id, well.approved)
    const lines = [
      { productId: "d000well_tea", quantity: 2, price: 700 },
      { productId: "d000well_cup", quantity: 1, price: 1_200 },
      { productId: "d000well_pot", quantity: 1, price: 3_000 }
    ]
    expect(payloadOf(stack, id, "ProductReservedEvent")).toEqual({ orderId: id, lines, total: 5_600 })
    expect(await rowsOf(stack, id)).toEqual(approvedRows(5_600))
    expect(await stockOf(stack, plan)).toEqual({ tea: 8, cup: 3, pot: 1 })
    const order = { status: "APPROVED", reason: null, items: lines, total: 5_600 }
    expect(await get(stack, "order", `/orders/${id}`)).toMatchObject(order)
    expect(await get(stack, "order", `/orders/${id}/history`)).toMatchObject({
      items: [{ status: "CREATED" }, { status: "APPROVED" }]
    })

    // what was bought keeps its price
    const edited = await ask(stack, "PUT", "product", "/products/d000well_tea", {
      headers: { "if-match": "*" },
      body: { name: "tea", price: 9_900 }
    })
    expect(edited.status).toBe(200)
    expect(await get(stack, "order", `/orders/${id}`)).toMatchObject(order)
  })

  onStack(
    "steps 4, 10-12: the reservation fails (ProductReservationFailedEvent answers for both of its events), REJECTED",
    async (stack) => {
      const plan = shopping("d000stock", {
        products: { tea: [700, 10], cup: [1_200, 0] },
        users: { ann: 10_000 },
        orders: [
          { user: "ann", items: { tea: 2, cup: 1 }, outcome: rejected("OUT_OF_STOCK") },
          { user: "ann", items: { tea: 2, saucer: 1 }, outcome: rejected("PRODUCT_UNKNOWN") }
        ]
      })
      await prepare(stack, plan)

      const { placed, ids } = await shop(stack, plan)
      await expectExactlyOnce(stack, plan, placed)

      for (const [n, reason, product] of [
        [0, "OUT_OF_STOCK", "cup"],
        [1, "PRODUCT_UNKNOWN", "saucer"]
      ] as const) {
        const id = ids[n] ?? ""
        const failed = ["products-commands ReserveProductCommand", "products-events ProductReservationFailedEvent"]
        expectSaid(stack, id, [...well.created, ...failed, ...undone.create])
        expect(payloadOf(stack, id, "ProductReservationFailedEvent")).toEqual({
          orderId: id,
          reason,
          productId: `d000stock_${product}`
        })
        const reservations = { status: "FAILED", reason, total: 0 }
        expect(await rowsOf(stack, id)).toEqual(rejectedRows(reason, { reservations }))
        expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ status: "REJECTED", reason, total: null })
      }
      expect(await stockOf(stack, plan)).toEqual({ tea: 10, cup: 0 })
    }
  )

  onStack("steps 13-17: the payment fails after the reservation, stock is restored, REJECTED", async (stack) => {
    const plan = shopping("d000money", {
      products: { tea: [700, 10], cup: [1_200, 1] },
      users: { ann: 1_899 },
      orders: [{ user: "ann", items: { tea: 1, cup: 1 }, outcome: rejected("INSUFFICIENT_FUNDS") }]
    })
    await prepare(stack, plan)

    const { placed, ids } = await shop(stack, plan)
    const [id = ""] = ids
    await expectExactlyOnce(stack, plan, placed)

    const failed = ["payments-commands ProcessPaymentCommand", "payments-events PaymentFailedEvent"]
    expectSaid(stack, id, [...well.reserved, ...failed, ...undone.reserve, ...undone.create])
    expect(await rowsOf(stack, id)).toEqual(
      rejectedRows("INSUFFICIENT_FUNDS", {
        reservations: { status: "CANCELLED", reason: null, total: 1_900 },
        payments: { status: "FAILED", reason: "INSUFFICIENT_FUNDS", amount: 1_900 }
      })
    )
    expect(await stockOf(stack, plan)).toEqual({ tea: 10, cup: 1 })
    const order = await get(stack, "order", `/orders/${id}`)
    expect(order).toMatchObject({ status: "REJECTED", reason: "INSUFFICIENT_FUNDS" })
    expect(await get(stack, "order", `/orders/${id}/history`)).toMatchObject({
      items: [{ status: "CREATED" }, { status: "REJECTED", reason: "INSUFFICIENT_FUNDS" }]
    })
  })
})
