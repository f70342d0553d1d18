/**
 * The simulator: a whole system of participants in one process, on the production pass, their own decisions and the memory
 * store, under a time of its own and with faults that a seed determines. The same seed is the same run, bit for bit.
 */
import { replayed, seeded } from "./choices.ts"
import { Run, type RunEnd, type RunLimits } from "./run.ts"
import type { Scenario } from "./scenario.ts"
import { shrunk } from "./shrink.ts"
import { sequenceDiagram } from "./trace.ts"

export interface SimulationOptions extends Partial<Omit<RunLimits, "trace">> {
  /** The first run's seed. */
  readonly seed: number
  readonly runs: number
  /** The next run's seed is so much more: 1 unless several processes share the seeds. */
  readonly every?: number
  /** How many runs may be spent on making a failure simpler (2,000). */
  readonly shrinking?: number
}

/** A run in which something did not hold. */
export interface Failure {
  readonly seed: number
  readonly wrong: ReadonlyArray<string>
  /** The fewest choices that were found to end the same way. */
  readonly choices: ReadonlyArray<number>
  /** What is wrong in the run of those choices. */
  readonly shrunk: ReadonlyArray<string>
  /** That run as a Mermaid sequence diagram. */
  readonly diagram: string
}

export interface Simulated {
  readonly runs: number
  /** How often each thing happened, in all runs. */
  readonly counts: Readonly<Record<string, number>>
  /** Tells whether two simulations did the same. */
  readonly digest: string
  /** Time that passed in all runs, in milliseconds of their own. */
  readonly elapsedMs: number
  /** The first run that failed; no more are played after it. */
  readonly failure: Failure | undefined
}

const usual: RunLimits = { stepsPerRequest: 12, faultPercent: 8, without: [], trace: false }

/** Plays runs of a scenario until one fails. */
export const simulate = (scenario: Scenario, options: SimulationOptions): Simulated => {
  const { seed: first, runs: most, every = 1, shrinking = 2_000, ...rest } = options
  const limits: RunLimits = { ...usual, ...rest }
  const counts: Record<string, number> = {}
  let digest = 0n
  let elapsedMs = 0
  let failure: Failure | undefined
  let runs = 0
  for (; runs < most && failure === undefined; runs++) {
    const seed = first + runs * every
    const choices = seeded(seed)
    const end = new Run(scenario, choices, limits).play()
    for (const [what, times] of Object.entries(end.counts)) counts[what] = (counts[what] ?? 0) + times
    // runs may be shared out: what they come to together does not depend on how
    digest ^= Bun.hash.wyhash(`${seed} ${end.digest}`)
    elapsedMs += end.elapsedMs
    if (end.wrong.length > 0) failure = failureOf(scenario, limits, { seed, shrinking }, end, choices.taken)
  }
  return { runs, counts, digest: digest.toString(16).padStart(16, "0"), elapsedMs, failure }
}

/** One run of given choices, with its trace: the way to look at a failure. */
export const replay = (
  scenario: Scenario,
  choices: ReadonlyArray<number>,
  options: Partial<Omit<RunLimits, "trace">> = {}
): RunEnd => new Run(scenario, replayed(choices), { ...usual, ...options, trace: true }).play()

const failureOf = (
  scenario: Scenario,
  limits: RunLimits,
  { seed, shrinking }: { readonly seed: number; readonly shrinking: number },
  { wrong }: RunEnd,
  taken: ReadonlyArray<number>
): Failure => {
  const fails = (choices: ReadonlyArray<number>): boolean =>
    new Run(scenario, replayed(choices), limits).play().wrong.length > 0
  const choices = shrunk(taken, fails, shrinking)
  const end = replay(scenario, choices, limits)
  return { seed, wrong, choices, shrunk: end.wrong, diagram: sequenceDiagram(end.trace.lines, end.wrong) }
}
