/**
 * The auditor closes the loop over whatever publishes the outboxes: every row is seen on its topic, or published again with
 * the same id, after pauses that double, until it is seen. One consumer group reads all topics, of each record its headers.
 *
 * It keeps a watermark for each outbox and, in its database, the rows below it that were not seen yet. It commits an offset
 * when all records before it are older than the watermarks: an auditor that is killed reads on from there and knows what it
 * knew. Several may run: one of them reads, and what two decide at once is decided by the watermark's row.
 */
import { Clock, Duration, Effect, Fiber, Latch, Schedule, Semaphore, type Scope } from "effect"
import { Broker, type BrokerError, type BrokerRecord, type Subscription } from "../broker/broker.ts"
import { Offsets } from "../broker/offsets.ts"
import type { ConnectionOptions } from "../store/connection.ts"
import { Pool } from "../store/pool.ts"
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
  takeExceptions,
  type AuditedRow
} from "./audit-store.ts"
import { lookedAt, noHorizon, type Horizon } from "./horizon.ts"
import { recordOf } from "./relay.ts"
import { Seen, type SeenMessage } from "./seen.ts"

/** An outbox to audit. */
export interface Audited {
  /** What it is called in metrics and logs. */
  readonly name: string
  /** The `ce_source` of its records. */
  readonly source: string
  /** As a role that `oncebox_grant_auditor` gave its rights. */
  readonly database: ConnectionOptions
}

export interface AuditorOptions {
  readonly outboxes: ReadonlyArray<Audited>
  /** All topics that the outboxes' rows may be for. */
  readonly topics: ReadonlyArray<string>
  /** The consumer group. */
  readonly group?: string
  /** How old a row may be before it is published again. Rows are looked at when half of it is over. */
  readonly grace?: Duration.Input
  /** The time between two looks. */
  readonly every?: Duration.Input
  /** How many messages to remember: about 300 bytes each. */
  readonly remembered?: number
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

export interface Auditor {
  readonly states: () => ReadonlyMap<string, AuditState>
  /** How many messages it remembers. Reading stands still while it has no room for more. */
  readonly remembered: () => { readonly messages: number; readonly full: boolean }
  /** Looks now, and again once the look under way is over. */
  readonly look: Effect.Effect<void>
  /** Never succeeds; fails when the topics can't be read any more. */
  readonly stopped: Effect.Effect<never, BrokerError>
}

const rowsAtOnce = 5_000
/** How much of an outbox is compared at once when the audit is far behind; more where there is nothing. */
const stretchAt = (rows: number, last: number): number => (rows === 0 ? last * 4 : minute)
const minute = 60_000_000
const publishedAtOnce = 500
const longestPause = 15 * 60_000_000
/** A transaction may have got its time a moment ago, and not be listed yet. */
const startsWithin = 1_000_000
/** How long a look waits for the reader. */
const readWithin = "5 seconds"
/** How much is read at once. */
const readAtOnce = { messages: 2_000, bytes: 8_388_608 }

interface Outbox {
  readonly audited: Audited
  readonly pool: Pool
  horizon: Horizon
  watermark: number
  slotLength: number
  /** Rows before it were looked at once, though transactions may be open that began before it. */
  looked: number
  exceptions: number
  oldest: number | undefined
  /** The database's time at the last look, and ours. */
  now: number
  lookedAt: number
  healed: number
  republished: number
  failure: string | undefined
  /** Seen on their topics while there were exceptions; one of them may be among these. */
  found: Array<SeenMessage>
}

/** Audits for as long as the scope is open. */
export const startAuditor = (
  options: AuditorOptions
): Effect.Effect<Auditor, BrokerError, Broker | Offsets | Scope.Scope> =>
  Effect.gen(function* () {
    const broker = yield* Broker
    const offsets = yield* Offsets
    const { topics, group = "auditor", every = "2 seconds", remembered = 300_000 } = options
    const grace = Duration.toMillis(Duration.fromInputUnsafe(options.grace ?? "30 seconds")) * 1000
    const outboxes = yield* Effect.forEach(options.outboxes, openOutbox)
    const bySource = new Map(outboxes.map((outbox) => [outbox.audited.source, outbox]))
    const clock = yield* Clock.Clock
    const seen = new Seen([...bySource.keys()], remembered)
    const subscription = yield* broker.subscribe({ group, topics, exclusive: true })
    const room = yield* Latch.make(true)
    const progress = yield* Latch.make(false)

    const note = (records: ReadonlyArray<BrokerRecord>, now: number): void => {
      for (const record of records) {
        const message = seen.note(record, now)
        const outbox = message === undefined ? undefined : bySource.get(message.source)
        if (message === undefined || outbox === undefined) continue
        if (outbox.exceptions > 0 || outbox.failure !== undefined) outbox.found.push(message)
      }
    }
    const reading = yield* read(subscription, note, { seen, outboxes, remembered, room, progress }).pipe(
      Effect.forkScoped
    )

    /** Whether all that lies on the topics now was read; what then is not among it is not there. */
    const caughtUp = Effect.gen(function* () {
      const extents = yield* offsets.extents(topics)
      const committed = yield* offsets.committed(group, topics)
      for (;;) {
        yield* Latch.close(progress)
        if (seen.reaches(extents, committed)) return true
        if (!room.isOpen()) return false
        yield* Latch.await(progress)
      }
    }).pipe(Effect.timeoutOrElse({ duration: readWithin, orElse: () => Effect.succeed(false) }))

    const audit: Audit = { seen, caughtUp, grace, publish: broker.publish }
    const turn = yield* Semaphore.make(1)
    const look = Effect.gen(function* () {
      yield* Effect.forEach(outboxes, (outbox) => lookAt(audit, outbox), { concurrency: 4, discard: true })
      yield* subscription.processed(seen.done())
      if (!isFull(seen, outboxes, remembered)) yield* Latch.open(room)
    }).pipe(turn.withPermits(1))
    yield* look.pipe(Effect.repeat(Schedule.spaced(every)), Effect.forkScoped)
    return {
      states: () =>
        new Map(outboxes.map((outbox) => [outbox.audited.name, stateOf(outbox, clock.currentTimeMillisUnsafe())])),
      remembered: () => ({ messages: seen.size, full: !room.isOpen() }),
      look,
      stopped: Fiber.join(reading)
    }
  })

const openOutbox = (audited: Audited) =>
  Effect.acquireRelease(
    Effect.sync((): Outbox => {
      const pool = new Pool(audited.database, { name: "auditor", max: 1 })
      return {
        audited,
        pool,
        horizon: noHorizon,
        watermark: 0,
        slotLength: 0,
        looked: 0,
        exceptions: 0,
        oldest: undefined,
        now: 0,
        lookedAt: 0,
        healed: 0,
        republished: 0,
        failure: "it has not been looked at yet",
        found: []
      }
    }),
    ({ pool }) => Effect.promise(() => pool.close())
  )

interface Reading {
  readonly seen: Seen
  readonly outboxes: ReadonlyArray<Outbox>
  readonly remembered: number
  /** Open while there is room for more. */
  readonly room: Latch.Latch
  /** Opened with each batch that was read. */
  readonly progress: Latch.Latch
}

const isFull = (seen: Seen, outboxes: ReadonlyArray<Outbox>, remembered: number): boolean =>
  seen.full || outboxes.some(({ found }) => found.length >= remembered)

/** Reads what arrives on all topics, and stands still while there is no room. */
const read = (
  subscription: Subscription,
  note: (records: ReadonlyArray<BrokerRecord>, now: number) => void,
  { seen, outboxes, remembered, room, progress }: Reading
): Effect.Effect<never, BrokerError> =>
  Effect.gen(function* () {
    yield* Latch.await(room)
    const records = yield* subscription.take({ ...readAtOnce, messages: Math.min(readAtOnce.messages, remembered) })
    note(records, (yield* Clock.currentTimeMillis) * 1000)
    if (isFull(seen, outboxes, remembered)) yield* Latch.close(room)
    yield* Latch.open(progress)
  }).pipe(Effect.forever)

interface Audit {
  readonly seen: Seen
  readonly caughtUp: Effect.Effect<boolean, BrokerError>
  readonly grace: number
  readonly publish: Broker["Service"]["publish"]
}

type Trouble = BrokerError | StoreUnavailable

/** One look at an outbox: what is old enough is compared with what was seen, what is due is published again. */
const lookAt = (audit: Audit, outbox: Outbox): Effect.Effect<void> =>
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
    const old = now - audit.grace / 2
    yield* auditTo(audit, outbox, Math.min(old, outbox.horizon.final))
    yield* lookAhead(audit, outbox, old)
    yield* resolve(outbox)
    yield* publishDue(audit, outbox)
    const { count, oldest } = yield* pool.use(openExceptions)
    outbox.exceptions = count
    outbox.oldest = oldest
    outbox.failure = undefined
  }).pipe(
    Effect.catch((error: Trouble) => failed(outbox, error.message)),
    // the other outboxes are looked at all the same
    Effect.catchDefect((defect) => failed(outbox, defect instanceof Error ? String(defect.stack) : String(defect)))
  )

