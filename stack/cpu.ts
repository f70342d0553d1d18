/** CPU time of processes and all their descendants, from /proc: Linux only. */
import { readdirSync, readFileSync } from "node:fs"
import type { Entry } from "./ledger.ts"

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

/** Seconds of CPU by name, each with everything it started. Of none where there is no /proc. */
export const cpuSecondsOf = (processes: ReadonlyArray<Entry>): ReadonlyMap<string, number> => {
  if (process.platform !== "linux") return new Map()
  const stats = new Map(
    readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .flatMap((name) => {
        const stat = statOf(Number(name))
        return stat === undefined ? [] : [[Number(name), stat] as const]
      })
  )
  const roots = new Map(processes.map(({ pid, name }) => [pid, name]))
  const seconds = new Map<string, number>()
  for (const [pid, stat] of stats) {
    let at = pid
    for (let depth = 0; depth < 20 && !roots.has(at); depth++) at = stats.get(at)?.parent ?? 0
    const name = roots.get(at)
    if (name !== undefined) seconds.set(name, (seconds.get(name) ?? 0) + stat.ticks / ticksPerSecond)
  }
  return seconds
}
