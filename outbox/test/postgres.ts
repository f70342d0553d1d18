/**
 * Postgres for the tests: one server per test process, started when the first test asks for it. A case gets a database
 * that nobody else works in, copied from a template; it fails when it leaves a connection open.
 *
 * The server belongs to a small keeper process (this file, run as a program), which ends it and removes its folder when
 * the test process is gone, however it went.
 */
import { randomBytes } from "node:crypto"
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Redacted, type Scope } from "effect"
import postgres from "postgres"
import { startOf } from "../../stack/ledger.ts"
import { freePorts } from "../../stack/ports.ts"
import { makePassable, startPostgres } from "../../stack/postgres.ts"
import { until } from "../../stack/wait.ts"
import type { ConnectionOptions, Sql } from "../store/connection.ts"
import { Migrations } from "../store/migrate.ts"

/** Roles as in production: the owner migrates, the service works, the superuser plays the administrator. */
export const ownerRole = "oncebox_owner"
export const serviceRole = "bank_service"
const replicationRole = "oncebox_replication"
const auditorRole = "oncebox_auditor"

/** The name of this file's own connections, which are no leak. */
const ownName = "the test itself"
const host = "127.0.0.1"
const startsWithinMs = 60_000
const testsEndWithinMs = 6 * 3_600_000

/** What the keeper tells, through a file in the server's folder. */
type Told = { readonly port: number; readonly password: string } | { readonly failed: string }
const toldIn = (dir: string): string => join(dir, "told.json")

interface Server {
  readonly port: number
  readonly password: string
  /** The superuser, connected to `postgres`. */
  readonly admin: Sql
}

/** A database of one case. */
export interface Database {
  readonly name: string
  readonly port: number
  readonly password: string
  /** How the service under test connects to it. */
  readonly service: ConnectionOptions
  /** And the auditor. */
  readonly auditor: ConnectionOptions
  /** The database's owner, for what a migration or an administrator would do, and to look into it. */
  readonly owner: Sql
  /** The superuser in this database. */
  readonly superuser: Sql
  /** The service's role, without the library. */
  readonly asService: Sql
}

const pool = (port: number, password: string, username: string, database: string, max: number): Sql =>
  postgres({
    host,
    port,
    username,
    password,
    database,
    max,
    connect_timeout: 5,
    onnotice: () => {},
    types: {
      bigint: { to: 20, from: [20], parse: (text: string) => Number(text), serialize: (value: number) => String(value) }
    },
    connection: { application_name: ownName }
  })

let server: Promise<Server> | undefined

const theServer = (): Promise<Server> => (server ??= keep())

const keep = async (): Promise<Server> => {
  const dir = mkdtempSync(join(tmpdir(), "oncebox-postgres-"))
  // nobody's child and in a group of its own: the test runner kills the children of a test that takes too long
  const leave = `
    const { spawn } = require("node:child_process")
    spawn(process.execPath, process.argv.slice(1), { detached: true, stdio: "ignore" }).unref()`
  Bun.spawnSync([process.execPath, "-e", leave, import.meta.path, dir, String(process.pid)])
  await until("the test server", startsWithinMs, () => existsSync(toldIn(dir)))
  const told: Told = JSON.parse(readFileSync(toldIn(dir), "utf8"))
  if ("failed" in told) {
    rmSync(dir, { recursive: true, force: true })
    throw new Error(`the test server did not start: ${told.failed}`)
  }
  const { port, password } = told
  const admin = pool(port, password, "postgres", "postgres", 2)
  // a password of one iteration: what costs an attacker time costs every connection of a test the same
  await admin.unsafe("alter system set scram_iterations = 1")
  await admin.unsafe("select pg_reload_conf()")
  for (const role of [ownerRole, serviceRole, replicationRole, auditorRole]) {
    await admin.unsafe(`create role ${role} login password '${password}'`)
  }
  await admin.unsafe(`grant ${ownerRole} to postgres`)
  return { port, password, admin }
}

const templates = new Map<string, Promise<string>>()
const free = new Map<string, Array<Database>>()
let databases = 0

export interface Template {
  /** The service's own tables and rights, run as the owner. */
  readonly schema: string
  readonly slotMs?: number
  readonly inboxSlots?: number
}

/** Makes a template once per process: the library's migrations and the schema of the tables under test. */
const templateOf = (template: Template): Promise<string> => {
  const key = JSON.stringify(template)
  const made = templates.get(key) ?? makeTemplate(template)
  templates.set(key, made)
  return made
}

