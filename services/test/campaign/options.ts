/** What `bun run campaign` is told. */
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { argumentsOf } from "../../../stack/arguments.ts"
import { plants } from "./plants.ts"
import { secondsFor } from "./schedule.ts"

export interface Options {
  readonly orders: number
  readonly faults: number
  readonly seconds: number
  readonly seed: number
  readonly replay: boolean
  /** Bugs that are to be found; none in a campaign. */
  readonly plants: ReadonlyArray<string>
  readonly dir: string
}

const usage = `bun run campaign [options]

  --orders N    so many orders (2000)
  --faults N    so many faults, of all classes (40); 0 for none
  --seconds S   how long they take (two seconds for each fault)
  --seed S      what orders, faults and injections follow (1): the same schedule, not the same run
  --plants      instead: with bugs, one after the other; exits 0 when all were found and nothing where there was none
  --plant NAME  the same with this one, or these; an unknown name lists them
  --no-replay   leaves out the replay of all topics at the end
  --dir D       where the run leaves what it saw (.stack/campaign-<seed>)`

const number = (name: string, given: string, least: number): number => {
  const value = Number(given)
  if (Number.isInteger(value) && value >= least) return value
  console.error(`--${name} must be a whole number of at least ${least}, not ${given}\n\n${usage}`)
  process.exit(2)
}

export const readArguments = (): Options => {
  const { values } = argumentsOf(usage, () =>
    parseArgs({
      options: {
        orders: { type: "string" },
        faults: { type: "string" },
        seconds: { type: "string" },
        seed: { type: "string", default: "1" },
        plant: { type: "string", multiple: true, default: [] },
        plants: { type: "boolean", default: false },
        "no-replay": { type: "boolean", default: false },
        dir: { type: "string" },
        help: { type: "boolean", short: "h" }
      }
    })
  )
  const unknown = values.plant.find((name) => plants[name] === undefined)
  if (unknown !== undefined) {
    console.error(`There is no bug ${unknown}. There are:\n  ${Object.keys(plants).join("\n  ")}`)
    process.exit(2)
  }
  const faults = number("faults", values.faults ?? "40", 0)
  const seed = number("seed", values.seed, 0)
  return {
    orders: number("orders", values.orders ?? "2000", 1),
    faults,
    seconds: values.seconds === undefined ? Math.max(secondsFor(faults), 30) : number("seconds", values.seconds, 1),
    seed,
    replay: !values["no-replay"],
    plants: values.plants ? Object.keys(plants) : values.plant,
    dir: resolve(values.dir ?? join(import.meta.dir, "..", "..", "..", ".stack", `campaign-${seed}`))
  }
}
