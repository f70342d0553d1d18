/** Reads what the checks look at, from the six databases and the topics, and waits until nothing moves any more. */
import { expect } from "bun:test"
import { Saga, type Coordination, type Sql } from "oncebox"
import { topicNamesOf } from "../../outbox/message.ts"
import { orders, ordersHistory } from "../order/order.ts"
import { placeOrder } from "../orchestrator/definitions.ts"
import { payments } from "../payment/outcome.ts"
import { accounts, ledger } from "../payment/payment.ts"
import { deposits as decidedDeposits } from "../payment/deposit.ts"
import { products, reservations } from "../product/product.ts"
import { shipments } from "../shipment/shipment.ts"
import { deposits as askedDeposits } from "../user/deposit.ts"
import { users } from "../user/user.ts"
import { SERVICE_NAMES, SERVICES } from "../../stack/supervise.ts"
import { text, until } from "../../stack/wait.ts"
import { violations } from "./checks.ts"
import type { Expected, Seen, Subscriber, World } from "./checks/check.ts"
import type { Plan, Planned } from "./orders.ts"
import { participants } from "./participants.ts"
import type { Stack } from "./stack.ts"
import { partitionOf } from "./tape.ts"

/** Who handles what, as the participants themselves declare it. */
export const subscribers: ReadonlyArray<Subscriber> = participants.flatMap(({ name, messages }) =>
  [...messages].flatMap(([{ topic, type }, { coordination }]) =>
    [...topicNamesOf(topic, undefined)].map((on) => ({ consumer: name, topic: on, type, coordination }))
  )
)

/** The participants' consumer groups and what they read. */
export const groups: ReadonlyArray<{ readonly group: string; readonly topics: ReadonlyArray<string> }> =
  participants.map(({ name, topics }) => ({ group: name, topics: [...topics.keys()] }))

interface Readable<Row extends object> {
  readonly name: string
  readonly columns: ReadonlyArray<string>
  readonly decode: (row: unknown) => Row
}

const rowsOf = async <Row extends object>(sql: Sql, table: Readable<Row>): Promise<ReadonlyArray<Row>> =>
  (await sql`select ${sql([...table.columns])} from ${sql(table.name)}`).map((row) => table.decode(row))

/** Every row of the services' own tables. */
export const readRows = (stack: Pick<Stack, "database">) => {
  const inOrders = stack.database("orders")
  const inProducts = stack.database("products")
  const inPayments = stack.database("payments")
  const inSagas = stack.database("sagas")
  return together({
    orders: rowsOf(inOrders, orders),
    history: rowsOf(inOrders, ordersHistory),
    products: rowsOf(inProducts, products),
    reservations: rowsOf(inProducts, reservations),
    accounts: rowsOf(inPayments, accounts),
    payments: rowsOf(inPayments, payments),
    ledger: rowsOf(inPayments, ledger),
    decidedDeposits: rowsOf(inPayments, decidedDeposits),
    askedDeposits: rowsOf(stack.database("users"), askedDeposits),
    users: rowsOf(stack.database("users"), users),
    shipments: rowsOf(stack.database("shipments"), shipments),
    sagas: rowsOf(inSagas, Saga.tables.sagas),
    sagaLog: rowsOf(inSagas, Saga.tables.saga_log)
  })
}

const together = async <T extends Readonly<Record<string, Promise<unknown>>>>(
  reads: T
): Promise<{ readonly [K in keyof T]: Awaited<T[K]> }> => {
  const entries = await Promise.all(Object.entries(reads).map(async ([name, read]) => [name, await read] as const))
  // each name keeps what its own promise brought
  return Object.fromEntries(entries) as { readonly [K in keyof T]: Awaited<T[K]> }
}

/** A message of an outbox, and whose it is. */
interface Stored {
  readonly id: string
  readonly topic: string
  readonly type: string
  readonly key: string
  readonly correlation: string
  readonly coordination: Coordination
}

