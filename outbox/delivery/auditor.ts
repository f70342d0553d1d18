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
import { Pool } from "../store/pool.ts"
import { lookAt, stateOf, type Audit, type Audited, type AuditedOutbox, type AuditState } from "./audit-look.ts"
import { noHorizon } from "./horizon.ts"
import { Seen } from "./seen.ts"

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

export interface Auditor {
  readonly states: () => ReadonlyMap<string, AuditState>
  /** How many messages it remembers. Reading stands still while it has no room for more. */
  readonly remembered: () => { readonly messages: number; readonly full: boolean }
  /** Looks now, and again once the look under way is over. */
  readonly look: Effect.Effect<void>
  /** Never succeeds; fails when the topics can't be read any more. */
  readonly stopped: Effect.Effect<never, BrokerError>
}

/** How long a look waits for the reader. */
const readWithin = "5 seconds"
/** How much is read at once. */
const readAtOnce = { messages: 2_000, bytes: 8_388_608 }

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
    const subscription = yield* broker.subscribe({ group, topics, exclusive: true, gathers: true })
    const room = yield* Latch.make(true)
    const progress = yield* Latch.make(false)

    const note = (records: ReadonlyArray<BrokerRecord>, now: number): void => {
      for (const record of records) {
        const message = seen.note(record, now)
        const outbox = message === undefined ? undefined : bySource.get(message.source)
        if (message === undefined || outbox === undefined) continue
        if (outbox.searching || outbox.failure !== undefined) outbox.found.push(message)
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
    Effect.sync((): AuditedOutbox => {
      // nobody keeps statistics of the outbox: without them reading all of it looks cheap
      const session = { enable_seqscan: "off", max_parallel_workers_per_gather: 0 }
      const pool = new Pool(audited.database, { name: "auditor", max: 1, session })
      return {
        audited,
        pool,
        horizon: noHorizon,
        watermark: 0,
        slotLength: 0,
        looked: 0,
        summarized: { slot: 0, ranges: 0 },
        exceptions: 0,
        searching: false,
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
  readonly outboxes: ReadonlyArray<AuditedOutbox>
  readonly remembered: number
  /** Open while there is room for more. */
  readonly room: Latch.Latch
  /** Opened with each batch that was read. */
  readonly progress: Latch.Latch
}

const isFull = (seen: Seen, outboxes: ReadonlyArray<AuditedOutbox>, remembered: number): boolean =>
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
