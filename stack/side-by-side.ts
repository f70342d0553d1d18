/**
 * The same load in both styles: orders that pay first, of which the payment of one in five fails and the stock of one in ten.
 * Which ones is decided by a hash of the order's id, not by chance.
 */
import { connect } from "oncebox"
import type { Embedded } from "./embedded.ts"
import { urlOf } from "./fixture.ts"
import { until } from "./wait.ts"

const orderCount = 60
const price = 100
const funds = 1_000_000
const quantity = 1_000

interface Row {
  readonly coordination: string
  readonly approved: number
  readonly paymentFailed: number
  readonly stockFailed: number
  readonly ms: number
  /** Stock and money are what the approved orders left. */
  readonly addsUp: boolean
}

const json = async <A>(url: string, body?: object): Promise<A> => {
  const response = await fetch(url, {
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
    headers: { "content-type": "application/json", prefer: "wait=20" },
    signal: AbortSignal.timeout(30_000)
  })
  // Our own services' answers, in the form that their contracts promise.
  return (await response.json()) as A
}

const failing = async (embedded: Embedded, database: string, step: string, percent: number): Promise<void> => {
  const sql = connect(embedded.owner(database), { name: "side by side", max: 1 })
  try {
    await sql`
      insert into failure_rules (step, percent, seed)
      values (${step}, ${percent}, 'demo')
      on conflict (step) do update set percent = excluded.percent`
  } finally {
    await sql.end({ timeout: 2 })
  }
}

const runIn = async (embedded: Embedded, coordination: string): Promise<Row> => {
  const id = `side-${coordination}`
  await Promise.all([
    json(`${urlOf(embedded, "product")}/products`, { id, name: "Cup", price, quantity }),
    json(`${urlOf(embedded, "user")}/users`, { id, name: "Dora", email: "dora@example.org", balance: funds })
  ])
  const since = performance.now()
  const order = { userId: id, items: [{ productId: id, quantity: 1 }], coordination, definition: "pay-first" }
  const orders = await Promise.all(
    Array.from({ length: orderCount }, () =>
      json<{ id: string; status: string }>(`${urlOf(embedded, "order")}/orders`, order)
    )
  )
  await until("the sagas' ends", 30_000, async () => {
    const sagas = await Promise.all(
      orders.map((one) => json<{ endedAt: string | null }>(`${urlOf(embedded, "orchestrator")}/sagas/${one.id}`))
    )
    return sagas.every(({ endedAt }) => endedAt !== null)
  })
  const ms = Math.round(performance.now() - since)
  const payments = await Promise.all(
    orders.map((one) => json<{ status: string }>(`${urlOf(embedded, "payment")}/payments/${one.id}`))
  )
  const count = (status: string): number => payments.filter((payment) => payment.status === status).length
  const approved = orders.filter(({ status }) => status === "APPROVED").length
  const left = await json<{ quantity: number }>(`${urlOf(embedded, "product")}/products/${id}`)
  const paid = await until("the balance", 5_000, async () => {
    const { balance } = await json<{ balance: number }>(`${urlOf(embedded, "user")}/users/${id}`)
    return balance === funds - approved * price
  }).then(
    () => true,
    () => false
  )
  return {
    coordination,
    approved,
    paymentFailed: count("FAILED"),
    stockFailed: count("REFUNDED"),
    ms,
    addsUp: paid && left.quantity === quantity - approved && count("PROCESSED") === approved
  }
}

const rules = async (
  embedded: Embedded,
  percent: { readonly pay: number; readonly reserve: number }
): Promise<void> => {
  await failing(embedded, "payments", "pay", percent.pay)
  await failing(embedded, "products", "reserve", percent.reserve)
}

/** Runs both; says how they went. True when all adds up. */
export const sideBySide = async (embedded: Embedded): Promise<boolean> => {
  await rules(embedded, { pay: 20, reserve: 10 })
  const rows = [await runIn(embedded, "orchestration"), await runIn(embedded, "choreography")]
  await rules(embedded, { pay: 0, reserve: 0 })
  console.log(`\n  ${"".padEnd(14)} approved  payment failed  stock failed, refunded     all`)
  for (const { coordination, approved, paymentFailed, stockFailed, ms, addsUp } of rows)
    console.log(
      `  ${coordination.padEnd(14)} ${String(approved).padStart(8)}  ${String(paymentFailed).padStart(14)}  ${String(stockFailed).padStart(22)}  ${String(ms).padStart(4)} ms  ${addsUp ? "✓ adds up" : "✗ DOES NOT ADD UP"}`
    )
  return rows.every(({ addsUp }) => addsUp)
}
