/**
 * The timers lane: rows whose `due_at` has passed are decided like messages. Several replicas may run it: a row is
 * locked by one of them and passed over by the others, and its decision moves `due_at` in the same transaction.
 */
import { Clock, Effect } from "effect"
import { untilCommitted, type LaneContext } from "./lane.ts"
import { runDue } from "../pass/due.ts"
import type { DueInput } from "../pass/inputs.ts"
import type { StoreLane, Store } from "../store/store.ts"
import type { AnyHandler } from "../participant.ts"
import type { AnyTable } from "../table.ts"

/** How often to look for due rows: deadlines are of seconds and longer. */
const lookEvery = "250 millis"
/** How many rows one pass takes. */
const limit = 200
/** How long a row that can't be decided here is left alone. */
const pauseAfterFaultMs = 60_000

export const timersLane = (context: LaneContext, lane: StoreLane, store: Store["Service"]): Effect.Effect<never> => {
  const { participant } = context
  const tables = [...participant.timers].flatMap(([name, handler]) => {
    const table = participant.tables[name]
    return table === undefined ? [] : [{ table, handler, paused: new Map<string, number>() }]
  })
  // a full pass may have left some: it is not waited for the next look to take them
  const lookAt = (timer: Timer) => look(context, lane, store, timer).pipe(Effect.repeat({ while: (full) => full }))
  return Effect.forEach(tables, lookAt, { discard: true }).pipe(Effect.delay(lookEvery), Effect.forever)
}

interface Timer {
  readonly table: AnyTable
  readonly handler: AnyHandler
  /** Rows that can't be decided here, and until when they are left alone. */
  readonly paused: Map<string, number>
}

/** Decides what is due, as much as one pass takes; true when it was all decided and there may be more. */
const look = Effect.fnUntraced(function* (
  context: LaneContext,
  lane: StoreLane,
  store: Store["Service"],
  timer: Timer
): Effect.fn.Return<boolean> {
  const { table, handler, paused } = timer
  const now = yield* Clock.currentTimeMillis
  for (const [key, until] of paused) if (until <= now) paused.delete(key)
  const due = yield* untilCommitted(context, store.nextDue(table))
  if (due === null || due.getTime() > now) return false
  const input: DueInput = { _tag: "due", table, handler, limit }
  const { decided, failed, left } = yield* untilCommitted(
    context,
    runDue({ ...context.environment, lane }, input, new Set(paused.keys()))
  )
  context.counters.timers += decided
  if (decided > 0) context.counters.passes++
  for (const { key, detail } of failed) {
    paused.set(key, now + pauseAfterFaultMs)
    yield* Effect.logError(
      `${context.participant.name}: due ${table.name} ${key} can't be decided, looked at again in a minute: ${detail}`
    )
  }
  for (const { key } of left) paused.set(key, now + pauseAfterFaultMs)
  const [first] = left
  if (first !== undefined)
    yield* Effect.logWarning(
      `${context.participant.name}: ${left.length} due ${table.name} are left to another build, such as ${first.key}: ${first.detail}`
    )
  return decided === limit
})
