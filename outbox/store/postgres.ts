/** The Postgres store: lanes with a connection each, and a pool for what is asked beside them. */
import { Effect, Layer, Semaphore } from "effect"
import type { ConnectionOptions } from "./connection.ts"
import { discardLetters, groupLetters, listLetters, readLetters } from "./letters.ts"
import { Pool } from "./pool.ts"
import { Lane } from "./postgres-lane.ts"
import { statementsOf } from "./statements.ts"
import { Store, StoreUnavailable, type CallsLane, type StoreError, type Transaction } from "./store.ts"
import type { AnyTable } from "../table.ts"
import type { InboxWindow } from "./inbox.ts"

export const layerPostgres = (options: ConnectionOptions, name: string): Layer.Layer<Store, StoreUnavailable> =>
  Layer.effect(
    Store,
    Effect.gen(function* () {
      const pool = yield* Effect.acquireRelease(
        Effect.sync(() => new Pool(options, { name: `${name} store`, max: 2 })),
        (opened) => Effect.promise(() => opened.close())
      )
      const window = yield* preparePartitions(pool)
      // three slots stand ahead, so a quarter of a slot is early enough; an hour keeps it out of the way
      const pause = Math.max(250, Math.min(window.slotMs / 4, 3_600_000))
      yield* preparePartitions(pool).pipe(Effect.ignore, Effect.delay(pause), Effect.forever, Effect.forkScoped)
      return Store.of({
        window,
        lane: (laneName, tables) => openLane(options, `${name} ${laneName}`, tables, pool),
        callsLane: (laneName, tables) => openLane(options, `${name} ${laneName}`, tables, pool),
        deadLetters: (consumer, filter) => pool.use((sql) => readLetters(sql, consumer, filter)),
        listLetters: (consumer, query) => pool.use((sql) => listLetters(sql, consumer, query)),
        groupLetters: (consumer, query) => pool.use((sql) => groupLetters(sql, consumer, query)),
        discardLetters: (consumer, ids, note) => pool.use((sql) => discardLetters(sql, consumer, ids, note)),
        nextDue: (table) =>
          pool.use(async (sql) => {
            const [row] = await sql<
              Array<{ due_at: Date | null }>
            >`select min(due_at) as due_at from ${sql(table.name)}`
            return row?.due_at ?? null
          })
      })
    })
  )

const preparePartitions = (pool: Pool): Effect.Effect<InboxWindow, StoreUnavailable> =>
  pool.use(async (sql) => {
    await sql`select oncebox_prepare_partitions()`
    const [settings] = await sql<
      Array<{ slot_ms: number; inbox_slots: number }>
    >`select slot_ms, inbox_slots from oncebox_settings`
    if (settings === undefined) throw new Error("oncebox_settings is empty: run the library's migrations")
    return { slotMs: settings.slot_ms, slots: settings.inbox_slots }
  })

const openLane = Effect.fnUntraced(function* (
  options: ConnectionOptions,
  name: string,
  tables: ReadonlyArray<AnyTable>,
  pool: Pool
) {
  const statements = yield* pool
    .use((sql) => statementsOf(sql, tables))
    .pipe(
      Effect.flatMap((found) =>
        "missing" in found
          ? Effect.fail(new StoreUnavailable({ message: found.missing }))
          : Effect.succeed(found.statements)
      )
    )
  const lane = new Lane(options, name, statements, preparePartitions(pool))
  yield* Effect.addFinalizer(() => Effect.promise(() => lane.close()))
  const turn = yield* Semaphore.make(1)
  return {
    begin: (opening) => inTurn(turn, lane.begin(opening)),
    take: (kind, limit, leaseMs) => turn.withPermit(lane.take(kind, limit, leaseMs)),
    postpone: (calls) => turn.withPermit(lane.postpone(calls))
  } satisfies CallsLane
})

/** One transaction at a time: another that is asked for meanwhile waits for the end of this one. */
const inTurn = Effect.fnUntraced(function* (
  turn: Semaphore.Semaphore,
  begin: Effect.Effect<Transaction, StoreError>
): Effect.fn.Return<Transaction, StoreError> {
  yield* turn.take(1)
  let mine = true
  const end = Effect.suspend(() => {
    if (!mine) return Effect.void
    mine = false
    return Effect.asVoid(turn.release(1))
  })
  const transaction = yield* begin.pipe(Effect.onError(() => end))
  return {
    ...transaction,
    commit: (writes) => transaction.commit(writes).pipe(Effect.ensuring(end)),
    rollback: transaction.rollback.pipe(Effect.ensuring(end))
  }
})
