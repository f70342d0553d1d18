/** Orders that run side by side, services that do not answer, several replicas: each order keeps to itself and to its turn. */
import { expect, setDefaultTimeout } from "bun:test"
import { placeOrder } from "../orchestrator/definitions.ts"
import { until } from "../../stack/wait.ts"
import { persistently, place, post, prepare, type Answer, type Plan, type Planned } from "./orders.ts"
import { counter, frozen, onStack, useStack, type Stack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const happensWithinMs = 30_000

/** A plan with a product `tea`, users `rich` and `poor`, and these orders. */
const planFor = (
  name: string,
  stock: number,
  orders: ReadonlyArray<Pick<Planned, "outcome"> & { userId: string; productId?: string; quantity: number }>
): Plan => {
  const prefix = `${name}_`
  return {
    prefix,
    products: [{ id: `${prefix}tea`, price: 700, quantity: stock }],
    refused: [],
    accounts: [
      { id: `${prefix}rich`, balance: 1_000_000 },
      { id: `${prefix}poor`, balance: 1 }
    ],
    orders: orders.map(({ userId, productId = "tea", quantity, outcome }, n) => ({
      key: `${prefix}${n}`,
      entry: n % 2 === 0 ? "order" : "orchestrator",
      body: { userId: prefix + userId, items: [{ productId: prefix + productId, quantity }] },
      outcome,
      posts: 1
    }))
  }
}

const approved: Planned["outcome"] = { status: "APPROVED" }
const rejected = (reason: string): Planned["outcome"] => ({ status: "REJECTED", reason })

const nth = (plan: Plan, index: number): Planned => {
  const order = plan.orders[index]
  if (order === undefined) throw new Error(`${plan.prefix} has no order ${index}`)
  return order
}

const sagaOf = async (stack: Stack, id: string) => {
  const [saga] = await stack.database("sagas")<Array<{ state: string; step: string; data: unknown }>>`
    select state, step, data from sagas where id = ${id}`
  return saga
}

const isAt = (stack: Stack, id: string, state: string, step: string): Promise<void> =>
  until(`saga ${id} ${state} at ${step}`, happensWithinMs, async () => {
    const saga = await sagaOf(stack, id)
    if (saga?.state === state && saga.step === step) return true
    throw new Error(`it is ${saga?.state} at ${saga?.step}`)
  })

const statusOf = async (stack: Stack, id: string): Promise<string | undefined> => {
  const [order] = await stack.database("orders")<Array<{ status: string }>>`select status from orders where id = ${id}`
  return order?.status
}

const stockOf = async (stack: Stack, plan: Plan): Promise<number> => {
  const response = await fetch(`${stack.service("product").url}/products/${plan.prefix}tea`, {
    signal: AbortSignal.timeout(5_000)
  })
  return ((await response.json()) as { quantity: number }).quantity
}

onStack("two orders that run interleaved in one orchestrator keep their own data", async (stack) => {
  const plan = planFor("interleaved", 100, [
    { userId: "rich", quantity: 3, outcome: approved },
    { userId: "poor", quantity: 5, outcome: rejected("INSUFFICIENT_FUNDS") }
  ])
  await prepare(stack, plan)

  const ids: Array<string> = []
  // each step of the one is held until the other is there too
  await frozen(stack.service("product"), async () => {
    for (const order of plan.orders) ids.push(await place(stack, order))
    for (const id of ids) await isAt(stack, id, "RUNNING", "reserve")
  })
  const placed = new Map(ids.map((id, n) => [id, nth(plan, n)]))
  await expectExactlyOnce(stack, plan, placed)

  for (const [id, { body }] of placed) {
    const [item] = body.items
    const data = placeOrder.decode((await sagaOf(stack, id))?.data)
    expect(data.userId).toBe(body.userId)
    expect(data.lines).toEqual([{ productId: `${plan.prefix}tea`, quantity: item?.quantity ?? 0, price: 700 }])
    expect(data.total).toBe(700 * (item?.quantity ?? 0))
    const strangers = await stack.database("sagas")`
      select position
      from saga_log
      where saga_id = ${id}
        and asked_id = any(select asked_id from saga_log where saga_id <> ${id})`
    expect(strangers).toHaveLength(0)
  }
})

onStack("a cancel waits for the stock's answer, and stock that had reached 0 is for sale again", async (stack) => {
  const plan = planFor("cancelled", 4, [
    { userId: "poor", quantity: 4, outcome: rejected("INSUFFICIENT_FUNDS") },
    { userId: "rich", quantity: 4, outcome: approved }
  ])
  await prepare(stack, plan)
  const product = stack.service("product")
  const payment = stack.service("payment")

  let id = ""
  await frozen(payment, async () => {
    id = await place(stack, nth(plan, 0))
    await isAt(stack, id, "RUNNING", "pay")
    expect(await stockOf(stack, plan)).toBe(0)
    process.kill(product.pid, "SIGSTOP")
  })
  try {
    await isAt(stack, id, "COMPENSATING", "reserve")
    // the command lies there, and nobody else can answer it
    await until("the cancel on its topic", happensWithinMs, () =>
      stack.tape.records.some(({ type, key }) => type === "CancelProductReservationCommand" && key?.toString() === id)
    )
    expect(await statusOf(stack, id)).toBe("CREATED")
  } finally {
    process.kill(product.pid, "SIGCONT")
  }
  await until("rejected", happensWithinMs, async () => (await statusOf(stack, id)) === "REJECTED")
  expect(await stockOf(stack, plan)).toBe(4)

  const other = await place(stack, nth(plan, 1))
  await until("approved", happensWithinMs, async () => (await statusOf(stack, other)) === "APPROVED")
  expect(await stockOf(stack, plan)).toBe(0)
  const log = await stack.database("sagas")<Array<{ cause_type: string; asked_type: string | null }>>`
    select cause_type, asked_type from saga_log where saga_id = ${id} order by position`
  expect(log.slice(-3).map(({ cause_type, asked_type }) => [cause_type, asked_type])).toEqual([
    ["PaymentFailedEvent", "CancelProductReservationCommand"],
    ["ProductReservationCancelledEvent", "RejectOrderCommand"],
    ["OrderRejectedEvent", null]
  ])
  const [first, second] = plan.orders
  if (first === undefined || second === undefined) throw new Error("two orders")
  await expectExactlyOnce(
    stack,
    plan,
    new Map([
      [id, first],
      [other, second]
    ])
  )
})

onStack("an order for what or whom nobody knows ends rejected, with that reason", async (stack) => {
  const plan = planFor("unknown", 10, [
    { userId: "rich", productId: "coffee", quantity: 1, outcome: rejected("PRODUCT_UNKNOWN") },
    { userId: "nobody", quantity: 1, outcome: rejected("USER_UNKNOWN") },
    { userId: "rich", productId: "coffee", quantity: 1, outcome: rejected("PRODUCT_UNKNOWN") },
    { userId: "nobody", quantity: 1, outcome: rejected("USER_UNKNOWN") }
  ])
  await prepare(stack, plan)

  const placed = new Map<string, Planned>()
  for (const order of plan.orders) {
    const url = `${stack.service(order.entry).url}/orders`
    const { status, body } = await post(url, order.body, { prefer: "wait=30", "idempotency-key": order.key })
    const due = order.outcome.status === "REJECTED" ? order.outcome.reason : ""
    expect([status, body["status"], body["reason"]]).toEqual([200, "REJECTED", due])
    placed.set(String(body["id"]), order)
  }
  await expectExactlyOnce(stack, plan, placed)
})

onStack("two replicas are one service to their clients", async (stack) => {
  const count = 24
  const plan = planFor(
    "replicas",
    100,
    Array.from({ length: count + 1 }, () => ({ userId: "rich", quantity: 1, outcome: approved }))
  )
  await prepare(stack, plan)
  const first = stack.service("order")
  const second = await stack.start("order", "order-2")
  const placed = new Map<string, Planned>()
  try {
    await until("a share of the topic for each replica", happensWithinMs, async () => {
      const { groups } = await stack.tape.admin((admin) => admin.describeGroups(["order"]))
      return groups[0]?.state === "Stable" && groups[0].members.length === 2
    })

    // whoever decides the outcome, the one that was asked answers with it
    const decidedBefore = await Promise.all([counter(first, "messages"), counter(second, "messages")])
    await Promise.all(
      plan.orders.slice(1).map(async (order) => {
        const headers = { prefer: "wait=30", "idempotency-key": order.key }
        const { status, body } = await post(`${first.url}/orders`, order.body, headers)
        expect([status, body["status"]]).toEqual([200, "APPROVED"])
        placed.set(String(body["id"]), order)
      })
    )
    const decided = await Promise.all([counter(first, "messages"), counter(second, "messages")])
    for (const [replica, before] of decidedBefore.entries()) expect(decided[replica]).toBeGreaterThan(before)

    // fifty times the same request at once
    const same = nth(plan, 0)
    const send = (url: string) => persistently(() => post(`${url}/orders`, same.body, { "idempotency-key": same.key }))
    const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => send((n % 2 === 0 ? first : second).url)))
    const [one, ...others] = answers
    for (const answer of others) expect(answer).toEqual(one as Answer)
    expect(one?.status).toBe(202)
    placed.set(String(one?.body["id"]), same)

    // the answer outlives the process that gave it
    await first.restart()
    expect(await send(first.url)).toEqual(one as Answer)
    const otherBody = { ...same.body, userId: `${plan.prefix}poor` }
    expect((await post(`${first.url}/orders`, otherBody, { "idempotency-key": same.key })).status).toBe(422)
  } finally {
    await second.stop()
  }
  await expectExactlyOnce(stack, plan, placed)
})
