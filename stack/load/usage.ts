/**
 * What a system uses, measured from outside: CPU and memory of its processes and of all that they started, from /proc, so on
 * Linux only; WAL and commits, from Postgres; passes and what was decided in them, from the services' metrics.
 */
import { readdirSync, readFileSync } from "node:fs"
import type { Sql } from "oncebox"
import type { Entry } from "../ledger.ts"

export interface Usage {
  /** Seconds of CPU by process. */
  readonly cpu: ReadonlyMap<string, number>
  /** Bytes written to the WAL. */
  readonly wal: number
  readonly commits: number
  /** By replica. */
  readonly work: ReadonlyMap<string, Work>
}

export interface Work {
  readonly passes: number
  /** Messages, requests, due rows and results of calls that were decided. */
  readonly decided: number
  /** Records that were read for nothing: of types that are not handled there. */
  readonly skipped: number
}

export interface Sources {
  readonly processes: ReadonlyArray<Entry>
  /** Of the system's Postgres, as anybody. */
  readonly sql: Sql
  /** Admin addresses by replica. */
  readonly admin: ReadonlyMap<string, string>
}

export const readUsage = async ({ processes, sql, admin }: Sources): Promise<Usage> => {
  const [row] = await sql<Array<{ wal: number; commits: number }>>`
    select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 as wal,
      (select sum(xact_commit) from pg_stat_database)::float8 as commits`
  const work = await Promise.all([...admin].map(async ([name, url]) => [name, await readWork(url)] as const))
  return { cpu: cpuSecondsOf(processes), wal: row?.wal ?? 0, commits: row?.commits ?? 0, work: new Map(work) }
}

const readWork = async (url: string): Promise<Work> => {
  const response = await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(5_000) })
  const text = await response.text()
  const count = (name: string) => Number(new RegExp(`^oncebox_${name}_total\\S* (\\d+)$`, "m").exec(text)?.[1] ?? 0)
  return {
    passes: count("passes"),
    decided: count("messages") + count("requests") + count("timers") + count("calls"),
    skipped: count("skipped")
  }
}

/** Clock ticks a second, as Linux reports CPU time: 100 everywhere that Linux runs on today. */
const ticksPerSecond = 100

interface Stat {
  readonly parent: number
  readonly ticks: number
}

const statOf = (pid: number): Stat | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    // the name in parentheses may hold spaces; numbers begin behind it with the state, field 3
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    const number = (field: number) => Number(fields[field - 3])
    // cutime and cstime count children that ended: Postgres' backends come and go
    return { parent: number(4), ticks: number(14) + number(15) + number(16) + number(17) }
  } catch {
    return undefined
  }
}

/** Every living process that one of these started, or is, with the name of that one. */
const familiesOf = (processes: ReadonlyArray<Entry>): ReadonlyArray<Stat & { pid: number; name: string }> => {
  if (process.platform !== "linux") return []
  const stats = new Map(
    readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .flatMap((name) => {
        const stat = statOf(Number(name))
        return stat === undefined ? [] : [[Number(name), stat] as const]
      })
  )
  const roots = new Map(processes.map(({ pid, name }) => [pid, name]))
  return [...stats].flatMap(([pid, stat]) => {
    let at = pid
    for (let depth = 0; depth < 20 && !roots.has(at); depth++) at = stats.get(at)?.parent ?? 0
    const name = roots.get(at)
    return name === undefined ? [] : [{ ...stat, pid, name }]
  })
}

/** Seconds of CPU by process. */
export const cpuSecondsOf = (processes: ReadonlyArray<Entry>): ReadonlyMap<string, number> => {
  const seconds = new Map<string, number>()
  for (const { name, ticks } of familiesOf(processes)) add(seconds, name, ticks / ticksPerSecond)
  return seconds
}

/** Resident bytes by process, what is shared counted in shares, and without shared memory such as Postgres' buffers. */
export const residentBytesOf = (processes: ReadonlyArray<Entry>): ReadonlyMap<string, number> => {
  const bytes = new Map<string, number>()
  for (const { name, pid } of familiesOf(processes)) add(bytes, name, residentOf(pid))
  return bytes
}

const residentOf = (pid: number): number => {
  try {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8")
    const kilobytes = (name: string) => Number(new RegExp(`^${name}: +(\\d+)`, "m").exec(rollup)?.[1] ?? 0)
    return (kilobytes("Pss") - kilobytes("Pss_Shmem")) * 1_024
  } catch {
    return 0
  }
}

const add = (to: Map<string, number>, name: string, amount: number): void =>
  void to.set(name, (to.get(name) ?? 0) + amount)
