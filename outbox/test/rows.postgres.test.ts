/** Rows come back from Postgres as they went there, whatever is in them; a pool gets over what happens to its connections. */
import { describe, expect } from "bun:test"
import { Effect, Exit, Fiber, Layer, Schema } from "effect"
import { until } from "../../stack/wait.ts"
import { database, sharedDatabase } from "./postgres.ts"
import { startProxy } from "./proxy.ts"
import { scenario } from "./store-suite.ts"
import { layerPostgres } from "../store/postgres.ts"
import { Pool } from "../store/pool.ts"
import { Store, type Opening } from "../store/store.ts"
import { Table } from "../table.ts"

const things = Table.make("things", {
  key: "id",
  row: {
    id: Schema.String,
    text: Schema.NullOr(Schema.String),
    code: Schema.String,
    count: Schema.Number,
    whole: Schema.Boolean,
    at: Schema.Date,
    data: Schema.Unknown,
    'a "quoted" name': Schema.NullOr(Schema.String)
  }
})

const template = {
  schema: `
    create domain positive as int check (value > 0);
    create table things (
      id    uuid primary key,
      text  text,
      code  varchar(5) not null,
      count bigint not null,
      whole boolean not null,
      at    timestamptz not null,
      data  jsonb,
      "a ""quoted"" name" text,
      tags  text[],
      rank  positive not null default 1
    );
    grant select, insert, update on things to bank_service;`
}

const nothing: Opening = {
  consumer: "rows",
  claims: [],
  unpark: [],
  parking: [],
  parkedKeys: [],
  due: undefined,
  loads: []
}

const opened = Effect.gen(function* () {
  const db = yield* database(template)
  const store = yield* Effect.provideContext(Store, yield* Layer.build(layerPostgres(db.service, "rows")))
  const lane = yield* store.lane("topics", [things])
  const insert = (rows: ReadonlyArray<object>) =>
    Effect.gen(function* () {
      const transaction = yield* lane.begin(nothing)
      const changes = [{ table: things, inserts: rows, updates: [], changed: new Set<string>() }]
      yield* transaction.commit({ changes, outbox: [], calls: [], parked: [] })
    })
  const update = (rows: ReadonlyArray<object>, changed: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const transaction = yield* lane.begin(nothing)
      const changes = [{ table: things, inserts: [], updates: rows, changed: new Set(changed) }]
      yield* transaction.commit({ changes, outbox: [], calls: [], parked: [] })
    })
  const load = (keys: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const transaction = yield* lane.begin({ ...nothing, loads: [{ table: things, keys }] })
      yield* transaction.rollback
      return (transaction.rows[0] ?? []).map(things.decode)
    })
  return { db, insert, update, load }
})

const thing = (over: object = {}) => ({
  id: Bun.randomUUIDv7(),
  text: "t",
  code: "c",
  count: 1,
  whole: true,
  at: new Date("2026-11-21T12:00:00.123Z"),
  data: { a: [1, null, "x"] },
  'a "quoted" name': "q",
  ...over
})

const hostile = [
  "",
  "NULL",
  "null",
  `"`,
  "\\",
  `\\"`,
  "{",
  "}",
  "{a,b}",
  ",",
  " ",
  "a\nb\tc",
  "'; drop table things",
  "é",
  "\u{1f600}",
  "\ud7ff"
]

