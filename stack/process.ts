/**
 * A child process that the stack answers for: started, ready, stopped, killed, started again.
 *
 * It runs in a session of its own, so that Ctrl-C reaches the supervisor only, and writes to a log file, so that it outlives a
 * supervisor that is killed without breaking on a closed pipe. Its pid is in the ledger as long as it lives.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { closeSync, existsSync, fstatSync, mkdirSync, openSync, readSync, statSync } from "node:fs"
import { dirname } from "node:path"
import { type Ledger, killAll, signal, startOf } from "./ledger.ts"
import { Hopeless, text, until } from "./wait.ts"

export interface Plan {
  readonly name: string
  readonly file: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly user?: { readonly uid: number; readonly gid: number } | undefined
  readonly logFile: string
  /** Asked until it answers true; may throw meanwhile. */
  readonly ready: () => boolean | Promise<boolean>
  readonly readyWithinMs: number
  /** Asks the process to end in good order. */
  readonly stopSignal: "SIGTERM" | "SIGINT"
  readonly stopWithinMs: number
  /** Ends what a kill may have left behind; returns when it is gone. */
  readonly sweep?: () => Promise<void>
  readonly ledger?: Ledger | undefined
}

export interface Running {
  readonly name: string
  /** Of the last start. */
  readonly pid: number
  readonly alive: () => boolean
  /** Resolves when the last started process is gone, for whatever reason. */
  readonly exited: () => Promise<Exit>
  /** The plan's signal, and SIGKILL when its time is over. */
  readonly stop: () => Promise<void>
  /** SIGKILL, for all its processes at once. */
  readonly kill: () => Promise<void>
  /** Stops it if it runs, starts it again with the same plan, returns when it is ready. */
  readonly restart: () => Promise<void>
}

export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** True when somebody called stop, kill or restart. */
  readonly asked: boolean
}

/** Starts it and returns when it is ready; on any failure nothing of it is left running. */
export const run = async (plan: Plan): Promise<Running> => {
  await plan.sweep?.()
  let current = begin(plan)
  let over = false
  await awaitReady(plan, current)
  const end = async (how: (started: Started) => Promise<void>): Promise<void> => {
    current.asked = true
    await how(current)
    await plan.sweep?.()
  }
  const stopIt = (started: Started) => stopStarted(plan, started)
  return {
    name: plan.name,
    get pid() {
      return current.pid
    },
    alive: () => current.exit === undefined,
    exited: () => current.exited,
    stop: () => {
      over = true
      return end(stopIt)
    },
    kill: () => end(killStarted),
    restart: async () => {
      over = false
      await end(stopIt)
      if (over) throw new Error(`${plan.name} was stopped while it was being restarted`)
      // Known before it is ready: a stop or a kill meanwhile is its own.
      current = begin(plan)
      await awaitReady(plan, current)
    }
  }
}

/** The environment of a child: ours with `env` on top, but not what makes a library behave as under test. */
const childEnv = (env: Readonly<Record<string, string>>): Record<string, string> => {
  const inherited = Object.entries(process.env).flatMap(([name, value]) =>
    value === undefined || name === "NODE_ENV" ? [] : [[name, value] as const]
  )
  return { ...Object.fromEntries(inherited), ...env }
}

/** Spawned with its output appended to the log file, in a session of its own. */
export const spawnLogged = (plan: Pick<Plan, "file" | "args" | "env" | "user" | "logFile">): ChildProcess => {
  mkdirSync(dirname(plan.logFile), { recursive: true })
  const log = openSync(plan.logFile, "a")
  try {
    return spawn(plan.file, [...plan.args], {
      env: childEnv(plan.env),
      stdio: ["ignore", log, log],
      detached: true,
      ...plan.user
    })
  } finally {
    closeSync(log)
  }
}

/** The last lines of a log, from byte `since` on. */
export const tail = (logFile: string, since = 0, lines = 20): string => {
  if (!existsSync(logFile)) return ""
  const file = openSync(logFile, "r")
  try {
    const size = fstatSync(file).size
    const from = Math.max(since, size - 16_384)
    const bytes = Buffer.alloc(Math.max(size - from, 0))
    readSync(file, bytes, 0, bytes.length, from)
    return bytes.toString("utf8").trimEnd().split("\n").slice(-lines).join("\n")
  } finally {
    closeSync(file)
  }
}

export const sizeOf = (logFile: string): number => (existsSync(logFile) ? statSync(logFile).size : 0)

/** Resolves when the child is gone; a child that could not be spawned at all counts as gone. */
export const exitOf = (child: ChildProcess): Promise<Omit<Exit, "asked">> =>
  new Promise((resolve) => {
    child.once("error", () => resolve({ code: null, signal: null }))
    child.once("exit", (code, name) => resolve({ code, signal: name }))
  })

interface Started {
  readonly pid: number
  /** Where in the log file its own lines begin. */
  readonly logFrom: number
  readonly exited: Promise<Exit>
  exit: Exit | undefined
  asked: boolean
}

const begin = (plan: Plan): Started => {
  const logFrom = sizeOf(plan.logFile)
  const child = spawnLogged(plan)
  const pid = child.pid
  if (pid === undefined) throw new Error(`${plan.name}: ${plan.file} could not be started`)
  plan.ledger?.record(plan.name, pid)
  const started: Started = {
    pid,
    logFrom,
    asked: false,
    exit: undefined,
    exited: exitOf(child).then((exit) => {
      started.exit = { ...exit, asked: started.asked }
      plan.ledger?.forget(plan.name, pid)
      return started.exit
    })
  }
  return started
}

const awaitReady = async (plan: Plan, started: Started): Promise<void> => {
  try {
    await until(`${plan.name} ready`, plan.readyWithinMs, async () => {
      if (started.exit) throw new Hopeless(`${plan.name} ended before it was ready (${describe(started.exit)})`)
      const ready = await plan.ready()
      // Something else may listen on the port and answer: only the living child's answer counts.
      return ready && started.exit === undefined
    })
  } catch (cause) {
    await killStarted(started)
    await plan.sweep?.()
    throw new Error(`${text(cause)}\nlast lines of ${plan.logFile}:\n${tail(plan.logFile, started.logFrom)}`, { cause })
  }
}

export const describe = (exit: Pick<Exit, "code" | "signal">): string =>
  exit.signal ? `signal ${exit.signal}` : `exit code ${exit.code ?? "unknown"}`

const stopStarted = async (plan: Plan, started: Started): Promise<void> => {
  if (started.exit) return
  signal(started.pid, plan.stopSignal)
  try {
    await until(`${plan.name} stopped`, plan.stopWithinMs, () => started.exit !== undefined, 5)
  } catch {
    // It had its time.
    await killStarted(started)
  }
}

const killStarted = async (started: Started): Promise<void> => {
  const mark = startOf(started.pid)
  if (mark !== undefined && !started.exit) await killAll([{ name: "", pid: started.pid, started: mark }])
  await until(`process ${started.pid} reaped`, 10_000, () => started.exit !== undefined, 5)
}
