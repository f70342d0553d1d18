/** The table `calls` in memory. */
import { Clock, Effect } from "effect"
import { calls, errorText, otherRequest } from "./calls.ts"
import { RowRefused, type CallsLane, type NewCall, type TakenCall } from "./store.ts"
import type { RowOf } from "../table.ts"

type Rows = Map<string, object>
type Row = RowOf<typeof calls>

/** Why one of the calls can't be asked for. */
export const refusedCall = (rows: Rows | undefined, asked: ReadonlyArray<NewCall>): RowRefused | undefined => {
  const other = asked.find((call) => {
    const row = rows?.get(call.id)
    return row !== undefined && !Bun.deepEquals(calls.decode(row).request, JSON.parse(call.request))
  })
  return other === undefined ? undefined : new RowRefused({ table: calls.name, message: otherRequest(other.id) })
}

export const askFor = (rows: Rows, asked: ReadonlyArray<NewCall>, now: Date): void => {
  for (const call of asked) {
    if (rows.has(call.id)) continue
    const request: unknown = JSON.parse(call.request)
    const row: Row = { ...call, request, result: null, attempt: 0, due_at: now, done_at: null, last_error: null }
    rows.set(call.id, row)
  }
}

const isDue = (row: object, now: number): boolean =>
  "due_at" in row && row.due_at instanceof Date && row.due_at.getTime() <= now

export const takeAndPostpone = (rows: () => Rows): Pick<CallsLane, "take" | "postpone"> => ({
  take: (kind, limit, leaseMs) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      const due = [...rows().values()]
        .filter((row) => isDue(row, now))
        .map((row) => calls.decode(row))
        .filter((row) => row.kind === kind)
        .toSorted((a, b) => (a.due_at?.getTime() ?? 0) - (b.due_at?.getTime() ?? 0))
        .slice(0, limit)
      return due.map((row) => {
        const taken = { ...row, attempt: row.attempt + 1, due_at: new Date(now + leaseMs) }
        rows().set(row.id, taken)
        // it was written by a pass, which knows no other
        return taken as TakenCall
      })
    }),
  postpone: (postponed) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      for (const { id, attempt, afterMs, error, result } of postponed) {
        const row = rows().get(id)
        const call = row === undefined ? undefined : calls.decode(row)
        if (call === undefined || call.attempt !== attempt || call.done_at !== null) continue
        rows().set(id, {
          ...call,
          due_at: new Date(now + afterMs),
          last_error: error === null ? call.last_error : errorText(error),
          result: result === null ? call.result : JSON.parse(result)
        })
      }
    })
})
