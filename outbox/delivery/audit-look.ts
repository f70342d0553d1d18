/**
 * One look of the auditor at one outbox: rows that are old enough are compared with what was seen, those that are missing are
 * noted, and what is due is published again. What was looked at and what was noted is in the database; the rest can be lost.
 */
import { Clock, Effect } from "effect"
import type { Broker, BrokerError } from "../broker/broker.ts"
import type { ConnectionOptions } from "../store/connection.ts"
import type { Pool } from "../store/pool.ts"
import type { StoreUnavailable } from "../store/store.ts"
import {
  dueExceptions,
  lookAround,
  moveWatermark,
  noteExceptions,
  openExceptions,
  readRows,
  readWatermark,
  resolveExceptions,
  summarize,
  takeExceptions,
  type AuditedRow
} from "./audit-store.ts"
import { lookedAt, type Horizon } from "./horizon.ts"
import { recordOf } from "./relay.ts"
import type { Seen, SeenMessage } from "./seen.ts"

/** An outbox to audit. */
export interface Audited {
  /** What it is called in metrics and logs. */
  readonly name: string
  /** The `ce_source` of its records. */
  readonly source: string
  /** As a role that `oncebox_grant_auditor` gave its rights. */
  readonly database: ConnectionOptions
}

/** What is known of one outbox. Times are in seconds. */
export interface AuditState {
  /** How long ago the watermark was. */
  readonly watermarkLag: number
  /** The age of the oldest row that is not seen though it was due; 0 when there is none. */
  readonly oldestUnseen: number
  /** Rows that were not seen in time, and are not seen yet. */
  readonly exceptions: number
  /** Rows that were seen after they had been published again. */
  readonly healed: number
  /** Records that were published again. */
  readonly republished: number
  /** Why the last look came to nothing. */
  readonly failure: string | undefined
}

/** What is known of an outbox from look to look. */
export interface AuditedOutbox {
  readonly audited: Audited
  readonly pool: Pool
  horizon: Horizon
  watermark: number
  slotLength: number
  /** Rows before it were looked at once, though transactions may be open that began before it. */
  looked: number
  /** How far the index by time is summarised, in the newest slot. */
  summarized: { readonly slot: number; readonly ranges: number }
  /** As of the end of the last look. */
  exceptions: number
  oldest: number | undefined
  /** Something was not seen: what is read from now on may be it. */
  searching: boolean
  /** The database's time at the last look, and ours. */
  now: number
  lookedAt: number
  healed: number
  republished: number
  failure: string | undefined
  /** Seen on their topics while there were exceptions; one of them may be among these. */
  found: Array<SeenMessage>
}

const rowsAtOnce = 5_000
/** How much of an outbox is compared at once when the audit is far behind; more where there is nothing. */
const stretchAt = (rows: number, last: number): number => (rows === 0 ? last * 4 : minute)
const minute = 60_000_000
const publishedAtOnce = 500
const longestPause = 15 * 60_000_000
/** A transaction may have got its time a moment ago, and not be listed yet. */
const startsWithin = 1_000_000

/** What the looks at all outboxes share. */
export interface Audit {
  readonly seen: Seen
  /** Whether all that lies on the topics now was read; what then is not among it is not there. */
  readonly caughtUp: Effect.Effect<boolean, BrokerError>
  readonly grace: number
  readonly publish: Broker["Service"]["publish"]
}

type Trouble = BrokerError | StoreUnavailable

