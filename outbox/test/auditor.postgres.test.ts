/** The auditor on Postgres and the in-process broker: whatever is lost on the way to a topic is published again. */
import { describe, expect, test } from "bun:test"
import { Effect, Exit, Schema, Scope } from "effect"
import { Broker, BrokerError, type Outbound } from "../broker/broker.ts"
import { makeInProcess } from "../broker/in-process.ts"
import { Offsets } from "../broker/offsets.ts"
import { startAuditor, type Auditor, type AuditorOptions } from "../delivery/auditor.ts"
import { moveWatermark, noteExceptions, readWatermark } from "../delivery/audit-store.ts"
import { outboxColumns, recordOf, type OutboxRow } from "../delivery/relay.ts"
import { Topic } from "../message.ts"
import { Outbox } from "../store/outbox.ts"
import type { SqlTransaction } from "../store/connection.ts"
import { Pool } from "../store/pool.ts"
import { database, type Database } from "./postgres.ts"
import { until, within } from "../../stack/wait.ts"

const events = Topic.events("notes-events")
const Noted = events.message("Noted", { note: Schema.String, text: Schema.String }, { key: "note" })
const source = "/oncebox/notes"
const happensWithinMs = 20_000

interface World {
  readonly db: Database
  readonly queue: ReturnType<typeof makeInProcess>
  /** Commits notes and answers their ids. */
  readonly write: (count: number) => Promise<ReadonlyArray<string>>
  /** What Debezium would do. */
  readonly publish: (ids: ReadonlyArray<string>) => Promise<void>
  /** Starts an auditor; the function it answers kills it. */
  readonly audit: (
    options?: Partial<AuditorOptions>,
    broker?: Broker["Service"],
    offsets?: Offsets["Service"]
  ) => Promise<Auditor & { readonly stop: () => Promise<void> }>
  /** How often each message lies on its topic. */
  readonly times: (ids: ReadonlyArray<string>) => ReadonlyArray<number>
  readonly passed: (auditor: Auditor) => Promise<void>
}

const append = (transaction: SqlTransaction, count: number) =>
  Outbox.append(
    transaction,
    Array.from({ length: count }, (_, n) => Noted.of({ note: `note-${n % 5}`, text: `${n} – "ö"` }))
  )

const recordsOf = async (db: Database, ids: ReadonlyArray<string>): Promise<ReadonlyArray<Outbound>> => {
  const rows = await db.owner<Array<OutboxRow & { created_text: string }>>`
    select ${db.owner.unsafe(outboxColumns)},
      to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as created_text
    from outbox
    where id = any(${[...ids]}::uuid[])
    order by created_at, id`
  return rows.map(({ created_text, schema_version, ...row }) => {
    const { headers, ...record } = recordOf({ ...row, schemaVersion: schema_version }, source, new Date())
    return { ...record, headers: { ...headers, ce_time: created_text } }
  })
}

/** How to end what a case has started is put to `stops`. */
const worldOf = (db: Database, stops: Array<() => Promise<void>>): World => {
  const queue = makeInProcess({ partitions: 3 })
  const states = (auditor: Auditor) => auditor.states().get("notes")
  return {
    db,
    queue,
    write: (count) => db.asService.begin((transaction) => append(transaction, count)),
    publish: async (ids) => Effect.runPromise(queue.broker.publish(await recordsOf(db, ids))),
    audit: async (options = {}, broker = queue.broker, offsets = queue.offsets) => {
      const scope = Scope.makeUnsafe()
      const auditor = await Effect.runPromise(
        startAuditor({
          outboxes: [{ name: "notes", source, database: db.auditor }],
          topics: [events.name],
          grace: "400 millis",
          every: "50 millis",
          ...options
        }).pipe(Scope.provide(scope), Effect.provideService(Broker, broker), Effect.provideService(Offsets, offsets))
      )
      const stop = () => within("the auditor's end", happensWithinMs, Effect.runPromise(Scope.close(scope, Exit.void)))
      stops.push(stop)
      return { ...auditor, stop }
    },
    times: (ids) => {
      const found = Map.groupBy(queue.records(events.name), ({ headers }) => String(headers["id"]))
      return ids.map((id) => found.get(id)?.length ?? 0)
    },
    passed: async (auditor) => {
      const [time] = await db.owner<Array<{ now: number }>>`
        select (extract(epoch from clock_timestamp()) * 1000)::bigint as now`
      await until("the watermark past now", happensWithinMs, () => {
        const { watermarkLag = Number.POSITIVE_INFINITY, failure } = states(auditor) ?? {}
        if (failure !== undefined) throw new Error(failure)
        return Date.now() - watermarkLag * 1000 > (time?.now ?? 0) + 2_000
      })
    }
  }
}

