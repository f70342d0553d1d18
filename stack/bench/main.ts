/** `bun run bench`: what the parts cost, in µs of CPU, compared with the saved baseline. */
import { join } from "node:path"
import { parseArgs } from "node:util"
import { Effect } from "effect"
import { argumentsOf } from "../arguments.ts"
import { runTool } from "../tool.ts"
import { hopNames, hopsIn } from "./hop.ts"
import { inMemory } from "./in-memory.ts"
import { compare, measure, type Result } from "./measure.ts"
import { transportIn, transportNames } from "./transport.ts"

const dirOf = (name: string): string => join(import.meta.dirname, "..", "..", ".stack", name)

/** Benches that need the same to be there. */
const groups = [
  { names: inMemory.map(({ name }) => name), benches: Effect.succeed(inMemory) },
  { names: hopNames, benches: hopsIn(dirOf("bench")) },
  { names: transportNames, benches: transportIn(dirOf("bench-transport")) }
]
const allNames = groups.flatMap(({ names }) => names)

const usage = `bun run bench [options] [NAME ...]

  --save       write the baseline anew
  --margin M   ends with 1 when something costs more than the baseline says by more than this (0.25, a quarter)

Names: ${allNames.join(", ")}`

const baselineFile = join(import.meta.dirname, "baseline.json")

const readArguments = () => {
  const { values, positionals } = parseArgs({
    args: Bun.argv.slice(2),
    allowPositionals: true,
    options: {
      save: { type: "boolean", default: false },
      margin: { type: "string", default: "0.25" },
      help: { type: "boolean", short: "h" }
    }
  })
  const stranger = positionals.find((name) => !allNames.includes(name))
  if (stranger !== undefined) throw new Error(`there is no bench ${stranger}`)
  const margin = Number(values.margin)
  if (!(margin >= 0) || values.margin.trim() === "")
    throw new Error(`--margin must be a number from 0, such as 0.25, not ${values.margin}`)
  return { values, names: positionals.length === 0 ? allNames : positionals, margin }
}

const print = ({ name, unit, microseconds, ratio, parts }: Result, known: number | undefined): void => {
  const compared = known === undefined ? "" : `, ${(ratio / known).toFixed(2)} of the baseline`
  console.log(
    `${name.padEnd(16)} ${microseconds.toFixed(1).padStart(8)} µs of CPU a ${unit}, ${ratio.toFixed(2)} of the reference${compared}`
  )
  if (parts.length > 0)
    console.log(`${" ".repeat(17)}${parts.map(([part, cost]) => `${part} ${cost.toFixed(1)}`).join(", ")}`)
}

const main = Effect.gen(function* () {
  const { values, names, margin } = argumentsOf(usage, readArguments)
  const baseline = (yield* Effect.promise(() => Bun.file(baselineFile).json())) as Readonly<Record<string, number>>
  const results: Array<Result> = []
  for (const { names: own, benches } of groups) {
    const wanted = own.filter((name) => names.includes(name))
    // what a group needs is gone before the next: engines that idle take CPU
    if (wanted.length > 0)
      yield* Effect.scoped(
        Effect.gen(function* () {
          for (const bench of yield* benches) {
            if (!wanted.includes(bench.name)) continue
            const result = yield* Effect.promise(() => measure(bench))
            results.push(result)
            print(result, baseline[result.name])
          }
        })
      )
  }
  if (values.save) {
    const ratios = results.map(({ name, ratio }) => [name, Number(ratio.toFixed(3))])
    const saved = { ...baseline, ...Object.fromEntries(ratios) }
    yield* Effect.promise(() => Bun.write(baselineFile, `${JSON.stringify(saved, null, 2)}\n`))
    return 0
  }
  const worse = compare(results, baseline, margin).filter((verdict) => verdict.worse)
  for (const { name, baseline: known, ratio } of worse)
    console.log(`${name} costs ${ratio.toFixed(2)} of its reference, the baseline says ${known.toFixed(2)}`)
  return worse.length > 0 ? 1 : 0
})

runTool(main, { stopsWithinMs: 120_000 })
