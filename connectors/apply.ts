/**
 * Makes Kafka Connect run the connectors of this folder: `bun connectors/apply.ts`.
 *
 * Idempotent: a connector whose configuration is already there is not touched, a stopped one is resumed, failed tasks are started
 * again. Done when every connector runs and its replication slot is being read; status alone says RUNNING too while Postgres is away.
 *
 * Environment: CONNECT_URL, DATABASE_HOST, DATABASE_PORT, REPLICATION_PASSWORD or REPLICATION_PASSWORD_FILE.
 */
import { readFileSync, readdirSync } from "node:fs"
import { basename, join } from "node:path"
import postgres from "postgres"

export interface ApplyOptions {
  readonly connectUrl: string
  readonly database: { readonly host: string; readonly port: number; readonly password: string }
  /** Which connectors; all of this folder when absent. */
  readonly names?: readonly string[] | undefined
  readonly withinMs?: number | undefined
  readonly log?: ((line: string) => void) | undefined
}

type Config = Readonly<Record<string, string>>

const REPLICATION_ROLE = "oncebox_replication"
const WITHIN_MS = 120_000
const REQUEST_MS = 10_000
const LOOK_EVERY_MS = 100
const RESTART_EVERY_MS = 2_000

export const connectorNames = (): string[] =>
  readdirSync(import.meta.dir)
    .filter((file) => file.endsWith(".json"))
    .map((file) => basename(file, ".json"))
    .sort()

export const connectorConfig = (name: string): Config =>
  parseConfig(name, readFileSync(join(import.meta.dir, `${name}.json`), "utf8"))

/** Returns when all run and their slots are active; at the deadline fails with what is missing. */
export const applyConnectors = async (options: ApplyOptions): Promise<void> => {
  const names = options.names ?? connectorNames()
  const deadline = Date.now() + (options.withinMs ?? WITHIN_MS)
  const outcomes = await Promise.allSettled(names.map((name) => applyConnector(name, options, deadline)))
  const failures = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [describe(outcome.reason)] : []))
  if (failures.length > 0) throw new Error(failures.join("\n"))
}

const applyConnector = async (name: string, options: ApplyOptions, deadline: number): Promise<void> => {
  const log = options.log ?? (() => {})
  const config = connectorConfig(name)
  const path = `${options.connectUrl}/connectors/${name}`
  let step = "configure it"
  let last = "no answer"
  let configured = false
  let nextRestart = 0
  while (Date.now() < deadline) {
    try {
      if (!configured) {
        if (await configure(path, name, config)) log(`connector ${name}: configured`)
        configured = true
      }
      step = "run it"
      const status = await statusOf(path)
      if (status.state === "RUNNING") {
        step = `have its slot ${config["slot.name"]} read`
        if (await slotIsActive(config, options.database)) {
          log(`connector ${name}: running`)
          return
        }
        last = "the slot is not active"
      } else {
        last = `its state is ${status.state}${status.trace ? `: ${status.trace}` : ""}`
        if (status.state === "STOPPED" || status.state === "PAUSED") await request("PUT", `${path}/resume`)
        if (status.state === "FAILED" && Date.now() >= nextRestart) {
          log(`connector ${name}: restarting what failed (${status.trace ?? "no trace"})`)
          await request("POST", `${path}/restart?includeTasks=true&onlyFailed=true`)
          nextRestart = Date.now() + RESTART_EVERY_MS
        }
      }
    } catch (cause) {
      // Not up yet, rebalancing (409) or cut off in between: all of it passes, or the deadline does.
      last = describe(cause)
    }
    await Bun.sleep(LOOK_EVERY_MS)
  }
  throw new Error(`connector ${name}: could not ${step} in time: ${last}`)
}

/** True when the configuration was not there yet. */
const configure = async (path: string, name: string, config: Config): Promise<boolean> => {
  const wanted: Config = { ...config, name }
  const present = await request("GET", `${path}/config`, undefined, [404])
  if (present.status !== 404 && sameEntries(present.body, wanted)) return false
  await request("PUT", `${path}/config`, wanted)
  return true
}

