/**
 * Clean-up under load: while passes run without a pause, slots of a second are made and dropped, what is kept stays
 * bounded, nobody waits for a drop, and what comes again from before the oldest slot is not done again.
 */
import { describe, expect, test } from "bun:test"
import { Effect, Fiber, References, type Scope } from "effect"
import { Deposit, Deposited, accounts, idOf, record, schema } from "./bank.ts"
import { database, type Database } from "./postgres.ts"
import { replica, type World } from "./store-suite.ts"
import { postgresWorld } from "./worlds.ts"
import type { BrokerRecord } from "../broker/broker.ts"
import { makeInProcess } from "../broker/in-process.ts"
import { Offsets } from "../broker/offsets.ts"
import { startRetention } from "../delivery/retention.ts"
import { slotOf, timeOf } from "../store/inbox.ts"
import { until } from "../../stack/wait.ts"

const inboxSlots = 5
const keepSlots = 1
/** Slots that may be on their way out: one is kept longer for passes that are under way, others wait for a look or two. */
const late = 6
/** What is kept, the present slot and three ahead, the slot of ids without a time, and what is late. */
const mostPartitions = { inbox: inboxSlots + 4 + 1 + late, outbox: keepSlots + 4 + late }
const happensWithinMs = 60_000
const batch = 10
/** By how much rows may outlive their time. */
const lateSeconds = 6
/** By how much the passes that meet a drop may take longer than those that meet none: as long as a drop may wait. */
const marginMs = 100
/** Far more than a drop may wait, far less than a second. */
const waitsAtMostMs = 600

/**
 * Tells when each partition is dropped, from before the lock is asked for until the drop is about to be committed, and
 * holds it for `oncebox.drop_takes` seconds. Deleting what is old takes a while, as it may when there is much of it.
 */
const watched = `
  create table drops (name text not null, started timestamptz not null, ended timestamptz not null);
  create function note_start() returns event_trigger language plpgsql as $$
  begin perform set_config('oncebox.drop_started', clock_timestamp()::text, true); end $$;
  create function note_drop() returns event_trigger language plpgsql as $$
  begin
    perform pg_sleep(coalesce(nullif(current_setting('oncebox.drop_takes', true), ''), '0')::float);
    insert into drops
    select object_name, current_setting('oncebox.drop_started')::timestamptz, clock_timestamp()
    from pg_event_trigger_dropped_objects()
    where object_type = 'table';
  end $$;
  create event trigger drop_starts on ddl_command_start when tag in ('DROP TABLE') execute function note_start();
  create event trigger drop_ends on sql_drop when tag in ('DROP TABLE') execute function note_drop();
  grant insert, select on drops to public;
  create function dawdle() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$;
  create trigger dawdle before delete on idempotency_keys for each statement execute function dawdle();`

interface Span {
  readonly from: number
  readonly to: number
}
const lengthOf = ({ from, to }: Span): number => to - from
const meets = (one: Span, other: Span): boolean => one.from <= other.to && one.to >= other.from
/** The nth of 100 parts of the numbers is not above it. */
const percentile = (numbers: ReadonlyArray<number>, nth: number): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(((numbers.length - 1) * nth) / 100)] ?? Number.NaN

interface Load {
  /** Every pass so far. */
  readonly passes: ReadonlyArray<Span>
  /** What was decided, of ids that have a time. */
  readonly taken: ReadonlyArray<BrokerRecord>
  readonly stop: Effect.Effect<void, unknown>
}

/** Two lanes that decide batch after batch, each with an account of its own. */
const load = Effect.fnUntraced(function* (world: World) {
  const passes: Array<Span> = []
  const taken: Array<BrokerRecord> = []
  let stopped = false
  const lane = Effect.fnUntraced(function* (account: string) {
    const one = yield* replica(world)
    while (!stopped) {
      const deposit = (id: string) => record(Deposit.of({ account, amount: 1 }), { id })
      const dated = Array.from({ length: batch }, () => deposit(Bun.randomUUIDv7()))
      const records = [...dated, deposit(crypto.randomUUID())]
      const from = Date.now()
      const outcomes = yield* one.take(...records)
      passes.push({ from, to: Date.now() })
      expect(outcomes.map(({ _tag }) => _tag)).toEqual(records.map(() => "done"))
      taken.push(...dated)
    }
  })
  const lanes = yield* Effect.forkScoped(Effect.all([lane("a"), lane("b")], { concurrency: "unbounded" }))
  const stop = Effect.suspend(() => {
    stopped = true
    return Effect.asVoid(Fiber.join(lanes))
  })
  return { passes, taken, stop } satisfies Load
})

