/**
 * The jobs and services of the system as child processes, for `main.ts` and for tests: started with the environment they expect,
 * waited for until they are ready, stopped, killed and started again. With a ledger none of them outlives a killed supervisor
 * for longer than until the next start in the same folder.
 */
import { join, resolve } from "node:path"
import type { ApplyOptions } from "../connectors/apply.ts"
import { type EngineAddresses, type Preparation, type RunningEngines, readSecret } from "./engines.ts"
import { type Ledger, signal } from "./ledger.ts"
import { type Running, describe, exitOf, run, sizeOf, spawnLogged, tail } from "./process.ts"
import { within } from "./wait.ts"

export const SERVICES = {
  user: { port: 8000, database: "users" },
  product: { port: 8001, database: "products" },
  order: { port: 8002, database: "orders" },
  orchestrator: { port: 8003, database: "sagas" },
  payment: { port: 8004, database: "payments" },
  shipment: { port: 8005, database: "shipments" }
} as const

export type ServiceName = keyof typeof SERVICES

export const SERVICE_NAMES: readonly ServiceName[] = ["user", "product", "order", "orchestrator", "payment", "shipment"]

export type Env = Readonly<Record<string, string>>

export interface Service extends Running {
  readonly url: string
  /** SIGKILL; it stays down until restart. */
  readonly kill9: () => Promise<void>
}

export interface ServiceOptions {
  readonly ledger?: Ledger | undefined
  /** Another program than `services/<name>/main.ts`. */
  readonly script?: string | undefined
  readonly readyWithinMs?: number | undefined
  readonly stopWithinMs?: number | undefined
}

export interface JobOptions {
  readonly ledger?: Ledger | undefined
  readonly withinMs?: number | undefined
}

const REPOSITORY = resolve(import.meta.dir, "..")
const JOB_WITHIN_MS = 180_000
const READY_WITHIN_MS = 120_000
const STOP_WITHIN_MS = 20_000
const BACKOFF_FIRST_MS = 250
const BACKOFF_MOST_MS = 10_000
// One that ran for so long has got over what ended it before.
const SETTLED_MS = 60_000

/** Runs a script of the repository to its end; a failure comes with the last lines it wrote. */
export const runJob = async (script: string, env: Env, logFile: string, options: JobOptions = {}): Promise<void> => {
  const logFrom = sizeOf(logFile)
  const child = spawnLogged({ file: process.execPath, args: [resolve(REPOSITORY, script)], env, logFile })
  const ended = exitOf(child)
  const pid = child.pid
  if (pid === undefined) throw new Error(`${script} could not be started`)
  options.ledger?.record(script, pid)
  try {
    const exit = await within(script, options.withinMs ?? JOB_WITHIN_MS, ended)
    if (exit.code !== 0)
      throw new Error(`${script} failed (${describe(exit)}), last lines of ${logFile}:\n${tail(logFile, logFrom)}`)
  } catch (cause) {
    signal(pid, "SIGKILL")
    throw cause
  } finally {
    options.ledger?.forget(script, pid)
  }
}

/** Starts a service; returns when GET /health/ready says so. */
export const startService = async (
  name: ServiceName | (string & {}),
  env: Env,
  logFile: string,
  options: ServiceOptions = {}
): Promise<Service> => {
  const url = urlOf(name, env)
  const running = await run({
    name,
    file: process.execPath,
    args: [options.script ?? join(REPOSITORY, "services", name, "main.ts")],
    // the last tier of JavaScriptCore's compilers costs more than its code saves: 15 % of a service's CPU under load (2026-11-21)
    env: { BUN_JSC_useFTLJIT: "0", ...env },
    logFile,
    ready: () => answersReady(url),
    readyWithinMs: options.readyWithinMs ?? READY_WITHIN_MS,
    stopSignal: "SIGTERM",
    stopWithinMs: options.stopWithinMs ?? STOP_WITHIN_MS,
    ledger: options.ledger
  })
  return Object.assign(running, { url, kill9: running.kill })
}

