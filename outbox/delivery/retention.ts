/**
 * Drops what has served its time: a slot of an outbox once every row of it was seen on its topic, nothing was published
 * again for it any more, it is old enough, and every consumer is past all that lay on the topics when that was so.
 *
 * The database has the last word (`oncebox_drop_outbox_slot`): it counts the rows. A crash leaves a slot that the next look
 * drops. What was known of the topics is forgotten with the process, which only makes the next one wait longer.
 */
import { Duration, Effect, Schedule, Schema, type Scope } from "effect"
import type { BrokerError } from "../broker/broker.ts"
import { Offsets, type ByPartition, type Extent } from "../broker/offsets.ts"
import type { Sql } from "../store/connection.ts"
import type { InboxWindow } from "../store/inbox.ts"
import { Pool } from "../store/pool.ts"
import type { StoreUnavailable } from "../store/store.ts"
import type { Audited } from "./audit-look.ts"

export interface RetentionOptions {
  readonly outboxes: ReadonlyArray<Audited>
  /** For how long the slots of an outbox are kept after their end. */
  readonly keep: Duration.Input
  /** Everyone who must have read a message before its row goes. */
  readonly consumers: ReadonlyArray<{ readonly group: string; readonly topics: ReadonlyArray<string> }>
  readonly every?: Duration.Input
}

export interface Retention {
  /** How many partitions were dropped, by the name of the outbox. */
  readonly dropped: () => ReadonlyMap<string, number>
  /** Slots that are old enough and still there, and why. */
  readonly held: () => ReadonlyMap<string, string>
}

/** What is kept does not fit together. */
export class RetentionRefused extends Schema.TaggedError<RetentionRefused>()("RetentionRefused", {
  message: Schema.String
}) {}

interface Outbox {
  readonly name: string
  readonly pool: Pool
  dropped: number
  /** Slots that are old enough, why they are still there, and where the topics ended when they were first found to be done with. */
  readonly held: Map<number, { readonly ends: ByPartition<Extent>; readonly reason: string }>
}

/** Before a slot is dropped its rows are counted, which may take minutes: nobody waits for that, it is too old to be written. */
const patience = { transactionMs: 600_000, answerMs: 615_000 }

/** Looks for what may go for as long as the scope is open. */
export const startRetention = (
  options: RetentionOptions
): Effect.Effect<Retention, RetentionRefused | StoreUnavailable | BrokerError, Offsets | Scope.Scope> =>
  Effect.gen(function* () {
    const offsets = yield* Offsets
    const keepMs = Duration.toMillis(Duration.fromInputUnsafe(options.keep))
    const outboxes = yield* Effect.forEach(options.outboxes, ({ name, database }) =>
      Effect.acquireRelease(
        Effect.sync((): Outbox => {
          const options = { ...database, bounds: { ...patience, ...database.bounds } }
          return { name, pool: new Pool(options, { name: "retention", max: 1 }), dropped: 0, held: new Map() }
        }),
        ({ pool }) => Effect.promise(() => pool.close())
      )
    )
    const topics = [...new Set(options.consumers.flatMap((consumer) => consumer.topics))]
    // it may be up before its broker
    const kept = yield* offsets.kept(topics).pipe(
      Effect.tapError((error) => Effect.logWarning(error.message)),
      Effect.retry(Schedule.spaced("1 second"))
    )
    for (const { name, pool } of outboxes) {
      const message = forgotten(name, yield* pool.use(windowOf), keepMs, kept)
      if (message !== undefined) return yield* new RetentionRefused({ message })
    }

    /** Who has yet to read what lay on the topics then. */
    const behind = Effect.fnUntraced(function* (then: ByPartition<Extent>) {
      const late = yield* Effect.forEach(options.consumers, ({ group, topics }) =>
        Effect.map(offsets.committed(group, topics), (committed) => (isPast(then, committed, topics) ? [] : [group]))
      )
      return late.flat()
    })
    const dropSlots = Effect.fnUntraced(function* (
      outbox: Outbox
    ): Effect.fn.Return<void, BrokerError | StoreUnavailable> {
      const { pool, held } = outbox
      const slots = yield* pool.use((sql) => slotsBefore(sql, keepMs))
      // another process may have dropped some
      for (const slot of held.keys()) if (!slots.includes(slot)) held.delete(slot)
      for (const slot of slots) {
        const ends = held.get(slot)?.ends ?? (yield* offsets.extents(topics))
        const late = yield* behind(ends)
        const reason =
          late.length > 0 ? `not read yet by ${late.join(", ")}` : yield* pool.use((sql) => dropSlot(sql, slot, keepMs))
        if (reason !== null) held.set(slot, { ends, reason })
        else {
          held.delete(slot)
          outbox.dropped++
        }
      }
      for (let dropped = 1; dropped > 0; outbox.dropped += dropped) dropped = yield* outbox.pool.use(dropOld)
    })
    const look = Effect.forEach(
      outboxes,
      (outbox) =>
        dropSlots(outbox).pipe(
          // somebody holds a partition's lock, or the database or the broker is away: later, then
          Effect.catch((error) => Effect.logWarning(`retention of ${outbox.name}: ${error.message}`)),
          // a bug must not end the loop, which nobody waits for
          Effect.catchDefect((defect) => Effect.logError(`retention of ${outbox.name}: ${String(defect)}`))
        ),
      { discard: true }
    )
    yield* look.pipe(Effect.repeat(Schedule.spaced(options.every ?? "1 minute")), Effect.forkScoped)
    return {
      dropped: () => new Map(outboxes.map(({ name, dropped }) => [name, dropped])),
      held: () =>
        new Map(
          outboxes.flatMap(({ name, held }) =>
            [...held].map(([slot, { reason }]) => [`${name}/${slot}`, reason] as const)
          )
        )
    }
  })

