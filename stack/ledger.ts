/**
 * Which processes belong to a folder, so that none outlives its supervisor for longer than until the next start.
 *
 * Every process is written to `pids.json` in the same tick in which it was spawned, with a mark of when it was started: a pid
 * alone may belong to a stranger by now. A supervisor that was killed leaves its entries behind; whoever opens the ledger next
 * ends those whose pid and mark still fit, and no others. One live supervisor per folder.
 */
import { execFileSync } from "node:child_process"
import { mkdirSync, readFileSync, readdirSync, readlinkSync, renameSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { until } from "./wait.ts"

export interface Entry {
  readonly name: string
  readonly pid: number
  readonly started: string
}

export interface Ledger {
  readonly file: string
  record(name: string, pid: number): void
  forget(name: string, pid: number): void
  /** Gives the folder back. Entries of processes that still live stay. */
  close(): void
}

interface Page {
  readonly owner: Entry | undefined
  readonly processes: readonly Entry[]
}

const KILL_WITHIN_MS = 20_000

/** Takes the folder for this process, after ending what a killed predecessor left running in it. */
export const openLedger = async (dir: string): Promise<Ledger> => {
  mkdirSync(dir, { recursive: true })
  const file = join(dir, "pids.json")
  const earlier = readLedger(dir)
  if (earlier.owner && lives(earlier.owner)) {
    throw new Error(`${dir} is in use by process ${earlier.owner.pid}: stop that one first, or choose another folder`)
  }
  const owner = { name: "supervisor", pid: process.pid, started: startOf(process.pid) ?? "" }
  let processes = earlier.processes.filter(lives)
  const write = (page: Page): void => {
    const next = `${file}.${process.pid}`
    writeFileSync(next, `${JSON.stringify(page, null, 2)}\n`)
    renameSync(next, file)
  }
  write({ owner, processes })
  await killAll(processes)
  processes = []
  write({ owner, processes })
  return {
    file,
    record: (name, pid) => {
      // A process that is gone already has no start any more, and nobody will have to look for it.
      const started = startOf(pid)
      if (started !== undefined) processes = [...processes, { name, pid, started }]
      write({ owner, processes })
    },
    forget: (name, pid) => {
      processes = processes.filter((entry) => entry.name !== name || entry.pid !== pid)
      write({ owner, processes })
    },
    close: () => write({ owner: undefined, processes: processes.filter(lives) })
  }
}

/** What the ledger of a folder says, without taking the folder. */
export const readLedger = (dir: string): Page => {
  try {
    return parse(JSON.parse(readFileSync(join(dir, "pids.json"), "utf8")))
  } catch {
    // No ledger, or one that is not ours to understand: nothing that we could end by it.
    return { owner: undefined, processes: [] }
  }
}

/** Ends what a dead supervisor left behind; leaves a live supervisor's processes alone. */
export const killLeftovers = async (dir: string): Promise<number> => {
  const { owner, processes } = readLedger(dir)
  if (owner && lives(owner)) return 0
  const left = processes.filter(lives)
  await killAll(left)
  return left.length
}

/** True while this very process, not another one of the same pid, is running. */
export const lives = (entry: Entry): boolean => startOf(entry.pid) === entry.started

/** SIGKILL for the processes and their descendants; returns when all are gone. */
export const killAll = async (entries: readonly Entry[]): Promise<void> => {
  const doomed = entries.filter(lives)
  // Listed before the first is killed: a child whose parent is dead can't be found by its parent.
  const children = descendants(doomed.map((entry) => entry.pid))
  for (const entry of [...doomed, ...children]) if (lives(entry)) signal(entry.pid, "SIGKILL")
  const all = [...doomed, ...children]
  await until(`end of ${all.map((entry) => entry.pid).join(", ")}`, KILL_WITHIN_MS, () => !all.some(lives), 5)
}

/** Sends a signal; a process that is gone already is no error. */
export const signal = (pid: number, name: NodeJS.Signals): void => {
  try {
    process.kill(pid, name)
  } catch (cause) {
    if (!(cause instanceof Error && "code" in cause && cause.code === "ESRCH")) throw cause
  }
}

/** When the process was started, as a text to compare; undefined when there is none (a zombie is none). */
export const startOf = (pid: number): string | undefined =>
  process.platform === "linux" ? statOf(pid)?.start : psStart(pid)

/** Processes of the program `name` whose working directory is `dir`. Linux only; elsewhere none are found. */
export const livingIn = (dir: string, name: string): Entry[] => {
  if (process.platform !== "linux") return []
  return pidsOfProc().flatMap((pid) => {
    if (link(pid, "cwd") !== dir || basename(link(pid, "exe") ?? "").split(" ")[0] !== name) return []
    const started = startOf(pid)
    return started === undefined ? [] : [{ name, pid, started }]
  })
}

const descendants = (roots: readonly number[]): Entry[] => {
  const table = parents()
  const found = new Set(roots)
  let size = 0
  while (size !== found.size) {
    size = found.size
    for (const [pid, parent] of table) if (found.has(parent)) found.add(pid)
  }
  return [...found].flatMap((pid) => {
    const started = startOf(pid)
    return roots.includes(pid) || started === undefined ? [] : [{ name: `pid ${pid}`, pid, started }]
  })
}

const parents = (): Array<readonly [pid: number, parent: number]> => {
  if (process.platform === "linux") {
    return pidsOfProc().flatMap((pid) => {
      const stat = statOf(pid)
      return stat ? [[pid, stat.parent] as const] : []
    })
  }
  return execFileSync("ps", ["-Ao", "pid=,ppid="], { encoding: "utf8" })
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number))
    .flatMap(([pid, parent]) => (pid && parent !== undefined ? [[pid, parent] as const] : []))
}

