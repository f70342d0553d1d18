/** Founding document 003, "Event Driven Orders Management System": orders that are also shipped. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import { expectSaid, payloadOf, undone, well } from "./conversation.ts"
import { prepare } from "./orders.ts"
import { approvedRows, balancesOf, get, rejected, rejectedRows, rowsOf, shop, shopping, stockOf } from "./shopping.ts"
import { onStack, useStack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

describe("document 003", () => {
  onStack(
    "successful scenario: PaymentProcessedEvent → CreateShipmentCommand → ShipmentCreatedEvent → ApproveOrderCommand",
    async (stack) => {
      const plan = shopping("d003well", {
        products: { desk: [40_000, 3] },
        users: { ann: 100_000 },
        orders: [{ user: "ann", items: { desk: 2 } }]
      })
      await prepare(stack, plan)

      const { placed, ids } = await shop(stack, plan)
      const [id = ""] = ids
      await expectExactlyOnce(stack, plan, placed)

      expectSaid(stack, id, well.approved)
      expect(payloadOf(stack, id, "CreateShipmentCommand")).toMatchObject({
        userId: "d003well_ann",
        items: [{ productId: "d003well_desk", quantity: 2 }]
      })
      expect(await rowsOf(stack, id)).toEqual(approvedRows(80_000))
      const shipment = await get(stack, "shipment", `/shipments/${id}`)
      expect(shipment).toMatchObject({ orderId: id, status: "CREATED" })
      expect(await get(stack, "payment", `/payments/${id}`)).toMatchObject({ amount: 80_000, status: "PROCESSED" })
      expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ status: "APPROVED", total: 80_000 })
    }
  )

  onStack(
    "rollback: PaymentFailedEvent → CancelProductReservationCommand → RejectOrderCommand → OrderRejectedEvent",
    async (stack) => {
      const plan = shopping("d003money", {
        products: { desk: [40_000, 3] },
        users: { bob: 79_999 },
        orders: [{ user: "bob", items: { desk: 2 }, outcome: rejected("INSUFFICIENT_FUNDS") }]
      })
      await prepare(stack, plan)

      const { placed, ids } = await shop(stack, plan)
      const [id = ""] = ids
      await expectExactlyOnce(stack, plan, placed)

      const failed = ["payments-commands ProcessPaymentCommand", "payments-events PaymentFailedEvent"]
      expectSaid(stack, id, [...well.reserved, ...failed, ...undone.reserve, ...undone.create])
      expect(payloadOf(stack, id, "OrderRejectedEvent")).toEqual({ orderId: id, reason: "INSUFFICIENT_FUNDS" })
      expect(await rowsOf(stack, id)).toEqual(
        rejectedRows("INSUFFICIENT_FUNDS", {
          reservations: { status: "CANCELLED", reason: null, total: 80_000 },
          payments: { status: "FAILED", reason: "INSUFFICIENT_FUNDS", amount: 80_000 }
        })
      )
      expect(await stockOf(stack, plan)).toEqual({ desk: 3 })
      expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ status: "REJECTED" })
    }
  )

  onStack("the path it lacks: the shipment fails, and payment, reservation and order are taken back", async (stack) => {
    const plan = shopping("d003ship", {
      products: { desk: [40_000, 3], piano: [10_000, 1] },
      users: { ann: 100_000 },
      refused: ["piano"],
      orders: [{ user: "ann", items: { desk: 1, piano: 1 }, outcome: rejected("SHIPMENT_REFUSED") }]
    })
    await prepare(stack, plan)

    const { placed, ids } = await shop(stack, plan)
    const [id = ""] = ids
    await expectExactlyOnce(stack, plan, placed)

    const failed = ["shipments-commands CreateShipmentCommand", "shipments-events ShipmentFailedEvent"]
    expectSaid(stack, id, [...well.paid, ...failed, ...undone.pay, ...undone.reserve, ...undone.create])
    expect(payloadOf(stack, id, "PaymentRefundedEvent")).toMatchObject({
      refund: { userId: "d003ship_ann", amount: 50_000, balance: 100_000 }
    })
    expect(await rowsOf(stack, id)).toEqual(
      rejectedRows("SHIPMENT_REFUSED", {
        reservations: { status: "CANCELLED", reason: null, total: 50_000 },
        payments: { status: "REFUNDED", reason: null, amount: 50_000 },
        ledger: [-50_000, 50_000],
        shipments: { status: "FAILED", reason: "SHIPMENT_REFUSED" }
      })
    )
    expect(await stockOf(stack, plan)).toEqual({ desk: 3, piano: 1 })
    expect(await balancesOf(stack, plan)).toEqual({ ann: 100_000 })
    expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ status: "REJECTED", reason: "SHIPMENT_REFUSED" })
  })
})
