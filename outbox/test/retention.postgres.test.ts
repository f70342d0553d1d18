/** What may be dropped is dropped, and nothing else: slots of a second, on Postgres and the in-process broker. */
import { describe, expect, test } from "bun:test"
import { Effect, Schema, type Scope } from "effect"
import { Broker, BrokerError } from "../broker/broker.ts"
import { makeInProcess } from "../broker/in-process.ts"
import { Offsets } from "../broker/offsets.ts"
import { startAuditor } from "../delivery/auditor.ts"
import { boundsOf } from "../store/connection.ts"
import { startRetention, type Retention } from "../delivery/retention.ts"
import { Topic } from "../message.ts"
import { Migrations } from "../store/migrate.ts"
import { Outbox } from "../store/outbox.ts"
import { database, type Database } from "./postgres.ts"
import { until, within } from "../../stack/wait.ts"

const events = Topic.events("notes-events")
const Noted = events.message("Noted", { note: Schema.String }, { key: "note" })
const happensWithinMs = 20_000

interface World {
  readonly db: Database
  readonly queue: ReturnType<typeof makeInProcess>
  readonly retention: Retention
  /** Commits notes; the auditor publishes them. Answers the slot. */
  readonly write: (count: number) => Promise<number>
  readonly exists: (slot: number) => Promise<boolean>
  /** The group reads everything that lies there. */
  readonly consume: (group: string, count: number) => Promise<void>
}

const readers = ["reader", "other"]

interface Setting {
  readonly topics: ReadonlyArray<string>
  /** What retention is told of positions. */
  readonly told: (offsets: Offsets["Service"]) => Offsets["Service"]
}

const worldOf = ({ topics, told }: Setting): Effect.Effect<World, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const db = yield* database({ schema: "", slotMs: 1_000, inboxSlots: 5 })
    const queue = makeInProcess({ partitions: 2 })
    const outboxes = [{ name: "notes", source: "/oncebox/notes", database: db.auditor }]
    const retention = yield* Effect.gen(function* () {
      yield* startAuditor({ outboxes, topics, grace: "100 millis", every: "50 millis" })
      const consumers = [
        ...readers.map((group) => ({ group, topics: [events.name] })),
        { group: "stranger", topics: ["other-events"] }
      ]
      return yield* startRetention({ outboxes, keep: "1 second", consumers, every: "50 millis" }).pipe(
        Effect.provideService(Offsets, told(queue.offsets))
      )
    }).pipe(Effect.provideService(Broker, queue.broker), Effect.provideService(Offsets, queue.offsets))
    return {
      db,
      queue,
      retention,
      write: async (count) => {
        await db.owner`select oncebox_prepare_partitions()`
        return db.asService.begin(async (transaction) => {
          await Outbox.append(
            transaction,
            Array.from({ length: count }, (_, n) => Noted.of({ note: `note-${n}` }))
          )
          const [now] = await transaction<Array<{ slot: number }>>`
            select floor(extract(epoch from now()))::bigint as slot`
          return now?.slot ?? 0
        })
      },
      exists: async (slot) => {
        const [found] = await db.owner`select to_regclass(${`outbox_${slot}`}) is not null as here`
        return found?.["here"] === true
      },
      consume: (group, count) =>
        Effect.runPromise(
          Effect.scoped(
            Effect.gen(function* () {
              const subscription = yield* queue.broker.subscribe({ group, topics: [events.name] })
              for (let left = count; left > 0;) {
                const records = yield* subscription.take({ messages: 100, bytes: 1_000_000 })
                yield* subscription.processed(records)
                left -= records.length
              }
            }).pipe(Effect.timeout("10 seconds"))
          )
        )
    }
  })

const onNotes = (
  name: string,
  body: (world: World) => Promise<void>,
  { topics = [events.name], told = (offsets) => offsets }: Partial<Setting> = {}
): void =>
  test(
    name,
    () =>
      Effect.runPromise(
        Effect.scoped(Effect.flatMap(worldOf({ topics, told }), (world) => Effect.promise(() => body(world))))
      ),
    120_000
  )

