/**
 * `bun run sagas check [name…]`: walks every path of the shop's sagas, without running them, and proves the rules of a
 * saga. Prints for each definition what was walked, which rules hold and its state chart, in Mermaid. Exits 1 when a
 * rule is broken, and tells the shortest way there.
 */
import { parseArgs } from "node:util"
import type { SagaDefinition } from "oncebox"
import { checkSaga, sagaRules, type SagaCheck } from "oncebox/testing"
import { definitions } from "../services/orchestrator/definitions.ts"
import { ordered, type OrderData } from "../services/shell/order-context.ts"
import { argumentsOf } from "./arguments.ts"

const usage = `bun run sagas check [name…]

  check    walks every path of each saga, or of those named, and proves its rules; exits 1 when one is broken

Sagas: ${Object.keys(definitions).join(", ")}`

/** Orders as the shop knows them at the start of their saga. */
const orders: ReadonlyArray<OrderData> = [
  ordered({
    userId: "ann",
    items: [{ productId: "teapot", quantity: 1 }],
    payment: { method: "account" },
    country: null
  }),
  ordered({
    userId: "bob",
    items: [
      { productId: "teapot", quantity: 2 },
      { productId: "kettle", quantity: 1 }
    ],
    payment: { method: "card", card: "card-1" },
    country: "NL"
  })
]

export const checkOrderSaga = (definition: SagaDefinition<OrderData>): SagaCheck =>
  checkSaga(definition, { data: orders, after: ["create"] })

/** What to print of a checked saga. What broke off at a finding is no picture of it. */
export const reportOf = (
  { name, version }: Pick<SagaDefinition, "name" | "version">,
  { findings, states, transitions, chart }: SagaCheck
): string => {
  const walked = `${name} v${version}: ${states} states, ${transitions} transitions`
  if (findings.length === 0) {
    const rules = Object.values(sagaRules).map((rule) => `  ✓ ${rule}`)
    return [`${walked}, every rule holds`, rules.join("\n"), chart].join("\n\n")
  }
  const told = findings.map(({ problem, path }) =>
    path.length === 0 ? `  ✗ ${problem}` : `  ✗ ${problem}\n    after ${path.join(" → ")}`
  )
  return `${walked}, ${findings.length} broken\n\n${told.join("\n")}`
}

/** Checks and prints each; answers the exit code. */
export const checkAll = (chosen: ReadonlyArray<SagaDefinition<OrderData>>, print: (text: string) => void): number => {
  const checks = chosen.map((definition) => ({ definition, check: checkOrderSaga(definition) }))
  for (const { definition, check } of checks) print(`${reportOf(definition, check)}\n`)
  return checks.every(({ check }) => check.findings.length === 0) ? 0 : 1
}

/** The sagas that are named, or all. */
const readArguments = () => {
  const { values, positionals } = parseArgs({
    options: { help: { type: "boolean", short: "h" } },
    allowPositionals: true
  })
  const [command, ...names] = positionals
  const known = Object.values(definitions)
  if (values.help === true) return { values, chosen: known }
  if (command !== "check") throw new Error(command === undefined ? "say what to do" : `there is no ${command}`)
  const stranger = names.find((name) => !known.some((definition) => definition.name === name))
  if (stranger !== undefined) throw new Error(`there is no saga ${stranger}`)
  return { values, chosen: names.length === 0 ? known : known.filter(({ name }) => names.includes(name)) }
}

if (import.meta.main) process.exitCode = checkAll(argumentsOf(usage, readArguments).chosen, console.log)