const readMessages = async (stack: Stack) => {
  const databases = await Promise.all(
    SERVICE_NAMES.map(async (name) => {
      const sql = stack.database(SERVICES[name].database)
      const [outbox, inbox, letters] = await Promise.all([
        sql<Array<Stored>>`select id, topic, type, key, correlation, coordination from outbox`,
        sql<Array<Seen>>`select consumer, message_id as id from inbox`,
        sql<Array<Seen & { key: string; reason: string }>>`
          select consumer, message_id as id, coalesce(key, '') as key, reason || ' ' || detail as reason
          from dead_letters`
      ])
      return { outbox: [...outbox], inbox: [...inbox], letters: [...letters] }
    })
  )
  return {
    outbox: databases.flatMap(({ outbox }) => outbox),
    inbox: databases.flatMap(({ inbox }) => inbox),
    letters: databases.flatMap(({ letters }) => letters)
  }
}

/** What each participant has decided, or put aside, so far. */
export const readSeen = async (stack: Stack): Promise<ReadonlyArray<Seen>> => {
  const { inbox, letters } = await readMessages(stack)
  return [...inbox, ...letters]
}

/** Whether rows and messages of an order, a user or a product belong to a plan. */
const ownedBy = async (stack: Stack, { prefix }: Plan, placed: ReadonlyMap<string, Planned>) => {
  const like = `${prefix.replaceAll("_", "\\_")}%`
  const started = await stack.database("sagas")<Array<{ id: string }>>`
    select id from sagas where data ->> 'userId' like ${like}`
  const created = await stack.database("orders")<
    Array<{ id: string }>
  >`select id from orders where user_id like ${like}`
  const ids = new Set([...placed.keys(), ...[...started, ...created].map(({ id }) => id)])
  return (id: string): boolean => ids.has(id) || id.startsWith(prefix)
}

/** Everything of one plan. */
export const readWorld = async (stack: Stack, plan: Plan, placed: ReadonlyMap<string, Planned>): Promise<World> => {
  await stack.tape.caughtUp()
  const owned = await ownedBy(stack, plan, placed)
  const [rows, { outbox, inbox, letters }] = await Promise.all([readRows(stack), readMessages(stack)])
  const answer = await fetch(`${stack.processor.url}/charges`, { signal: AbortSignal.timeout(10_000) })
  // our own processor's record, in its own form
  const charges = (await answer.json()) as { readonly items: World["charges"] }
  const sent = outbox.filter(({ key, correlation }) => owned(key) || owned(correlation))
  return {
    orders: rows.orders.filter(({ id }) => owned(id)),
    history: rows.history.filter(({ order_id }) => owned(order_id)),
    products: rows.products.filter(({ id }) => owned(id)),
    reservations: rows.reservations.filter(({ order_id }) => owned(order_id)),
    accounts: rows.accounts.filter(({ user_id }) => owned(user_id)),
    payments: rows.payments.filter(({ order_id }) => owned(order_id)),
    ledger: rows.ledger.filter(({ user_id }) => owned(user_id)),
    users: rows.users.filter(({ id }) => owned(id)),
    shipments: rows.shipments.filter(({ order_id }) => owned(order_id)),
    sagas: rows.sagas.filter(({ id, data }) => owned(id) || owned(placeOrder.decode(data).userId)),
    sagaLog: rows.sagaLog.filter(({ saga_id }) => owned(saga_id)),
    outbox: sent,
    inbox,
    letters: letters.filter(({ key }) => owned(key)),
    records: stack.tape.records.filter(({ key }) => owned(key?.toString() ?? "")),
    charges: charges.items.filter(({ key }) => owned(key.replace(/^charge:/, "")))
  }
}

/** The rows of the services' tables, in an order of their own: what a repetition must not change. */
export const readState = async (stack: Stack): Promise<Readonly<Record<string, ReadonlyArray<string>>>> =>
  Object.fromEntries(
    Object.entries(await readRows(stack)).map(([table, rows]) => [table, rows.map((row) => JSON.stringify(row)).sort()])
  )

const settlesWithinMs = 90_000