/** Starts it again whenever it dies unasked, at growing intervals; the function returned ends that. */
export const keepAlive = (running: Running, log: (line: string) => void): (() => void) => {
  const released = Promise.withResolvers<"released">()
  const watch = async (): Promise<void> => {
    let delay = BACKOFF_FIRST_MS
    for (;;) {
      const since = Date.now()
      const exit = await Promise.race([running.exited(), released.promise])
      if (exit === "released" || exit.asked) return
      if (Date.now() - since > SETTLED_MS) delay = BACKOFF_FIRST_MS
      log(`${running.name} ended (${describe(exit)}), starting it again in ${delay} ms`)
      if ((await Promise.race([Bun.sleep(delay), released.promise])) === "released") return
      delay = Math.min(delay * 2, BACKOFF_MOST_MS)
      try {
        await running.restart()
        log(`${running.name} is back (pid ${running.pid})`)
      } catch (cause) {
        log(cause instanceof Error ? cause.message : String(cause))
      }
    }
  }
  void watch()
  return () => released.resolve("released")
}

interface Where {
  readonly postgres: Pick<EngineAddresses["postgres"], "host" | "port" | "secretsDir">
  readonly kafka: EngineAddresses["kafka"]
}

/** What a service needs to know about the engines. */
export const serviceEnv = (engines: Where, name: ServiceName): Env => ({
  DATABASE_HOST: engines.postgres.host,
  DATABASE_PORT: String(engines.postgres.port),
  DATABASE_PASSWORD_FILE: join(engines.postgres.secretsDir, `${SERVICES[name].database}_password`),
  BROKERS: engines.kafka.brokers
})

/** The auditor, as a program and its environment; its admin port is the one that says whether it is ready. */
export const AUDITOR = { name: "auditor", port: 9006, script: join(REPOSITORY, "services", "shell", "auditor.ts") }

export const auditorEnv = (engines: RunningEngines, port: number = AUDITOR.port): Env => ({
  DATABASE_HOST: engines.postgres.host,
  DATABASE_PORT: String(engines.postgres.port),
  DATABASE_PASSWORD_FILE: join(engines.postgres.secretsDir, "auditor_password"),
  BROKERS: engines.kafka.brokers,
  CONNECT_URL: engines.connect.url,
  REPLICATION_PASSWORD_FILE: join(engines.postgres.secretsDir, "replication_password"),
  PORT: String(port),
  ADMIN_PORT: String(port)
})

/** What the jobs (provision, topics, connectors) need to know about the engines. */
const jobEnv = (engines: EngineAddresses): Env => ({
  DATABASE_HOST: engines.postgres.host,
  DATABASE_PORT: String(engines.postgres.port),
  SECRETS_DIR: engines.postgres.secretsDir,
  BROKERS: engines.kafka.brokers,
  REPLICATION_FACTOR: "1",
  CONNECT_URL: engines.connect.url,
  REPLICATION_PASSWORD_FILE: join(engines.postgres.secretsDir, "replication_password")
})

/** Where the connectors go, for applyConnectors and watchConnectors. */
export const connectorTarget = (engines: RunningEngines): Pick<ApplyOptions, "connectUrl" | "database"> => ({
  connectUrl: engines.connect.url,
  database: {
    host: engines.postgres.host,
    port: engines.postgres.port,
    password: readSecret(engines.postgres.secretsDir, "replication_password")
  }
})

const job =
  (script: string, log: string): Preparation =>
  (engines) =>
    runJob(script, jobEnv(engines), join(engines.dir, "log", `${log}.log`), { ledger: engines.ledger })

/** What engines need before services can use them: roles, databases and migrations, and topics. */
export const prepare = {
  postgres: job("services/shell/provision.ts", "provision"),
  kafka: job("services/shell/topics.ts", "topics")
}

/** Makes prepared engines carry messages. Services may start before it or beside it. */
export const runConnectors = job("connectors/apply.ts", "connectors")

const urlOf = (name: string, env: Env): string => {
  const usual = SERVICE_NAMES.find((known) => known === name)
  const port = env["PORT"] ?? (usual && SERVICES[usual].port)
  if (port === undefined) throw new Error(`${name} has no usual port: set PORT`)
  return `http://${env["HOST"] ?? "127.0.0.1"}:${port}`
}

const answersReady = async (url: string): Promise<boolean> => {
  const response = await fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(5000) })
  await response.body?.cancel()
  return response.ok
}