const pidsOfProc = (): number[] => readdirSync("/proc").map(Number).filter(Number.isInteger)

const statOf = (pid: number): { readonly parent: number; readonly start: string } | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    // The name stands in parentheses and may hold anything, so the fields are counted from its end: state, parent, ...; 22 is the start.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    // A zombie is gone, but not while other threads of it are still on their way out: they hold its files and its ports.
    const gone = fields[0] === "X" || (fields[0] === "Z" && Number(fields[17]) <= 1)
    return gone ? undefined : { parent: Number(fields[1]), start: `${bootId()} ${fields[19]}` }
  } catch {
    return undefined
  }
}

// The start is counted in ticks since boot: without the boot's id a process of the last boot might be taken for one of ours.
let boot: string | undefined
const bootId = (): string => (boot ??= readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim())

const link = (pid: number, name: "cwd" | "exe"): string | undefined => {
  try {
    return readlinkSync(`/proc/${pid}/${name}`)
  } catch {
    return undefined
  }
}

const psStart = (pid: number): string | undefined => {
  try {
    const line = execFileSync("ps", ["-o", "state=,lstart=,command=", "-p", String(pid)], { encoding: "utf8" }).trim()
    return line === "" || line.startsWith("Z") ? undefined : line.replace(/^\S+\s+/, "")
  } catch {
    return undefined
  }
}

const parse = (page: unknown): Page => {
  if (typeof page !== "object" || page === null) return { owner: undefined, processes: [] }
  const processes = "processes" in page && Array.isArray(page.processes) ? page.processes.filter(isEntry) : []
  return { owner: "owner" in page && isEntry(page.owner) ? page.owner : undefined, processes }
}

const isEntry = (entry: unknown): entry is Entry =>
  typeof entry === "object" &&
  entry !== null &&
  "name" in entry &&
  "pid" in entry &&
  "started" in entry &&
  typeof entry.name === "string" &&
  typeof entry.pid === "number" &&
  typeof entry.started === "string"
