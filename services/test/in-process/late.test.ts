/** A payment service that answers long after the step's deadline: it is asked again, and each order is paid once, or not at all. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { Effect } from "effect"
import { startProcessor } from "../../../stack/processor.ts"
import { until } from "../../../stack/wait.ts"
import type { OrderView } from "../../order/contract.ts"
import { bodyOf } from "../../shell/test/stand-ins.ts"
import { useSystem } from "./system.ts"

setDefaultTimeout(60_000)

const processor = startProcessor()
const { embedded, get, post, send, inDatabase, ended } = useSystem(processor.url)
afterAll(() => processor.stop())
const price = 2_000
const balance = 100_000

beforeAll(async () => {
  await post("product", "/products", { id: "kettle", name: "Kettle", price, quantity: 1_000 })
  await inDatabase("payments", (sql) => sql`insert into failure_rules (step, delay_ms) values ('pay', 3600000)`)
})

type Style = "orchestration" | "choreography"
const placed = async (
  coordination: Style,
  how: object = {}
): Promise<{ readonly id: string; readonly userId: string }> => {
  const userId = `by-${coordination}-${crypto.randomUUID().slice(0, 8)}`
  await post("user", "/users", { id: userId, name: "Ann", email: "ann@example.org", balance })
  const body = { userId, items: [{ productId: "kettle", quantity: 1 }], coordination, ...how }
  return { ...(await post<OrderView>("order", "/orders", body, "")), userId }
}

const waiting = async (id: string): Promise<Date | null | undefined> => {
  const rows = await inDatabase(
    "payments",
    (sql) => sql<Array<{ due_at: Date | null }>>`select due_at from delayed_commands where order_id = ${id}`
  )
  return rows[0]?.due_at
}
const fallsDue = async (id: string): Promise<void> => {
  await inDatabase("payments", (sql) => sql`update delayed_commands set due_at = now() where order_id = ${id}`)
  await until("what was put aside", 10_000, async () => (await waiting(id)) === null)
}
const entriesOf = (id: string) =>
  inDatabase("payments", (sql) => sql`select kind, amount from ledger where order_id = ${id} order by position`)
const chargesOf = async (id: string) => {
  const response = await fetch(`${processor.url}/charges`, { signal: AbortSignal.timeout(10_000) })
  const { items } = await bodyOf<{ items: ReadonlyArray<{ readonly key: string }> }>(response)
  return items.filter(({ key }) => key === `charge:${id}`)
}
const balanceOf = async (id: string) => (await get<{ balance: number }>("user", `/users/${id}`)).balance
const stock = async () => (await get<{ quantity: number }>("product", "/products/kettle")).quantity

/** Who asks for the payment, with what; and what says that it did not come in time, as if that were so. */
const asking = {
  orchestration: {
    by: "sagas",
    type: "ProcessPaymentCommand",
    again: (id: string) =>
      inDatabase("sagas", (sql) => sql`update sagas set deadline = now(), due_at = now() where id = ${id}`)
  },
  choreography: {
    by: "products",
    type: "ProductReservedEvent",
    again: (id: string) => inDatabase("orders", (sql) => sql`update orders set due_at = now() where id = ${id}`)
  }
} as const

const decidedTwice = async (id: string, coordination: Style): Promise<boolean> => {
  const { by, type } = asking[coordination]
  const asked = await inDatabase(
    by,
    (sql) => sql<Array<{ id: string }>>`select id from outbox where key = ${id} and type = ${type}`
  )
  if (asked.length < 2) return false
  const ids = asked.map((message) => message.id)
  const seen = await inDatabase("payments", (sql) => sql`select from inbox where message_id in ${sql(ids)}`)
  return seen.length === ids.length
}

for (const coordination of ["orchestration", "choreography"] as const) {
  test(`is asked again, and takes the money once when it answers (${coordination})`, async () => {
    const before = await stock()
    const { id, userId } = await placed(coordination)
    await until("the payment", 10_000, async () => (await waiting(id)) instanceof Date)
    const due = await waiting(id)

    await asking[coordination].again(id)
    await until("the payment, asked for again", 10_000, () => decidedTwice(id, coordination))
    await Effect.runPromise(embedded.stop("payment"))
    await Effect.runPromise(embedded.start("payment"))

    expect(await waiting(id)).toEqual(due as Date)
    expect((await send("GET", "payment", `/payments/${id}`)).status).toBe(404)
    expect(await get("order", `/orders/${id}`)).toMatchObject({ status: "CREATED" })

    await fallsDue(id)

    expect(await ended(id)).toMatchObject({ state: "COMPLETED", coordination })
    expect(await get("order", `/orders/${id}`)).toMatchObject({ status: "APPROVED", total: price })
    expect([...(await entriesOf(id))]).toEqual([{ kind: "PAYMENT", amount: -price }])
    expect(await stock()).toBe(before - 1)
    await until("the balance", 10_000, async () => (await balanceOf(userId)) === balance - price)
  })

  test(`takes nothing for an order that was cancelled meanwhile (${coordination})`, async () => {
    const before = await stock()
    const { id, userId } = await placed(coordination)
    await until("the payment", 10_000, async () => (await waiting(id)) instanceof Date)

    expect((await send("POST", "order", `/orders/${id}/cancel`)).status).toBe(202)
    expect(await ended(id)).toMatchObject({ state: "COMPENSATED", coordination })
    await fallsDue(id)

    expect(await get("order", `/orders/${id}`)).toMatchObject({ status: "REJECTED", reason: "USER_CANCELLED" })
    expect(await get("payment", `/payments/${id}`)).toMatchObject({ status: "CANCELLED" })
    expect([...(await entriesOf(id))]).toEqual([])
    expect(await stock()).toBe(before)
    expect(await balanceOf(userId)).toBe(balance)
  })

  test(`charges a card once, when it gets to it (${coordination})`, async () => {
    const { id, userId } = await placed(coordination, { payment: { method: "card", card: "card-1" } })
    await until("the payment", 10_000, async () => (await waiting(id)) instanceof Date)

    await fallsDue(id)

    expect(await ended(id)).toMatchObject({ state: "COMPLETED", coordination })
    expect(await chargesOf(id)).toMatchObject([{ status: "CHARGED", amount: price }])
    expect(await balanceOf(userId)).toBe(balance)
  })
}
