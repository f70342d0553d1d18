/** Plays bugs one after the other on one site, between two games without one, and tells which check found each. */
import { mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { applyConnectors } from "../../../connectors/apply.ts"
import { connectorTarget } from "../../../stack/supervise.ts"
import { text } from "../../../stack/wait.ts"
import { files } from "./files.ts"
import { play, type Game } from "./play.ts"
import { allFaults, plants, type Plant } from "./plants.ts"
import type { Site } from "./site.ts"
import type { Verdict } from "./verdict.ts"

export interface Played {
  /** None when there was no bug. */
  readonly plant: string | null
  /** From the first order to the verdict. */
  readonly seconds: number
  /** Of the checks that objected, what the first lines say. */
  readonly violations: Verdict["violations"]
  /** Why it could not be played. */
  readonly failure: string | null
}

const orders = 300
const seconds = 14
const warmUpSeconds = 1
// of the sound system all is over in that time
const patienceMs = 25_000
// what the bugs before it left behind may still be under way
const soundPatienceMs = 120_000

const script = join(import.meta.dir, "planted-service.ts")

/** The bugs in their turn, with the sound system before and after them. */
export const playPlants = async (
  site: Site,
  names: ReadonlyArray<string>,
  options: { readonly dir: string; readonly seed: number; readonly check: (dir: string) => Promise<number> }
): Promise<ReadonlyArray<Played>> => {
  const played: Array<Played> = []
  for (const [n, plant] of [null, ...names, null].entries()) {
    const dir = join(options.dir, `${n} ${plant ?? "no bug"}`.replaceAll(" ", "-"))
    mkdirSync(join(dir, "log"), { recursive: true })
    console.log(`\n${plant ?? "no bug"}`)
    const ends: Array<() => unknown> = []
    try {
      const tookMs = await planting(site, plant, async (planted) => {
        const found = plants[plant ?? ""]
        const game: Game = {
          dir,
          // a prefix is none of another one's
          work: { name: `plant${n}`, count: orders, seed: options.seed + n, cancelledPercent: 50 },
          faults: found?.faults ?? allFaults,
          warmUpSeconds,
          seconds,
          injector: { copiedPercent: 30, againPercent: 50, latestMs: 6_000 },
          plant,
          skips: found?.skips ?? false,
          patienceMs: plant === null ? soundPatienceMs : patienceMs,
          replay: false
        }
        const began = Date.now()
        await play(planted, game, ends)
        await options.check(dir)
        return began
      })
      // the checker wrote it
      const { violations } = JSON.parse(readFileSync(join(dir, files.verdict), "utf8")) as Verdict
      played.push({ plant, seconds: tookMs / 1_000, violations, failure: null })
      for (const [name, [first]] of Object.entries(violations)) console.log(`  ${name}: ${first?.split("\n")[0]}`)
    } catch (cause) {
      played.push({ plant, seconds: 0, violations: {}, failure: text(cause) })
    } finally {
      for (const end of ends) await end()
    }
  }
  return played
}

/** The site with the bug while the body runs, which answers when it began. Answers how long that was ago when it ended. */
const planting = async (site: Site, name: string | null, body: (planted: Site) => Promise<number>): Promise<number> => {
  const plant: Plant | undefined = plants[name ?? ""]
  if (plant === undefined) return since(await body(site))
  const { stack, auditor } = site
  const undo = await plant.prepare?.(stack)
  if (plant.skips === true) await auditor.stop()
  const { service } = plant
  try {
    if (service === undefined) return since(await body(site))
    // a child has what we have
    process.env["PLANTED"] = name ?? ""
    await stack.service(service).stop()
    const planted = await stack.start(service, `${service}-planted`, script, stack.service(service))
    try {
      const withBug = { ...stack, service: (one: typeof service) => (one === service ? planted : stack.service(one)) }
      return since(await body({ ...site, stack: withBug as Site["stack"] }))
    } finally {
      await planted.stop()
      await stack.service(service).restart()
    }
  } finally {
    await undo?.()
    if (plant.skips === true) {
      await applyConnectors(connectorTarget(stack.engines))
      await auditor.restart()
    }
  }
}

const since = (began: number): number => Date.now() - began

const mostSeconds = 90

/** As people read it; and whether every bug was found in time, and nothing where there was none. */
export const tellPlants = (played: ReadonlyArray<Played>): { readonly table: string; readonly good: boolean } => {
  const rows = played.map(({ plant, seconds: took, violations, failure }) => {
    const by = Object.keys(violations)
    // of what never becomes quiet it is not known whose fault that is
    const found = by.some((name) => name !== "quiet") && took <= mostSeconds
    const good = failure === null && (plant === null ? by.length === 0 : found)
    const said = failure ?? (by.length === 0 ? "nothing found" : by.join(", "))
    return {
      good,
      line: `${good ? "✓" : "✗"} ${(plant ?? "no bug").padEnd(40)}${took.toFixed(0).padStart(4)} s  ${said}`
    }
  })
  const found = played.filter(({ plant }, n) => plant !== null && rows[n]?.good === true).length
  return {
    table: [
      ...rows.map(({ line }) => line),
      `${found} of ${played.filter(({ plant }) => plant !== null).length} bugs found within ${mostSeconds} s`
    ].join("\n"),
    good: rows.every(({ good }) => good)
  }
}