const failed = (outbox: Outbox, failure: string): Effect.Effect<void> => {
  outbox.failure = failure
  return Effect.logWarning(`audit of ${outbox.audited.name}: ${failure}`)
}

/** Moves the watermark up to `to`, or to the first row that may still be on its way. */
const auditTo = Effect.fnUntraced(function* (
  audit: Audit,
  outbox: Outbox,
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
  outbox: Outbox,
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
  { pool, audited: { source } }: Outbox,
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

const noticed = (audit: Audit, outbox: Outbox, unseen: ReadonlyArray<AuditedRow>): void => {
  const { source } = outbox.audited
  outbox.exceptions += unseen.length
  // read while they were being noted
  outbox.found.push(
    ...unseen.map(({ id, topic }) => ({ source, id, topic })).filter((message) => audit.seen.has(message))
  )
}

const resolve = Effect.fnUntraced(function* (outbox: Outbox): Effect.fn.Return<void, Trouble> {
  const found = outbox.found
  outbox.found = []
  const attempts = yield* outbox.pool
    .use((sql) => resolveExceptions(sql, found))
    .pipe(Effect.tapError(() => Effect.sync(() => (outbox.found = [...found, ...outbox.found]))))
  outbox.healed += attempts.filter((count) => count > 0).length
})

/** Publishes again what is due and not seen by now. */
const publishDue = Effect.fnUntraced(function* (audit: Audit, outbox: Outbox): Effect.fn.Return<void, Trouble> {
  const { pool, audited } = outbox
  for (;;) {
    const due = yield* pool.use((sql) => dueExceptions(sql, publishedAtOnce))
    if (due.length === 0) return
    if (!(yield* audit.caughtUp)) return
    // what was read meanwhile is resolved first
    outbox.exceptions = Math.max(outbox.exceptions, due.length)
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
const stateOf = (outbox: Outbox, nowMs: number): AuditState => {
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
