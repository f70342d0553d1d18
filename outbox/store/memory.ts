/**
 * The memory store: the same promises as Postgres within one process, for tests and the simulator.
 * Transactions run one after the other, so what one reads no other changes.
 */
import { Clock, Effect, Layer, Semaphore } from "effect"
import { discardLetters, firstParked, groupLetters, inOrder, listLetters, park } from "./memory-letters.ts"
import {
  KeyTaken,
  RowRefused,
  Store,
  type Load,
  type Opening,
  type StoredDeadLetter,
  type StoreLane,
  type Transaction,
  type Writes
} from "./store.ts"
import { calls } from "./calls.ts"
import { askFor, refusedCall, takeAndPostpone } from "./memory-calls.ts"
import type { OutboxMessage } from "../message.ts"
import { keyOf, type AnyTable } from "../table.ts"
import type { InboxWindow } from "./inbox.ts"

/** What the store holds; tests may look into it and make it fail. */
export interface MemoryDatabase {
  readonly tables: Map<string, Map<string, object>>
  readonly logs: Map<string, Array<object>>
  readonly inbox: Map<string, Set<string>>
  readonly deadLetters: Map<string, Map<string, StoredDeadLetter>>
  readonly outbox: Array<OutboxMessage>
  /** Plays the part of the tables' constraints: a text is the reason why a row is refused. */
  refuses: (table: string, row: object) => string | undefined
}

export const emptyDatabase = (): MemoryDatabase => ({
  tables: new Map(),
  logs: new Map(),
  inbox: new Map(),
  deadLetters: new Map(),
  outbox: [],
  refuses: () => undefined
})

const day = 86_400_000

const entry = <K, V>(map: Map<K, V>, key: K, make: () => V): V => {
  const found = map.get(key)
  if (found !== undefined) return found
  const made = make()
  map.set(key, made)
  return made
}

export const layerMemory = (
  database: MemoryDatabase = emptyDatabase(),
  window: InboxWindow = { slotMs: day, slots: 8 }
): Layer.Layer<Store> =>
  Layer.effect(
    Store,
    Effect.gen(function* () {
      const turn = yield* Semaphore.make(1)
      return Store.of({
        window,
        lane: () => Effect.succeed(memoryLane(database, turn)),
        callsLane: () => {
          const { take, postpone } = takeAndPostpone(() => callsOf(database))
          const alone = turn.withPermit
          return Effect.succeed({
            ...memoryLane(database, turn),
            take: (kind, limit, leaseMs) => alone(take(kind, limit, leaseMs)),
            postpone: (postponed) => alone(postpone(postponed))
          })
        },
        deadLetters: (consumer, filter) =>
          Effect.sync(() => {
            const letters = inOrder(lettersOf(database, consumer))
            const wanted =
              filter.ids === undefined ? letters : letters.filter((letter) => filter.ids?.includes(letter.id))
            return wanted.slice(0, filter.limit)
          }),
        listLetters: (consumer, query) => Effect.sync(() => listLetters(lettersOf(database, consumer), query)),
        groupLetters: (consumer, query) => Effect.sync(() => groupLetters(lettersOf(database, consumer), query)),
        discardLetters: (consumer, ids, note) =>
          turn.withPermit(
            Effect.map(Clock.currentTimeMillis, (now) =>
              discardLetters(lettersOf(database, consumer), ids, note, new Date(now))
            )
          ),
        nextDue: (table) =>
          Effect.sync(() => {
            const dues = rowsOf(database, table)
              .map(dueAt)
              .filter((due) => due !== null)
            return dues.length === 0 ? null : new Date(Math.min(...dues.map((due) => due.getTime())))
          })
      })
    })
  )

const lettersOf = (database: MemoryDatabase, consumer: string) =>
  entry(database.deadLetters, consumer, () => new Map<string, StoredDeadLetter>())

const rowsOf = (database: MemoryDatabase, table: AnyTable): ReadonlyArray<object> => [
  ...(database.tables.get(table.name)?.values() ?? [])
]

export const callsOf = (database: MemoryDatabase) => entry(database.tables, calls.name, () => new Map<string, object>())