/** The worst state among the connector and its tasks; a connector without tasks is not running yet. */
const statusOf = async (path: string): Promise<{ readonly state: string; readonly trace: string | undefined }> => {
  // 404: configured, but the worker has not seen it yet.
  const { status, body } = await request("GET", `${path}/status`, undefined, [404])
  if (status === 404) return { state: "UNKNOWN", trace: undefined }
  const tasks = field(body, "tasks")
  const parts = [field(body, "connector"), ...(Array.isArray(tasks) ? tasks : [])]
  if (parts.length < 2)
    return { state: stateOf(parts[0]) === "RUNNING" ? "UNASSIGNED" : stateOf(parts[0]), trace: traceOf(parts[0]) }
  const worst = parts.find((part) => stateOf(part) === "FAILED") ?? parts.find((part) => stateOf(part) !== "RUNNING")
  return worst === undefined ? { state: "RUNNING", trace: undefined } : { state: stateOf(worst), trace: traceOf(worst) }
}

const slotIsActive = async (config: Config, database: ApplyOptions["database"]): Promise<boolean> => {
  const sql = postgres({
    host: database.host,
    port: database.port,
    user: REPLICATION_ROLE,
    password: database.password,
    database: config["database.dbname"] ?? "",
    max: 1,
    connect_timeout: 5,
    connection: { statement_timeout: REQUEST_MS },
    onnotice: () => {}
  })
  try {
    const rows = await sql`
      select active
      from pg_replication_slots
      where slot_name = ${config["slot.name"] ?? ""}`
    return rows[0]?.["active"] === true
  } finally {
    await sql.end({ timeout: 1 })
  }
}

interface Answer {
  readonly status: number
  readonly body: unknown
}

const request = async (
  method: string,
  url: string,
  body?: Config,
  allowed: readonly number[] = []
): Promise<Answer> => {
  const response = await fetch(url, {
    method,
    headers: { "content-type": "application/json" },
    signal: AbortSignal.timeout(REQUEST_MS),
    ...(body === undefined ? {} : { body: JSON.stringify(body) })
  })
  const said = await response.text()
  if (!response.ok && !allowed.includes(response.status))
    throw new Error(`${method} ${url}: ${response.status} ${said.slice(0, 1000)}`)
  return { status: response.status, body: said === "" ? undefined : JSON.parse(said) }
}

const parseConfig = (name: string, json: string): Config => {
  const parsed: unknown = JSON.parse(json)
  const entries = Object.entries(typeof parsed === "object" && parsed !== null ? parsed : {})
  return Object.fromEntries(
    entries.map(([key, value]) => {
      if (typeof value !== "string") throw new Error(`connectors/${name}.json: ${key} is not a text`)
      return [key, value]
    })
  )
}

const sameEntries = (present: unknown, wanted: Config): boolean =>
  typeof present === "object" &&
  present !== null &&
  Object.keys(present).length === Object.keys(wanted).length &&
  Object.entries(present).every(([key, value]) => wanted[key] === value)

const field = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined

const stateOf = (part: unknown): string => String(field(part, "state") ?? "UNKNOWN")

// The first line names the exception, the causes say why.
const traceOf = (part: unknown): string | undefined => {
  const trace = field(part, "trace")
  if (typeof trace !== "string") return undefined
  return trace
    .split("\n")
    .filter((line, at) => at === 0 || line.startsWith("Caused by:"))
    .join(" ")
    .slice(0, 1000)
}

const describe = (cause: unknown): string => (cause instanceof Error ? cause.message || cause.name : String(cause))

const readEnvironment = (): ApplyOptions => {
  const variable = (name: string): string => {
    const value = process.env[name]
    if (value === undefined || value === "") throw new Error(`${name} is not set`)
    return value
  }
  const port = Number(variable("DATABASE_PORT"))
  if (!Number.isInteger(port)) throw new Error("DATABASE_PORT is not a number")
  const file = process.env["REPLICATION_PASSWORD_FILE"]
  const password = file ? readFileSync(file, "utf8").trim() : variable("REPLICATION_PASSWORD")
  return {
    connectUrl: variable("CONNECT_URL").replace(/\/$/, ""),
    database: { host: variable("DATABASE_HOST"), port, password },
    log: console.log
  }
}

if (import.meta.main) {
  try {
    await applyConnectors(readEnvironment())
  } catch (cause) {
    console.error(describe(cause))
    process.exit(1)
  }
}
