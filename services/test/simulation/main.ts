/**
 * `bun run simulate`: plays the shop in the simulator, with faults, on all cores. Prints what happened and exits 1 when
 * something did not hold, with the seed, what it shrinks to and a sequence diagram of that.
 */
import { availableParallelism } from "node:os"
import { parseArgs } from "node:util"
// before anything is decoded: it compiles schemas instead of interpreting them
import "effect/schema/SchemaJITCompiler/enable"
import { simulate, type Failure, type Simulated } from "oncebox/testing"
import { shop } from "./shop.ts"

const usage = `bun run simulate [options]

  --seed S     the first run's seed (1); the same seed is the same run
  --sagas N    so many sagas (200000)
  --hours H    instead of a number of sagas, so many hours
  --orders N   orders in one run, which meet at the same rows (200)
  --steps N    things that happen before the system heals, for each order (2)
  --faults N   of a hundred things that happen so many are faults (8)
  --jobs N     so many processes (one for each core)`

interface Job {
  readonly seed: number
  readonly every: number
  readonly runs: number
  readonly orders: number
  readonly steps: number
  readonly faults: number
  readonly untilMs: number | null
}

type Share = Omit<Simulated, "failure"> & { readonly failure?: Failure }

/** Runs between two looks at the time. */
const stretch = 20

const play = ({ seed, every, runs, orders, steps, faults, untilMs }: Job): Share => {
  const scenario = shop(orders)
  let all: Share = { runs: 0, counts: {}, digest: "0", elapsedMs: 0 }
  while (all.failure === undefined && (untilMs === null ? all.runs < runs : Date.now() < untilMs)) {
    const left = untilMs === null ? Math.min(stretch, runs - all.runs) : stretch
    const options = { every, runs: left, stepsPerRequest: steps, faultPercent: faults }
    all = together(all, simulate(scenario, { ...options, seed: seed + all.runs * every }))
  }
  return all
}

const together = (one: Share, other: Share | Simulated): Share => {
  const counts: Record<string, number> = { ...one.counts }
  for (const [what, times] of Object.entries(other.counts)) counts[what] = (counts[what] ?? 0) + times
  const digest = BigInt(`0x${one.digest}`) ^ BigInt(`0x${other.digest}`)
  const failure = one.failure ?? other.failure
  return {
    runs: one.runs + other.runs,
    counts,
    digest: digest.toString(16).padStart(16, "0"),
    elapsedMs: one.elapsedMs + other.elapsedMs,
    ...(failure === undefined ? {} : { failure })
  }
}

/**
 * The engine's last compiler takes more than it gives: 62 CPU-seconds for 60,000 sagas with it, 48 without. A heap that grows in
 * larger steps is swept less often: 0.92 of the CPU. With a process for each core threads that compile beside it are in its way:
 * 0.92 again without them (2026-11-22).
 */
const engine = {
  BUN_JSC_useFTLJIT: "0",
  BUN_JSC_largeHeapSize: String(128 * 1_048_576),
  BUN_JSC_useConcurrentJIT: "0"
}

/** Has a process of its own play a job; it prints its share as JSON. */
const inProcess = async (job: Job): Promise<Share> => {
  const child = Bun.spawn([process.execPath, import.meta.path, "--job", JSON.stringify(job)], {
    stdout: "pipe",
    stderr: "inherit",
    env: { ...process.env, ...engine }
  })
  const said = await new Response(child.stdout).text()
  if ((await child.exited) !== 0) throw new Error(`a process of the simulation ended with ${child.exitCode}`)
  // it was printed by `play`
  return JSON.parse(said) as Share
}

const count = (name: string, text: string, least: number): number => {
  const number = Number(text)
  if (Number.isFinite(number) && number >= least) return number
  console.error(`--${name} must be a number of at least ${least}, not ${text}\n\n${usage}`)
  process.exit(2)
}

const readArguments = () => {
  try {
    return parseArgs({
      options: {
        seed: { type: "string", default: "1" },
        sagas: { type: "string", default: "200000" },
        hours: { type: "string" },
        orders: { type: "string", default: "200" },
        steps: { type: "string", default: "2" },
        faults: { type: "string", default: "8" },
        jobs: { type: "string", default: String(availableParallelism()) },
        job: { type: "string" },
        help: { type: "boolean", default: false }
      }
    }).values
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`)
    process.exit(2)
  }
}

const main = async (): Promise<void> => {
  const values = readArguments()
  if (values.help) return console.log(usage)
  if (values.job !== undefined) return console.log(JSON.stringify(play(JSON.parse(values.job) as Job)))
  const seed = count("seed", values.seed, 0)
  const orders = count("orders", values.orders, 1)
  const jobs = count("jobs", values.jobs, 1)
  const steps = count("steps", values.steps, 0)
  const faults = count("faults", values.faults, 0)
  const runs = Math.ceil(count("sagas", values.sagas, 1) / orders)
  const untilMs = values.hours === undefined ? null : Date.now() + count("hours", values.hours, 0) * 3_600_000
  const startedAt = performance.now()
  const shares = await Promise.all(
    Array.from({ length: jobs }, (_, job) =>
      inProcess({
        seed: seed + job,
        every: jobs,
        runs: Math.floor((runs - job + jobs - 1) / jobs),
        orders,
        steps,
        faults,
        untilMs
      })
    )
  )
  const all = shares.reduce(together)
  report(all, orders, (performance.now() - startedAt) / 1_000)
  if (all.failure === undefined) return
  const { failure } = all
  console.error(`\nSeed ${failure.seed} fails: ${failure.wrong.slice(0, 5).join("\n  ")}`)
  console.error(`\nIts ${failure.choices.length} choices: ${JSON.stringify(failure.choices)}\nfail like this:`)
  console.error(`  ${failure.shrunk.slice(0, 5).join("\n  ")}\n\n${failure.diagram}`)
  console.error(
    `Again: bun run simulate --seed ${failure.seed} --sagas 1 --orders ${orders} --steps ${steps} --faults ${faults}`
  )
  process.exit(1)
}

const report = ({ runs, counts, digest, elapsedMs }: Share, orders: number, seconds: number): void => {
  for (const what of Object.keys(counts).toSorted()) console.log(`${String(counts[what]).padStart(12)}  ${what}`)
  const hours = Math.round(elapsedMs / 3_600_000)
  console.log(
    `${runs * orders} sagas in ${runs} runs, ${seconds.toFixed(1)} s (${Math.round((runs * orders) / seconds)}/s), ${hours} hours of their own time, digest ${digest}`
  )
}

if (import.meta.main) await main()
