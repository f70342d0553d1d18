/**
 * Makes Kafka Connect run the connectors of this folder: `bun connectors/apply.ts [--watch]`.
 *
 * Idempotent: a connector whose configuration is already there is not touched, a stopped one is resumed, failed tasks are started
 * again, a slot that Postgres has invalidated is dropped (the connector makes a new one and publishes all retained rows again),
 * a connector that says RUNNING and does not read its slot is restarted.
 * Done when every connector runs and its slot is being read; Connect's status alone says RUNNING while Postgres is away, too.
 * With `--watch` it goes on looking, but leaves alone what somebody stops: Connect itself never starts a failed task again.
 *
 * Environment: CONNECT_URL, DATABASE_HOST, DATABASE_PORT, REPLICATION_PASSWORD or REPLICATION_PASSWORD_FILE.
 */
import { readFileSync, readdirSync } from "node:fs"
import { basename, join } from "node:path"
import { parseArgs } from "node:util"
import { dropSlot, slotOf, type Database } from "./slots.ts"

export interface ApplyOptions {
  readonly connectUrl: string
  readonly database: Database
  /** Which connectors; all of this folder when absent. */
  readonly names?: readonly string[] | undefined
  readonly withinMs?: number | undefined
  /** False leaves connectors alone that somebody stopped or paused; they count as done. */
  readonly resume?: boolean | undefined
  readonly log?: ((line: string) => void) | undefined
  /** Told of everything that was done to a connector. */
  readonly acted?: ((connector: string, action: Action) => void) | undefined
  /** Told what could not be mended, and of nothing once it is. */
  readonly failed?: ((failure: string) => void) | undefined
  /** For how long a connector may say RUNNING without reading its slot. */
  readonly idleMs?: number | undefined
}

export type Action = "configure" | "resume" | "restart" | "drop slot"

type Config = Readonly<Record<string, string>>

const WITHIN_MS = 120_000
const REQUEST_MS = 10_000
const LOOK_EVERY_MS = 100
const ACT_EVERY_MS = 2_000
const WATCH_EVERY_MS = 5_000
const WATCH_WITHIN_MS = 30_000
// Longer than a connector takes to come back by itself when Postgres was away. It doubles: while a connector publishes from the
// table, which may take long, it does not read its slot either.
const IDLE_MS = 60_000
const IDLE_MOST_MS = 30 * 60_000

export const connectorNames = (): string[] =>
  readdirSync(import.meta.dir)
    .filter((file) => file.endsWith(".json"))
    .map((file) => basename(file, ".json"))
    .sort()

export const connectorConfig = (name: string): Config =>
  parseConfig(name, readFileSync(join(import.meta.dir, `${name}.json`), "utf8"))

/** Since when a connector does not read its slot, and for how long it may. */
type Idle = Map<string, { readonly since: number; readonly ms: number }>

/** Returns when all run and their slots are active; at the deadline fails with what is missing. */
export const applyConnectors = (options: ApplyOptions): Promise<void> => applyAll(options, new Map())

const applyAll = async (options: ApplyOptions, idle: Idle): Promise<void> => {
  const names = options.names ?? connectorNames()
  const deadline = Date.now() + (options.withinMs ?? WITHIN_MS)
  const outcomes = await Promise.allSettled(names.map((name) => applyConnector(name, options, deadline, idle)))
  const failures = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [describe(outcome.reason)] : []))
  if (failures.length > 0) throw new Error(failures.join("\n"))
}

/** Applies them again and again until `stop` is aborted, but resumes none; what can't be mended is told and tried again. */
export const watchConnectors = async (options: ApplyOptions, stop: AbortSignal): Promise<void> => {
  let told = ""
  const idle: Idle = new Map()
  while (!stop.aborted) {
    try {
      await applyAll({ ...options, withinMs: options.withinMs ?? WATCH_WITHIN_MS, resume: false }, idle)
      told = ""
      options.failed?.("")
    } catch (cause) {
      const failure = describe(cause)
      // Once per outage, not once per look.
      if (!stop.aborted && failure !== told) options.log?.(failure)
      told = failure
      options.failed?.(failure)
    }
    await pause(WATCH_EVERY_MS, stop)
  }
}

