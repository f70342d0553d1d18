/** The shop in the simulator: all participants on the production pass, in both styles and definitions, with faults. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test"
import { join } from "node:path"
import { faultNames, simulate } from "oncebox/testing"
import { planted } from "./planted.ts"
import { shop } from "./shop.ts"

// twenty times what it takes two cores that have nothing else to do
setDefaultTimeout(1_200_000)

const command = async (...parameters: ReadonlyArray<string>) => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "main.ts"), ...parameters], {
    stdout: "pipe",
    stderr: "pipe"
  })
  const [said, complained] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { said, complained, code: await child.exited }
}

/** What must be met, or the simulation shows nothing. */
const met = [
  ...faultNames.map((name) => `fault: ${name}`),
  "crashes before its commit",
  "crashes after its commit",
  "loses the commit's answer",
  "is overlapped",
  "repetitions",
  "duplicate",
  "parked",
  "calls carried out",
  "due rows",
  ...["orchestration", "choreography"].flatMap((style) =>
    ["place-order", "pay-first"].flatMap((definition) => [
      `orders APPROVED, ${style} ${definition}`,
      `orders REJECTED, ${style} ${definition}`
    ])
  ),
  ...[
    "USER_CANCELLED",
    "OUT_OF_STOCK",
    "INSUFFICIENT_FUNDS",
    "CARD_DECLINED",
    "SHIPMENT_REFUSED",
    "TIMEOUT",
    "PAY_TIMEOUT"
  ].map((reason) => `orders rejected: ${reason}`),
  "messages before their saga",
  "reservations CANCELLED",
  "reservations CANCELLED before they were asked for",
  "payments REFUNDED, account",
  "payments REFUNDED, card",
  "payments CANCELLED, before they were asked for",
  "shipments CANCELLED",
  "shipments CANCELLED before they were asked for",
  "sagas of place-order v1",
  "sagas of place-order v2",
  "sagas of pay-first v1",
  "sagas of pay-first v2",
  "messages handed over to another build"
]

// many orders at once, and few of which each has more befall it
test.each([
  ["many", "300", "1", 200_000],
  ["few", "20", "12", 8_000]
] as const)(
  "with %s orders at once (%s, %s steps each) %i sagas hold all that must hold, and meet all that may befall them",
  async (_name, orders, steps, count) => {
    const { said, complained, code } = await command("--sagas", String(count), "--orders", orders, "--steps", steps)

    expect(complained).toBe("")
    expect(code).toBe(0)
    const counts = new Map([...said.matchAll(/^ *(\d+) {2}(.+)$/gm)].map(([, count, what]) => [what, Number(count)]))
    expect(met.filter((what) => (counts.get(what) ?? 0) === 0)).toEqual([])
    console.log(said.trimEnd().split("\n").at(-1))
  }
)

test("the same seed is the same simulation, however many processes share it", async () => {
  const digest = async (jobs: string): Promise<string | undefined> => {
    const { said } = await command("--sagas", "300", "--orders", "30", "--seed", "7", "--jobs", jobs)
    return /digest ([0-9a-f]{16})/.exec(said)?.[1]
  }
  const [once, again] = [await digest("1"), await digest("3")]

  expect(once).toMatch(/^[0-9a-f]{16}$/)
  expect(again).toBe(once)
})

test("the command says what it can't make sense of", async () => {
  const { complained, code } = await command("--sagas", "many")

  expect(code).toBe(2)
  expect(complained).toContain("--sagas must be a number of at least 1, not many")
})

describe("a planted bug is found:", () => {
  let back: (() => void) | undefined
  afterEach(() => {
    back?.()
    back = undefined
  })

  test.each(Object.keys(planted))("%s", (name) => {
    const bug = planted[name]
    if (bug === undefined) throw new Error(`there is no bug ${name}`)
    const sound = shop(30)
    const scenario = "scenario" in bug ? bug.scenario(sound) : sound
    back = "patch" in bug ? bug.patch() : undefined

    const { failure, runs } = simulate(scenario, { seed: 1, runs: 2_000, stepsPerRequest: 8, shrinking: 0 })

    expect(failure?.wrong ?? []).not.toEqual([])
    console.log(`  in run ${runs}: ${failure?.wrong[0]?.split("\n")[0]?.slice(0, 160)}`)
  })
})