/** In the auditor's place: all rows of slots that are over were seen. A busy machine leaves some of them empty. */
const audit = (db: Database) =>
  db.owner.unsafe(`
    insert into audit_marks (slot, watermark, audited)
    select slot, to_timestamp(slot + 1), count(id)
    from generate_series(
      (select min(substr(relname, 8)::bigint) from pg_class where relname ~ '^outbox_[0-9]+$'),
      floor(extract(epoch from clock_timestamp() - interval '200 milliseconds'))::bigint - 1
    ) slot
    left join outbox on floor(extract(epoch from created_at))::bigint = slot
    group by slot
    on conflict (slot) do update set audited = excluded.audited`)

const partitionsOf = async (db: Database) => {
  const names = await db.owner<Array<{ name: string }>>`
    select relname as name from pg_class where relispartition and relkind = 'r'`
  const count = (table: string) => names.filter(({ name }) => name.startsWith(`${table}_`)).length
  return { inbox: count("inbox"), outbox: count("outbox") }
}

const dropsOf = async (db: Database): Promise<ReadonlyArray<Span & { readonly name: string }>> =>
  db.owner<Array<Span & { name: string }>>`
    select name, extract(epoch from started)::float * 1000 as "from", extract(epoch from ended)::float * 1000 as "to"
    from drops`

interface Run {
  readonly db: Database
  readonly world: World
  readonly load: Load
}

const underLoad = (
  sentence: string,
  body: (run: Run) => Effect.Effect<void, unknown, Scope.Scope>,
  { dropTakesSeconds } = { dropTakesSeconds: 0 }
): void =>
  test(
    sentence,
    () =>
      Effect.gen(function* () {
        const db = yield* database({ schema, slotMs: 1_000, inboxSlots })
        yield* Effect.promise(() => db.superuser.unsafe(watched))
        yield* Effect.promise(() =>
          db.superuser.unsafe(`alter database ${db.name} set oncebox.drop_takes = '${dropTakesSeconds}'`)
        )
        const world = yield* postgresWorld(db, "bank")
        const queue = makeInProcess({ partitions: 1 })
        yield* startRetention({
          outboxes: [{ name: "bank", source: "", database: db.auditor }],
          keep: `${keepSlots} seconds`,
          consumers: [{ group: "reader", topics: [Deposited.topic.name] }],
          every: "250 millis"
        }).pipe(Effect.provideService(Offsets, queue.offsets))
        yield* body({ db, world, load: yield* load(world) })
      }).pipe(
        Effect.scoped,
        Effect.timeout(2 * happensWithinMs),
        Effect.provideService(References.MinimumLogLevel, "None"),
        Effect.runPromise
      ),
    3 * happensWithinMs
  )

/** Until so many partitions were dropped of each table. */
const dropped = (db: Database, count: number) =>
  Effect.promise(async () => {
    await until(`${count} drops of each table`, happensWithinMs, async () => {
      await audit(db)
      const names = (await dropsOf(db)).map(({ name }) => name)
      return ["inbox", "outbox"].every((table) => names.filter((name) => name.startsWith(table)).length >= count)
    })
  })

/** Until what stands is within its bounds: a busy machine is late with a drop, but what is not bounded never comes back. */
const bounded = (db: Database) =>
  Effect.promise(() =>
    until("partitions and rows are within their bounds", happensWithinMs, async () => {
      await audit(db)
      const there = await partitionsOf(db)
      const [old] = await db.owner<Array<{ claims: number; rows: number }>>`
        select
          (select count(*)::int from inbox where claimed_at < now() - ${inboxSlots + 1 + lateSeconds} * interval '1 second') as claims,
          (select count(*)::int from outbox where created_at < now() - ${keepSlots + 1 + lateSeconds} * interval '1 second') as rows`
      const isBounded = there.inbox <= mostPartitions.inbox && there.outbox <= mostPartitions.outbox
      if (isBounded && old?.claims === 0 && old.rows === 0) return true
      throw new Error(`there are ${JSON.stringify({ ...there, ...old })}`)
    })
  )

/** How long the passes took that met drops, and those that met none. */
const pauses = (drops: ReadonlyArray<Span>, passes: ReadonlyArray<Span>) => {
  const longest = drops.map((drop) => Math.max(0, ...passes.filter((pass) => meets(pass, drop)).map(lengthOf)))
  const others = passes.filter((pass) => !drops.some((drop) => meets(pass, drop)))
  return {
    // not the longest of all: a busy machine makes a pass long now and then
    atDrops: percentile(longest, 75),
    p99: percentile(passes.map(lengthOf), 99),
    p99Elsewhere: percentile(others.map(lengthOf), 99)
  }
}