const applyConnector = async (name: string, options: ApplyOptions, deadline: number, idle: Idle): Promise<void> => {
  const log = (line: string): void => options.log?.(`connector ${name}: ${line}`)
  const config = connectorConfig(name)
  const path = `${options.connectUrl}/connectors/${name}`
  let last = "no answer"
  let configured = false
  let touched = false
  let nextAct = 0
  const act = async (kind: Action, what: string, action: () => Promise<unknown>): Promise<void> => {
    log(what)
    options.acted?.(name, kind)
    touched = true
    nextAct = Date.now() + ACT_EVERY_MS
    await action()
  }
  while (Date.now() < deadline) {
    try {
      if (!configured) {
        const present = await request("GET", `${path}/config`, undefined, [404])
        const wanted = { ...config, name }
        if (present.status === 404 || !sameEntries(present.body, wanted)) {
          await act("configure", "configuring it", () => request("PUT", `${path}/config`, wanted))
        }
        configured = true
      }
      const [status, slot] = await Promise.all([statusOf(path), slotOf(options.database, config)])
      if (status.state === "RUNNING" && slot === "active") {
        idle.delete(name)
        if (touched) log("running")
        return
      }
      last = `it is ${status.state}, its slot is ${slot}${status.trace ? `: ${status.trace}` : ""}`
      const stopped = status.state === "STOPPED" || status.state === "PAUSED"
      if (stopped && options.resume === false) return
      const asleep = status.state === "RUNNING" || status.state === "UNASSIGNED"
      const since = asleep ? (idle.get(name) ?? { since: Date.now(), ms: options.idleMs ?? IDLE_MS }) : undefined
      if (since === undefined) idle.delete(name)
      else idle.set(name, since)
      if (Date.now() >= nextAct) {
        if (since !== undefined && Date.now() - since.since > since.ms) {
          idle.set(name, { since: Date.now(), ms: Math.min(since.ms * 2, IDLE_MOST_MS) })
          await act("restart", `restarting it, for its slot is ${slot}`, () =>
            request("POST", `${path}/restart?includeTasks=true`)
          )
        }
        // Debezium would try to read it 900 times, two seconds apart, with the connector RUNNING and without a task.
        if (slot === "lost")
          await act("drop slot", "dropping its slot, which Postgres has invalidated", () =>
            dropSlot(options.database, config)
          )
        if (stopped) await act("resume", "resuming it", () => request("PUT", `${path}/resume`))
        if (status.state === "FAILED") {
          await act("restart", `restarting what failed (${status.trace ?? "no trace"})`, () =>
            request("POST", `${path}/restart?includeTasks=true&onlyFailed=true`)
          )
        }
      }
    } catch (cause) {
      // Not up yet, rebalancing (409) or cut off in between: all of it passes, or the deadline does.
      last = describe(cause)
    }
    // nobody tells when a task runs or a slot is taken: Connect and Postgres have to be asked
    await Bun.sleep(LOOK_EVERY_MS)
  }
  throw new Error(`connector ${name} does not run: ${last}`)
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

const usage = `bun connectors/apply.ts [--watch]

  --watch  goes on looking once all connectors run

Environment: CONNECT_URL, DATABASE_HOST, DATABASE_PORT, REPLICATION_PASSWORD or REPLICATION_PASSWORD_FILE.`

const readArguments = (): { readonly watch: boolean } => {
  try {
    const { values } = parseArgs({
      options: { watch: { type: "boolean", default: false }, help: { type: "boolean", short: "h" } }
    })
    if (values.help !== true) return values
  } catch (cause) {
    console.error(`${describe(cause)}\n\n${usage}`)
    process.exit(2)
  }
  console.log(usage)
  process.exit(0)
}

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

const pause = (ms: number, stop: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (stop.aborted) return resolve()
    const timer = setTimeout(resolve, ms)
    stop.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true })
  })

if (import.meta.main) {
  const { watch } = readArguments()
  try {
    const options = readEnvironment()
    await applyConnectors(options)
    console.log(`${connectorNames().length} connectors run`)
    if (watch) {
      for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => process.exit(0))
      await watchConnectors(options, new AbortController().signal)
    }
    process.exit(0)
  } catch (cause) {
    console.error(describe(cause))
    process.exit(1)
  }
}
