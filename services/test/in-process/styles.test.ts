/** The same orders in both styles and both definitions, from both entries: the services for real, in one process. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { Effect } from "effect"
import { connect } from "oncebox"
import { until } from "../../../stack/wait.ts"
import type { OrderView } from "../../order/contract.ts"
import { allTopicNames } from "../../shell/topics.ts"
import { useSystem, type SagaView } from "./system.ts"

setDefaultTimeout(60_000)

const { embedded, get, post, ended } = useSystem()

beforeAll(async () => {
  const sql = connect(embedded.owner("shipments"), { name: "test", max: 1 })
  await sql`insert into carrier_refusals values ('fireworks', 'too dangerous')`
  await sql`insert into carrier_countries values ('AQ', 'no road leads there')`
  await sql.end({ timeout: 1 })
  await Promise.all([
    post("user", "/users", { id: "rich", name: "Rich", email: "rich@example.org", balance: 1_000_000 }),
    post("user", "/users", { id: "poor", name: "Poor", email: "poor@example.org", balance: 10 }),
    ...["kettle", "fireworks"].map((id) =>
      post("product", "/products", { id, name: id, price: 2_000, quantity: 1_000 })
    ),
    post("product", "/products", { id: "gone", name: "gone", price: 2_000, quantity: 0 })
  ])
})

const balanceOf = async (id: string) => (await get<{ balance: number }>("user", `/users/${id}`)).balance
const stockOf = async (id: string) => (await get<{ quantity: number }>("product", `/products/${id}`)).quantity

const cases = [
  { what: "is approved", userId: "rich", productId: "kettle", status: "APPROVED", reason: null },
  { what: "is out of stock", userId: "rich", productId: "gone", status: "REJECTED", reason: "OUT_OF_STOCK" },
  { what: "wants what nobody sells", userId: "rich", productId: "air", status: "REJECTED", reason: "PRODUCT_UNKNOWN" },
  { what: "is out of money", userId: "poor", productId: "kettle", status: "REJECTED", reason: "INSUFFICIENT_FUNDS" },
  { what: "is nobody's", userId: "nobody", productId: "kettle", status: "REJECTED", reason: "USER_UNKNOWN" },
  { what: "is not shipped", userId: "rich", productId: "fireworks", status: "REJECTED", reason: "SHIPMENT_REFUSED" },
  {
    what: "goes too far",
    userId: "rich",
    productId: "kettle",
    country: "AQ",
    status: "REJECTED",
    reason: "COUNTRY_REFUSED"
  }
] as const

for (const coordination of ["orchestration", "choreography"] as const) {
  for (const definition of ["place-order", "pay-first"] as const) {
    describe(`an order by ${coordination}, ${definition}`, () => {
      for (const { what, userId, productId, status, reason, ...where } of cases) {
        for (const entry of ["order", "orchestrator"] as const) {
          test(`that ${what}, taken by the ${entry} service`, async () => {
            const [stock, balance] =
              productId === "air" || userId === "nobody" ? [0, 0] : [await stockOf(productId), await balanceOf(userId)]
            const order = await post<OrderView>(entry, "/orders", {
              userId,
              items: [{ productId, quantity: 2 }],
              ...where,
              coordination,
              definition
            })
            expect(order).toMatchObject({ status, reason, coordination, definition })

            const state = status === "APPROVED" ? "COMPLETED" : "COMPENSATED"
            expect(await ended(order.id)).toMatchObject({ state, coordination, definition })
            expect(await get<OrderView>("order", `/orders/${order.id}`)).toMatchObject({ status, reason, definition })
            const { items } = await get<{ items: ReadonlyArray<object> }>("order", `/orders/${order.id}/history`)
            expect(items).toMatchObject([{ status: "CREATED" }, { status }])
            if (productId === "air" || userId === "nobody") return
            expect(await stockOf(productId)).toBe(stock - (status === "APPROVED" ? 2 : 0))
            const left = balance - (status === "APPROVED" ? 4_000 : 0)
            await until(`the balance of ${userId}`, 10_000, async () => (await balanceOf(userId)) === left)
          })
        }
      }
    })
  }
}

/** What the orchestrator's metrics say under these names. */
const gauges = async (...names: ReadonlyArray<string>) => {
  const response = await fetch(`${embedded.adminUrls.get("orchestrator")}/metrics`, {
    signal: AbortSignal.timeout(10_000)
  })
  return (await response.text()).match(new RegExp(`^oncebox_(${names.join("|")})\\{.*$`, "gm"))
}