const heldBecause = ({ retention }: World, slot: number, reason: RegExp) =>
  until(`slot ${slot} is held: ${reason}`, happensWithinMs, () =>
    reason.test(retention.held().get(`notes/${slot}`) ?? "")
  )

describe("retention", () => {
  onNotes("drops a slot when all of it was seen and everybody has read it, and not before", async (world) => {
    const slot = await world.write(10)
    await heldBecause(world, slot, /^not read yet by reader, other$/)
    await world.consume("reader", 10)
    await heldBecause(world, slot, /^not read yet by other$/)
    expect(await world.exists(slot)).toBe(true)

    await world.consume("other", 10)

    await until("it is gone", happensWithinMs, async () => !(await world.exists(slot)))
    expect(world.retention.held().has(`notes/${slot}`)).toBe(false)
    expect(world.retention.dropped().get("notes")).toBeGreaterThan(0)
  })

  onNotes("drops a slot though what came later was not read yet", async (world) => {
    const slot = await world.write(10)
    await heldBecause(world, slot, /^not read yet by reader, other$/)
    await world.consume("reader", 10)
    const later = await world.write(10)
    await until("all of it is there", happensWithinMs, () => world.queue.records(events.name).length === 20)
    await world.consume("other", 20)

    await until("it is gone", happensWithinMs, async () => !(await world.exists(slot)))
    await heldBecause(world, later, /^not read yet by reader$/)
  })

  let asked = 0
  onNotes(
    "goes on after an error that nobody expected",
    async (world) => {
      // one of the topic's partitions stays empty
      const slot = await world.write(1)
      for (const group of readers) await world.consume(group, 1)

      await until("it is gone", happensWithinMs, async () => !(await world.exists(slot)))

      expect(asked).toBeGreaterThan(1)
    },
    {
      told: (offsets) => ({
        ...offsets,
        committed: (group, topics) => (asked++ === 0 ? Effect.die("a bug") : offsets.committed(group, topics))
      })
    }
  )

  onNotes("forgets a slot that another one has dropped", async (world) => {
    const slot = await world.write(3)
    await heldBecause(world, slot, /^not read yet/)

    await world.db.owner.unsafe(`drop table outbox_${slot}`)

    await until("it is forgotten", happensWithinMs, () => !world.retention.held().has(`notes/${slot}`))
  })

  onNotes(
    "keeps a slot of which a row was not seen",
    async (world) => {
      const slot = await world.write(2)
      let read = 0
      await until("it is held though all of it was read", happensWithinMs, async () => {
        const there = world.queue.records(events.name).length
        for (const group of readers) await world.consume(group, there - read)
        read = there
        return /not all of it was seen/.test(world.retention.held().get(`notes/${slot}`) ?? "")
      })

      expect(await world.exists(slot)).toBe(true)
    },
    { topics: ["another-topic"] }
  )

  onNotes("keeps a slot in which there is a row that was not looked at", async (world) => {
    const slot = await world.write(2)
    await heldBecause(world, slot, /^not read yet/)
    await world.db.owner`
      insert into outbox (id, topic, key, type, payload, correlation, coordination, schema_version, created_at)
      select gen_random_uuid(), topic, key, type, payload, correlation, coordination, schema_version, created_at
      from outbox
      limit 1`
    for (const group of readers) await world.consume(group, 2)

    await heldBecause(world, slot, /it holds 3 rows, and 2 were audited/)

    expect(await world.exists(slot)).toBe(true)
  })

  onNotes("may take longer over a slot than a pass may take", async (world) => {
    const { superuser } = world.db
    const takesMs = boundsOf(world.db.auditor).transactionMs + 1_000
    const slot = await world.write(1)
    await superuser.unsafe(`
      create function dawdle() returns event_trigger language plpgsql as
        $$ begin
          perform pg_sleep(${takesMs / 1_000})
          from pg_event_trigger_dropped_objects()
          where object_type = 'table' and object_name = 'outbox_${slot}';
        end $$;
      create event trigger dawdle on sql_drop when tag in ('DROP TABLE') execute function dawdle()`)
    for (const group of readers) await world.consume(group, 1)

    await until("it is gone", 2 * happensWithinMs + takesMs, async () => !(await world.exists(slot)))
  })

  onNotes("drops the inbox's partitions outside its window, and keys that are two days old", async ({ db }) => {
    const slots = async () =>
      (
        await db.owner<Array<{ slot: number }>>`
          select substr(relname, 7)::bigint as slot
          from pg_class
          where relispartition and relname ~ '^inbox_[0-9]+$'
          order by 1`
      ).map(({ slot }) => slot)
    await db.owner`
      insert into idempotency_keys (key, fingerprint, created_at)
      values ('old', '', now() - interval '3 days'), ('new', '', now())`
    await db.owner`select oncebox_prepare_partitions()`
    const [foreign, oldest = 0] = await slots()

    await until("the oldest is gone", happensWithinMs, async () => !(await slots()).includes(oldest))

    expect(foreign).toBe(0)
    expect((await slots()).includes(0)).toBe(true)
    const nowSlot = Math.floor(Date.now() / 1000)
    expect((await slots()).filter((slot) => slot >= nowSlot - 5 && slot <= nowSlot).length).toBeGreaterThan(0)
    await until("the old key is gone", happensWithinMs, async () => {
      const keys = await db.owner<Array<{ key: string }>>`select key from idempotency_keys`
      return keys.map(({ key }) => key).join() === "new"
    })
  })

  onNotes(
    "drops what an orchestrator put aside and has done with, once the inbox forgets its message",
    async ({ db }) => {
      // as in a database whose orchestrator came later than its retention
      await Migrations.run(db.owner, [Migrations.core, Migrations.saga], { slotMs: 1_000, inboxSlots: 5 })
      const rows = db.owner`(values
      ('done long ago', null, interval '7 seconds'),
      ('done', null, interval '-1 hour'),
      ('waits for long', now() + interval '1 hour', interval '7 seconds')
    ) as given (id, due_at, age)`
      await db.owner`
      insert into saga_handovers (message_id, saga_id, topic, type, payload, due_at, put_aside_at)
      select id, 's', 't', 'T', '{}', due_at::timestamptz, now() - age from ${rows}`
      await db.owner`
      insert into saga_early (message_id, saga_id, topic, type, payload, attempt, due_at, put_aside_at)
      select id, 's', 't', 'T', '{}', 1, due_at::timestamptz, now() - age from ${rows}`
      const left = async () =>
        (
          await db.owner<Array<{ id: string }>>`
          select message_id as id from saga_handovers union all select message_id from saga_early order by 1`
        ).map(({ id }) => id)

      await until("what is done with is gone", happensWithinMs, async () => (await left()).length <= 4)

      expect(await left()).toEqual(["done", "done", "waits for long", "waits for long"])
    }
  )

  test(
    "clears what is old a bounded part at a time, and passes over a row that is in use",
    () =>
      Effect.gen(function* () {
        const { owner } = yield* database({ schema: "", slotMs: 1_000, inboxSlots: 5 })
        const bounds = { claims: 100_000, keys: 100_000, aside: 20_000 }
        const dropOld = async () => {
          // as long as it answers that it dropped a partition it did nothing else
          for (let dropped = 1; dropped > 0;) {
            const [found] = await owner<Array<{ dropped: number }>>`select oncebox_drop_old() as dropped`
            dropped = found?.dropped ?? 0
          }
        }
        const left = async () => {
          const [found] = await owner`
          select (select count(*)::int from inbox_0) as claims, (select count(*)::int from idempotency_keys) as keys,
            (select count(*)::int from saga_handovers) as aside`
          return { ...found }
        }
        yield* Effect.promise(async () => {
          await Migrations.run(owner, [Migrations.core, Migrations.saga], { slotMs: 1_000, inboxSlots: 5 })
          await owner`
          insert into inbox (message_id, consumer, bucket, claimed_at)
          select gen_random_uuid(), 'c', 0, now() - interval '1 day' from generate_series(0, ${bounds.claims}::int)`
          await owner`
          insert into idempotency_keys (key, fingerprint, created_at)
          select n::text, '', now() - interval '3 days' from generate_series(0, ${bounds.keys}::int) n`
          await owner`
          insert into saga_handovers (message_id, saga_id, topic, type, payload, due_at, put_aside_at)
          select n::text, 's', 't', 'T', '{}', null, now() - interval '1 day' from generate_series(0, ${bounds.aside}::int) n`
          await dropOld()
          expect(await left()).toEqual({ claims: 1, keys: 1, aside: 1 })

          await owner.begin(async (transaction) => {
            await transaction`select from saga_handovers for update`
            await dropOld()
          })
          expect(await left()).toEqual({ claims: 0, keys: 0, aside: 1 })
          await dropOld()
          expect(await left()).toEqual({ claims: 0, keys: 0, aside: 0 })
        })
      }).pipe(Effect.scoped, Effect.timeout("60 seconds"), Effect.runPromise),
    120_000
  )

  test(
    "drops all of the inbox's partitions that are too old in one look, one after the other",
    () =>
      Effect.gen(function* () {
        const { owner, auditor } = yield* database({ schema: "" })
        yield* Effect.promise(() =>
          owner.unsafe(
            [1, 2, 3].map((slot) => `create table inbox_${slot} partition of inbox for values in (${slot})`).join(";")
          )
        )

        const retention = yield* startRetention({
          outboxes: [{ name: "notes", source: "", database: auditor }],
          keep: "2 days",
          consumers: [],
          every: "1 hour"
        }).pipe(Effect.provideService(Offsets, makeInProcess({ partitions: 1 }).offsets))

        yield* Effect.promise(() =>
          until("three are gone", happensWithinMs, () => retention.dropped().get("notes") === 3)
        )
        const left = yield* Effect.promise(() => owner`select from pg_class where relname ~ '^inbox_[1-3]$'`)
        expect(left).toHaveLength(0)
      }).pipe(Effect.scoped, Effect.runPromise),
    60_000
  )

  test(
    "keeps what is within its time, to the day and the hour",
    () =>
      Effect.gen(function* () {
        const { owner } = yield* database({ schema: "" })
        yield* Effect.promise(async () => {
          await Migrations.run(owner, [Migrations.core, Migrations.saga])
          const [now] = await owner<Array<{ slot: number }>>`
          select floor(extract(epoch from clock_timestamp()) / 86400)::bigint as slot`
          const slots = [9, 10, 11].map((ago) => (now?.slot ?? 0) - ago)
          await owner.unsafe(
            slots.map((slot) => `create table inbox_${slot} partition of inbox for values in (${slot})`).join(";")
          )
          await owner`
          insert into inbox (message_id, consumer, bucket, claimed_at)
          select gen_random_uuid(), age::text, 0, now() - age * interval '1 day' from unnest(array[8.9, 9.1]) age`
          await owner`
          insert into saga_early (message_id, saga_id, topic, type, payload, attempt, due_at, put_aside_at)
          select age::text, 's', 't', 'T', '{}', 1, null, now() - age * interval '1 day' from unnest(array[8.9, 9.1]) age`
          await owner`
          insert into idempotency_keys (key, fingerprint, created_at)
          select age::text, '', now() - age * interval '1 hour' from unnest(array[47, 49]) age`

          for (let dropped = 1; dropped > 0;) {
            const [found] = await owner<Array<{ dropped: number }>>`select oncebox_drop_old() as dropped`
            dropped = found?.dropped ?? 0
          }

          const left = await owner<Array<{ name: string }>>`
          select relname as name from pg_class where relname = any(string_to_array(${slots.map((slot) => `inbox_${slot}`).join()}, ','))
          union all select consumer from inbox
          union all select message_id from saga_early
          union all select key from idempotency_keys`
          expect(left.map(({ name }) => name)).toEqual([`inbox_${slots[0]}`, "8.9", "8.9", "47"])
        })
      }).pipe(Effect.scoped, Effect.runPromise),
    60_000
  )

  test(
    "leaves the last word to the database, whatever it is asked for",
    () =>
      Effect.gen(function* () {
        const { owner } = yield* database({ schema: "" })
        yield* Effect.promise(async () => {
          const [now] = await owner<Array<{ slot: number }>>`
          select floor(extract(epoch from clock_timestamp()) / 86400)::bigint as slot`
          const today = now?.slot ?? 0
          const slot = today - 1
          const dropIt = async (which: number, keepMs = 0) => {
            const [found] = await owner<Array<{ reason: string | null }>>`
            select oncebox_drop_outbox_slot(${which}::bigint, ${keepMs}::bigint) as reason`
            return found?.reason
          }
          const audited = (watermark: number, rows: number) => owner`
          insert into audit_marks (slot, watermark, audited)
          values (${slot}, to_timestamp(${watermark}::bigint * 86400), ${rows})
          on conflict (slot) do update set watermark = excluded.watermark, audited = excluded.audited`
          const write = (sql: Pick<typeof owner, "unsafe">) =>
            sql.unsafe(`
            insert into outbox (id, topic, key, type, payload, correlation, coordination, schema_version, created_at)
            values (gen_random_uuid(), 't', 'k', 'T', '{}', 'c', 'orchestration', 1, to_timestamp(${slot} * 86400.0))`)

          /** What is said when a transaction as old as the slot commits while the drop waits for it. */
          const late = async (tries: number): Promise<string | null | undefined> => {
            const { dropping } = await owner.begin(async (transaction) => {
              await write(transaction)
              const dropping = dropIt(slot).catch(String)
              await until("it waits", happensWithinMs, async () => {
                const waiting = await transaction`
                select from pg_locks where not granted and relation = ${`outbox_${slot}`}::regclass`
                return waiting.length > 0
              })
              return { dropping }
            })
            const said = await dropping
            if (tries === 0 || said?.includes("lock timeout") !== true) return said
            await owner.unsafe(`delete from outbox_${slot}`)
            return late(tries - 1)
          }

          expect(await dropIt(slot - 100)).toBeNull()
          expect(await dropIt(today)).toBe("it is not old enough")
          expect(await dropIt(slot, 2 * 86_400_000)).toBe("it is not old enough")
          expect(await dropIt(slot)).toBe("it was not audited to its end")
          await audited(slot, 0)
          expect(await dropIt(slot)).toBe("it was not audited to its end")
          await audited(today, 0)
          expect(await late(5)).toBe("it holds 1 rows, and 0 were audited")
          await audited(today, 1)
          await owner`
          insert into audit_exceptions (id, topic, created_at, due_at)
          values (gen_random_uuid(), 't', to_timestamp(${slot}::bigint * 86400), now())`
          expect(await dropIt(slot)).toBe("not all of it was seen")
          await owner`delete from audit_exceptions`

          expect(await dropIt(slot)).toBeNull()
          expect(await owner`select from pg_class where relname = ${`outbox_${slot}`}`).toHaveLength(0)
        })
      }).pipe(Effect.scoped, Effect.runPromise),
    60_000
  )

  test(
    "gives up a drop soon while somebody reads the table, for whoever writes waits behind it",
    () =>
      Effect.gen(function* () {
        const { owner } = yield* database({ schema: "" })
        yield* Effect.promise(async () => {
          const [now] = await owner<Array<{ slot: number }>>`
          select floor(extract(epoch from clock_timestamp()) / 86400)::bigint as slot`
          const today = now?.slot ?? 0
          await owner.unsafe("create table inbox_1 partition of inbox for values in (1)")
          await owner`
          insert into audit_marks (slot, watermark, audited) values (${today - 1}, to_timestamp(${today}::bigint * 86400), 0)`
          const refusal = (drop: Promise<unknown>) =>
            within(
              "a refusal",
              3_000,
              drop.then(() => "dropped", String)
            )

          await owner.begin(async (backup) => {
            await backup`select from inbox, outbox limit 0`
            expect(await refusal(owner`select oncebox_drop_old()`)).toContain("lock timeout")
            expect(await refusal(owner`select oncebox_drop_outbox_slot(${today - 1}::bigint, 0)`)).toContain(
              "lock timeout"
            )
          })

          expect(await refusal(owner`select oncebox_drop_old()`)).toBe("dropped")
          expect(await refusal(owner`select oncebox_drop_outbox_slot(${today - 1}::bigint, 0)`)).toBe("dropped")
        })
      }).pipe(Effect.scoped, Effect.runPromise),
    60_000
  )

  test(
    "begins when its broker is there, and not before",
    () =>
      Effect.gen(function* () {
        const db = yield* database({ schema: "" })
        const { offsets } = makeInProcess({ partitions: 1 })
        let asked = 0
        const kept: Offsets["Service"]["kept"] = () =>
          Effect.suspend(() =>
            ++asked < 3 ? Effect.fail(new BrokerError({ message: "the broker is away" })) : Effect.succeed(new Map())
          )

        const retention = yield* startRetention({
          outboxes: [{ name: "notes", source: "", database: db.auditor }],
          keep: "2 days",
          consumers: []
        }).pipe(Effect.provideService(Offsets, { ...offsets, kept }), Effect.timeout("20 seconds"))

        expect(asked).toBe(3)
        expect(retention.dropped()).toEqual(new Map([["notes", 0]]))
      }).pipe(Effect.scoped, Effect.runPromise),
    60_000
  )

  const knows = "and its inbox knows what it has seen for 192 h"
  const widen = (slots: number) =>
    `or run "update oncebox_settings set inbox_slots = ${slots}" as its owner and restart what uses it`
  test.each([
    ["9 days", 7, `notes: the outbox would be kept for 216 h, ${knows}: keep it for less, ${widen(9)}`],
    [
      "2 days",
      8.1,
      `notes: topic notes-events keeps records for up to 194.4 h (retention.ms and segment.ms), ${knows}: lower the topic's retention.ms or segment.ms, ${widen(9)}`
    ],
    ["9 days", 10, `notes: the outbox would be kept for 216 h, ${knows}: keep it for less, ${widen(10)}`],
    [
      "2 days",
      Number.POSITIVE_INFINITY,
      `notes: topic notes-events keeps records for up to Infinity h (retention.ms and segment.ms), ${knows}: lower the topic's retention.ms or segment.ms`
    ],
    ["401 days", 7, `notes: the outbox would be kept for 9624 h, ${knows}: keep it for less`],
    ["8 days", 8, undefined],
    ["2 days", 7, undefined]
  ] as const)(
    "with %s of the outbox and %p days of the topics is refused unless an inbox of eight days is enough",
    (keep, days, said) =>
      Effect.runPromise(
        Effect.scoped(
          Effect.gen(function* () {
            const db = yield* database({ schema: "" })
            const kept = () => Effect.succeed(new Map([[events.name, days * 86_400_000]]))
            const start = startRetention({
              outboxes: [{ name: "notes", source: "", database: db.auditor }],
              keep,
              consumers: [{ group: "reader", topics: [events.name] }]
            }).pipe(
              Effect.provideService(Offsets, { ...makeInProcess({ partitions: 1 }).offsets, kept }),
              Effect.match({ onSuccess: () => undefined, onFailure: ({ message }) => message })
            )

            const outcome = yield* start

            expect(outcome).toBe(said)
            const [, advice] = /run "(.*)"/.exec(outcome ?? "") ?? []
            if (advice === undefined) return
            yield* Effect.promise(() => db.owner.unsafe(advice))
            expect(yield* start).toBeUndefined()
          })
        )
      ),
    60_000
  )
})
