/**
 * Costs in CPU time, not in time: a machine that others use makes the latter useless. Each cost is told as a ratio to that of a
 * fixed piece of work measured in the same run, round by round, so that a baseline of one machine says something on another.
 */

export interface Bench {
  readonly name: string
  /** What is counted, such as "message". */
  readonly unit: string
  /** Does the work and answers how many units it was and the seconds of CPU that they took. */
  readonly work: () => Promise<Cost>
  /** The work that it is compared with. */
  readonly reference: () => Promise<Cost>
}

export interface Cost {
  readonly units: number
  readonly seconds: number
  /** Whose seconds they are, where several processes share in them. */
  readonly parts?: Readonly<Record<string, number>>
}

export interface Result {
  readonly name: string
  readonly unit: string
  /** µs of CPU for one unit: the median of the rounds. */
  readonly microseconds: number
  /** Units a second of CPU. */
  readonly perSecond: number
  /** To the reference: the median of the rounds' ratios. */
  readonly ratio: number
  /** µs for one unit by process, each the median of the rounds. */
  readonly parts: ReadonlyArray<readonly [name: string, microseconds: number]>
}

const rounds = 7

export const measure = async ({ name, unit, work, reference }: Bench): Promise<Result> => {
  // compiled and cached by then
  await reference()
  await work()
  const costs: Array<number> = []
  const ratios: Array<number> = []
  const parts = new Map<string, Array<number>>()
  for (let round = 0; round < rounds; round++) {
    const compared = await reference()
    const done = await work()
    const cost = (done.seconds * 1e6) / done.units
    costs.push(cost)
    ratios.push(cost / ((compared.seconds * 1e6) / compared.units))
    for (const [part, seconds] of Object.entries(done.parts ?? {}))
      parts.set(part, [...(parts.get(part) ?? []), (seconds * 1e6) / done.units])
  }
  const microseconds = median(costs)
  return {
    name,
    unit,
    microseconds,
    perSecond: 1e6 / microseconds,
    ratio: median(ratios),
    parts: [...parts].map(([part, all]) => [part, median(all)])
  }
}

const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

/** Seconds of CPU that this process takes for it. */
export const ownCpu = async (run: () => unknown): Promise<number> => {
  const before = process.cpuUsage()
  await run()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6
}

/** A text of the size of a message, parsed and written again: what work without a database is compared with. */
const json = JSON.stringify({ orderId: Bun.randomUUIDv7(), items: Array(5).fill({ productId: "p", quantity: 1 }) })
export const roundTrips = async (): Promise<Cost> => {
  const units = 200_000
  let length = 0
  const seconds = await ownCpu(() => {
    for (let n = 0; n < units; n++) length += JSON.stringify(JSON.parse(json)).length
  })
  if (length !== units * json.length) throw new Error("it is not the same text")
  return { units, seconds }
}

export interface Verdict {
  readonly name: string
  readonly baseline: number
  readonly ratio: number
  readonly worse: boolean
}

/** Which results are beyond the baseline by more than the margin, such as 0.25 for a quarter. New ones have no baseline. */
export const compare = (
  results: ReadonlyArray<Pick<Result, "name" | "ratio">>,
  baseline: Readonly<Record<string, number>>,
  margin: number
): ReadonlyArray<Verdict> =>
  results.flatMap(({ name, ratio }) => {
    const known = baseline[name]
    return known === undefined ? [] : [{ name, baseline: known, ratio, worse: ratio > known * (1 + margin) }]
  })
