/** Founding document 002, "Microservices with Kafka and Saga Orchestration": its ports, its routes and its two flows. */
import { describe, expect, setDefaultTimeout, test } from "bun:test"
import type { ServiceName } from "../../stack/supervise.ts"
import { services } from "../index.ts"
import { expectSaid, undone, well } from "./conversation.ts"
import { place, prepare } from "./orders.ts"
import {
  approvedRows,
  ask,
  get,
  isAt,
  nth,
  rejected,
  rejectedRows,
  rowsOf,
  shop,
  shopping,
  stockOf
} from "./shopping.ts"
import { frozen, onStack, useStack, type Stack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

/** The ids of a list, all of its pages. */
const idsOf = async (stack: Stack, service: ServiceName, path: string): Promise<ReadonlyArray<string>> => {
  const ids: Array<string> = []
  let cursor = ""
  do {
    const from = cursor === "" ? path : `${path}${path.includes("?") ? "&" : "?"}cursor=${cursor}`
    const { items, next } = (await get(stack, service, from)) as { items: Array<{ id: string }>; next: string | null }
    ids.push(...items.map(({ id }) => id))
    cursor = next ?? ""
  } while (cursor !== "")
  return ids
}

const viaOrchestrator = { user: "ann", items: { tea: 2 }, entry: "orchestrator" } as const

describe("document 002", () => {
  test("services: user 8000, product 8001, order 8002, orchestrator 8003; payment and shipment come after them", () => {
    expect(Object.fromEntries(services.map(({ name, port }) => [name, port]))).toEqual({
      user: 8000,
      product: 8001,
      order: 8002,
      orchestrator: 8003,
      payment: 8004,
      shipment: 8005
    })
  })

  onStack("transaction flow 1-9: from POST /orders at the orchestrator to the completed order", async (stack) => {
    const plan = shopping("d002well", {
      products: { tea: [700, 10] },
      users: { ann: 10_000 },
      orders: [viaOrchestrator]
    })
    await prepare(stack, plan)

    const { placed, ids } = await shop(stack, plan)
    const [id = ""] = ids
    await expectExactlyOnce(stack, plan, placed)

    expectSaid(stack, id, ["orders-commands CreateOrderCommand", ...well.approved])
    expect(await rowsOf(stack, id)).toEqual(approvedRows(1_400))
    expect(await get(stack, "orchestrator", `/sagas/${id}`)).toMatchObject({ id, state: "COMPLETED", waitingFor: null })
    expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ sagaId: id, status: "APPROVED" })
  })

  onStack("compensation 1 and 2: reservation fails, cancel the order; payment fails, release it too", async (stack) => {
    const plan = shopping("d002fail", {
      products: { tea: [700, 1], pot: [3_000, 1] },
      users: { ann: 2_999 },
      orders: [
        { ...viaOrchestrator, outcome: rejected("OUT_OF_STOCK") },
        { ...viaOrchestrator, items: { pot: 1 }, outcome: rejected("INSUFFICIENT_FUNDS") }
      ]
    })
    await prepare(stack, plan)

    const { placed, ids } = await shop(stack, plan)
    const [unreserved = "", unpaid = ""] = ids
    await expectExactlyOnce(stack, plan, placed)

    const asked = "orders-commands CreateOrderCommand"
    const noStock = ["products-commands ReserveProductCommand", "products-events ProductReservationFailedEvent"]
    expectSaid(stack, unreserved, [asked, ...well.created, ...noStock, ...undone.create])
    const reservations = { status: "FAILED", reason: "OUT_OF_STOCK", total: 0 }
    expect(await rowsOf(stack, unreserved)).toEqual(rejectedRows("OUT_OF_STOCK", { reservations }))

    const noMoney = ["payments-commands ProcessPaymentCommand", "payments-events PaymentFailedEvent"]
    expectSaid(stack, unpaid, [asked, ...well.reserved, ...noMoney, ...undone.reserve, ...undone.create])
    expect(await rowsOf(stack, unpaid)).toEqual(
      rejectedRows("INSUFFICIENT_FUNDS", {
        reservations: { status: "CANCELLED", reason: null, total: 3_000 },
        payments: { status: "FAILED", reason: "INSUFFICIENT_FUNDS", amount: 3_000 }
      })
    )
    expect(await stockOf(stack, plan)).toEqual({ tea: 1, pot: 1 })
    for (const id of ids) expect((await get(stack, "order", `/orders/${id}`))["status"]).toBe("REJECTED")
    for (const id of ids) expect((await get(stack, "orchestrator", `/sagas/${id}`))["state"]).toBe("COMPENSATED")
  })

  for (const { service, path, body, edit } of [
    {
      service: "user",
      path: "/users",
      body: { email: "a@example.org", balance: 500 },
      edit: { email: "b@example.org" }
    },
    { service: "product", path: "/products", body: { price: 700, quantity: 3 }, edit: { price: 900 } }
  ] as const) {
    onStack(`API endpoints of the ${service} service: GET all, GET one, POST, PUT, DELETE`, async (stack) => {
      const id = `d002crud_${service}`
      const one = `${path}/${id}`
      const made = { id, name: "first", ...body }

      const posted = await ask(stack, "POST", service, path, { body: made })
      expect([posted.status, posted.body]).toMatchObject([201, { ...made, version: 1 }])
      expect(await get(stack, service, one)).toEqual(posted.body)
      expect(await idsOf(stack, service, `${path}?limit=50`)).toContain(id)

      const edited = { name: "second", ...edit }
      expect((await ask(stack, "PUT", service, one, { body: edited })).status).toBe(428)
      const put = await ask(stack, "PUT", service, one, { body: edited, headers: { "if-match": posted.etag } })
      expect([put.status, put.body]).toMatchObject([200, { ...made, ...edited, version: 2 }])
      const late = await ask(stack, "PUT", service, one, { body: edited, headers: { "if-match": posted.etag } })
      expect([late.status, late.etag]).toEqual([412, put.etag])

      expect((await ask(stack, "DELETE", service, one)).status).toBe(204)
      expect(await idsOf(stack, service, `${path}?limit=50`)).not.toContain(id)
      expect((await ask(stack, "PUT", service, one, { body: edited, headers: { "if-match": "*" } })).status).toBe(409)
      expect((await ask(stack, "GET", service, `${one}x`)).status).toBe(404)
    })
  }

  onStack(
    "API endpoints of the order and the orchestrator service; DELETE waits for the order's end",
    async (stack) => {
      const plan = shopping("d002api", {
        products: { tea: [700, 10] },
        users: { ann: 10_000, bob: 10_000 },
        orders: [
          { user: "ann", items: { tea: 1 }, entry: "order" },
          { user: "ann", items: { tea: 2 }, entry: "orchestrator" },
          { user: "bob", items: { tea: 3 }, entry: "order" }
        ]
      })
      await prepare(stack, plan)
      const orders = (query: string) => idsOf(stack, "order", `/orders?user=d002api_ann${query}`)
      const sagas = async (query: string): Promise<ReadonlyArray<string>> => {
        const { items } = await get(stack, "orchestrator", `/sagas?limit=100${query}`)
        return (items as Array<{ id: string }>).map(({ id }) => id)
      }

      const ids: Array<string> = []
      await frozen(stack.service("payment"), async () => {
        for (const order of plan.orders) ids.push(await place(stack, order))
        for (const id of ids) await isAt(stack, id, "RUNNING", "pay")
        for (const id of ids) {
          const order = await ask(stack, "GET", "order", `/orders/${id}`)
          expect([order.status, order.body]).toMatchObject([200, { id, sagaId: id, status: "CREATED" }])
          expect((await ask(stack, "DELETE", "order", `/orders/${id}`)).status).toBe(409)
          expect(await get(stack, "orchestrator", `/sagas/${id}`)).toMatchObject({ id, state: "RUNNING", step: "pay" })
        }
        expect((await orders("&status=CREATED")).toSorted()).toEqual(ids.slice(0, 2).toSorted())
        expect(await sagas("&state=RUNNING")).toEqual(expect.arrayContaining(ids))
      })
      const placed = new Map(ids.map((id, n) => [id, nth(plan, n)]))
      await expectExactlyOnce(stack, plan, placed)

      const [first = "", second = ""] = ids
      expect(await orders("&status=CREATED")).toEqual([])
      expect((await orders("&status=APPROVED")).toSorted()).toEqual([first, second].toSorted())
      expect(await sagas("&state=COMPLETED")).toEqual(expect.arrayContaining(ids))
      for (const found of [await sagas("&state=RUNNING"), await sagas("&state=COMPENSATED")])
        expect(found.filter((id) => ids.includes(id))).toEqual([])
      expect(await sagas("")).toEqual(expect.arrayContaining(ids))

      expect((await ask(stack, "DELETE", "order", `/orders/${first}`)).status).toBe(204)
      expect(await orders("")).toEqual([second])
      expect(await get(stack, "order", `/orders/${first}`)).toMatchObject({ id: first, status: "APPROVED" })
      const nobody = Bun.randomUUIDv7()
      for (const [service, path] of [
        ["order", "/orders"],
        ["orchestrator", "/sagas"]
      ] as const)
        expect((await ask(stack, "GET", service, `${path}/${nobody}`)).status).toBe(404)
      expect((await ask(stack, "DELETE", "order", `/orders/${nobody}`)).status).toBe(404)
    }
  )
})
