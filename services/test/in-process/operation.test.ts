/** What operating the services rests on, for real: the databases' own fences, who may do what in them, and a service's process. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { join } from "node:path"
import { Effect, Redacted } from "effect"
import { connect, type ConnectionOptions } from "oncebox"
import { freePorts } from "../../../stack/ports.ts"
import { until } from "../../../stack/wait.ts"
import { provision, readPasswords } from "../../shell/provision.ts"
import { useSystem } from "./system.ts"

setDefaultTimeout(60_000)

const { dir, embedded, send } = useSystem()

const query = async (options: ConnectionOptions, text: string): Promise<ReadonlyArray<object>> => {
  const sql = connect(options, { name: "test", max: 1 })
  try {
    return [...(await sql.unsafe(text))]
  } finally {
    await sql.end({ timeout: 1 })
  }
}

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

    expect((await send("GET", "order", "/health/ready")).status).toBe(200)
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

test("a service whose port is taken does not start, and starts once it is free", async () => {
  const { hostname, port } = new URL(embedded.urls.get("shipment") ?? "")
  await Effect.runPromise(embedded.stop("shipment"))
  const other = Bun.serve({ hostname, port: Number(port), fetch: () => new Response() })
  try {
    const { message } = await Effect.runPromise(Effect.flip(embedded.start("shipment")))
    expect(message).toContain(`can't listen on ${hostname}:${port}`)
  } finally {
    await other.stop(true)
  }

  await Effect.runPromise(embedded.start("shipment"))

  expect((await send("GET", "shipment", "/health/ready")).status).toBe(200)
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