export const lookAt = (audit: Audit, outbox: AuditedOutbox): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { pool } = outbox
    const { slotLength, watermark } = yield* pool.use(readWatermark)
    outbox.slotLength = slotLength
    outbox.watermark = watermark
    audit.seen.audited(outbox.audited.source, watermark)
    const { now, open } = yield* pool.use(lookAround)
    outbox.now = now
    outbox.lookedAt = yield* Clock.currentTimeMillis
    outbox.horizon = lookedAt(outbox.horizon, now - startsWithin, open)
    outbox.summarized = yield* summarizeTo(outbox, now)
    const old = now - audit.grace / 2
    yield* auditTo(audit, outbox, Math.min(old, outbox.horizon.final))
    yield* lookAhead(audit, outbox, old)
    yield* resolve(outbox)
    yield* publishDue(audit, outbox)
    const { count, oldest } = yield* pool.use(openExceptions)
    outbox.exceptions = count
    outbox.searching = count > 0
    outbox.oldest = oldest
    outbox.failure = undefined
  }).pipe(
    Effect.catch((error: Trouble) => failed(outbox, error.message)),
    // the other outboxes are looked at all the same
    Effect.catchDefect((defect) => failed(outbox, defect instanceof Error ? String(defect.stack) : String(defect)))
  )

const failed = (outbox: AuditedOutbox, failure: string): Effect.Effect<void> => {
  outbox.failure = failure
  return Effect.logWarning(`audit of ${outbox.audited.name}: ${failure}`)
}

/** Has the index by time know all rows from the watermark's slot on. */
const summarizeTo = Effect.fnUntraced(function* (
  { pool, slotLength, watermark, summarized }: AuditedOutbox,
  to: number
): Effect.fn.Return<AuditedOutbox["summarized"], Trouble> {
  let { slot, ranges } = summarized
  const first = Math.floor(watermark / slotLength)
  if (slot < first) [slot, ranges] = [first, 0]
  for (;;) {
    const upTo = yield* pool.use((sql) => summarize(sql, slot, ranges))
    if (upTo === ranges && (slot + 1) * slotLength > to) return { slot, ranges }
    if (upTo === ranges) [slot, ranges] = [slot + 1, 0]
    else ranges = upTo
  }
})

/** Moves the watermark up to `to`, or to the first row that may still be on its way. */
const auditTo = Effect.fnUntraced(function* (
  audit: Audit,
  outbox: AuditedOutbox,
  to: number
): Effect.fn.Return<void, Trouble> {
  let stretch = minute
  while (outbox.watermark < to) {
    const from = outbox.watermark
    const slot = Math.floor(from / outbox.slotLength)
    const upTo = Math.min(to, (slot + 1) * outbox.slotLength, from + stretch)
    const { rows, end, unseen, cut } = yield* compare(audit, outbox, from, upTo)
    stretch = stretchAt(rows.length, stretch)
    const move = { slot, from, to: cut, rows: rows.filter(({ created }) => created < cut).length }
    // another auditor was faster: the next look goes on from where it is
    if (!(yield* outbox.pool.use((sql) => moveWatermark(sql, move, unseen, audit.grace / 2)))) return
    outbox.watermark = cut
    if (unseen.length > 0) noticed(audit, outbox, unseen)
    audit.seen.audited(outbox.audited.source, cut)
    if (cut < end) return
  }
})

/** Looks at rows that the watermark can't pass yet, so that they don't wait for a transaction that is open for long. */
const lookAhead = Effect.fnUntraced(function* (
  audit: Audit,
  outbox: AuditedOutbox,
  to: number
): Effect.fn.Return<void, Trouble> {
  outbox.looked = Math.max(outbox.looked, outbox.watermark)
  let stretch = minute
  while (outbox.looked < to) {
    const { looked } = outbox
    const { rows, end, unseen, cut } = yield* compare(audit, outbox, looked, Math.min(to, looked + stretch))
    stretch = stretchAt(rows.length, stretch)
    if (unseen.length > 0) {
      yield* outbox.pool.use((sql) => noteExceptions(sql, outbox.watermark, unseen, audit.grace / 2))
      noticed(audit, outbox, unseen)
    }
    outbox.looked = cut
    if (cut < end) return
  }
})

interface Comparison {
  readonly rows: ReadonlyArray<AuditedRow>
  /** Up to which time these are all rows. */
  readonly end: number
  /** Those that are not on their topics. */
  readonly unseen: ReadonlyArray<AuditedRow>
  /** Up to which time it is known of all rows whether they are. */
  readonly cut: number
}