describe("a row", () => {
  scenario(
    "of every type comes back as it went, by itself and among others",
    Effect.gen(function* () {
      const { insert, load } = yield* opened
      const rows = [
        thing(),
        thing({ text: null, data: null }),
        thing({
          count: -9_007_199_254_740_991,
          whole: false,
          data: "text"
        }),
        ...hostile.map((text) => thing({ text, data: { [text]: text } }))
      ].toSorted((a, b) => (a.id < b.id ? -1 : 1))

      yield* insert(rows)

      expect(yield* load(rows.map(({ id }) => id))).toEqual(rows)
    })
  )

  scenario(
    "is updated in the columns that changed, and in no other",
    Effect.gen(function* () {
      const { db, insert, update, load } = yield* opened
      const rows = [thing(), thing()]
      yield* insert(rows)
      yield* Effect.promise(() => db.owner`update things set text = 'by hand'`)

      yield* update(
        rows.map((row) => ({ ...row, text: "not this", count: 5 })),
        ["count"]
      )

      expect((yield* load(rows.map(({ id }) => id))).map(({ text, count }) => ({ text, count }))).toEqual([
        { text: "by hand", count: 5 },
        { text: "by hand", count: 5 }
      ])

      // by another statement than the one before
      yield* update([{ ...rows[0], text: "again", count: 6 }], ["text"])
      yield* update([{ ...rows[1], text: "both", count: 7 }], ["text", "count"])

      expect((yield* load(rows.map(({ id }) => id))).map(({ text, count }) => ({ text, count }))).toEqual([
        { text: "again", count: 5 },
        { text: "both", count: 7 }
      ])
    })
  )

  scenario(
    "is refused and not cut, when a text is too long for its column or none that Postgres can hold",
    Effect.gen(function* () {
      const { insert, load } = yield* opened
      for (const over of [
        { code: "sixsix" },
        { text: "\u0000" },
        { text: "\ud800" },
        { data: { "\udc00": 1 } },
        { data: "\ud800" }
      ]) {
        const row = thing(over)

        const outcome = yield* Effect.exit(insert([thing(), row]))

        expect(Exit.isFailure(outcome) && outcome.cause.reasons).toMatchObject([
          { _tag: "Fail", error: { _tag: "RowRefused", table: "things" } }
        ])
        expect(yield* load([row.id])).toEqual([])
      }
    })
  )

  scenario(
    "is found by its key, however small its table was when the lane first looked",
    Effect.gen(function* () {
      const { db, insert, load } = yield* opened
      const row = thing()
      yield* insert([row])
      yield* load([row.id])
      yield* Effect.promise(
        () => db.owner`
          insert into things (id, code, count, whole, at)
          select gen_random_uuid(), '', 0, true, now() from generate_series(1, 2000)`
      )
      const scans = () =>
        Effect.promise(async () => {
          await db.superuser`select pg_stat_force_next_flush()`
          const [stats] = await db.superuser<Array<{ seq_scan: number; idx_scan: number }>>`
            select seq_scan, idx_scan from pg_stat_user_tables where relname = 'things'`
          return { sequential: Number(stats?.seq_scan), byIndex: Number(stats?.idx_scan) }
        })
      const before = yield* scans()

      for (let times = 0; times < 20; times++) yield* load([row.id])

      expect((yield* scans()).sequential).toBe(before.sequential)
    })
  )
})

scenario(
  "a table with a column that is an array is refused: Postgres' arrays are not read as such",
  Effect.gen(function* () {
    const db = yield* database(template)
    const store = yield* Effect.provideContext(Store, yield* Layer.build(layerPostgres(db.service, "rows")))
    const tagged = Table.make("things", { key: "id", row: { id: Schema.String, tags: Schema.Unknown } })

    const { message } = yield* Effect.flip(store.lane("topics", [tagged]))

    expect(message).toBe("column tags of table things is an array: make it jsonb")
  })
)

scenario(
  "a table or a column that the database does not have is named, with what to do about it",
  Effect.gen(function* () {
    const db = yield* database(template)
    const store = yield* Effect.provideContext(Store, yield* Layer.build(layerPostgres(db.service, "rows")))
    const key = { key: "id" } as const
    const lost = Table.make("lost", { ...key, row: { id: Schema.String } })
    const wider = Table.make("things", { ...key, row: { id: Schema.String, size: Schema.Int, weight: Schema.Int } })

    const messages = yield* Effect.forEach([lost, wider], (table) =>
      Effect.map(Effect.flip(store.lane("topics", [table])), ({ message }) => message)
    )

    expect(messages).toEqual([
      "table lost does not exist or may not be read: run the migrations",
      "table things has no column size, weight: run the migrations"
    ])
  })
)

