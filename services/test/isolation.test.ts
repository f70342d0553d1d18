/** Orders that run side by side, services that do not answer, several replicas: each order keeps to itself and to its turn. */
import { expect, setDefaultTimeout } from "bun:test"
import { placeOrder } from "../orchestrator/definitions.ts"
import { persistently, place, post, prepare, type Answer, type Plan, type Planned } from "./orders.ts"
import { ask, get, isAt, nth, rejected, shopping, stockOf, waitFor, type Shopping } from "./shopping.ts"
import { counter, frozen, onStack, useStack, type Stack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

/** A shop with tea, for one who can pay and one who can't; its orders come through both entries in turn. */
const teaShop = (name: string, stock: number, orders: ReadonlyArray<Omit<Shopping, "entry">>): Plan =>
  shopping(name, {
    products: { tea: [700, stock] },
    users: { rich: 1_000_000, poor: 1 },
    orders: orders.map((order, n) => ({ ...order, entry: n % 2 === 0 ? "order" : "orchestrator" }))
  })

const statusOf = async (stack: Stack, id: string) => (await get(stack, "order", `/orders/${id}`))["status"]

onStack("two orders that run interleaved in one orchestrator keep their own data", async (stack) => {
  const plan = teaShop("interleaved", 100, [
    { user: "rich", items: { tea: 3 } },
    { user: "poor", items: { tea: 5 }, outcome: rejected("INSUFFICIENT_FUNDS") }
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
    const data = placeOrder.decode((await get(stack, "orchestrator", `/sagas/${id}`))["data"])
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
  const plan = teaShop("cancelled", 4, [
    { user: "poor", items: { tea: 4 }, outcome: rejected("INSUFFICIENT_FUNDS") },
    { user: "rich", items: { tea: 4 } }
  ])
  await prepare(stack, plan)
  const product = stack.service("product")
  const payment = stack.service("payment")

  let id = ""
  await frozen(payment, async () => {
    id = await place(stack, nth(plan, 0))
    await isAt(stack, id, "RUNNING", "pay")
    expect(await stockOf(stack, plan)).toEqual({ tea: 0 })
    process.kill(product.pid, "SIGSTOP")
  })
  try {
    await isAt(stack, id, "COMPENSATING", "reserve")
    // the command lies there, and nobody else can answer it
    await waitFor("the cancel on its topic", () =>
      stack.tape.records.some(({ type, key }) => type === "CancelProductReservationCommand" && key?.toString() === id)
    )
    expect(await statusOf(stack, id)).toBe("CREATED")
  } finally {
    process.kill(product.pid, "SIGCONT")
  }
  await waitFor("rejected", async () => (await statusOf(stack, id)) === "REJECTED")
  expect(await stockOf(stack, plan)).toEqual({ tea: 4 })

  const other = await place(stack, nth(plan, 1))
  await waitFor("approved", async () => (await statusOf(stack, other)) === "APPROVED")
  expect(await stockOf(stack, plan)).toEqual({ tea: 0 })
  const log = await stack.database("sagas")<Array<{ cause_type: string; asked_type: string | null }>>`
    select cause_type, asked_type from saga_log where saga_id = ${id} order by position`
  expect(log.slice(-3).map(({ cause_type, asked_type }) => [cause_type, asked_type])).toEqual([
    ["PaymentFailedEvent", "CancelProductReservationCommand"],
    ["ProductReservationCancelledEvent", "RejectOrderCommand"],
    ["OrderRejectedEvent", null]
  ])
  await expectExactlyOnce(
    stack,
    plan,
    new Map([
      [id, nth(plan, 0)],
      [other, nth(plan, 1)]
    ])
  )
})

onStack("an order for what or whom nobody knows ends rejected, with that reason", async (stack) => {
  const plan = teaShop("unknown", 10, [
    { user: "rich", items: { coffee: 1 }, outcome: rejected("PRODUCT_UNKNOWN") },
    { user: "nobody", items: { tea: 1 }, outcome: rejected("USER_UNKNOWN") },
    { user: "rich", items: { coffee: 1 }, outcome: rejected("PRODUCT_UNKNOWN") },
    { user: "nobody", items: { tea: 1 }, outcome: rejected("USER_UNKNOWN") }
  ])
  await prepare(stack, plan)

  const placed = new Map<string, Planned>()
  for (const order of plan.orders) {
    const headers = { prefer: "wait=30", "idempotency-key": order.key }
    const { status, body } = await ask(stack, "POST", order.entry, "/orders", { body: order.body, headers })
    const due = order.outcome.status === "REJECTED" ? order.outcome.reason : ""
    expect([status, body["status"], body["reason"]]).toEqual([200, "REJECTED", due])
    placed.set(String(body["id"]), order)
  }
  await expectExactlyOnce(stack, plan, placed)
})

onStack("two replicas are one service to their clients", async (stack) => {
  const count = 24
  const plan = teaShop(
    "replicas",
    100,
    Array.from({ length: count + 1 }, () => ({ user: "rich", items: { tea: 1 } }))
  )
  await prepare(stack, plan)
  const first = stack.service("order")
  const second = await stack.start("order", "order-2")
  const placed = new Map<string, Planned>()
  try {
    await waitFor("a share of the topic for each replica", async () => {
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