describe("clean-up under load", () => {
  underLoad("keeps a bounded window, and p99 of the passes does not show the drops", ({ db, load }) =>
    Effect.gen(function* () {
      yield* dropped(db, 10)
      yield* bounded(db)
      yield* load.stop

      const { atDrops, p99, p99Elsewhere } = pauses(yield* Effect.promise(() => dropsOf(db)), load.passes)
      expect(atDrops).toBeLessThan(p99Elsewhere + marginMs)
      expect(p99).toBeLessThan(p99Elsewhere + marginMs)
    })
  )

  underLoad(
    "shows a drop that keeps its lock",
    ({ db, load }) =>
      Effect.gen(function* () {
        yield* dropped(db, 4)
        yield* load.stop

        const { atDrops, p99, p99Elsewhere } = pauses(yield* Effect.promise(() => dropsOf(db)), load.passes)
        expect(atDrops).toBeGreaterThan(p99Elsewhere + marginMs)
        expect(p99).toBeGreaterThan(p99Elsewhere + marginMs)
      }),
    { dropTakesSeconds: 0.5 }
  )

  underLoad("gives up soon while somebody reads the tables, as a backup does, and does it afterwards", ({ db, load }) =>
    Effect.gen(function* () {
      const tries = new Set<string>()
      const before = yield* Effect.promise(() =>
        db.superuser.begin(async (backup) => {
          await backup`select from inbox, outbox limit 0`
          await until("drops that wait for it", happensWithinMs, async () => {
            await audit(db)
            const waiting = await db.superuser<Array<{ began: string }>>`
              select query_start::text as began
              from pg_stat_activity
              where datname = ${db.name} and application_name = 'retention' and wait_event_type = 'Lock'`
            for (const { began } of waiting) tries.add(began)
            return tries.size >= 5
          })
          return dropsOf(db)
        })
      )
      yield* dropped(db, 1)
      yield* load.stop

      // one that waits for whole seconds lets passes of both lanes wait, each time
      const longest = load.passes.map(lengthOf).toSorted((a, b) => b - a)
      expect(longest[4]).toBeLessThan(waitsAtMostMs)
      expect(before).toEqual([])
    })
  )

  underLoad("parks what comes again from before the oldest slot, and does nothing of it again", ({ db, world, load }) =>
    Effect.gen(function* () {
      const slotOfRecord = (one: BrokerRecord) => slotOf(timeOf(idOf(one)) ?? 0, world.store.window)
      const isGone = (slot: number) =>
        db.owner`select to_regclass(${`inbox_${slot}`}) is null as gone`.then(([found]) => found?.["gone"] === true)
      yield* Effect.promise(() =>
        until("the first slots are gone", happensWithinMs, async () => {
          const [first] = load.taken
          return first !== undefined && isGone(slotOfRecord(first) + 1)
        })
      )
      yield* load.stop
      const rows = () => Effect.promise(() => Promise.all([world.rows(accounts), db.owner`select from entries`]))
      const [balances, { length: entries }] = yield* rows()
      const again = yield* replica(world)
      const gone = new Set<number>()
      for (const slot of new Set(load.taken.map(slotOfRecord))) {
        if (yield* Effect.promise(() => isGone(slot))) gone.add(slot)
      }

      const outcomes = yield* again.take(...load.taken)

      const oldest = slotOf(Date.now(), world.store.window) - inboxSlots
      const parked = load.taken.filter((_, n) => outcomes[n]?._tag === "parked")
      expect(parked.length).toBeGreaterThan(0)
      expect(outcomes.filter(({ _tag }) => _tag === "duplicate").length).toBe(load.taken.length - parked.length)
      const known = new Set(parked)
      const passedOver = load.taken.filter((one) => gone.has(slotOfRecord(one)) && !known.has(one))
      expect(passedOver.map(idOf)).toEqual([])
      expect(parked.filter((one) => slotOfRecord(one) >= oldest).map(idOf)).toEqual([])
      const letters = yield* world.store.deadLetters("bank", { limit: 100_000 })
      expect(letters.map(({ id }) => id).toSorted()).toEqual(parked.map(idOf).toSorted())
      expect(new Set(letters.map(({ reason }) => reason))).toEqual(new Set(["outside-window"]))

      const [first] = parked
      yield* again.redrive(first === undefined ? "" : idOf(first))
      yield* again.take(...load.taken)

      const [balancesNow, { length: entriesNow }] = yield* rows()
      expect(balancesNow).toEqual(balances)
      expect(entriesNow).toBe(entries)
    })
  )
})
