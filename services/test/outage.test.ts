/**
 * A participant that is down for a minute, and at the same time a card processor that is: orders wait and end as they must.
 * The minute is long enough for founding document 004's answer to stuck flows, timeouts and retries, of steps and of
 * compensations.
 */
import { expect, setDefaultTimeout } from "bun:test"
import type { ProcessorControl, ProcessorEntry } from "../../stack/processor.ts"
import { until } from "../../stack/wait.ts"
import { expectSaid, payloadsOf, undone, well, type Chain } from "./conversation.ts"
import { place, placeAll, planOf, prepare, styles, type Planned } from "./orders.ts"
import { approvedRows, isAt, nth, rejected, rejectedRows, rowsOf, shopping, stockOf } from "./shopping.ts"
import { counter, frozen, onStack, useStack, type Stack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(600_000)
useStack()

const outageMs = 60_000
/** A step's deadline is 30 s. */
const askedAgainWithinMs = 90_000
const orderCount = 120
const cardCount = 60

const control = async (stack: Stack, change: Partial<ProcessorControl>): Promise<void> => {
  const response = await fetch(`${stack.processor.url}/control`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(change),
    signal: AbortSignal.timeout(5_000)
  })
  expect(response.status).toBe(200)
}

/** All that the processor charged so far, by whatever key. */
const chargesOf = async (stack: Stack): Promise<ReadonlyArray<ProcessorEntry>> => {
  const response = await fetch(`${stack.processor.url}/charges`, { signal: AbortSignal.timeout(5_000) })
  // our own processor's record, in its own form
  return ((await response.json()) as { readonly items: ReadonlyArray<ProcessorEntry> }).items
}

/** How many of the orders have a payment, in this state or in any. */
const paymentsOf = async (stack: Stack, placed: ReadonlyMap<string, Planned>, status?: string): Promise<number> => {
  const rows = await stack.database("payments")<Array<{ order_id: string; status: string }>>`
    select order_id, status from payments`
  return rows.filter((row) => placed.has(row.order_id) && row.status === (status ?? row.status)).length
}

const byCard = shopping("bycard", {
  products: { tea: [700, 1_000], anvil: [900, 1_000] },
  users: { ann: 0 },
  refused: ["anvil"],
  orders: Array.from({ length: cardCount }, (_, n) => ({
    user: "ann",
    items: n % 5 === 0 ? { anvil: 1 } : { tea: 1 },
    ...(n % 5 === 0 ? { outcome: rejected("SHIPMENT_REFUSED") } : {}),
    ...styles[n % styles.length],
    payment: { method: "card", card: `bycard-${n}` },
    entry: n % 2 === 0 ? "order" : "orchestrator"
  }))
})

const retried = shopping("retried", {
  products: { tea: [700, 5], anvil: [900, 5] },
  users: { ann: 10_000 },
  refused: ["anvil"],
  orders: [
    { user: "ann", items: { tea: 1 } },
    { user: "ann", items: { anvil: 1 }, outcome: rejected("SHIPMENT_REFUSED") }
  ]
})

onStack(
  "the payment service and the card processor are down for a minute, and every order ends as it must",
  async (stack) => {
    const plan = planOf("outage", orderCount, 6)
    await Promise.all([plan, byCard, retried].map((each) => prepare(stack, each)))
    const payment = stack.service("payment")
    const [paid, refunded] = [nth(retried, 0), nth(retried, 1)]

    await control(stack, { down: true })
    const since = performance.now()
    const cards = placeAll(stack, byCard.orders)
    await cards.done
    await until(
      "the cards' payments",
      60_000,
      async () => (await paymentsOf(stack, cards.placed, "PENDING")) === cardCount
    )
    await until("an attempt to charge", 10_000, async () => (await counter(payment, "call_failures")) > 0)

    // one order has its step waiting for the payment service, and another the undoing of that step
    let second = ""
    await frozen(stack.service("shipment"), async () => {
      second = await place(stack, refunded)
      await isAt(stack, second, "RUNNING", "ship")
      await payment.kill9()
    })
    const killed = performance.now()
    const first = await place(stack, paid)
    const others = placeAll(stack, plan.orders)
    await others.done
    await Promise.all([isAt(stack, first, "RUNNING", "pay"), isAt(stack, second, "COMPENSATING", "pay")])
    await until("a minute, and two of each command", askedAgainWithinMs, () => {
      const asked = [
        payloadsOf(stack, first, "ProcessPaymentCommand"),
        payloadsOf(stack, second, "RefundPaymentCommand")
      ]
      return asked.every(({ length }) => length === 2) && performance.now() - killed >= outageMs
    })
    expect(await paymentsOf(stack, others.placed)).toBe(0)
    expect(await paymentsOf(stack, cards.placed, "PENDING")).toBe(cardCount)

    await payment.restart()
    await until("another attempt to charge", 60_000, async () => (await counter(payment, "call_failures")) > 0)
    expect(performance.now() - since).toBeGreaterThan(outageMs)
    // back, it loses answers for a while: the charge is made, and nobody hears of it
    await control(stack, { down: false, loseAnswers: cardCount / 2 })

    await expectExactlyOnce(stack, plan, others.placed)
    await expectExactlyOnce(stack, byCard, cards.placed)
    const charges = await chargesOf(stack)
    for (const { body, outcome } of byCard.orders) {
      const card = body.payment?.method === "card" ? body.payment.card : ""
      const made = charges.filter((charge) => charge.card === card).map(({ status }) => status)
      expect([card, ...made]).toEqual([card, outcome.status === "APPROVED" ? "CHARGED" : "REFUNDED"])
    }

    const placed = new Map([
      [first, paid],
      [second, refunded]
    ])
    await expectExactlyOnce(stack, retried, placed)
    const refusal = ["shipments-commands CreateShipmentCommand", "shipments-events ShipmentFailedEvent"]
    const taken = [...well.paid, ...refusal, ...undone.pay, ...undone.reserve, ...undone.create]
    const pay = ["payments-commands ProcessPaymentCommand", "payments-events PaymentProcessedEvent"]
    expectSaid(stack, first, well.approved, pay, ...announcedAgain(stack, first))
    expectSaid(stack, second, taken, undone.pay, ...announcedAgain(stack, second))
    expect(await rowsOf(stack, first)).toEqual(approvedRows(700))
    expect(await rowsOf(stack, second)).toEqual(
      rejectedRows("SHIPMENT_REFUSED", {
        reservations: { status: "CANCELLED", reason: null, total: 900 },
        payments: { status: "REFUNDED", reason: null, amount: 900 },
        ledger: [-900, 900],
        shipments: { status: "FAILED", reason: "SHIPMENT_REFUSED" }
      })
    )
    expect(await stockOf(stack, retried)).toEqual({ tea: 4, anvil: 5 })
  }
)

/** An order that is open for a minute is announced again, and its saga has begun already. */
const announcedAgain = (stack: Stack, id: string): ReadonlyArray<Chain> =>
  payloadsOf(stack, id, "OrderCreatedEvent")
    .slice(1)
    .map(() => well.created)