/** How many of these orders have ended by now. */
export const endedOf = async (stack: Stack, placed: ReadonlyMap<string, Planned>): Promise<number> => {
  const found = await stack.database("orders")<Array<{ id: string }>>`
    select id
    from orders
    where id = any(array(select id::uuid from jsonb_array_elements_text(${JSON.stringify([...placed.keys()])}::text::jsonb) as ids(id)))
      and status in ('APPROVED', 'REJECTED')`
  return found.length
}

/** Returns when so many of these orders have ended; all of them without a number. */
export const ended = (stack: Stack, placed: ReadonlyMap<string, Planned>, count?: number): Promise<void> =>
  until("orders ended", settlesWithinMs, async () => {
    const found = await endedOf(stack, placed)
    if (found >= (count ?? placed.size)) return true
    throw new Error(`${found} of ${placed.size} have`)
  })

/** The ends of the topics; fails when a consumer group has yet to read what lies before them. */
const allRead = async (stack: Stack): Promise<ReadonlyMap<string, bigint>> => {
  const ends = await stack.tape.caughtUp()
  const behind = await stack.tape.admin(async (admin) => {
    const lags = await Promise.all(
      groups.map(async ({ group, topics }) =>
        (await admin.fetchOffsets({ groupId: group, topics: [...topics] })).flatMap(({ topic, partitions }) =>
          partitions.flatMap(({ partition, offset }) => {
            const end = ends.get(partitionOf({ topic, partition })) ?? 0n
            return BigInt(offset) >= end || end === 0n
              ? []
              : [`${group} at ${offset} of ${end} of ${topic}/${partition}`]
          })
        )
      )
    )
    return lags.flat()
  })
  if (behind.length > 0) throw new Error(behind.slice(0, 5).join("; "))
  return ends
}

/** Returns when the consumer groups have once read all that lay on the topics. */
export const consumed = (stack: Stack): Promise<void> =>
  until("consumed", settlesWithinMs, async () => (await allRead(stack)).size > 0, 250)

/** What the outboxes hold and no topic does. The outboxes are read last. */
export const unpublished = async (
  stack: Stack
): Promise<ReadonlyArray<{ readonly id: string; readonly type: string }>> => {
  const published = new Set(stack.tape.records.map(({ id }) => id))
  const { outbox } = await readMessages(stack)
  return outbox.filter(({ id }) => !published.has(id))
}

/**
 * Returns when all that the outboxes hold, but for what is lost, lies on the topics and all that lies there was consumed.
 * Nothing moves then but timers and new requests: the outboxes are read last, so what a pass sent before it let go of its
 * offsets is in it.
 */
export const quiet = (stack: Stack, withinMs = settlesWithinMs, lost: ReadonlySet<string> = new Set()): Promise<void> =>
  until("quiet", withinMs, async () => {
    const ends = await allRead(stack)
    const missing = (await unpublished(stack)).filter(({ id }) => !lost.has(id))
    if (missing.length > 0)
      throw new Error(`${missing.length} messages are not on their topics, such as ${missing[0]?.type}`)
    const [early] = await stack.database("sagas")<Array<{ waiting: number }>>`
      select count(*)::int as waiting from saga_early join sagas on id = saga_id where saga_early.due_at is not null`
    if (early?.waiting !== 0)
      throw new Error(`${early?.waiting} messages that came before their sagas wait to be looked at`)
    const now = await stack.tape.caughtUp()
    return [...now].every(([partition, end]) => ends.get(partition) === end)
  })

/** Waits for the orders' ends and for quiet, and holds all checks against what is there then. */
export const expectExactlyOnce = async (
  stack: Stack,
  plan: Plan,
  placed: ReadonlyMap<string, Planned>
): Promise<World> => {
  // what is wrong is told by the checks, in more words
  await ended(stack, placed).catch((cause: unknown) => console.error(text(cause)))
  await quiet(stack)
  const world = await readWorld(stack, plan, placed)
  const expected: Expected = { plan, placed, subscribers }
  expect(violations(world, expected)).toEqual({})
  expect(placed.size).toBe(plan.orders.length)
  return world
}
