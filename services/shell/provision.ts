/**
 * The job that prepares a Postgres server: roles, databases, migrations, rights. `bun services/shell/provision.ts`
 *
 * It may be run again at any time and by several at once: they take turns, and what is there stays. Passwords are set to
 * what the secrets say. A crash half way leaves nothing that the next run does not put right.
 */
import { join } from "node:path"
import { Config, Effect, Redacted } from "effect"
import { connect, MigrationRefused, Migrations, type ConnectionOptions, type Sql } from "oncebox"
import { services } from "../index.ts"
import { readConfig, readSecret, setting } from "./config.ts"
import { runJob } from "./job.ts"
import type { Service } from "./service.ts"

const owner = "oncebox_owner"
const replication = "oncebox_replication"
/** One role for the outboxes of all databases: one process reads them all. */
export const auditorRole = "oncebox_auditor"

export interface ProvisionOptions {
  readonly host: string
  readonly port: number
  readonly passwords: Passwords
}

export interface Passwords {
  readonly superuser: Redacted.Redacted<string>
  readonly owner: Redacted.Redacted<string>
  readonly replication: Redacted.Redacted<string>
  readonly auditor: Redacted.Redacted<string>
  /** By database. */
  readonly services: ReadonlyMap<string, Redacted.Redacted<string>>
}

/** Reads the passwords from a folder with one file for each. */
export const readPasswords = (directory: string) =>
  Effect.gen(function* () {
    const secret = (name: string) => readSecret(join(directory, `${name}_password`))
    const ofServices = yield* Effect.forEach(services, ({ database }) =>
      Effect.map(secret(database), (password) => [database, password] as const)
    )
    return {
      superuser: yield* secret("postgres"),
      owner: yield* secret("owner"),
      replication: yield* secret("replication"),
      auditor: yield* secret("auditor"),
      services: new Map(ofServices)
    } satisfies Passwords
  })

// whoever comes second waits for whoever came first; the default bounds are a pass's
const patient = { lock_timeout: 120_000, transaction_timeout: 120_000 }

/** Prepares the server for the six services. */
export const provision = async ({ host, port, passwords }: ProvisionOptions): Promise<void> => {
  const as = (username: string, database: string, password: Redacted.Redacted<string>): ConnectionOptions => ({
    host,
    port,
    database,
    username,
    password
  })
  await using(as("postgres", "postgres", passwords.superuser), async (superuser) => {
    // held until this connection ends, so everything below is one process's at a time
    await superuser`select pg_advisory_lock(hashtext('oncebox_provision'))`
    await login(superuser, owner, "noreplication", passwords.owner)
    await login(superuser, replication, "replication", passwords.replication)
    await login(superuser, auditorRole, "noreplication", passwords.auditor)
    // nobody but its owner has business in them
    await superuser`revoke all on database postgres, template1 from public`
    for (const service of services) {
      const password = passwords.services.get(service.database)
      if (password === undefined) throw new Error(`there is no password for ${service.role}`)
      await login(superuser, service.role, "noreplication", password)
      await createDatabase(superuser, service)
      await using(as(owner, service.database, passwords.owner), async (sql) => {
        await Migrations.run(sql, service.migrations).catch(withAdvice)
        await grant(sql, service)
      })
    }
  })
}

/** Before a release migrations do change. */
const withAdvice = (error: unknown): never => {
  if (error instanceof MigrationRefused) error.message += ", or begin with empty databases: `bun run stack reset`"
  throw error
}

const using = async (options: ConnectionOptions, work: (sql: Sql) => Promise<void>): Promise<void> => {
  // neither the statements with passwords nor, when they fail, their texts may get into the server's log
  const quiet =
    options.username === "postgres"
      ? { log_statement: "none", log_min_duration_statement: -1, log_min_error_statement: "panic" }
      : {}
  const sql = connect(options, { name: "provision", max: 1, session: { ...patient, ...quiet } })
  try {
    await work(sql)
  } finally {
    await sql.end({ timeout: 2 })
  }
}

/** Makes a role that may log in and nothing else, or makes it so again. */
const login = async (
  superuser: Sql,
  role: string,
  mayReplicate: "replication" | "noreplication",
  password: Redacted.Redacted<string>
): Promise<void> => {
  const known = await superuser`select from pg_roles where rolname = ${role}`
  if (known.length === 0) await superuser`create role ${superuser(role)}`
  await superuser`set password_encryption = 'scram-sha-256'`
  // DDL takes no parameters, so Postgres itself quotes what goes into it
  const [statement] = await superuser<Array<{ text: string }>>`
    select format(
      'alter role %I login nosuperuser nocreatedb nocreaterole nobypassrls %s password %L',
      ${role}::text, ${mayReplicate}::text, ${Redacted.value(password)}::text
    ) as text`
  await superuser.unsafe(statement?.text ?? "")
}

const createDatabase = async (superuser: Sql, { database, role }: Service): Promise<void> => {
  const known = await superuser`select from pg_database where datname = ${database}`
  if (known.length === 0) {
    await superuser`create database ${superuser(database)} owner ${superuser(owner)} encoding 'UTF8' template template0`
  }
  await superuser`revoke all on database ${superuser(database)} from public`
  await superuser`grant connect on database ${superuser(database)} to ${superuser(role)}, ${superuser(replication)}, ${superuser(auditorRole)}`
}

const grant = async (sql: Sql, { role, tables }: Service): Promise<void> => {
  await sql`select oncebox_grant(${role}::name, ${replication}::name)`
  await sql`select oncebox_grant_auditor(${auditorRole}::name)`
  for (const { name, kind } of tables) {
    if (kind === "log") await sql`grant select, insert on ${sql(name)} to ${sql(role)}`
    else if (kind === "reference") await sql`grant select on ${sql(name)} to ${sql(role)}`
    else await sql`grant select, insert, update on ${sql(name)} to ${sql(role)}`
  }
}

if (import.meta.main) {
  runJob(
    "provision",
    Effect.gen(function* () {
      const { databaseHost, databasePort, directory } = yield* readConfig(
        Config.all({
          databaseHost: setting.databaseHost,
          databasePort: setting.databasePort,
          directory: Config.NonEmptyString("SECRETS_DIR")
        })
      )
      const passwords = yield* readPasswords(directory)
      yield* Effect.tryPromise(() => provision({ host: databaseHost, port: databasePort, passwords }))
      return `${services.length} databases are ready`
    })
  )
}