const makeTemplate = async ({ schema, ...settings }: Template): Promise<string> => {
  const { admin, port, password } = await theServer()
  const name = `template_${++databases}`
  await admin.unsafe(`create database ${name} owner ${ownerRole}`)
  const owner = pool(port, password, ownerRole, name, 1)
  await Migrations.run(owner, [Migrations.core], settings)
  await owner.unsafe(`select oncebox_grant('${serviceRole}', '${replicationRole}')`)
  await owner.unsafe(`select oncebox_grant_auditor('${auditorRole}')`)
  await owner.unsafe(schema)
  await owner.end({ timeout: 2 })
  return name
}

const makeDatabase = async (template: Template): Promise<Database> => {
  const { admin, port, password } = await theServer()
  const from = await templateOf(template)
  const name = `case_${++databases}`
  await admin.unsafe(`create database ${name} template ${from} owner ${ownerRole}`)
  // so that a deadlock shows within a case
  await admin.unsafe(`alter database ${name} set deadlock_timeout = '50ms'`)
  return {
    name,
    port,
    password,
    service: { host, port, database: name, username: serviceRole, password: Redacted.make(password) },
    auditor: { host, port, database: name, username: auditorRole, password: Redacted.make(password) },
    owner: pool(port, password, ownerRole, name, 3),
    superuser: pool(port, password, "postgres", name, 2),
    asService: pool(port, password, serviceRole, name, 1)
  }
}

const drop = async ({ name, owner, superuser, asService }: Database): Promise<void> => {
  const { admin } = await theServer()
  await Promise.all([owner, superuser, asService].map((sql) => sql.end({ timeout: 2 })))
  await admin.unsafe(`drop database ${name} with (force)`)
}

/** Fails when a connection of the library is still open; a backend takes a moment to notice that it was left. */
const noneLeftOpen = ({ name }: Database): Promise<void> =>
  until(`end of all connections to ${name}`, 5_000, async () => {
    const { admin } = await theServer()
    const open = await admin<Array<{ application_name: string; query: string }>>`
      select application_name, query
      from pg_stat_activity
      where datname = ${name} and backend_type = 'client backend' and application_name <> ${ownName}`
    if (open.length > 0) throw new Error(`left open: ${JSON.stringify(open)}`)
    return true
  })

/** A database of this case alone, which may do with it what it likes. Closing the scope drops it. */
export const database = (template: Template): Effect.Effect<Database, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => makeDatabase(template)),
    (made) => Effect.promise(() => noneLeftOpen(made).finally(() => drop(made)))
  )

/** A database for a case that only writes rows: it is emptied afterwards and given to the next one. */
export const sharedDatabase = (template: Template): Effect.Effect<Database, never, Scope.Scope> => {
  const key = JSON.stringify(template)
  return Effect.acquireRelease(
    Effect.promise(async () => free.get(key)?.pop() ?? (await makeDatabase(template))),
    (used) =>
      Effect.promise(async () => {
        await noneLeftOpen(used)
        const tables = await used.owner<Array<{ name: string }>>`
          select relname as name
          from pg_class
          where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
            and relname not like 'oncebox%'`
        // the outbox anew, so that a row's place tells when it was written
        await used.owner.unsafe(`${tables.map(({ name }) => `delete from ${name}`).join("; ")}; truncate outbox`)
        free.set(key, [...(free.get(key) ?? []), used])
      })
  )
}

const keeper = async (dir: string, tests: number): Promise<void> => {
  // an interrupt at the keyboard reaches this process too; the end of the tests is what counts
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, () => {})
  const started = startOf(tests)
  const password = randomBytes(18).toString("base64url")
  const passwordFile = join(dir, "password")
  makePassable(dir)
  writeFileSync(passwordFile, password, { mode: 0o600 })
  const [port = 0] = await freePorts([[]])
  const options = { dataDir: join(dir, "data"), logFile: join(dir, "postgres.log"), port, passwordFile, password }
  const running = await startPostgres(options).catch((cause: unknown) => {
    tell(dir, { failed: String(cause) })
    process.exit(1)
  })
  tell(dir, { port, password })
  await until("end of the tests", testsEndWithinMs, () => startOf(tests) !== started, 250).catch(() => {})
  await running.kill()
  rmSync(dir, { recursive: true, force: true })
  process.exit(0)
}

const tell = (dir: string, told: Told): void => {
  writeFileSync(`${toldIn(dir)}.new`, JSON.stringify(told))
  renameSync(`${toldIn(dir)}.new`, toldIn(dir))
}

if (import.meta.main) await keeper(process.argv[2] ?? "", Number(process.argv[3]))
