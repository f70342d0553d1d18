/**
 * A participant's database in a simulation: the memory store, with transactions that overlap as Postgres lets them. Rows
 * that exist are locked when they are loaded, rows that don't are not. Whoever would have to wait gives up and tries again
 * later: in a simulation everything happens at one moment, and nobody could let go meanwhile.
 */
import { Clock, Effect } from "effect"
import { begun, type MemoryDatabase } from "../../store/memory.ts"
import {
  StoreUnavailable,
  type Load,
  type Opening,
  type StoreLane,
  type Transaction,
  type Writes
} from "../../store/store.ts"
import { keyOf, type AnyTable } from "../../table.ts"

/** What happens around a commit; each may throw what ends the pass. */
export interface Around {
  readonly begun: () => void
  readonly before: (writes: Writes) => void
  readonly after: (writes: Writes) => Effect.Effect<void, StoreUnavailable>
}

interface Held {
  readonly claims: ReadonlySet<string>
  readonly rows: Set<object>
}

const locked = (what: string) => new StoreUnavailable({ message: `${what} is locked by another transaction` })

export const overlappingLane = (database: MemoryDatabase, around: () => Around): StoreLane => {
  const open = new Set<Held>()
  const others = (held: Held | undefined): ReadonlyArray<Held> => [...open].filter((other) => other !== held)
  const stored = (table: AnyTable, key: string): object | undefined => database.tables.get(table.name)?.get(key)

  const lockRows = (held: Held, loads: ReadonlyArray<Load>): string | undefined => {
    const competing = others(held)
    for (const { table, keys } of loads) {
      if (table.kind === "reference") continue
      for (const key of keys) {
        const row = stored(table, key)
        if (row === undefined) continue
        if (competing.some(({ rows }) => rows.has(row))) return `${table.name} ${key}`
        held.rows.add(row)
      }
    }
    return undefined
  }

  return {
    begin: (opening: Opening) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const held: Held = { claims: new Set(opening.claims.map(({ id }) => id)), rows: new Set() }
        const competing = others(held)
        const claimed = opening.claims.find(({ id }) => competing.some(({ claims }) => claims.has(id)))
        const busy = claimed === undefined ? lockRows(held, opening.loads) : `the claim of ${claimed.id}`
        if (busy !== undefined) return Effect.fail(locked(busy))
        const transaction = begun(database, opening, new Date(now))
        const due = transaction.due.filter((row) => !competing.some(({ rows }) => rows.has(row)))
        for (const row of due) held.rows.add(row)
        open.add(held)
        around().begun()
        const close = Effect.sync(() => open.delete(held))
        return Effect.succeed<Transaction>({
          ...transaction,
          due,
          load: (loads) =>
            Effect.suspend(() => {
              const taken = lockRows(held, loads)
              return taken === undefined ? transaction.load(loads) : Effect.fail(locked(taken))
            }),
          rollback: close,
          commit: (writes) =>
            Effect.suspend(() => {
              const { before, after } = around()
              before(writes)
              return Effect.flatMap(Effect.ensuring(transaction.commit(writes), close), () => after(writes))
            })
        })
      })
  }
}

/** The row as it is stored, before a pass writes it. */
export const storedRow = (database: MemoryDatabase, table: AnyTable, row: object): object | undefined =>
  database.tables.get(table.name)?.get(keyOf(table, row))
