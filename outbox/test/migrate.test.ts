import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Exit, Redacted, Scope } from "effect"
import { connect, type Sql } from "../store/connection.ts"
import { MigrationRefused, Migrations, type MigrationSource } from "../store/migrate.ts"
import { database, ownerRole } from "./postgres.ts"

const scope = Effect.runSync(Scope.make())
let folder = ""
let owner: Sql
/** Opens one more connection to the owner's empty database. */
let another: () => Sql
const opened: Array<Sql> = []

beforeAll(async () => {
  const { superuser, service, name, password } = await Effect.runPromise(
    database({ schema: "" }).pipe(Effect.provideService(Scope.Scope, scope))
  )
  await superuser.unsafe(`create database ${name}_empty owner ${ownerRole}`)
  await Effect.runPromise(
    Scope.addFinalizer(
      scope,
      Effect.promise(() => superuser.unsafe(`drop database ${name}_empty`))
    )
  )
  const options = { ...service, database: `${name}_empty`, username: ownerRole, password: Redacted.make(password) }
  another = () => {
    // whoever comes second waits for whoever came first
    const session = { lock_timeout: 60_000, transaction_timeout: 60_000 }
    const sql = connect(options, { name: "migrate", max: 1, session })
    opened.push(sql)
    return sql
  }
  owner = another()
}, 60_000)
afterAll(async () => {
  await Promise.all(opened.map((sql) => sql.end({ timeout: 2 })))
  await Effect.runPromise(Scope.close(scope, Exit.void))
})

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "oncebox-migrations-"))
  await owner`drop publication if exists outbox`
  await owner`drop schema public cascade`
  await owner`create schema public`
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const write = (file: string, text: string): void => writeFileSync(join(folder, file), text)
const shop = (): MigrationSource => ({ name: "shop", folder })

const tables = async (): Promise<ReadonlyArray<string>> => {
  const rows = await owner<Array<{ name: string }>>`
    select relname as name
    from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
    order by relname`
  return rows.map(({ name }) => name)
}
const failure = (run: Promise<unknown>): Promise<unknown> =>
  run.then(
    () => new Error("it did not fail"),
    (error: unknown) => error
  )

describe("migrations", () => {
  test("run in the order of their sources and numbers, and answer what they ran", async () => {
    write("0002_prices.sql", "alter table goods add price int not null;")
    write("0001_goods.sql", "create table goods (id text primary key);\ncreate index on goods (id);")
    write("README.md", "not a migration")

    const ran = await Migrations.run(owner, [Migrations.core, shop()])

    expect(ran).toEqual([
      "oncebox/0001_oncebox.sql",
      "oncebox/0002_dead_letters.sql",
      "oncebox/0003_audit.sql",
      "shop/0001_goods.sql",
      "shop/0002_prices.sql"
    ])
    expect(await tables()).toContain("goods")
  })

  test("that were run are not run again, and a new one is run alone", async () => {
    write("0001_goods.sql", "create table goods (id text primary key);")
    await Migrations.run(owner, [shop()])

    const again = await Migrations.run(owner, [shop()])
    write("0002_prices.sql", "create table prices (id text primary key);")
    const later = await Migrations.run(owner, [shop()])

    expect(again).toEqual([])
    expect(later).toEqual(["shop/0002_prices.sql"])
    expect(await tables()).toEqual(["goods", "oncebox_migrations", "prices"])
  })

  test("run once when twenty processes run them at the same time", async () => {
    write("0001_goods.sql", "create table goods (id text primary key);\ninsert into goods values ('one');")
    write("0002_more.sql", "create table more (id int);")
    const processes = Array.from({ length: 20 }, another)

    const ran = await Promise.all(
      processes.map((sql) => Migrations.run(sql, [Migrations.core, Migrations.saga, shop()]))
    )

    const all = [
      "oncebox/0001_oncebox.sql",
      "oncebox/0002_dead_letters.sql",
      "oncebox/0003_audit.sql",
      "oncebox-saga/0001_sagas.sql",
      "oncebox-saga/0002_handovers.sql",
      "oncebox-saga/0003_early.sql",
      "shop/0001_goods.sql",
      "shop/0002_more.sql"
    ]
    expect(ran.flat()).toEqual(all)
    expect(ran.filter((files) => files.length > 0)).toEqual([all])
    expect(await owner`select id from goods`).toHaveLength(1)
  })

  test("of which one was changed after it had been run are refused, the new ones too", async () => {
    write("0001_goods.sql", "create table goods (id text primary key);")
    await Migrations.run(owner, [shop()])
    write("0001_goods.sql", "create table goods (id uuid primary key);")
    write("0002_prices.sql", "create table prices (id text primary key);")
    const first = mkdtempSync(join(tmpdir(), "oncebox-migrations-"))
    writeFileSync(join(first, "0001_first.sql"), "create table first (id int);")

    const error = await failure(Migrations.run(owner, [{ name: "first", folder: first }, shop()]))
    rmSync(first, { recursive: true })

    expect(error).toBeInstanceOf(MigrationRefused)
    expect(String(error)).toContain("shop/0001_goods.sql was changed after it had been run")
    expect(await tables()).toEqual(["goods", "oncebox_migrations"])
  })

  test.each([
    ["two files have one number", ["0001_goods.sql", "0001_prices.sql"], "has two migrations of one number"],
    [
      "a file has no number",
      ["0001_goods.sql", "prices.sql"],
      "has prices.sql: its name does not begin with four digits"
    ],
    ["a number has no leading zeros: 10 would run before 9", ["9_goods.sql"], "has 9_goods.sql: its name does not"]
  ])("are refused before anything is run when %s", async (_name, files, message) => {
    for (const [index, file] of files.entries()) write(file, `create table t${index} (id int);`)

    const error = await failure(Migrations.run(owner, [Migrations.core, shop()]))

    expect(error).toBeInstanceOf(MigrationRefused)
    expect(String(error)).toContain(message)
    expect(await tables()).toEqual([])
  })

  test("leave nothing when one of them fails, and run when it was put right", async () => {
    write("0001_goods.sql", "create table goods (id text primary key);\ninsert into goods values ('one');")
    write("0002_prices.sql", "create table prices (id text);\ninsert into prices values (1, 2);")

    const error = await failure(Migrations.run(owner, [shop()]))
    const left = await tables()
    write("0002_prices.sql", "create table prices (id text);")
    const ran = await Migrations.run(owner, [shop()])

    expect(String(error)).toContain("INSERT has more expressions than target columns")
    expect(left).toEqual([])
    expect(ran).toEqual(["shop/0001_goods.sql", "shop/0002_prices.sql"])
  })

  test("of a folder that does not exist fail and leave nothing", async () => {
    const error = await failure(
      Migrations.run(owner, [Migrations.core, { name: "shop", folder: join(folder, "none") }])
    )

    expect(String(error)).toContain("ENOENT")
    expect(await tables()).toEqual([])
  })
})

