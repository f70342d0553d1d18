/**
 * A hop on real Postgres: a batch of records read, claimed, decided and committed with their answers, by the production pass.
 * The CPU of Postgres counts, too. It is compared with the least that a hop could be: the same rows in one statement by hand,
 * with no library, in batches of 50.
 */
import { mkdirSync } from "node:fs"
import { Effect, type Scope } from "effect"
import { connect, layerPostgres, Store, type Sql } from "oncebox"
import { contextOf } from "../../outbox/lanes/lane.ts"
import { decide, readerOf } from "../../outbox/lanes/topics.ts"
import { product } from "../../services/product/product.ts"
import { startDatabase } from "../embedded.ts"
import { provision } from "../../services/shell/provision.ts"
import { textsOf } from "../../outbox/store/arrays.ts"
import { readLedger } from "../ledger.ts"
import { cpuSecondsOf } from "../load/usage.ts"
import { ownCpu, type Bench, type Cost } from "./measure.ts"
import { newOrders, products, recordsOf, reserve } from "./records.ts"

const batches = [1, 10, 50, 200]
/** About a second of work at each size; /proc tells CPU in hundredths. */
const messagesAt: Readonly<Record<number, number>> = { 1: 1_500, 10: 8_000, 50: 15_000, 200: 20_000 }
const byHandBatch = 50
const nameOf = (batch: number): string => `hop of ${batch}`

export const hopNames: ReadonlyArray<string> = batches.map(nameOf)

/** The benches, with a Postgres that lives as long as the scope. */
export const hopsIn = Effect.fnUntraced(function* (
  dir: string
): Effect.fn.Return<ReadonlyArray<Bench>, Error, Scope.Scope> {
  mkdirSync(dir, { recursive: true })
  const { port, passwords } = yield* startDatabase(dir)
  const host = "127.0.0.1"
  yield* Effect.promise(() => provision({ host, port, passwords }))
  const owner = { host, port, database: "products", username: "oncebox_owner", password: passwords.owner }
  const sql = yield* Effect.acquireRelease(
    Effect.sync(() => connect(owner, { name: "bench", max: 1 })),
    (open) => Effect.promise(() => open.end({ timeout: 1 }))
  )
  yield* Effect.promise(async () => {
    // what earlier runs wrote would only grow
    await sql`truncate inbox, outbox, reservations, products`
    await sql`insert into products ${sql(products.map((row) => ({ ...row })))}`
    await byHandTables(sql)
  })
  const store = yield* Effect.provide(Store, layerPostgres(owner, "bench"))
  const lane = yield* store.lane("bench", Object.values(product.tables))
  const context = contextOf(product, store.window)
  const reader = readerOf(context)
  const processes = readLedger(dir).processes
  const cpu = async (run: () => Promise<void>): Promise<number> => {
    const postgres = () => [...cpuSecondsOf(processes).values()].reduce((sum, seconds) => sum + seconds, 0)
    const before = postgres()
    const own = await ownCpu(run)
    return own + postgres() - before
  }

  const byHand = async (): Promise<Cost> => {
    const units = 15_000
    const all = Array.from({ length: units / byHandBatch }, () => newOrders(byHandBatch))
    return {
      units,
      seconds: await cpu(async () => {
        for (const orders of all) await hopByHand(sql, orders)
      })
    }
  }
  const work = (batch: number) => async (): Promise<Cost> => {
    const units = messagesAt[batch] ?? 0
    const records = recordsOf(newOrders(units), reserve)
    const seconds = await cpu(async () => {
      for (let at = 0; at < units; at += batch) {
        const outcomes = await Effect.runPromise(decide(context, lane, reader, records.slice(at, at + batch)))
        if (outcomes.some(({ _tag }) => _tag !== "done")) throw new Error("a message was not decided")
      }
    })
    return { units, seconds }
  }
  return batches.map((batch) => ({ name: nameOf(batch), unit: "message", work: work(batch), reference: byHand }))
})

const byHandTables = async (sql: Sql): Promise<void> => {
  await sql.unsafe(`
    drop table if exists bench_inbox, bench_reservations, bench_outbox;
    create table bench_inbox (message_id uuid primary key);
    create table bench_reservations (order_id uuid primary key, product_id text not null);
    create table bench_outbox (id uuid not null, key text not null, payload jsonb not null)`)
}

/** Claims, takes from the stock, reserves and answers, with the library's guarantees and none of its checks. */
const hopByHand = async (sql: Sql, orders: ReadonlyArray<string>): Promise<void> => {
  const ids = orders.map(() => Bun.randomUUIDv7())
  const ofProducts = orders.map((_, n) => products[n % products.length]?.id ?? "")
  const answers = orders.map((orderId, n) =>
    JSON.stringify({ orderId, lines: [{ productId: ofProducts[n], quantity: 1 }] })
  )
  await sql`
    with fresh as (
      insert into bench_inbox select * from unnest(${textsOf(ids)}::uuid[]) on conflict do nothing returning message_id
    ), asked as (
      select id, order_id, product_id, answer
      from unnest(${textsOf(ids)}::uuid[], ${textsOf(orders)}::uuid[], ${textsOf(ofProducts)}::text[], ${textsOf(answers)}::text[])
        as r(id, order_id, product_id, answer)
      join fresh on message_id = id
    ), taken as (
      update products p set quantity = quantity - wanted
      from (select product_id, count(*) as wanted from asked group by 1 order by 1) w
      where p.id = w.product_id
    ), reserved as (
      insert into bench_reservations select order_id, product_id from asked
    )
    insert into bench_outbox select gen_random_uuid(), order_id::text, answer::jsonb from asked`
}
