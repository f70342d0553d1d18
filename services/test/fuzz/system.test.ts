/** Spoilt records of every type in services that run, on real Postgres: each is decided or parked, and orders go on meanwhile. */
import { isUtf8 } from "node:buffer"
import { expect, setDefaultTimeout, test } from "bun:test"
import type { Outbound } from "../../../outbox/broker/broker.ts"
import { Effect } from "effect"
import { services } from "../../index.ts"
import { until } from "../../../stack/wait.ts"
import { seeded } from "../../../outbox/testing/simulation/choices.ts"
import { useSystem } from "../in-process/system.ts"
import { dueOf, harmless, lettersAt, unexpected } from "./parked.ts"
import { contracts, recordsOf, type Source } from "./records.ts"

setDefaultTimeout(300_000)

const seed = Number(process.env["SEED"] ?? 20260301)
const perType = 50
const orderCount = 50
const settlesWithinMs = 120_000

const { embedded, inDatabase, post, get } = useSystem()

/** The ids that a service has decided or parked. */
const seenBy = (database: (typeof services)[number]["database"]): Promise<ReadonlySet<string>> =>
  inDatabase(database as "orders", async (sql) => {
    const rows = await sql<Array<{ id: string }>>`
      select message_id as id from inbox union select message_id from dead_letters`
    return new Set(rows.map(({ id }) => id))
  })

test(`${perType} records of each type are decided or parked while orders are approved (SEED=${seed})`, async () => {
  const source: Source = { choices: seeded(seed), nowMs: Date.now(), ids: [], strangers: 8 }
  // the broker in memory has keys of text only
  const spoilt = contracts.flatMap((contract) =>
    recordsOf(source, contract, seed, perType).flatMap(({ record }) =>
      record.key !== null && isUtf8(record.key) ? [record] : []
    )
  )
  const records = spoilt.flatMap((record) => [...harmless(source, record.topic), record])
  // the rest as it is, whatever the broker's own senders may send
  const outbound = records.map(
    (record) => ({ ...record, key: Buffer.from(record.key ?? "").toString() }) as unknown as Outbound
  )
  await post("product", "/products", { id: "tea", name: "tea", price: 100, quantity: 1_000 }, "")
  await post("user", "/users", { id: "zoe", name: "zoe", email: "zoe@example.org", balance: 1_000_000 })
  const order = { userId: "zoe", items: [{ productId: "tea", quantity: 1 }] }

  const placing = Promise.all(
    Array.from({ length: orderCount }, () => post<{ id: string }>("order", "/orders", order, ""))
  )
  await Effect.runPromise(embedded.broker.broker.publish(outbound))
  const placed = await placing

  for (const { name, settled, parked } of dueOf(records)) {
    const service = services.find((one) => one.name === name)
    if (service === undefined) throw new Error(`there is no ${name}`)
    await until(`all records settled by ${name}`, settlesWithinMs, async () => {
      const missing = settled.difference(await seenBy(service.database))
      if (missing.size > 0) throw new Error(`${missing.size} of ${settled.size} are not, such as ${[...missing][0]}`)
      return true
    })
    const letters = await lettersAt(embedded.adminUrls.get(service.name) ?? "")
    expect([name, unexpected(letters)]).toEqual([name, []])
    const listed = new Set(letters.map(({ id }) => id))
    expect([name, [...parked.difference(listed)]]).toEqual([name, []])
    expect(listed.size).toBeGreaterThan(0)
    expect([name, (await fetch(`${embedded.urls.get(service.name)}/health/ready`)).status]).toEqual([name, 200])
  }
  for (const { id } of placed) {
    await until(`order ${id}`, settlesWithinMs, async () => {
      const { status } = await get<{ status: string }>("order", `/orders/${id}`)
      if (status !== "APPROVED") throw new Error(`it is ${status}`)
      return true
    })
  }
  expect(await get<{ quantity: number }>("product", "/products/tea")).toMatchObject({ quantity: 1_000 - orderCount })
  await until("the balance", 30_000, async () => {
    const { balance } = await get<{ balance: number }>("user", "/users/zoe")
    return balance === 1_000_000 - 100 * orderCount
  })
})