describe("the library's migrations", () => {
  test("make its tables, and an orchestrator's when asked for", async () => {
    await Migrations.run(owner, [Migrations.core])
    const core = await tables()
    await Migrations.run(owner, [Migrations.core, Migrations.saga])

    expect(core).toEqual([
      "audit_exceptions",
      "audit_marks",
      "calls",
      "dead_letters",
      "idempotency_keys",
      "inbox",
      "oncebox_migrations",
      "oncebox_settings",
      "outbox"
    ])
    expect(await tables()).toEqual([...core, "saga_early", "saga_handovers", "saga_log", "sagas"].sort())
  })

  test("publish the inserts of the outbox under its own name, whatever the partition", async () => {
    await Migrations.run(owner, [Migrations.core])

    const publications = await owner`
        select pubname, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot from pg_publication`
    const members = await owner`select tablename from pg_publication_tables where pubname = 'outbox'`

    expect(publications.map((row) => Object.values(row))).toEqual([["outbox", false, true, false, false, false, true]])
    expect(members.map((row) => Object.values(row))).toEqual([["outbox"]])
  })

  test("keep a day per slot and eight slots unless they are told otherwise", async () => {
    await Migrations.run(owner, [Migrations.core])

    expect(await owner`select slot_ms, inbox_slots from oncebox_settings`).toMatchObject([
      { slot_ms: 86_400_000, inbox_slots: 8 }
    ])
  })

  test("take the width of a slot and how many to keep", async () => {
    await Migrations.run(owner, [Migrations.core], { slotMs: 5_000, inboxSlots: 3 })

    const [settings] = await owner`select slot_ms, inbox_slots from oncebox_settings`
    const kept = await owner`select relname from pg_class where relname ~ '^inbox_[0-9]+$' and relkind = 'r'`

    expect(settings).toMatchObject({ slot_ms: 5_000, inbox_slots: 3 })
    // foreign ids, three past slots, the current one and three ahead
    expect(kept).toHaveLength(8)
  })

  test("leave partitions that are dropped whole to themselves, and vacuum the one that is not", async () => {
    await Migrations.run(owner, [Migrations.core])

    const vacuumed = await owner`
      select relname as name
      from pg_class
      join pg_inherits on inhrelid = oid
      where inhparent in ('inbox'::regclass, 'outbox'::regclass) and relkind = 'r'
        and not coalesce(reloptions, '{}') && '{autovacuum_enabled=off,autovacuum_enabled=f}'`

    expect(vacuumed.map(({ name }) => name)).toEqual(["inbox_0"])
  })

  test.each([
    ["a slot is shorter than a second", { slotMs: 999 }],
    ["no slot is kept", { inboxSlots: 0 }],
    ["more slots are kept than partitions are good for", { inboxSlots: 401 }]
  ])("leave nothing when %s", async (_name, settings) => {
    const error = await failure(Migrations.run(owner, [Migrations.core], settings))

    expect(String(error)).toContain("oncebox_settings")
    expect(await tables()).toEqual([])
  })
})
