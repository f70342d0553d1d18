/**
 * `bun run load`: orders, and what they cost. Uses the stack that is up, or starts one. Ends with 1 when stock and money do not
 * add up, or an order did not end as it should.
 */
import { join } from "node:path"
import { parseArgs } from "node:util"
import { Effect } from "effect"
import { topicNames } from "../../services/index.ts"
import { argumentsOf } from "../arguments.ts"
import { runTool } from "../tool.ts"
import { text, within } from "../wait.ts"
import { readHops } from "./hops.ts"
import { Loops, type Load } from "./loops.ts"
import { isSound, linesOf, reportOf } from "./report.ts"
import { makeShop } from "./shop.ts"
import { embeddedIn, stackIn, type Ends } from "./system.ts"
import { readUsage, residentBytesOf } from "./usage.ts"

const usage = `bun run load [options]

  --in-flight N      closed loop: N orders at any time (1024)
  --rate R           open loop: R orders a second, Poisson arrivals; latency counts from the scheduled arrival
  --seconds S        how long to measure (20)
  --warm-up S        for how long before that (10)
  --seed N           what the mix of orders follows (1)
  --coordination C   orchestration or choreography
  --definition D     place-order or pay-first
  --replicas N       of each service (1)
  --embedded         everything in one process, without Kafka and Debezium
  --hops             how long each message took to its topic and to its handler, too
  --json             the result as one line of JSON
  --dir FOLDER       the stack's folder (.stack/run)`

const coordinations = ["orchestration", "choreography"] as const
const definitions = ["place-order", "pay-first"] as const

const known = {
  "in-flight": { type: "string", default: "1024" },
  rate: { type: "string" },
  seconds: { type: "string", default: "20" },
  "warm-up": { type: "string", default: "10" },
  seed: { type: "string", default: "1" },
  coordination: { type: "string", default: "orchestration" },
  definition: { type: "string", default: "place-order" },
  replicas: { type: "string", default: "1" },
  embedded: { type: "boolean", default: false },
  hops: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h" },
  dir: { type: "string" }
} as const

const rateOf = (text: string): number => {
  const rate = Number(text)
  if (!(rate > 0 && rate < Infinity)) throw new Error(`--rate must be a number above 0, not ${text}`)
  return rate
}

const readOptions = () => {
  const { values } = parseArgs({ options: known })
  const number = (name: "in-flight" | "rate" | "seconds" | "warm-up" | "seed" | "replicas", least: number): number => {
    const value = Number(values[name])
    if (!(value >= least)) throw new Error(`--${name} must be a number from ${least}, not ${values[name]}`)
    return value
  }
  const oneOf = <A extends string>(name: "coordination" | "definition", all: ReadonlyArray<A>): A => {
    const found = all.find((one) => one === values[name])
    if (found === undefined) throw new Error(`--${name} must be one of ${all.join(", ")}, not ${values[name]}`)
    return found
  }
  const load: Load = values.rate === undefined ? { inFlight: number("in-flight", 1) } : { rate: rateOf(values.rate) }
  if (values.embedded && number("replicas", 1) > 1) throw new Error("--embedded has one replica of each service")
  return {
    values,
    load,
    seconds: number("seconds", 1),
    warmUp: number("warm-up", 0),
    seed: number("seed", 0),
    replicas: number("replicas", 1),
    coordination: oneOf("coordination", coordinations),
    definition: oneOf("definition", definitions),
    dir: values.dir ?? join(import.meta.dirname, "..", "..", ".stack", values.embedded ? "load" : "run")
  }
}
type Options = ReturnType<typeof readOptions>

/** How long the measured part lasts beyond what was asked for, at most: until the last order has ended. */
const drainsWithinMs = 180_000

const measure = async (options: Options, ends: Ends): Promise<number> => {
  const { load, seconds, warmUp, dir, replicas } = options
  const most = Number(process.env["BUN_CONFIG_MAX_HTTP_REQUESTS"] ?? 256)
  if ((load.inFlight ?? 0) > most)
    throw new Error(`Bun's fetch allows ${most} requests at a time: set BUN_CONFIG_MAX_HTTP_REQUESTS`)
  const begunMs = performance.now()
  const system = await (options.values.embedded ? embeddedIn(dir, ends) : stackIn(dir, replicas, ends))
  const shop = makeShop({ ...options, at: system.at })
  await within("the first order", drainsWithinMs, shop.first())
  const firstOrderMs = system.startedHere ? Math.round(performance.now() - begunMs) : null
  const loops = new Loops(shop)
  ends.push(await system.follow(loops.ended))
  await shop.prepare()
  if (warmUp > 0) await within("the warm-up", warmUp * 1_000 + drainsWithinMs, loops.run(load, warmUp))

  const before = await readUsage(system)
  const [startMs, ownBefore, sinceMs] = [performance.now(), process.cpuUsage(), Date.now()]
  const tally = await within("the load", seconds * 1_000 + drainsWithinMs, loops.run(load, seconds))
  const elapsed = (performance.now() - startMs) / 1_000
  const own = process.cpuUsage(ownBefore)
  const after = await readUsage(system)
  const resident = residentBytesOf(system.processes)

  const report = reportOf({
    firstOrderMs,
    load,
    seconds: elapsed,
    tally,
    before,
    after,
    ownCpu: (own.user + own.system) / 1e6,
    resident,
    hops: options.values.hops && system.broker !== undefined ? await readHops(system.broker, topicNames, sinceMs) : [],
    errors: await shop.errors()
  })
  if (options.values.json) console.log(JSON.stringify(report))
  else for (const line of linesOf(report)) console.log(line)
  return isSound(report) ? 0 : 1
}

/** Stopping a stack in good order may take so long. */
const stopsWithinMs = 120_000

const main = Effect.gen(function* () {
  const ends: Ends = []
  const options = argumentsOf(usage, readOptions)
  yield* Effect.addFinalizer(() => Effect.promise(() => endAll(ends)))
  return yield* Effect.tryPromise({
    try: () => measure(options, ends),
    catch: (error) => ({ message: text(error) })
  })
})

const endAll = async (ends: Ends): Promise<void> => {
  for (const end of ends.toReversed()) await Promise.resolve(end()).catch((error) => console.error(text(error)))
}

runTool(main, { stopsWithinMs })