/** What comes again must meet an inbox that still knows whether it was seen. Says what may come later than that, and what to change. */
const forgotten = (
  name: string,
  { slotMs, slots }: InboxWindow,
  keepMs: number,
  kept: ReadonlyMap<string, number>
): string | undefined => {
  const windowMs = slotMs * slots
  const [topic, longest = 0] = [...kept].toSorted(([, one], [, other]) => other - one)[0] ?? []
  if (keepMs <= windowMs && longest <= windowMs) return undefined
  const [what, less] =
    keepMs > windowMs
      ? [`the outbox would be kept for ${hours(keepMs)}`, "keep it for less"]
      : [
          `topic ${topic} keeps records for up to ${hours(longest)} (retention.ms and segment.ms)`,
          "lower the topic's retention.ms or segment.ms"
        ]
  const enough = Math.ceil(Math.max(keepMs, longest) / slotMs)
  const wider =
    enough > mostSlots
      ? ""
      : `, or run "update oncebox_settings set inbox_slots = ${enough}" as its owner and restart what uses it`
  return `${name}: ${what}, and its inbox knows what it has seen for ${hours(windowMs)}: ${less}${wider}`
}

/** What `oncebox_settings` takes. */
const mostSlots = 400

const hours = (ms: number): string => `${Math.round(ms / 36_000) / 100} h`

const isPast = (then: ByPartition<Extent>, committed: ByPartition<bigint>, topics: ReadonlyArray<string>): boolean =>
  [...then].every(([name, { first, end }]) => {
    if (!topics.some((topic) => name.startsWith(`${topic}/`))) return true
    return first >= end || (committed.get(name) ?? -1n) >= end
  })

const windowOf = async (sql: Sql): Promise<InboxWindow> => {
  const [found] = await sql<Array<InboxWindow>>`
    select slot_ms as "slotMs", inbox_slots as slots from oncebox_settings`
  if (found === undefined) throw new Error("oncebox_settings is empty: run the library's migrations")
  return found
}

/** Slots whose end is so long ago and that were audited, the oldest first. */
const slotsBefore = async (sql: Sql, keepMs: number): Promise<ReadonlyArray<number>> => {
  const rows = await sql<Array<{ slot: number }>>`
    select slot
    from audit_marks, oncebox_settings
    where to_regclass('outbox_' || slot) is not null
      and watermark >= to_timestamp((slot + 1) * slot_ms / 1000.0)
      and to_timestamp((slot + 1) * slot_ms / 1000.0) < clock_timestamp() - ${keepMs}::bigint * interval '1 millisecond'
    order by slot`
  return rows.map(({ slot }) => slot)
}

const dropSlot = async (sql: Sql, slot: number, keepMs: number): Promise<string | null> => {
  const [found] = await sql<Array<{ reason: string | null }>>`
    select oncebox_drop_outbox_slot(${slot}::bigint, ${keepMs}::bigint) as reason`
  return found?.reason ?? null
}

const dropOld = async (sql: Sql): Promise<number> => {
  const [found] = await sql<Array<{ dropped: number }>>`select oncebox_drop_old() as dropped`
  return found?.dropped ?? 0
}