test("a saga that waits in vain is listed as stuck, with what it waits for and since when; it ends when it is answered", async () => {
  await Effect.runPromise(embedded.stop("payment"))
  const body = { userId: "rich", items: [{ productId: "kettle", quantity: 1 }] }
  const { id } = await post<OrderView>("order", "/orders", body, "")
  type Listed = { readonly id: string; readonly waitingFor: { readonly step: string } | null }
  const stuck = async () =>
    (await get<{ items: ReadonlyArray<Listed> }>("orchestrator", "/sagas?state=stuck")).items.map((saga) => saga.id)
  const gauge = () => gauges("sagas_stuck")
  await until("the order at its payment", 20_000, async () => {
    const { waitingFor } = await get<Listed>("orchestrator", `/sagas/${id}`)
    return waitingFor?.step === "pay"
  })
  expect(await stuck()).toEqual([])
  expect(await gauge()).toEqual(['oncebox_sagas_stuck{service="orchestrator"} 0'])
  // as if it had been asked for long: the deadlines of the definition are minutes
  const sql = connect(embedded.owner("sagas"), { name: "test", max: 1 })
  await sql`update sagas set attempt = 4 where id = ${id}`
  await sql.end({ timeout: 1 })

  expect(await stuck()).toEqual([id])
  expect(await gauge()).toEqual(['oncebox_sagas_stuck{service="orchestrator"} 1'])
  expect(await get("orchestrator", `/sagas/${id}`)).toMatchObject({
    state: "RUNNING",
    done: ["create", "reserve"],
    waitingFor: { step: "pay", messages: ["PaymentProcessedEvent", "PaymentFailedEvent"] },
    remaining: ["ship", "approve"],
    waitingSince: expect.stringMatching(/^20/)
  })

  await Effect.runPromise(embedded.start("payment"))
  expect(await ended(id)).toMatchObject({ state: "COMPLETED", waitingFor: null, remaining: [] })
  expect(await stuck()).toEqual([])
})

test("messages that wait for another build or for their saga are counted until they are decided", async () => {
  const waiting = () => gauges("saga_handovers", "saga_early")
  const sql = connect(embedded.owner("sagas"), { name: "test", max: 1 })
  const aside = { message_id: "waits", saga_id: "s", topic: "t", type: "T", payload: sql.json({}) }
  const due_at = new Date(Date.now() + 3_600_000)
  try {
    await sql`insert into saga_handovers ${sql([
      { ...aside, due_at },
      { ...aside, message_id: "waits too", due_at },
      { ...aside, message_id: "is done", due_at: null }
    ])}`
    await sql`insert into saga_early ${sql({ ...aside, attempt: 1, due_at })}`
    expect(await waiting()).toEqual([
      'oncebox_saga_handovers{service="orchestrator"} 2',
      'oncebox_saga_early{service="orchestrator"} 1'
    ])
  } finally {
    await sql`delete from saga_handovers where saga_id = 's'`
    await sql`delete from saga_early where saga_id = 's'`
    await sql.end({ timeout: 1 })
  }

  expect(await waiting()).toEqual([
    'oncebox_saga_handovers{service="orchestrator"} 0',
    'oncebox_saga_early{service="orchestrator"} 0'
  ])
})

test("a saga on a version that this build lacks is shown with its step, alone and in a list", async () => {
  await Effect.runPromise(embedded.stop("payment"))
  const body = { userId: "rich", items: [{ productId: "kettle", quantity: 1 }] }
  const { id } = await post<OrderView>("order", "/orders", body, "")
  await until("the order at its payment", 20_000, async () => {
    const { waitingFor } = await get<{ waitingFor: { step: string } | null }>("orchestrator", `/sagas/${id}`)
    return waitingFor?.step === "pay"
  })
  const sql = connect(embedded.owner("sagas"), { name: "test", max: 1 })
  await sql`update sagas set version = 9 where id = ${id}`

  const saga = await get<SagaView>("orchestrator", `/sagas/${id}`)
  const { items } = await get<{ items: ReadonlyArray<{ id: string }> }>("orchestrator", "/sagas")

  expect(saga).toMatchObject({ version: 9, done: null, waitingFor: { step: "pay", messages: null }, remaining: null })
  expect(items.map((one) => one.id)).toContain(id)
  await sql`update sagas set version = 1 where id = ${id}`
  await sql.end({ timeout: 1 })
  await Effect.runPromise(embedded.start("payment"))
  expect(await ended(id)).toMatchObject({ state: "COMPLETED" })
})

