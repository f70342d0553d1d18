/** The services for real, in one process: real Postgres, real HTTP, the in-process broker and the relays. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Exit, Redacted, Scope } from "effect"
import { connect, type ConnectionOptions } from "oncebox"
import { startEmbedded, type Embedded, type ServiceName } from "../../../stack/embedded.ts"
import { freePorts } from "../../../stack/ports.ts"
import { until } from "../../../stack/wait.ts"
import type { OrderView } from "../../order/contract.ts"
import { provision, readPasswords } from "../provision.ts"
import { bodyOf } from "./stand-ins.ts"

setDefaultTimeout(60_000)

const dir = mkdtempSync(join(tmpdir(), "oncebox-"))
const scope = Scope.makeUnsafe()
let embedded: Embedded

beforeAll(async () => {
  embedded = await Effect.runPromise(Scope.provide(startEmbedded({ dir, ports: "free" }), scope))
  await query(embedded.owner("shipments"), "insert into carrier_refusals values ('anvil', 'too heavy')")
})

afterAll(async () => {
  await Effect.runPromise(Scope.close(scope, Exit.void))
  rmSync(dir, { recursive: true, force: true })
})

const url = (service: ServiceName, path: string) => `${embedded.urls.get(service)}${path}`

const get = (service: ServiceName, path: string) => fetch(url(service, path), { signal: AbortSignal.timeout(10_000) })

type Headers = Readonly<Record<string, string>>
const send = (method: string, service: ServiceName, path: string, body: unknown, headers: Headers = {}) =>
  fetch(url(service, path), {
    method,
    headers: { "Content-Type": "application/json", ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(40_000)
  })

const post = (service: ServiceName, path: string, body: unknown, headers?: Headers) =>
  send("POST", service, path, body, headers)
const put = (service: ServiceName, path: string, body: unknown, headers?: Headers) =>
  send("PUT", service, path, body, headers)
const remove = (service: ServiceName, path: string, headers?: Headers) =>
  send("DELETE", service, path, undefined, headers)

const query = async (options: ConnectionOptions, text: string): Promise<ReadonlyArray<object>> => {
  const sql = connect(options, { name: "test", max: 1 })
  try {
    return [...(await sql.unsafe(text))]
  } finally {
    await sql.end({ timeout: 1 })
  }
}

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
    expect(await query(embedded.owner("payments"), entries)).toEqual([
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
    await query(embedded.owner("users"), forgotten)
    await until("the answer", 10_000, async () => {
      const found = await bodyOf(await get("user", `/users/${id}/deposits/${deposit.id}`))
      return found["status"] === "MADE"
    })

    const asked = `select 1 from outbox where type = 'DepositMoneyCommand' and payload ->> 'depositId' = '${deposit.id}'`
    expect(await query(embedded.owner("users"), asked)).toHaveLength(2)
    const entries = `select 1 from ledger where deposit_id = '${deposit.id}'`
    expect(await query(embedded.owner("payments"), entries)).toHaveLength(1)
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
      return (await query(embedded.owner("payments"), closed)).length === 1
    })
    const order = { userId, items: [{ productId: "too-late", quantity: 1 }] }
    expect(await bodyOf(await post("order", "/orders", order, { Prefer: "wait=20" }))).toMatchObject({
      status: "REJECTED",
      reason: "ACCOUNT_CLOSED"
    })
  })
})

describe("the ledger's own fences", () => {
  const depositId = "00000000-0000-7000-8000-000000000001"
  const entry = (position: number, kind: string, orderId: string | null, deposit: string | null) =>
    `insert into ledger values ('fenced', ${position}, 1, '${kind}', ${quoted(orderId)}, ${quoted(deposit)}, 1, now())`
  const quoted = (text: string | null) => (text === null ? "null" : `'${text}'`)

  beforeAll(() => query(embedded.owner("payments"), entry(2, "DEPOSIT", null, depositId)))
  afterAll(() => query(embedded.owner("payments"), "delete from ledger where user_id = 'fenced'"))

  const refused: Readonly<Record<string, readonly [string, string]>> = {
    "a deposit made twice": [entry(3, "DEPOSIT", null, depositId), "ledger_once_per_deposit"],
    "a deposit without an id": [entry(3, "DEPOSIT", null, null), "ledger_of_a_deposit"],
    "a refund with a deposit's id": [entry(3, "REFUND", "o", depositId), "ledger_of_a_deposit"],
    "a deposit of an order": [entry(3, "DEPOSIT", "o", "another"), "ledger_of_an_order"],
    "a refund of no order": [entry(3, "REFUND", null, null), "ledger_of_an_order"],
    "a deposit that takes": [entry(3, "DEPOSIT", null, "another").replace(", 1,", ", -1,"), "ledger_direction"],
    "a deposit as the opening": [entry(1, "DEPOSIT", null, "another"), "ledger_opens_once"],
    "an entry of another kind": [entry(3, "GIFT", null, null), "ledger_kind_check"]
  }
  for (const [what, [statement, constraint]] of Object.entries(refused)) {
    test(`refuse ${what}`, async () => {
      await expect(query(embedded.owner("payments"), statement)).rejects.toThrow(constraint)
    })
  }

  test("refuse an account that has no entry and is not closed", async () => {
    const open = "insert into accounts values ('fenced', 0, 0, 0, now(), null)"

    await expect(query(embedded.owner("payments"), open)).rejects.toThrow("accounts_without_a_ledger_are_closed")
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

  const response = await fetch(url("order", "/orders"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body,
    signal: AbortSignal.timeout(10_000)
  })

  expect(response.status).toBe(413)
  expect(response.headers.get("Content-Type")).toBe("application/problem+json")
})

describe("provisioning", () => {
  const as = async (role: string, database: string): Promise<ConnectionOptions> => {
    const { services } = await Effect.runPromise(readPasswords(join(dir, "secrets")))
    const password = services.get(role.replace("_service", "")) ?? Redacted.make("")
    return { ...embedded.owner(database), username: role, password }
  }

  test("may be done again, by several at once, while services run", async () => {
    const { host, port } = embedded.owner("orders")
    const passwords = await Effect.runPromise(readPasswords(join(dir, "secrets")))

    await Promise.all([1, 2, 3].map(() => provision({ host, port, passwords })))

    expect((await get("order", "/health/ready")).status).toBe(200)
  })

  test("lets a service into its own database only", async () => {
    expect(await query(await as("orders_service", "orders"), "select 1 as one")).toEqual([{ one: 1 }])
    for (const other of ["users", "postgres", "template1"]) {
      await expect(query(await as("orders_service", other), "select 1")).rejects.toThrow("permission denied")
    }
  })

  const forbidden = {
    orders: [
      "update outbox set topic = 'x'",
      "delete from outbox",
      "truncate outbox",
      "delete from orders",
      "update orders_history set reason = 'x'",
      "create table mine (id int)",
      "drop table orders"
    ],
    shipments: ["insert into carrier_refusals values ('x', 'x')", "delete from carrier_refusals"]
  }
  for (const [database, statements] of Object.entries(forbidden)) {
    for (const statement of statements) {
      test(`refuses the role of ${database}: ${statement}`, async () => {
        const service = await as(`${database}_service`, database)

        await expect(query(service, statement)).rejects.toThrow(/permission denied|must be owner/)
      })
    }
  }
})

describe("a service's process", () => {
  const start = async (change: Readonly<Record<string, string>> = {}) => {
    const { host, port } = embedded.owner("orders")
    const [own = 0, admin = 0, nobody = 0] = await freePorts([[], [], []])
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../order/main.ts")], {
      env: {
        PATH: process.env["PATH"] ?? "",
        DATABASE_HOST: host,
        DATABASE_PORT: String(port),
        DATABASE_PASSWORD_FILE: join(dir, "secrets", "orders_password"),
        BROKERS: `127.0.0.1:${nobody}`,
        PORT: String(own),
        ADMIN_PORT: String(admin),
        ...change
      },
      stdout: "pipe",
      stderr: "pipe",
      timeout: 40_000,
      killSignal: "SIGKILL"
    })
    const live = () => until("the service", 20_000, async () => (await fetch(`http://127.0.0.1:${own}/health/live`)).ok)
    return { child, own, admin, live }
  }

  test("ends with 0 when told to, after answering who waits for an outcome", async () => {
    const { child, own, admin, live } = await start()
    await live()
    // there is no broker where it looks for one
    expect((await fetch(`http://127.0.0.1:${own}/health/ready`)).status).toBe(503)
    expect(await (await fetch(`http://127.0.0.1:${admin}/metrics`)).text()).toContain('{service="order"}')
    const order = { userId: "nobody", items: [{ productId: "nothing", quantity: 1 }] }
    const waiting = fetch(`http://127.0.0.1:${own}/orders`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Prefer: "wait=30", "Idempotency-Key": "stopped" },
      body: JSON.stringify(order)
    })
    const stored = "select 1 from idempotency_keys where key = 'stopped'"
    await until("the order", 10_000, async () => (await query(embedded.owner("orders"), stored)).length === 1)

    const before = performance.now()
    child.kill("SIGTERM")

    expect((await waiting).status).toBe(202)
    expect(await child.exited).toBe(0)
    expect(performance.now() - before).toBeLessThan(10_000)
  })

  const bad = { DATABASE_PORT: "x", BROKERS: "nowhere", DATABASE_PASSWORD_FILE: "/does/not/exist" }
  for (const [name, value] of Object.entries(bad)) {
    test(`does not start with ${name}=${value}, and says so in one line`, async () => {
      const { child } = await start({ [name]: value })

      const [said, code] = await Promise.all([new Response(child.stderr).text(), child.exited])

      expect(code).toBe(1)
      expect(said).toMatch(new RegExp(`^order: .*(${name}|/does/not/exist).*\n$`))
    })
  }
})