const dueAt = (row: object): Date | null => ("due_at" in row && row.due_at instanceof Date ? row.due_at : null)

/** A lane whose transactions are open as many at a time as `turn` permits. */
export const memoryLane = (database: MemoryDatabase, turn: Semaphore.Semaphore): StoreLane => ({
  begin: (opening: Opening) =>
    Effect.map(Effect.andThen(turn.take(1), Clock.currentTimeMillis), (now) => {
      const transaction = begun(database, opening, new Date(now))
      let open = true
      const end = Effect.suspend(() => {
        if (!open) return Effect.void
        open = false
        return Effect.asVoid(turn.release(1))
      })
      return {
        ...transaction,
        rollback: end,
        commit: (writes) => Effect.ensuring(transaction.commit(writes), end)
      }
    })
})

/** A transaction that nobody waits for: what others commit meanwhile is there for it, too. */
export const begun = (database: MemoryDatabase, opening: Opening, now: Date): Transaction => {
  const inbox = entry(database.inbox, opening.consumer, () => new Set<string>())
  const letters = lettersOf(database, opening.consumer)
  const unparked = new Set(opening.unpark.filter((id) => letters.get(id)?.discardedAt === null))
  const kept = unparked.size === 0 ? letters : new Map([...letters].filter(([id]) => !unparked.has(id)))
  const claimed = new Set(opening.claims.map(({ id }) => id).filter((id) => !inbox.has(id) && !kept.has(id)))
  const load = (loads: ReadonlyArray<Load>) =>
    loads.map(({ table, keys }) => {
      const rows = database.tables.get(table.name)
      return keys.flatMap((key) => rows?.get(key) ?? [])
    })
  return {
    now,
    claimed,
    settled: new Set(opening.parking.filter((id) => inbox.has(id) || letters.has(id))),
    parkedKeys: firstParked(kept, opening.parkedKeys),
    due: opening.due === undefined ? [] : dueRows(database, opening.due, now),
    rows: load(opening.loads),
    load: (loads) => Effect.sync(() => load(loads)),
    rollback: Effect.void,
    commit: (writes) =>
      Effect.suspend((): Effect.Effect<void, KeyTaken | RowRefused> => {
        const refused = refusal(database, writes) ?? refusedCall(database.tables.get(calls.name), writes.calls)
        if (refused !== undefined) return Effect.fail(refused)
        for (const id of unparked) letters.delete(id)
        for (const id of claimed) inbox.add(id)
        for (const letter of writes.parked) if (!inbox.has(letter.id)) park(letters, letter, now)
        for (const { table, inserts, updates } of writes.changes) {
          if (table.kind === "log") entry(database.logs, table.name, () => []).push(...inserts)
          else {
            const rows = entry(database.tables, table.name, () => new Map<string, object>())
            for (const row of [...inserts, ...updates]) rows.set(keyOf(table, row), row)
          }
        }
        askFor(callsOf(database), writes.calls, now)
        database.outbox.push(...writes.outbox)
        return Effect.void
      })
  }
}

const dueRows = (database: MemoryDatabase, due: NonNullable<Opening["due"]>, now: Date): ReadonlyArray<object> =>
  rowsOf(database, due.table)
    .filter((row) => (dueAt(row) ?? new Date(8.64e15)) <= now && !due.skip.includes(keyOf(due.table, row)))
    .sort((a, b) => (dueAt(a)?.getTime() ?? 0) - (dueAt(b)?.getTime() ?? 0))
    .slice(0, due.limit)

const refusal = (database: MemoryDatabase, writes: Writes): KeyTaken | RowRefused | undefined => {
  for (const { table, inserts, updates } of writes.changes) {
    for (const row of [...inserts, ...updates]) {
      const message = database.refuses(table.name, row)
      if (message !== undefined) return new RowRefused({ table: table.name, message })
    }
    if (table.kind === "log") continue
    for (const row of inserts)
      if (database.tables.get(table.name)?.has(keyOf(table, row))) return new KeyTaken({ table: table.name })
  }
  return undefined
}
