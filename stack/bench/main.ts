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

const allNames = [...inMemory.map(({ name }) => name), ...hopNames, ...transportNames]

const usage = `bun run bench [options] [NAME ...]

  --save       write the baseline anew
  --margin M   ends with 1 when something costs more than the baseline says by more than this (0.25, a quarter)

Names: ${allNames.join(", ")}`

const baselineFile = join(import.meta.dirname, "baseline.json")
const dirOf = (name: string): string => join(import.meta.dirname, "..", "..", ".stack", name)

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

const main = Effect.gen(function* () {
  const { values, names, margin } = argumentsOf(usage, readArguments)
  const wants = (group: ReadonlyArray<string>): boolean => group.some((name) => names.includes(name))
  const hops = wants(hopNames) ? yield* hopsIn(dirOf("bench")) : []
  const transport = wants(transportNames) ? yield* transportIn(dirOf("bench-transport")) : []
  const benches = [...inMemory, ...hops, ...transport].filter(({ name }) => names.includes(name))
  const baseline = (yield* Effect.promise(() => Bun.file(baselineFile).json())) as Readonly<Record<string, number>>
  const results: Array<Result> = []
  for (const bench of benches) {
    const result = yield* Effect.promise(() => measure(bench))
    results.push(result)
    const known = baseline[result.name]
    console.log(
      `${result.name.padEnd(16)} ${result.microseconds.toFixed(1).padStart(8)} µs of CPU a ${result.unit}, ${result.ratio.toFixed(2)} of the reference${known === undefined ? "" : `, ${(result.ratio / known).toFixed(2)} of the baseline`}`
    )
    if (result.parts.length > 0)
      console.log(`${" ".repeat(17)}${result.parts.map(([part, cost]) => `${part} ${cost.toFixed(1)}`).join(", ")}`)
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

runTool(main)
