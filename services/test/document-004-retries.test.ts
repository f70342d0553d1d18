/** Founding document 004, its answer to stuck flows: timeouts and retries, of steps and of compensations. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import { until } from "../../stack/wait.ts"
import { expectSaid, payloadsOf, undone, well } from "./conversation.ts"
import { place, prepare, type Planned } from "./orders.ts"
import { approvedRows, isAt, nth, rejected, rejectedRows, rowsOf, shopping, stockOf } from "./shopping.ts"
import { frozen, onStack, useStack, type Stack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

/** A step's deadline is 30 s. */
const askedAgainWithinMs = 90_000

describe("document 004", () => {
  onStack(
    "timeouts and retries: who does not answer is asked again, and what was asked twice is done once",
    async (stack) => {
      const plan = shopping("d004retry", {
        products: { tea: [700, 5] },
        users: { ann: 10_000, bob: 699 },
        orders: [
          { user: "ann", items: { tea: 1 } },
          { user: "bob", items: { tea: 1 }, outcome: rejected("INSUFFICIENT_FUNDS") }
        ]
      })
      await prepare(stack, plan)
      const asked = (id: string, type: string) =>
        until(`two of ${type}`, askedAgainWithinMs, () => payloadsOf(stack, id, type).length === 2)

      // a step of the first order and the undoing of a step of the second wait for an answer at the same time
      const [first, second] = [nth(plan, 0), nth(plan, 1)]
      const placed = new Map<string, Planned>()
      await frozen(stack.service("shipment"), async () => {
        const id = await place(stack, first)
        placed.set(id, first)
        await isAt(stack, id, "RUNNING", "ship")
        const other = await unpaid(stack, second, () => asked(id, "CreateShipmentCommand"))
        placed.set(other, second)
      })
      const [id = "", other = ""] = placed.keys()
      await expectExactlyOnce(stack, plan, placed)

      const shipped = ["shipments-commands CreateShipmentCommand", "shipments-events ShipmentCreatedEvent"]
      expectSaid(stack, id, well.approved, shipped)
      expect(await rowsOf(stack, id)).toEqual(approvedRows(700))
      const failed = ["payments-commands ProcessPaymentCommand", "payments-events PaymentFailedEvent"]
      expectSaid(stack, other, [...well.reserved, ...failed, ...undone.reserve, ...undone.create], undone.reserve)
      expect(await rowsOf(stack, other)).toEqual(
        rejectedRows("INSUFFICIENT_FUNDS", {
          reservations: { status: "CANCELLED", reason: null, total: 700 },
          payments: { status: "FAILED", reason: "INSUFFICIENT_FUNDS", amount: 700 }
        })
      )
      expect(await stockOf(stack, plan)).toEqual({ tea: 4 })
    }
  )
})

/** Places an order whose payment fails while the product service hangs, until the cancel of its reservation is asked twice. */
const unpaid = async (stack: Stack, order: Planned, meanwhile: () => Promise<void>): Promise<string> => {
  const product = stack.service("product")
  let id = ""
  await frozen(stack.service("payment"), async () => {
    id = await place(stack, order)
    await isAt(stack, id, "RUNNING", "pay")
    process.kill(product.pid, "SIGSTOP")
  })
  try {
    const cancels = () => payloadsOf(stack, id, "CancelProductReservationCommand").length
    await Promise.all([meanwhile(), until("two cancels", askedAgainWithinMs, () => cancels() === 2)])
  } finally {
    process.kill(product.pid, "SIGCONT")
  }
  return id
}
