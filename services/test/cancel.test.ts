/** Cancels that race with their orders' completion: whoever is first wins, the client is told who, and nothing is left over. */
import { expect, setDefaultTimeout } from "bun:test"
import { placeAll, persistently, post, prepare, styles, type Plan } from "./orders.ts"
import { onStack, useStack, type Stack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const orderCount = 1_000

/** After which of its order's messages a cancel is sent; "placed" is at once. */
const moments = [
  "placed",
  "OrderCreatedEvent",
  "ProductReservedEvent",
  "PaymentProcessedEvent",
  "ShipmentCreatedEvent",
  "OrderApprovedEvent"
] as const

const racing = (count: number): Plan => {
  const prefix = "racing_"
  const users = Array.from({ length: 10 }, (_, n) => ({ id: `${prefix}rich${n}`, balance: 1_000_000_000 }))
  const products = Array.from({ length: 5 }, (_, n) => ({
    id: `${prefix}tea${n}`,
    price: 100 + n,
    quantity: 1_000_000
  }))
  return {
    prefix,
    products,
    refused: [],
    accounts: users,
    orders: Array.from({ length: count }, (_, n) => ({
      key: `${prefix}${n}`,
      entry: "order",
      body: {
        userId: `${prefix}rich${n % users.length}`,
        items: [{ productId: `${prefix}tea${n % products.length}`, quantity: 1 + (n % 3) }],
        ...styles[n % styles.length]
      },
      outcome: { status: "RACING" },
      posts: 1
    }))
  }
}

const cancel = async (stack: Stack, id: string): Promise<number> => {
  const { status, body } = await persistently(() =>
    post(`${stack.service("order").url}/orders/${id}/cancel`, {}, { "idempotency-key": `cancel-${id}` })
  )
  if (status === 409) expect(body["type"]).toBe("urn:oncebox:problem:too-late")
  else expect([status, body["reason"]]).toEqual([202, "USER_CANCELLED"])
  return status
}

onStack(
  "a thousand cancels race with completion: each order is approved, or rejected with everything given back",
  async (stack) => {
    const plan = racing(orderCount)
    await prepare(stack, plan)

    const told = new Map<string, Promise<number>>()
    const due = new Map<string, string>()
    const happened = new Map<string, Set<string>>()
    const send = (id: string): void => {
      if (!told.has(id)) told.set(id, cancel(stack, id))
    }
    const unfollow = stack.tape.follow(({ key, type }) => {
      const id = key?.toString() ?? ""
      happened.set(id, (happened.get(id) ?? new Set()).add(type))
      if (due.get(id) === type) send(id)
    })
    const { placed, done } = placeAll(stack, plan.orders, 32, (id, planned) => {
      const index = plan.orders.indexOf(planned)
      const moment = moments[Math.floor(index / styles.length) % moments.length] ?? "placed"
      due.set(id, moment)
      // it may have happened before its order was answered
      if (moment === "placed" || happened.get(id)?.has(moment) === true) send(id)
    })
    await done
    // an order that never comes to its moment is one whose message was seen already, or an approved one's
    const { orders } = await expectExactlyOnce(stack, plan, placed)
    unfollow()
    for (const { id } of orders) send(id)
    const answers = new Map(await Promise.all([...told].map(async ([id, status]) => [id, await status] as const)))

    for (const { id, status } of orders)
      expect([id, status]).toEqual([id, answers.get(id) === 202 ? "REJECTED" : "APPROVED"])
    const cancelled = [...answers.values()].filter((status) => status === 202).length
    expect(cancelled).toBeGreaterThanOrEqual(orderCount / 10)
    expect(orderCount - cancelled).toBeGreaterThanOrEqual(orderCount / 10)
    console.log(`${cancelled} of ${orderCount} orders were cancelled in time`)
  }
)