test("a choreographed order that stalls is ended at its deadline, and everything is given back", async () => {
  const stock = await stockOf("kettle")
  await Effect.runPromise(embedded.stop("payment"))
  const items = [{ productId: "kettle", quantity: 3 }]
  const { id } = await post<OrderView>("order", "/orders", { userId: "rich", items, coordination: "choreography" }, "")
  await until("the order at its payment", 20_000, async () => (await stockOf("kettle")) === stock - 3)
  // as if five minutes had passed
  const sql = connect(embedded.owner("sagas"), { name: "test", max: 1 })
  await until("the saga", 10_000, async () => {
    const moved = await sql`
      update sagas set started_at = started_at - interval '5 minutes', due_at = now(), deadline = now() where id = ${id}`
    return moved.count === 1
  })
  await sql.end({ timeout: 1 })

  await until("the order's end", 20_000, async () => {
    const { status, reason } = await get<OrderView>("order", `/orders/${id}`)
    return status === "REJECTED" && reason === "TIMEOUT"
  })
  // which the saga hears a moment later
  await until("the saga's way back", 20_000, async () => {
    const { state } = await get<SagaView>("orchestrator", `/sagas/${id}`)
    return state === "COMPENSATING"
  })
  await Effect.runPromise(embedded.start("payment"))

  expect(await ended(id)).toMatchObject({ state: "COMPENSATED", reason: "TIMEOUT" })
  expect(await stockOf("kettle")).toBe(stock)
})