describe("a pool", () => {
  scenario(
    "answers again after its connections were lost, cut off or stopped",
    Effect.gen(function* () {
      const db = yield* sharedDatabase({ schema: "" })
      const proxy = yield* Effect.acquireRelease(
        Effect.promise(() => startProxy({ host: "127.0.0.1", port: db.port })),
        (started) => Effect.promise(() => started.close())
      )
      const options = { ...db.service, port: proxy.port, bounds: { answerMs: 500 } }
      const pool = yield* Effect.acquireRelease(
        Effect.sync(() => new Pool(options, { name: "reads", max: 3, readOnly: true })),
        (one) => Effect.promise(() => one.close())
      )
      // kept by queries, while the connections below it change
      const { sql } = pool
      const ask = pool.use(async () => Number((await sql<Array<{ one: number }>>`select 1 as one`)[0]?.one))
      const asked = () =>
        Effect.all(
          Array.from({ length: 9 }, () => Effect.exit(ask)),
          { concurrency: "unbounded" }
        )

      expect((yield* asked()).every(Exit.isSuccess)).toBe(true)
      for (const trouble of [
        () => proxy.stop(),
        () => void (proxy.fate = () => "cut before"),
        () => void (proxy.fate = () => "cut after")
      ]) {
        trouble()
        expect((yield* asked()).filter(Exit.isFailure).length).toBeGreaterThan(0)
        proxy.fate = () => "forward"
        expect((yield* asked()).every(Exit.isSuccess)).toBe(true)
      }
    })
  )

  const pooled = (name: string, max: number, over: { readonly port?: number } = {}) =>
    Effect.gen(function* () {
      const db = yield* sharedDatabase({ schema: "" })
      const options = { ...db.service, ...over, bounds: { answerMs: 4_000 } }
      const pool = yield* Effect.acquireRelease(
        Effect.sync(() => new Pool(options, { name, max, readOnly: true })),
        (one) => Effect.promise(() => one.close())
      )
      return { db, pool }
    })

  scenario(
    "opens its connections anew, once, when one is lost while nobody asks",
    Effect.gen(function* () {
      const { db, pool } = yield* pooled("idle reads", 3)
      const asked = Effect.all(
        Array.from({ length: 9 }, () => Effect.exit(pool.use((sql) => sql`select 1`))),
        { concurrency: "unbounded" }
      )
      const open = () => db.superuser`select pid from pg_stat_activity where application_name = 'idle reads'`
      yield* asked
      const before = pool.sql.options

      const [lost, ...others] = yield* Effect.promise(open)
      yield* Effect.promise(() => db.superuser`select pg_terminate_backend(${lost?.["pid"]})`)
      yield* Effect.promise(() => until("new connections", 5_000, () => pool.sql.options !== before))
      const after = pool.sql.options
      yield* Effect.promise(() => until("the end of the others", 5_000, async () => (await open()).length === 0))

      expect(others).toHaveLength(2)
      expect((yield* asked).every(Exit.isSuccess)).toBe(true)
      expect(pool.sql.options).toBe(after)
    })
  )

  scenario(
    "opens its connections anew, once, when all are lost while they are in use",
    Effect.gen(function* () {
      const { db, pool } = yield* pooled("busy reads", 3)
      const sleeping = () => db.superuser`
        select pid from pg_stat_activity where application_name = 'busy reads' and wait_event = 'PgSleep'`
      // whoever hears of it first must not lose the next query to those who hear of it later
      const twice = Effect.gen(function* () {
        const lost = yield* Effect.exit(pool.use((sql) => sql`select pg_sleep(20)`))
        const again = yield* Effect.exit(pool.use((sql) => sql`select pg_sleep(0.3)`))
        return [Exit.isFailure(lost), Exit.isSuccess(again)]
      })
      const asking = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(twice))
      yield* Effect.promise(() => until("three queries", 5_000, async () => (await sleeping()).length === 3))

      yield* Effect.promise(
        () => db.superuser`
          select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'busy reads'`
      )

      expect(yield* Effect.forEach(asking, (one) => Fiber.join(one))).toEqual([
        [true, true],
        [true, true],
        [true, true]
      ])
    })
  )

  scenario(
    "answers again after a connection could not be made",
    Effect.gen(function* () {
      const { port } = yield* sharedDatabase({ schema: "" })
      const proxy = yield* Effect.acquireRelease(
        Effect.promise(() => startProxy({ host: "127.0.0.1", port })),
        (started) => Effect.promise(() => started.close())
      )
      proxy.fate = () => "cut before"
      const { pool } = yield* pooled("first reads", 1, { port: proxy.port })
      const ask = Effect.exit(pool.use((sql) => sql`select 1`))

      const refused = yield* ask
      proxy.fate = () => "forward"

      expect(Exit.isFailure(refused)).toBe(true)
      expect(Exit.isSuccess(yield* ask)).toBe(true)
    })
  )

  scenario(
    "goes on with the others' queries when one is at fault, and does not write",
    Effect.gen(function* () {
      const { pool } = yield* pooled("faulty reads", 2)
      const slow = yield* Effect.forkChild(pool.use((sql) => sql`select pg_sleep(0.3)`))
      const before = pool.sql.options

      const wrong = yield* Effect.flip(pool.use((sql) => sql`select 1 / 0`))
      const write = yield* Effect.flip(pool.use((sql) => sql`create table t (id int)`))

      expect(wrong.message).toBe("22012: division by zero")
      expect(write.message).toStartWith("25006: ")
      yield* Fiber.join(slow)
      expect(pool.sql.options).toBe(before)
    })
  )
})
