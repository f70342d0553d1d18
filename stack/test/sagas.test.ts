import { beforeAll, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { SagaDefinition } from "oncebox"
import { sagaRules, type SagaCheck } from "oncebox/testing"
import { definitions, payFirst } from "../../services/orchestrator/definitions.ts"
import { checkAll, checkOrderSaga, reportOf } from "../sagas.ts"
import { outputOf, withinMs } from "./command.ts"

const root = join(import.meta.dir, "..", "..")

let known: ReadonlyArray<SagaDefinition & { readonly check: SagaCheck }> = []
beforeAll(() => {
  known = Object.values(definitions).map((definition) => ({ ...definition, check: checkOrderSaga(definition) }))
}, withinMs)

test("every rule holds for the shop's sagas, in every state that they can reach", () => {
  const checked = known.map(({ name, check: { findings, states, transitions } }) => {
    return { name, findings, states, transitions }
  })

  expect(checked).toEqual([
    { name: "place-order", findings: [], states: 928, transitions: 21_882 },
    { name: "pay-first", findings: [], states: 1_060, transitions: 28_140 }
  ])
})

test("the README shows the chart of place-order as it is", () => {
  const charts = [
    ...readFileSync(join(root, "README.md"), "utf8").matchAll(/```mermaid\n(stateDiagram-v2\n.*?)\n```/gs)
  ]

  expect(charts.map(([, chart]) => chart)).toEqual(
    known.filter(({ name }) => name === "place-order").map(({ check }) => check.chart)
  )
})

test("the report of a sound saga names the rules that hold", () => {
  const reports = known.map((definition) => reportOf(definition, definition.check).split("\n"))

  for (const report of reports)
    expect(report).toEqual(expect.arrayContaining(Object.values(sagaRules).map((rule) => `  ✓ ${rule}`)))
})

test(
  "a saga that breaks a rule is told with the way there, and makes the command fail",
  () => {
    const steps = payFirst.steps.map((step) =>
      step.name === "quote" ? { ...step, learn: (data: unknown) => data } : step
    )
    const printed: Array<string> = []

    const code = checkAll([{ ...payFirst, steps }], (text) => printed.push(text))

    expect(code).toBe(1)
    expect(printed[0]).toMatch(/^pay-first v1: \d+ states, \d+ transitions, 1 broken\n/)
    expect(printed[0]).toContain(
      "  ✗ OrderQuotedEvent while quote is awaited: order 00000000-0000-7000-8000-000000000001 is past its pricing and has no prices\n" +
        "    after OrderQuotedEvent\n"
    )
  },
  withinMs
)

test(
  "sagas check walks the sagas that are named",
  async () => {
    const { out, err, code } = await outputOf("stack/sagas.ts", "check", "pay-first")

    expect(out).toMatch(
      /^pay-first v1: 1060 states, 28140 transitions, every rule holds\n[^]*stateDiagram-v2\n(?![^]*place-order v)/
    )
    expect([err, code]).toEqual(["", 0])
  },
  withinMs
)
