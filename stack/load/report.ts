/** What a run measured: as a table for people, and as JSON for machines. */
import type { Hop } from "./hops.ts"
import type { Load, Tally } from "./loops.ts"
import type { Usage, Work } from "./usage.ts"

export interface Measured {
  /** From the start of the system to its first order's end, in ms; null of one that ran already. */
  readonly firstOrderMs: number | null
  readonly load: Load
  readonly seconds: number
  readonly tally: Tally
  readonly before: Usage
  readonly after: Usage
  /** Of the load tool itself, in seconds. */
  readonly ownCpu: number
  readonly resident: ReadonlyMap<string, number>
  readonly hops: ReadonlyArray<Hop>
  /** What of stock and money does not add up. */
  readonly errors: ReadonlyArray<string>
}

export interface Report {
  readonly firstOrderMs: number | null
  readonly load: Load
  readonly seconds: number
  readonly sagas: number
  readonly sagasPerSecond: number
  readonly outcomes: Readonly<Record<"approved" | "rejected" | "wrong" | "failed", number>>
  readonly latencyMs: Percentiles
  /** How far behind its schedule the load tool was, at most. */
  readonly lateMs: number
  /** By process, and of all but the load tool. */
  readonly cpuSecondsPer1000: Readonly<Record<string, number>>
  readonly allCpuSecondsPer1000: number
  /** Of the load tool. */
  readonly ownCpuSecondsPer1000: number
  readonly residentMiB: Readonly<Record<string, number>>
  readonly allResidentMiB: number
  readonly walBytesPerSaga: number
  readonly commitsPerSaga: number
  /** By replica: what was decided, how much of it in a pass on average, and what was read for nothing. */
  readonly work: Readonly<Record<string, Work & { readonly batch: number }>>
  readonly hops: ReadonlyArray<{
    readonly type: string
    readonly count: number
    readonly toTopicMs: Percentiles
    readonly toHandlerMs: Percentiles
  }>
  readonly errors: ReadonlyArray<string>
}

export interface Percentiles {
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

/** Nearest rank; NaN of nothing. */
export const percentilesOf = (values: ReadonlyArray<number>): Percentiles => {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number) => round(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN, 1)
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1) }
}

const round = (value: number, digits: number): number => Number(value.toFixed(digits))

export const reportOf = (measured: Measured): Report => {
  const { firstOrderMs, load, seconds, tally, before, after, ownCpu, resident, hops, errors } = measured
  const sagas = tally.latencies.length
  const per1000 = (value: number) => round((value / sagas) * 1_000, 3)
  const cpu = [...after.cpu].map(([name, used]) => [name, used - (before.cpu.get(name) ?? 0)] as const)
  const mebibytes = (bytes: number) => Math.round(bytes / 2 ** 20)
  const { approved, rejected, wrong, failed } = tally
  return {
    firstOrderMs,
    load,
    seconds: round(seconds, 2),
    sagas,
    sagasPerSecond: round(sagas / seconds, 1),
    outcomes: { approved, rejected, wrong, failed },
    latencyMs: percentilesOf(tally.latencies),
    lateMs: round(tally.late, 1),
    cpuSecondsPer1000: Object.fromEntries(cpu.map(([name, used]) => [name, per1000(used)])),
    allCpuSecondsPer1000: per1000(cpu.reduce((sum, [, used]) => sum + used, 0)),
    ownCpuSecondsPer1000: per1000(ownCpu),
    residentMiB: Object.fromEntries([...resident].map(([name, bytes]) => [name, mebibytes(bytes)])),
    allResidentMiB: mebibytes([...resident.values()].reduce((sum, bytes) => sum + bytes, 0)),
    walBytesPerSaga: Math.round((after.wal - before.wal) / sagas),
    commitsPerSaga: round((after.commits - before.commits) / sagas, 3),
    work: Object.fromEntries([...after.work].map(([name, work]) => [name, workOf(before.work.get(name), work)])),
    hops: hops
      .map(({ type, toTopicMs, toHandlerMs }) => ({
        type,
        count: toTopicMs.length,
        toTopicMs: percentilesOf(toTopicMs),
        toHandlerMs: percentilesOf(toHandlerMs)
      }))
      .toSorted((one, other) => other.count - one.count),
    errors
  }
}

const workOf = (before: Work | undefined, after: Work) => {
  const passes = after.passes - (before?.passes ?? 0)
  const decided = after.decided - (before?.decided ?? 0)
  const skipped = after.skipped - (before?.skipped ?? 0)
  return { passes, decided, skipped, batch: round(decided / passes, 1) }
}

/** Whether every order ended as it should, and stock and money add up. */
export const isSound = ({ errors, outcomes: { wrong, failed } }: Pick<Report, "errors" | "outcomes">): boolean =>
  errors.length === 0 && wrong === 0 && failed === 0

export const linesOf = (report: Report): ReadonlyArray<string> => {
  const { load, outcomes, latencyMs, hops } = report
  const what =
    load.rate === undefined ? `${load.inFlight} in flight` : `${load.rate}/s, at most ${report.lateMs} ms late`
  const told = (one: Percentiles) => (Number.isNaN(one.p50) ? "–" : `${one.p50} / ${one.p95} / ${one.p99} / ${one.max}`)
  const cpu = Object.entries(report.cpuSecondsPer1000)
  return [
    ...(report.firstOrderMs === null
      ? []
      : [`the first order was approved ${report.firstOrderMs} ms after the start of the system`]),
    `${what}: ${report.sagasPerSecond} sagas/s over ${report.seconds} s (${Object.entries(outcomes)
      .map(([name, count]) => `${count} ${name}`)
      .join(", ")})`,
    `latency ms, p50 / p95 / p99 / max: ${told(latencyMs)}`,
    `${report.walBytesPerSaga} bytes of WAL and ${report.commitsPerSaga} commits a saga, ${report.allResidentMiB} MiB resident`,
    "",
    ...table([
      ["process", "CPU-s per 1,000 sagas", "% of a core", "MiB"],
      ...cpu.map(([name, used]) => [
        name,
        used.toFixed(3),
        ((used * report.sagas) / 10 / report.seconds).toFixed(0),
        String(report.residentMiB[name] ?? "")
      ]),
      ["all", report.allCpuSecondsPer1000.toFixed(3), "", String(report.allResidentMiB)],
      ["load tool", report.ownCpuSecondsPer1000.toFixed(3), "", ""]
    ]),
    "",
    ...table([
      ["replica", "passes", "decided", "a pass", "skipped"],
      ...Object.entries(report.work).map(([name, { passes, decided, batch, skipped }]) =>
        [name, passes, decided, batch, skipped].map(String)
      )
    ]),
    ...(hops.length === 0
      ? []
      : [
          "",
          ...table([
            ["message", "count", "to its topic, ms", "to its handler, ms"],
            ...hops.map(({ type, count, toTopicMs, toHandlerMs }) => [
              type,
              String(count),
              told(toTopicMs),
              told(toHandlerMs)
            ])
          ])
        ]),
    "",
    ...(report.errors.length === 0
      ? ["stock and money add up"]
      : ["STOCK OR MONEY IS WRONG:", ...report.errors.slice(0, 10)])
  ]
}

const table = (rows: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join("  ")
  )
}
