import { beforeAll, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { SagaDefinition } from "oncebox"
import { sagaRules, type SagaCheck } from "oncebox/testing"
import { definitions, payFirst } from "../../services/orchestrator/definitions.ts"
import { checkAll, checkOrderSaga, reportOf } from "../sagas.ts"

const root = join(import.meta.dir, "..", "..")
// every path is walked: that takes a second or two, and longer beside other tests
const withinMs = 60_000

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

// each line: what is typed, the exit code, and what is printed
test.each([
  ["check pay-first", 0, /^pay-first v1: 1060 states, 28140 transitions, every rule holds\n[^]*stateDiagram-v2\n/],
  ["check pay-last", 2, /^there is no saga pay-last\n\nbun run sagas check/],
  ["prove", 2, /^there is no prove\n/],
  ["", 2, /^say what to do\n/],
  ["check --all", 2, /^Unknown option '--all'/],
  ["--help", 0, /^bun run sagas check \[name…\]\n/]
])(
  "sagas %s",
  async (typed, code, printed) => {
    const child = Bun.spawn([process.execPath, "stack/sagas.ts", ...typed.split(" ").filter((word) => word !== "")], {
      cwd: root,
      stdout: "pipe",
      stderr: "pipe",
      timeout: withinMs,
      killSignal: "SIGKILL"
    })
    const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()])

    expect(`${out}${err}`).toMatch(printed)
    expect(await child.exited).toBe(code)
    expect(code === 0 ? err : out).toBe("")
  },
  withinMs
)