/** Cases wait most of their time: they run beside each other, but for one that has an appointment to keep. */
const onNotes = (
  name: string,
  body: (world: World) => Promise<void>,
  { slotMs, alone = false }: { readonly slotMs?: number; readonly alone?: boolean } = {}
): void =>
  (alone ? test.serial : test.concurrent)(
    name,
    () =>
      Effect.runPromise(
        Effect.scoped(
          Effect.gen(function* () {
            const db = yield* database({ schema: "", ...(slotMs === undefined ? {} : { slotMs }) })
            yield* Effect.promise(async () => {
              const stops: Array<() => Promise<void>> = []
              try {
                await body(worldOf(db, stops))
              } finally {
                for (const stop of stops) await stop()
              }
            })
          })
        )
      ),
    60_000
  )

const state = (auditor: Auditor) => {
  const found = auditor.states().get("notes")
  if (found === undefined) throw new Error("nothing is known of the notes")
  return found
}

const exceptionsOf = (db: Database) =>
  db.owner<Array<{ id: string; attempts: number; pause: number | null }>>`
    select id, attempts, extract(epoch from due_at - published_at)::float8 as pause
    from audit_exceptions
    order by created_at`

describe("the auditor", () => {
  onNotes("leaves alone what lies on its topic", async ({ write, publish, audit, times, passed, queue, db }) => {
    const ids = await write(50)
    await publish(ids)
    const auditor = await audit()

    await passed(auditor)

    expect(new Set(times(ids))).toEqual(new Set([1]))
    expect(state(auditor)).toMatchObject({ exceptions: 0, healed: 0, republished: 0, oldestUnseen: 0 })
    await until("all offsets committed", happensWithinMs, async () => {
      const now = await Effect.runPromise(queue.offsets.committed("auditor", [events.name]))
      return [...now.values()].reduce((sum, offset) => sum + offset, 0n) === 50n
    })
    const [marks] = await db.owner`select sum(audited)::int as audited from audit_marks`
    expect(marks?.["audited"]).toBe(50)
  })

  onNotes("publishes what is not there again, as it would have been", async (world) => {
    const { write, publish, audit, times, passed, queue, db } = world
    const ids = await write(30)
    const lost = ids.filter((_, n) => n % 3 === 0)
    await publish(ids.filter((id) => !lost.includes(id)))
    const auditor = await audit()

    await until("all healed", happensWithinMs, () => state(auditor).healed === lost.length)
    await passed(auditor)

    expect(new Set(times(ids))).toEqual(new Set([1]))
    expect(state(auditor)).toMatchObject({ exceptions: 0, republished: lost.length, oldestUnseen: 0 })
    const expected = await recordsOf(db, lost)
    const found = queue.records(events.name).filter(({ headers }) => lost.includes(String(headers["id"])))
    const plain = found.map(({ topic, key, value, headers }) => ({
      topic,
      key: Buffer.from(key ?? "").toString(),
      value: Buffer.from(value ?? "").toString(),
      headers
    }))
    const byId = (one: { headers: object }, other: { headers: object }) =>
      JSON.stringify(one.headers) < JSON.stringify(other.headers) ? -1 : 1
    expect(plain.toSorted(byId)).toEqual([...expected].toSorted(byId) as never)
  })

  onNotes("reads no more of a large outbox than what is new", async ({ db, write, publish, audit, passed }) => {
    const [{ partition, index } = { partition: "", index: "" }] = await db.owner<
      Array<{ partition: string; index: string }>
    >`
      select indrelid::regclass::text as partition, indexrelid::regclass::text as index
      from pg_index
      join pg_inherits on inhrelid = indexrelid
      join oncebox_settings on true
      where inhparent = 'outbox_by_time'::regclass
        and indrelid = ('outbox_' || floor(extract(epoch from now()) * 1000 / slot_ms)::bigint)::regclass`
    for (let n = 0; n < 5; n++) await publish(await write(1_500))
    const auditor = await audit()

    await passed(auditor)

    // what was left to summarise: the range that is not full yet
    const [left] = await db.owner`select brin_summarize_new_values(${index}::regclass) as ranges`
    expect(left?.["ranges"]).toBe(1)
    const [size] = await db.owner`select pg_relation_size(${partition}::regclass) / 8192 / 16 as ranges`
    expect(size?.["ranges"]).toBeGreaterThan(5)
    // its session tells of what it did when it ends
    await auditor.stop()
    await until("the index was asked", happensWithinMs, async () => {
      const [found] = await db.owner`select idx_scan from pg_stat_user_indexes where indexrelid = ${index}::regclass`
      return found?.["idx_scan"] > 0
    })
  })

  onNotes("never passes a transaction that is open, and does not wait for it either", async (world) => {
    const { db, write, audit, times, passed } = world
    const late = Promise.withResolvers<void>()
    let lateIds: ReadonlyArray<string> = []
    const begun = Promise.withResolvers<void>()
    const open = db.owner.begin(async (transaction) => {
      await transaction`select now()`
      begun.resolve()
      await late.promise
      lateIds = await append(transaction as unknown as SqlTransaction, 5)
    })
    await begun.promise
    const auditor = await audit()
    const early = await write(10)

    await until("what others lost is healed meanwhile", happensWithinMs, () => state(auditor).healed === early.length)
    await until("it would be past it", happensWithinMs, () => state(auditor).watermarkLag > 3)
    late.resolve()
    await open
    await until("the late rows are healed", happensWithinMs, () => state(auditor).healed === early.length + 5)
    await passed(auditor)

    expect(times([...early, ...lateIds])).toEqual(Array(15).fill(1))
    const [marks] = await db.owner`select sum(audited)::int as audited from audit_marks`
    expect(marks?.["audited"]).toBe(15)
  })

  onNotes("that is killed and started again knows what it knew", async ({ write, publish, audit, times, passed }) => {
    const first = await audit({ grace: "1 minute" })
    const before = await write(40)
    await publish(before)
    await until("it has read them", happensWithinMs, () => first.remembered().messages === 40)
    await within("a look", happensWithinMs, Effect.runPromise(first.look))
    await first.stop()
    const meanwhile = await write(10)
    await publish(meanwhile)
    const lost = await write(3)

    const second = await audit()
    await until("healed", happensWithinMs, () => state(second).healed === 3)
    await passed(second)

    expect(new Set(times([...before, ...meanwhile, ...lost]))).toEqual(new Set([1]))
    expect(state(second).republished).toBe(3)
  })

  onNotes("judges nothing before it has read all that lies there", async (world) => {
    const { write, publish, times, passed, queue, db } = world
    const ids = await write(20)
    await publish(ids)
    const readable = Promise.withResolvers<void>()
    const slow: Broker["Service"] = {
      ...queue.broker,
      subscribe: (options) =>
        Effect.map(queue.broker.subscribe(options), (subscription) => ({
          ...subscription,
          take: (limit) =>
            Effect.andThen(
              Effect.promise(() => readable.promise),
              subscription.take(limit)
            )
        }))
    }
    const auditor = await world.audit({}, slow)

    await until("it has tried to", happensWithinMs, () => state(auditor).watermarkLag > 2)
    expect(await exceptionsOf(db)).toHaveLength(0)
    readable.resolve()
    await passed(auditor)

    expect(new Set(times(ids))).toEqual(new Set([1]))
    expect(state(auditor)).toMatchObject({ exceptions: 0, republished: 0 })
  })

  onNotes("takes up exceptions that a killed one noted", async ({ write, audit, times, passed, db }) => {
    const first = await audit({ grace: "6 seconds" })
    const ids = await write(4)
    await until("noted", happensWithinMs, async () => (await exceptionsOf(db)).length === 4)
    await first.stop()
    expect(times(ids)).toEqual([0, 0, 0, 0])

    const second = await audit()
    await until("healed", happensWithinMs, () => state(second).healed === 4)
    await passed(second)

    expect(times(ids)).toEqual([1, 1, 1, 1])
  })

  onNotes("does not publish again what came while nobody audited", async ({ write, publish, audit, times, db }) => {
    const first = await audit({ grace: "8 seconds" })
    const ids = await write(4)
    await until("noted", happensWithinMs, async () => (await exceptionsOf(db)).length === 4)
    await first.stop()
    await publish(ids)

    const second = await audit({ grace: "8 seconds" })
    await until("all found", happensWithinMs, async () => (await exceptionsOf(db)).length === 0)

    expect(times(ids)).toEqual([1, 1, 1, 1])
    expect(state(second).republished).toBe(0)
  })

  onNotes("with room for few messages forgets none", async ({ db, write, publish, audit, times, passed }) => {
    const ids: Array<string> = []
    for (let n = 0; n < 20; n++) ids.push(...(await write(30)))
    // against the order in which they were written, so that what is read first is the newest
    for (let n = 20; n > 0; n--) await publish(ids.slice(30 * n - 30, 30 * n))
    const lost = await write(5)
    const auditor = await audit({ remembered: 50 })

    await until("healed", happensWithinMs, () => state(auditor).healed === 5)
    await passed(auditor)

    expect(new Set(times([...ids, ...lost]))).toEqual(new Set([1]))
    expect(auditor.remembered()).toEqual({ messages: 0, full: false })
    expect(await exceptionsOf(db)).toHaveLength(0)
  })

  onNotes("and another one at the same time do no harm", async ({ write, publish, audit, times, passed, db }) => {
    const auditors = await Promise.all([audit(), audit(), audit()])
    const ids: Array<string> = []
    const lost: Array<string> = []
    const healed = () => auditors.reduce((sum, auditor) => sum + state(auditor).healed, 0)
    for (let n = 0; n < 5; n++) {
      const written = await write(20)
      ids.push(...written)
      lost.push(...written.slice(0, 2))
      await publish(written.slice(2))
    }
    await until("healed", happensWithinMs, () => healed() === lost.length)
    await Promise.all(auditors.map(passed))
    expect(new Set(times(ids))).toEqual(new Set([1]))

    const [marks] = await db.owner`select sum(audited)::int as audited from audit_marks`
    expect(marks?.["audited"]).toBe(ids.length)

    // whoever reads is stopped, and the next one goes on
    await auditors[0]?.stop()
    const after = await write(3)
    await until("healed", happensWithinMs, () => healed() === lost.length + 3)
    expect(times(after)).toEqual([1, 1, 1])
  })

  onNotes("moves the watermark only from where it is, and notes nothing otherwise", async ({ db, write }) => {
    const [id = ""] = await write(1)
    const pool = new Pool(db.auditor, { name: "auditor", max: 1 })
    try {
      const { watermark, slotLength } = await readWatermark(pool.sql)
      const slot = watermark / slotLength
      const unseen = [{ id, topic: events.name, created: watermark + 5 }]
      const move = (from: number, to: number) =>
        moveWatermark(pool.sql, { slot, from: watermark + from, to: watermark + to, rows: 1 }, unseen, 0)

      expect(await move(0, 10)).toBe(true)
      await pool.sql`delete from audit_exceptions`
      expect(await move(0, 20)).toBe(false)
      await noteExceptions(pool.sql, watermark + 20, unseen, 0)
      expect(await exceptionsOf(db)).toHaveLength(0)
      expect((await readWatermark(pool.sql)).watermark).toBe(watermark + 10)

      expect(await move(10, 20)).toBe(true)
      expect(await exceptionsOf(db)).toHaveLength(1)
      expect(await db.owner`select slot, audited from audit_marks`).toMatchObject([{ slot, audited: 2 }])
    } finally {
      await pool.close()
    }
  })

  onNotes("is not troubled by records that come many times", async ({ write, publish, audit, passed, queue, db }) => {
    const auditor = await audit()
    const ids = await write(40)
    await publish(ids)
    await publish(ids)
    await passed(auditor)
    await publish(ids)
    await until("all offsets committed", happensWithinMs, async () => {
      const now = await Effect.runPromise(queue.offsets.committed("auditor", [events.name]))
      return [...now.values()].reduce((sum, offset) => sum + offset, 0n) === 120n
    })

    expect(auditor.remembered().messages).toBe(0)
    expect(state(auditor)).toMatchObject({ exceptions: 0, republished: 0 })
    expect(await exceptionsOf(db)).toHaveLength(0)
  })

  onNotes("does not count what is seen on another topic, nor what can't be its own", async (world) => {
    const { write, audit, queue, db, times } = world
    const ids = await write(1)
    const [record] = await recordsOf(db, ids)
    if (record === undefined) throw new Error("no record")
    const forged: ReadonlyArray<Outbound> = [
      { ...record, topic: "other-events" },
      { ...record, headers: { ...record.headers, ce_source: "/somewhere/else" } },
      { ...record, headers: { ...record.headers, id: "'; drop table outbox" } },
      { ...record, headers: { ...record.headers, ce_time: "2999-01-01T00:00:00Z", id: Bun.randomUUIDv7() } },
      { ...record, headers: {} }
    ]
    await Effect.runPromise(queue.broker.publish(forged))
    const auditor = await audit({ topics: [events.name, "other-events"] })

    await until("healed", happensWithinMs, () => state(auditor).healed === 1)

    // the one with another source, and the one that was published again
    expect(times(ids)).toEqual([2])
  })

  onNotes("asks again after pauses that double, for as long as a row is not seen", async ({ db, write, audit }) => {
    await write(2)
    const auditor = await audit({ topics: ["another-topic"], grace: "100 millis" })
    const pauses = new Set<number>()

    await until("four attempts", happensWithinMs, async () => {
      const exceptions = await exceptionsOf(db)
      for (const { pause } of exceptions) if (pause !== null) pauses.add(Math.round(pause * 10) / 10)
      return exceptions.length === 2 && exceptions.every(({ attempts }) => attempts >= 4)
    })

    expect([...pauses].toSorted((a, b) => a - b).slice(0, 4)).toEqual([0.1, 0.2, 0.4, 0.8])
    expect(state(auditor)).toMatchObject({ exceptions: 2, healed: 0 })
    expect(state(auditor).oldestUnseen).toBeGreaterThan(0.7)
  })

  onNotes("publishes for one topic though another takes nothing", async ({ db, queue, audit, times, passed }) => {
    const nowhere = Topic.events("no-events").message("Lost", { note: Schema.String }, { key: "note" })
    const strict: Broker["Service"] = {
      ...queue.broker,
      publish: (records) =>
        records.some(({ topic }) => topic === "no-events")
          ? Effect.fail(new BrokerError({ message: "no-events does not exist" }))
          : queue.broker.publish(records)
    }
    // all of one time, so that they are due together
    const [lost, ...ids] = await db.asService.begin(async (transaction) => [
      ...(await Outbox.append(transaction, [nowhere.of({ note: "a" })])),
      ...(await append(transaction, 10))
    ])
    const auditor = await audit({}, strict)

    await until("healed", happensWithinMs, () => state(auditor).healed === 10)
    await passed(auditor)

    expect(times(ids)).toEqual(Array(10).fill(1))
    const [left, ...others] = await exceptionsOf(db)
    expect([left?.id, others]).toEqual([lost, []])
  })

  onNotes("goes on when its database was away", async ({ db, write, audit, times }) => {
    const auditor = await audit()
    await until("begun", happensWithinMs, () => state(auditor).failure === undefined)
    await db.superuser`
      select pg_terminate_backend(pid) from pg_stat_activity where datname = ${db.name} and application_name = 'auditor'`
    const ids = await write(3)

    await until("healed", happensWithinMs, () => state(auditor).healed === 3)

    expect(times(ids)).toEqual([1, 1, 1])
  })

  onNotes("does not forget what it read while its database refused to be told", async (world) => {
    const { db, write, publish, audit, times } = world
    await db.owner.unsafe(`
      create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not now'; end $$;
      create trigger refuse before delete on audit_exceptions execute function refuse()`)
    const auditor = await audit({ grace: "10 seconds", remembered: 10 })
    const ids = await write(3)
    await until("noted", happensWithinMs, async () => (await exceptionsOf(db)).length === 3)
    await publish(ids)
    await until("refused", happensWithinMs, () => state(auditor).failure?.includes("not now") === true)
    // nor does it read more than it has room for
    for (let n = 0; n < 5; n++) await publish(ids)
    await until("it reads no more", happensWithinMs, () => auditor.remembered().full)

    await db.owner.unsafe("drop trigger refuse on audit_exceptions")
    await until("all found", happensWithinMs, async () => (await exceptionsOf(db)).length === 0)
    await until("it reads on", happensWithinMs, () => !auditor.remembered().full)

    expect(times(ids)).toEqual([6, 6, 6])
    expect(state(auditor).republished).toBe(0)
  })

  onNotes("may read the outbox, write its own tables, and nothing else", async ({ db, write }) => {
    const ids = await write(1)
    const asAuditor = (text: string) =>
      db.superuser.begin(async (transaction) => {
        await transaction.unsafe("set local role oncebox_auditor")
        return (await transaction.unsafe(text)).length
      })

    expect(await asAuditor("select id from outbox")).toBe(1)
    for (const forbidden of [
      "insert into outbox select * from outbox",
      "delete from outbox",
      "update outbox set topic = ''",
      "drop table outbox",
      "select * from inbox",
      "select * from dead_letters",
      "delete from audit_marks",
      "select oncebox_prepare_partitions()"
    ])
      await expect(asAuditor(forbidden)).rejects.toThrow(/permission denied|must be owner/)
    expect(ids).toHaveLength(1)
  })

  onNotes(
    "finds what comes while it notes what is missing",
    async ({ db, queue, write, publish, audit }) => {
      let taken = 0
      let asked = 0
      let meanwhile = async (): Promise<void> => {}
      const counting: Broker["Service"] = {
        ...queue.broker,
        subscribe: (options) =>
          Effect.map(queue.broker.subscribe(options), (subscription) => ({
            ...subscription,
            take: (limit) =>
              Effect.tap(subscription.take(limit), (records) => Effect.sync(() => (taken += records.length)))
          }))
      }
      const asking: Offsets["Service"] = {
        ...queue.offsets,
        extents: (topics) =>
          Effect.promise(() => (asked++ === 1 ? meanwhile() : Promise.resolve())).pipe(
            Effect.andThen(queue.offsets.extents(topics))
          )
      }
      const auditor = await audit({ grace: "4 seconds", every: "1 hour" }, counting, asking)
      await until("the first look", happensWithinMs, () => state(auditor).failure === undefined)
      const slotNow = async () => {
        const [now] = await db.owner<Array<{ slot: number }>>`
          select floor(extract(epoch from clock_timestamp()))::bigint as slot`
        return now?.slot ?? 0
      }
      // in slots of their own, so that they are looked at one after the other
      await db.owner`select oncebox_prepare_partitions()`
      const first = await write(1)
      const slot = await slotNow()
      await until("the next slot", happensWithinMs, async () => (await slotNow()) > slot)
      await db.owner`select oncebox_prepare_partitions()`
      await write(1)
      const writtenAt = performance.now()
      await until("both are old enough", happensWithinMs, () => performance.now() > writtenAt + 2_300)
      asked = 0
      meanwhile = async () => {
        await publish(first)
        await until("it was read", happensWithinMs, () => taken === 1)
        await new Promise((resolve) => setImmediate(resolve))
      }

      await within("a look", happensWithinMs, Effect.runPromise(auditor.look))

      expect(asked).toBe(2)
      expect(state(auditor)).toMatchObject({ exceptions: 1, republished: 0 })
    },
    { slotMs: 1_000, alone: true }
  )
})
