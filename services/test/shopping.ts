/** Small plans for tests that tell a story, how their orders are placed one after the other, and what is left of them. */
import { until } from "../../stack/wait.ts"
import type { ServiceName } from "../../stack/supervise.ts"
import type { Answer, Outcome, Plan, Planned } from "./orders.ts"
import type { Stack } from "./stack.ts"

export const approved: Outcome = { status: "APPROVED" }
export const rejected = (reason: string): Outcome => ({ status: "REJECTED", reason })

export interface Shopping extends Pick<Planned["body"], "coordination" | "definition" | "payment"> {
  readonly user: string
  /** How many of what. */
  readonly items: Readonly<Record<string, number>>
  readonly outcome?: Outcome
  readonly entry?: Planned["entry"]
}

/** A plan whose products have a price and a stock, and whose users have a balance. */
export const shopping = (
  name: string,
  shop: {
    readonly products: Readonly<Record<string, readonly [price: number, stock: number]>>
    readonly users: Readonly<Record<string, number>>
    readonly refused?: ReadonlyArray<string>
    readonly orders: ReadonlyArray<Shopping>
  }
): Plan => {
  const prefix = `${name}_`
  return {
    prefix,
    products: Object.entries(shop.products).map(([id, [price, quantity]]) => ({ id: prefix + id, price, quantity })),
    accounts: Object.entries(shop.users).map(([id, balance]) => ({ id: prefix + id, balance })),
    refused: (shop.refused ?? []).map((id) => prefix + id),
    orders: shop.orders.map(({ user, items, outcome = approved, entry = "order", ...style }, n) => ({
      key: `${prefix}${n}`,
      entry,
      body: {
        userId: prefix + user,
        items: Object.entries(items).map(([id, quantity]) => ({ productId: prefix + id, quantity })),
        ...style
      },
      outcome,
      posts: 1
    }))
  }
}

export const nth = (plan: Plan, index: number): Planned => {
  const order = plan.orders[index]
  if (order === undefined) throw new Error(`${plan.prefix} has no order ${index}`)
  return order
}

/** An answer with what a client looks at besides. */
export interface Reply extends Answer {
  readonly etag: string
}

/** One request to a service. */
export const ask = async (
  stack: Stack,
  method: "GET" | "POST" | "PUT" | "DELETE",
  service: ServiceName,
  path: string,
  { body, headers = {} }: { readonly body?: object; readonly headers?: Readonly<Record<string, string>> } = {}
): Promise<Reply> => {
  const response = await fetch(stack.service(service).url + path, {
    method,
    headers: { "content-type": "application/json", ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(40_000)
  })
  const said = await response.text()
  return {
    status: response.status,
    etag: response.headers.get("etag") ?? "",
    // What a service of ours answers is an object; the expectations find out what is in it.
    body: (said === "" ? {} : JSON.parse(said)) as Answer["body"]
  }
}

export const get = async (stack: Stack, service: ServiceName, path: string): Promise<Answer["body"]> => {
  const { status, body } = await ask(stack, "GET", service, path)
  if (status !== 200) throw new Error(`${service} ${path} answered ${status} ${JSON.stringify(body)}`)
  return body
}

/** Places the plan's orders one after the other, each when the one before has ended. */
export const shop = async (stack: Stack, plan: Plan) => {
  const placed = new Map<string, Planned>()
  for (const order of plan.orders) placed.set(await buy(stack, order), order)
  return { placed, ids: [...placed.keys()] }
}

/** Places one order, waits for its outcome and answers its id. */
const buy = async (stack: Stack, { entry, key, body }: Planned): Promise<string> => {
  const headers = { prefer: "wait=30", "idempotency-key": key }
  const { status, body: said } = await ask(stack, "POST", entry, "/orders", { body, headers })
  if (status !== 200) throw new Error(`${key} was answered with ${status} ${JSON.stringify(said)}`)
  return String(said["id"])
}

const happensWithinMs = 30_000

export const waitFor = (what: string, probe: () => boolean | Promise<boolean>): Promise<void> =>
  until(what, happensWithinMs, probe)

/** Waits until the order's saga is at a step. */
export const isAt = (stack: Stack, id: string, state: string, step: string): Promise<void> =>
  waitFor(`saga ${id} ${state} at ${step}`, async () => {
    const [saga] = await stack.database("sagas")<Array<{ state: string; step: string }>>`
      select state, step from sagas where id = ${id}`
    if (saga?.state === state && saga.step === step) return true
    throw new Error(`it is ${saga?.state} at ${saga?.step}`)
  })

/** How many of each of the plan's products are for sale, by their names in it. */
export const stockOf = (stack: Stack, plan: Plan) =>
  byName(stack, plan, plan.products, "product", "products", "quantity")

/** What each of the plan's users has, as the user service tells it. */
export const balancesOf = (stack: Stack, plan: Plan) => byName(stack, plan, plan.accounts, "user", "users", "balance")

const byName = async (
  stack: Stack,
  { prefix }: Plan,
  things: ReadonlyArray<{ readonly id: string }>,
  service: ServiceName,
  path: string,
  field: string
): Promise<Readonly<Record<string, unknown>>> =>
  Object.fromEntries(
    await Promise.all(
      things.map(
        async ({ id }) => [id.slice(prefix.length), (await get(stack, service, `/${path}/${id}`))[field]] as const
      )
    )
  )

/** The order's rows, by table: what became of it, without times. Null where there is no row. */
export const rowsOf = async (stack: Stack, id: string) => {
  const orders = stack.database("orders")
  const payments = stack.database("payments")
  const [order, history, reservation, payment, ledger, shipment, saga] = await Promise.all([
    orders`select status, reason, total from orders where id = ${id}`,
    orders<Array<{ status: string }>>`select status from orders_history where order_id = ${id} order by at`,
    stack.database("products")`select status, reason, total from reservations where order_id = ${id}`,
    payments`select status, reason, amount from payments where order_id = ${id}`,
    payments<Array<{ amount: number }>>`select amount from ledger where order_id = ${id} order by position`,
    stack.database("shipments")`select status, reason from shipments where order_id = ${id}`,
    stack.database("sagas")`select definition, coordination, state, reason from sagas where id = ${id}`
  ])
  return {
    orders: order[0] ?? null,
    orders_history: history.map(({ status }) => status),
    reservations: reservation[0] ?? null,
    payments: payment[0] ?? null,
    ledger: ledger.map(({ amount }) => amount),
    shipments: shipment[0] ?? null,
    sagas: saga[0] ?? null
  }
}

type Style = Required<Pick<Shopping, "coordination" | "definition">>
const asUsual: Style = { coordination: "orchestration", definition: "place-order" }

/** The rows of an order that was approved. */
export const approvedRows = (total: number, style: Style = asUsual) => ({
  orders: { status: "APPROVED", reason: null, total },
  orders_history: ["CREATED", "APPROVED"],
  reservations: { status: "RESERVED", reason: null, total },
  payments: { status: "PROCESSED", reason: null, amount: total },
  ledger: [-total],
  shipments: { status: "CREATED", reason: null },
  sagas: { ...style, state: "COMPLETED", reason: null }
})

/** The rows of an order that was rejected before anything was done for it; `rows` are those of what was done. */
export const rejectedRows = (reason: string, rows: object, style: Style = asUsual) => ({
  orders: { status: "REJECTED", reason, total: null },
  orders_history: ["CREATED", "REJECTED"],
  reservations: null,
  payments: null,
  ledger: [],
  shipments: null,
  sagas: { ...style, state: "COMPENSATED", reason },
  ...rows
})
