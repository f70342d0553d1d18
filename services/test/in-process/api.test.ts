/** The services' HTTP, for real: what an order, a product and a user look like to a client, whatever goes on meanwhile. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import type { ServiceName } from "../../../stack/embedded.ts"
import { until } from "../../../stack/wait.ts"
import type { OrderView } from "../../order/contract.ts"
import { bodyOf } from "../../shell/test/stand-ins.ts"
import type { Database } from "../stack.ts"
import { useSystem } from "./system.ts"

setDefaultTimeout(60_000)

const { embedded, send, inDatabase } = useSystem()

beforeAll(() => query("shipments", "insert into carrier_refusals values ('anvil', 'too heavy')"))

type Headers = Readonly<Record<string, string>>
const get = (service: ServiceName, path: string) => send("GET", service, path)
const post = (service: ServiceName, path: string, body: unknown, headers: Headers = {}) =>
  send("POST", service, path, { body, headers })
const put = (service: ServiceName, path: string, body: unknown, headers: Headers = {}) =>
  send("PUT", service, path, { body, headers })
const remove = (service: ServiceName, path: string, headers: Headers = {}) => send("DELETE", service, path, { headers })

const query = (database: Database, text: string): Promise<ReadonlyArray<object>> =>
  inDatabase(database, async (sql) => [...(await sql.unsafe(text))])

const newcomer = async (balance: number) => {
  const response = await post("user", "/users", { name: "Ann", email: "ann@example.org", balance })
  expect(response.status).toBe(201)
  return bodyOf<{ id: string; balance: number }>(response)
}

const stocked = async (product: { readonly id: string; readonly quantity: number }) =>
  expect((await post("product", "/products", { name: "Thing", price: 2_000, ...product })).status).toBe(201)

describe("an order", () => {
  for (const service of ["order", "orchestrator"] as const) {
    test(`taken by the ${service} service is approved, and everyone says so`, async () => {
      const { id: userId } = await newcomer(10_000)
      const productId = `approved-by-${service}`
      await stocked({ id: productId, quantity: 3 })

      const body = { userId, items: [{ productId, quantity: 2 }] }
      const response = await post(service, "/orders", body, { Prefer: "wait=20" })

      const order = await bodyOf<OrderView>(response)
      expect(response.status).toBe(200)
      expect(order).toMatchObject({
        status: "APPROVED",
        total: 4_000,
        items: [{ productId, quantity: 2, price: 2_000 }]
      })
      expect(await bodyOf(await get("order", `/orders/${order.id}`))).toEqual({
        ...order,
        createdAt: expect.any(String)
      })
      expect(await bodyOf(await get("payment", `/payments/${order.id}`))).toMatchObject({ amount: 4_000, userId })
      expect(await bodyOf(await get("shipment", `/shipments/${order.id}`))).toMatchObject({ status: "CREATED" })
      expect(await bodyOf(await get("product", `/products/${productId}`))).toMatchObject({ quantity: 1 })
      const { items } = await bodyOf<{ items: ReadonlyArray<unknown> }>(
        await get("order", `/orders/${order.id}/history`)
      )
      expect(items).toMatchObject([{ status: "CREATED" }, { status: "APPROVED" }])
      await until("the balance", 10_000, async () => {
        const user = await bodyOf<{ balance: number }>(await get("user", `/users/${userId}`))
        return user.balance === 6_000
      })
    })
  }

  test("that the carrier refuses is rejected, and every step is taken back", async () => {
    const { id: userId } = await newcomer(10_000)
    await stocked({ id: "anvil", quantity: 1 })

    const body = { userId, items: [{ productId: "anvil", quantity: 1 }] }
    const order = await bodyOf<OrderView>(await post("orchestrator", "/orders", body, { Prefer: "wait=20" }))

    expect(order).toMatchObject({ status: "REJECTED", reason: "SHIPMENT_REFUSED" })
    expect(await bodyOf(await get("payment", `/payments/${order.id}`))).toMatchObject({ status: "REFUNDED" })
    expect(await bodyOf(await get("product", "/products/anvil"))).toMatchObject({ quantity: 1 })
    const { state, log } = await bodyOf<{ state: string; log: ReadonlyArray<{ step: string }> }>(
      await get("orchestrator", `/sagas/${order.id}`)
    )
    expect(state).toBe("COMPENSATED")
    const steps = ["create", "reserve", "pay", "ship", "pay", "reserve", "create", "create"]
    expect(log.map(({ step }) => step)).toEqual(steps)
  })

  test("sent again with its key is the same order with the same answer", async () => {
    const body = { userId: "nobody", items: [{ productId: "nothing", quantity: 1 }] }
    const key = { "Idempotency-Key": "again" }

    const sent = await Promise.all([1, 2, 3, 4].map(() => post("order", "/orders", body, key)))
    const [first, ...others] = await Promise.all(sent.map((response) => bodyOf<OrderView>(response)))

    expect(sent.map(({ status }) => status)).toEqual([202, 202, 202, 202])
    for (const other of others) expect<unknown>(other).toEqual(first)
    expect((await post("order", "/orders", { ...body, userId: "other" }, key)).status).toBe(422)
  })
})

const idsOf = async (service: ServiceName, path: string) => {
  const { items } = await bodyOf<{ items: ReadonlyArray<{ id: string }> }>(await get(service, path))
  return items.map(({ id }) => id)
}

describe("a product", () => {
  test("is edited by one of two who have seen the same version, whatever stock moves meanwhile", async () => {
    await stocked({ id: "edited", quantity: 3 })
    const etag = (await get("product", "/products/edited")).headers.get("ETag") ?? ""
    expect((await post("product", "/products/edited/stock", { quantity: 4 })).status).toBe(200)

    const edits = ["One", "Other"].map((name) =>
      put("product", "/products/edited", { name, price: 10 }, { "If-Match": etag })
    )
    const statuses = (await Promise.all(edits)).map(({ status }) => status)

    expect(statuses.toSorted()).toEqual([200, 412])
    const name = statuses[0] === 200 ? "One" : "Other"
    expect(await bodyOf(await get("product", "/products/edited"))).toMatchObject({ name, price: 10, quantity: 7 })
  })

  test("gets stock once for each key", async () => {
    await stocked({ id: "restocked", quantity: 3 })
    const key = { "Idempotency-Key": "delivery-1" }

    const sent = await Promise.all(
      [1, 2, 3].map(() => post("product", "/products/restocked/stock", { quantity: 2 }, key))
    )

    expect(sent.map(({ status }) => status)).toEqual([200, 200, 200])
    expect(await bodyOf(await get("product", "/products/restocked"))).toMatchObject({ quantity: 5 })
    expect((await post("product", "/products/edited/stock", { quantity: 2 }, key)).status).toBe(422)
  })

  test("that is discontinued is in no list that does not ask for it, and can't be ordered", async () => {
    const { id: userId } = await newcomer(10_000)
    await stocked({ id: "discontinued", quantity: 3 })

    expect((await remove("product", "/products/discontinued", { "If-Match": '"7"' })).status).toBe(412)
    expect((await remove("product", "/products/discontinued", { "If-Match": '"1"' })).status).toBe(204)
    expect((await remove("product", "/products/discontinued")).status).toBe(204)

    expect(await idsOf("product", "/products?limit=100")).not.toContain("discontinued")
    expect(await idsOf("product", "/products?status=DISCONTINUED")).toEqual(["discontinued"])
    const found = await get("product", "/products/discontinued")
    expect(found.headers.get("ETag")).toBe('"2"')
    expect(await bodyOf(found)).toMatchObject({ status: "DISCONTINUED", quantity: 3 })
    const order = { userId, items: [{ productId: "discontinued", quantity: 1 }] }
    expect(await bodyOf(await post("order", "/orders", order, { Prefer: "wait=20" }))).toMatchObject({
      status: "REJECTED",
      reason: "PRODUCT_DISCONTINUED"
    })
  })
})

describe("a user", () => {
  test("is edited in the version that was seen, whatever money moves meanwhile", async () => {
    const { id } = await newcomer(1_000)
    const etag = { "If-Match": (await get("user", `/users/${id}`)).headers.get("ETag") ?? "" }
    expect((await post("user", `/users/${id}/deposits`, { amount: 5 }, { Prefer: "wait=20" })).status).toBe(200)

    const first = await put("user", `/users/${id}`, { name: "Anna", email: "a@example.org" }, etag)
    const second = await put("user", `/users/${id}`, { name: "Ann", email: "b@example.org" }, etag)

    expect([first.status, second.status]).toEqual([200, 412])
    expect(second.headers.get("ETag")).toBe('"2"')
    expect(await bodyOf(await get("user", `/users/${id}`))).toMatchObject({ name: "Anna", balance: 1_005 })
  })

  test("deposits money once for each key, and the balance includes it when that is answered", async () => {
    const { id } = await newcomer(1_000)
    const key = { "Idempotency-Key": `deposit-${id}`, Prefer: "wait=20" }

    const sent = await Promise.all([1, 2, 3].map(() => post("user", `/users/${id}/deposits`, { amount: 70 }, key)))

    expect(sent.map(({ status }) => status)).toEqual([200, 200, 200])
    expect(await bodyOf(await get("user", `/users/${id}`))).toMatchObject({ balance: 1_070 })
    const [deposit, ...others] = await Promise.all(sent.map((response) => bodyOf<{ id: string }>(response)))
    expect(deposit).toMatchObject({ userId: id, amount: 70, status: "MADE", reason: null })
    for (const other of others) expect<unknown>(other).toEqual(deposit)
    expect<unknown>(await bodyOf(await get("user", `/users/${id}/deposits/${deposit?.id}`))).toEqual(deposit)
    const entries = `select kind, amount, balance from ledger where user_id = '${id}' order by position`
    expect(await query("payments", entries)).toEqual([
      { kind: "OPENING", amount: 1_000, balance: 1_000 },
      { kind: "DEPOSIT", amount: 70, balance: 1_070 }
    ])
  })

  test("whose deposit is asked for again, in another message, has it once", async () => {
    const { id } = await newcomer(1_000)
    const response = await post("user", `/users/${id}/deposits`, { amount: 70 }, { Prefer: "wait=20" })
    const deposit = await bodyOf<{ id: string }>(response)

    // as if the answer had never come
    const forgotten = `update deposits set status = 'PENDING', due_at = now() where id = '${deposit.id}'`
    await query("users", forgotten)
    await until("the answer", 10_000, async () => {
      const found = await bodyOf(await get("user", `/users/${id}/deposits/${deposit.id}`))
      return found["status"] === "MADE"
    })

    const asked = `select 1 from outbox where type = 'DepositMoneyCommand' and payload ->> 'depositId' = '${deposit.id}'`
    expect(await query("users", asked)).toHaveLength(2)
    const entries = `select 1 from ledger where deposit_id = '${deposit.id}'`
    expect(await query("payments", entries)).toHaveLength(1)
    expect(await bodyOf(await get("user", `/users/${id}`))).toMatchObject({ balance: 1_070 })
  })

  test("hears that a deposit is too large", async () => {
    const { id } = await newcomer(1_000)

    const amount = 1_000_000_000_000
    const response = await post("user", `/users/${id}/deposits`, { amount }, { Prefer: "wait=20" })

    expect(response.status).toBe(200)
    expect(await bodyOf(response)).toMatchObject({ status: "REFUSED", reason: "BALANCE_TOO_LARGE" })
  })

  test("who is closed is in no list that does not ask for it, and can neither pay nor deposit", async () => {
    const { id: userId } = await newcomer(10_000)
    await stocked({ id: "too-late", quantity: 1 })

    expect((await remove("user", `/users/${userId}`)).status).toBe(204)
    expect((await remove("user", `/users/${userId}`)).status).toBe(204)

    expect(await idsOf("user", "/users?limit=100")).not.toContain(userId)
    expect(await idsOf("user", "/users?status=CLOSED&limit=100")).toContain(userId)
    expect(await bodyOf(await get("user", `/users/${userId}`))).toMatchObject({ status: "CLOSED", balance: 10_000 })
    expect((await post("user", `/users/${userId}/deposits`, { amount: 1 })).status).toBe(409)
    const closed = `select 1 from accounts where user_id = '${userId}' and closed_at is not null`
    await until("the account's end", 10_000, async () => {
      return (await query("payments", closed)).length === 1
    })
    const order = { userId, items: [{ productId: "too-late", quantity: 1 }] }
    expect(await bodyOf(await post("order", "/orders", order, { Prefer: "wait=20" }))).toMatchObject({
      status: "REJECTED",
      reason: "ACCOUNT_CLOSED"
    })
  })
})

test("pages of a real table follow each other, each item once", async () => {
  const ids = Array.from({ length: 7 }, (_, n) => `page-${n}`)
  await Promise.all(ids.map((id) => stocked({ id, quantity: 1 })))

  const seen: Array<string> = []
  let cursor = ""
  do {
    const path = `/products?limit=3${cursor === "" ? "" : `&cursor=${cursor}`}`
    const page = await bodyOf<{ items: ReadonlyArray<{ id: string }>; next: string | null }>(await get("product", path))
    seen.push(...page.items.map(({ id }) => id))
    cursor = page.next ?? ""
  } while (cursor !== "")

  expect(seen.filter((id) => id.startsWith("page-"))).toEqual(ids)
  expect(new Set(seen).size).toBe(seen.length)
})

test("a body without an end is refused before it is read to the end", async () => {
  const body = new ReadableStream({
    pull: (controller) => controller.enqueue(new TextEncoder().encode("x".repeat(1_000)))
  })

  const response = await fetch(`${embedded.urls.get("order")}/orders`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body,
    signal: AbortSignal.timeout(10_000)
  })

  expect(response.status).toBe(413)
  expect(response.headers.get("Content-Type")).toBe("application/problem+json")
})