describe("every message about an order says its style and its definition", () => {
  const styles = (["orchestration", "choreography"] as const).flatMap((coordination) =>
    (["place-order", "pay-first"] as const).map((definition) => ({ coordination, definition }))
  )
  const of = (productId: string) => ({ userId: "rich", items: [{ productId, quantity: 1 }] })
  const records = () => allTopicNames.flatMap((name) => embedded.broker.records(name))
  const recordsOf = (id: string) => records().filter(({ key }) => key?.toString() === id)
  const count = (id: string, type: string) => recordsOf(id).filter(({ headers }) => headers["ce_type"] === type).length

  /** Holds all records about an order against its style. */
  const expectLabelled = (id: string, style: (typeof styles)[number]): void => {
    const labels = recordsOf(id).map(({ topic, headers: { ce_type, coordination, definition } }) => ({
      message: `${topic} ${ce_type}`,
      coordination,
      definition
    }))
    expect(labels.length).toBeGreaterThan(2)
    expect(labels).toEqual(labels.map(({ message }) => ({ message, ...style })))
  }

  test("on every topic; what is about a user names no definition", async () => {
    const ids = await Promise.all(
      styles.map(async (style) => {
        // the last is refused by a call to the outside: nobody takes cards here
        const placed = await Promise.all([
          post<OrderView>("order", "/orders", { ...of("kettle"), ...style }),
          post<OrderView>("orchestrator", "/orders", { ...of("fireworks"), ...style }),
          post<OrderView>("order", "/orders", { ...of("kettle"), ...style, payment: { method: "card", card: "c" } })
        ])
        expect(placed.map(({ reason }) => reason)).toEqual([null, "SHIPMENT_REFUSED", "CARDS_NOT_TAKEN"])
        for (const { id } of placed) await ended(id)
        for (const { id } of placed) expectLabelled(id, style)
        return placed.map(({ id }) => id)
      })
    )

    const spoken = new Set(ids.flat().flatMap((id) => recordsOf(id).map(({ topic }) => topic)))
    const kinds = ["orders", "payments", "products", "shipments"].flatMap((of) => [
      `${of}-choreography`,
      `${of}-commands`,
      `${of}-events`
    ])
    expect([...spoken].sort()).toEqual(kinds)
    // nobody reads of the other style what is not for it
    for (const { topic, headers } of ids.flat().flatMap(recordsOf))
      if (!topic.endsWith("-commands"))
        expect([topic, topic.endsWith("-choreography")]).toEqual([
          topic,
          String(headers["coordination"]) === "choreography"
        ])
    const aboutUsers = records().filter(({ headers }) => /User|Account/.test(String(headers["ce_type"])))
    expect(aboutUsers.length).toBeGreaterThan(3)
    expect(aboutUsers.filter(({ headers }) => headers["definition"] !== undefined)).toEqual([])
  })

  test("also when it is said again, the order is cancelled, or it takes too long", async () => {
    const sql = (database: string) => connect(embedded.owner(database), { name: "test", max: 1 })
    const [orders, sagas] = [sql("orders"), sql("sagas")]
    await Effect.runPromise(embedded.stop("payment"))
    const open = await Promise.all(
      styles.flatMap((style) =>
        (["order", "orchestrator"] as const).map(async (entry) => {
          const { id } = await post<OrderView>(entry, "/orders", { ...of("kettle"), ...style }, "")
          return { id, entry, style }
        })
      )
    )
    for (const { id, style } of open) {
      // the last that happens before the payment
      const priced = style.definition === "pay-first" ? "OrderQuotedEvent" : "ProductReservedEvent"
      const last = style.coordination === "orchestration" ? "ProcessPaymentCommand" : priced
      await until(`${last} of ${id}`, 20_000, () => count(id, last) === 1)
    }
    await until("the orders and their sagas to be moved", 20_000, async () => {
      const ids = open.map(({ id }) => id)
      const moved = await Promise.all([
        orders`update orders set due_at = now() where id in ${orders(ids)} and due_at is not null`,
        sagas`update sagas set due_at = now(), deadline = now() where id in ${sagas(ids)} and due_at is not null`
      ])
      return moved.every((rows) => rows.count === ids.length)
    })
    for (const { id, style } of open) {
      await until(`${id} to be announced again`, 20_000, () => count(id, "OrderCreatedEvent") > 1)
      if (style.coordination === "orchestration")
        await until(`${id} to be asked again`, 20_000, () => count(id, "ProcessPaymentCommand") > 1)
    }
    for (const { id, entry, style } of open) {
      if (entry === "order") await post("order", `/orders/${id}/cancel`, undefined, "")
      else if (style.coordination === "choreography")
        await sagas`
          update sagas set started_at = started_at - interval '5 minutes', due_at = now(), deadline = now()
          where id = ${id}`
    }
    for (const { id, entry, style } of open)
      if (entry === "orchestrator" && style.coordination === "choreography")
        await until(`${id} to be ended`, 20_000, () => count(id, "CancelOrderCommand") > 0)
    await Effect.runPromise(embedded.start("payment"))
    for (const { id } of open) await ended(id)
    await Promise.all([orders, sagas].map((each) => each.end({ timeout: 1 })))

    for (const { id, style } of open) expectLabelled(id, style)
  })
})

describe("lists of orders", () => {
  const ids = async (query: string) =>
    (await get<{ items: ReadonlyArray<OrderView> }>("order", `/orders?limit=100&${query}`)).items

  test("filter by status and by user", async () => {
    for (const { user, status } of [
      { user: "rich", status: "APPROVED" },
      { user: "poor", status: "REJECTED" }
    ]) {
      const found = await ids(`user=${user}&status=${status}`)
      expect(found.length).toBeGreaterThan(0)
      expect(found.every((order) => order.userId === user && order.status === status)).toBe(true)
    }
    expect(await ids("user=poor&status=APPROVED")).toEqual([])
  })

  test("leave out what was archived, which can be read all the same", async () => {
    const [order] = await ids("user=rich&status=APPROVED")
    if (order === undefined) throw new Error("there is no order")
    const remove = () =>
      fetch(`${embedded.urls.get("order")}/orders/${order.id}`, {
        method: "DELETE",
        signal: AbortSignal.timeout(10_000)
      })

    expect([(await remove()).status, (await remove()).status]).toEqual([204, 204])

    expect((await ids("user=rich")).map(({ id }) => id)).not.toContain(order.id)
    expect(await get<OrderView>("order", `/orders/${order.id}`)).toMatchObject({ id: order.id, status: "APPROVED" })
  })
})