const compare = Effect.fnUntraced(function* (
  { seen, caughtUp }: Audit,
  { pool, audited: { source } }: AuditedOutbox,
  from: number,
  to: number
): Effect.fn.Return<Comparison, Trouble> {
  const rows = yield* pool.use((sql) => readRows(sql, from, to, rowsAtOnce))
  const end = rows.length < rowsAtOnce ? to : (rows.at(-1)?.created ?? to) + 1
  const missing = () => rows.filter(({ id, topic }) => !seen.has({ source, id, topic }))
  if (missing().length === 0) return { rows, end, unseen: [], cut: end }
  const known = yield* caughtUp
  const unseen = missing()
  // without room nothing more can be read: what is missing is put aside, and found later among what is read
  if (known || seen.full) return { rows, end, unseen, cut: end }
  return { rows, end, unseen: [], cut: unseen[0]?.created ?? end }
})

const noticed = (audit: Audit, outbox: AuditedOutbox, unseen: ReadonlyArray<AuditedRow>): void => {
  const { source } = outbox.audited
  outbox.searching = true
  // read while they were being noted
  outbox.found.push(
    ...unseen.map(({ id, topic }) => ({ source, id, topic })).filter((message) => audit.seen.has(message))
  )
}

const resolve = Effect.fnUntraced(function* (outbox: AuditedOutbox): Effect.fn.Return<void, Trouble> {
  const found = outbox.found
  outbox.found = []
  const attempts = yield* outbox.pool
    .use((sql) => resolveExceptions(sql, found))
    .pipe(Effect.tapError(() => Effect.sync(() => (outbox.found = [...found, ...outbox.found]))))
  outbox.healed += attempts.filter((count) => count > 0).length
})

/** Publishes again what is due and not seen by now. */
const publishDue = Effect.fnUntraced(function* (audit: Audit, outbox: AuditedOutbox): Effect.fn.Return<void, Trouble> {
  const { pool, audited } = outbox
  for (;;) {
    const due = yield* pool.use((sql) => dueExceptions(sql, publishedAtOnce))
    if (due.length === 0) return
    if (!(yield* audit.caughtUp)) return
    // what was read meanwhile is resolved first
    outbox.searching = true
    yield* resolve(outbox)
    const pause = { first: audit.grace, most: Math.max(longestPause, audit.grace) }
    const ids = due.map(({ id }) => id)
    const unseen = yield* pool.use((sql) => takeExceptions(sql, ids, pause))
    const records = unseen.map(({ message, createdAt }) => {
      const record = recordOf(message, audited.source, new Date(createdAt))
      // to the microsecond, as Debezium has it
      return { ...record, headers: { ...record.headers, ce_time: createdAt } }
    })
    // a topic that takes nothing must not keep back what is for others
    const refused = yield* Effect.forEach(Map.groupBy(records, ({ topic }) => topic).values(), (own) =>
      Effect.matchEffect(audit.publish(own), {
        onFailure: (error) => Effect.succeed([error]),
        onSuccess: () => {
          outbox.republished += own.length
          return Effect.as(
            Effect.logWarning(`audit of ${audited.name}: ${own.length} messages were not seen, published again`),
            []
          )
        }
      })
    )
    const [first] = refused.flat()
    if (first !== undefined) return yield* first
    if (due.length < publishedAtOnce) return
  }
})

/** Ages grow on while nobody can look. */
export const stateOf = (outbox: AuditedOutbox, nowMs: number): AuditState => {
  const now = outbox.now + (nowMs - outbox.lookedAt) * 1000
  const age = (time: number): number => Math.max(0, now - time) / 1_000_000
  return {
    watermarkLag: age(outbox.watermark),
    oldestUnseen: outbox.oldest === undefined ? 0 : age(outbox.oldest),
    exceptions: outbox.exceptions,
    healed: outbox.healed,
    republished: outbox.republished,
    failure: outbox.failure
  }
}
