/** Every tour of the demo: all of them in one system, and one by itself, as a user runs it. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { join } from "node:path"
import { tours, type Tour } from "../tours.ts"

setDefaultTimeout(90_000)

const demo = async (...args: ReadonlyArray<string>) => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "..", "demo.ts"), ...args], {
    stdout: "pipe",
    stderr: "pipe",
    timeout: 80_000,
    killSignal: "SIGTERM"
  })
  const [out, error] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { code: await child.exited, out, error }
}

/** What a tour tells, from its start to its end. */
const expectTold = (name: string, out: string | undefined): void => {
  const { scenes } = Object.entries<Tour>(tours).find(([known]) => known === name)?.[1] ?? { scenes: [] }
  expect(out).toContain("Everything adds up.")
  expect(out?.match(/→ (APPROVED|REJECTED)/g) ?? []).toHaveLength(scenes.length)
  if (name === "styles") expect(out?.match(/✓ adds up/g)).toHaveLength(2)
  if (name === "outage") expect(out?.match(/waits for PaymentProcessedEvent/g)).toHaveLength(scenes.length)
  if (name === "choreography") expect(out).not.toContain("Command ")
  if (name === "duplicates") expect(out).toMatch(/dropped: orchestrator [1-9]\d*, order [1-9]/)
}

const names = Object.keys(tours)

describe("one after the other, each with goods and people of its own", () => {
  let told: ReadonlyArray<string> = []
  beforeAll(async () => {
    const { code, out, error } = await demo(...names.flatMap((name) => ["--tour", name]))

    expect({ code, error }).toEqual({ code: 0, error: "" })
    told = out.split(/^Now: /m).slice(1)
    expect(told).toHaveLength(names.length)
  })

  for (const [index, name] of names.entries())
    test(`the tour ${name} ends as it says, and all adds up`, () => expectTold(name, told[index]))
})

test("the demo by itself starts from nothing, ends as it says, and leaves its ports to the next one", async () => {
  for (const [args, name] of [
    [[], "all"],
    [["--tour", "duplicates"], "duplicates"]
  ] as const) {
    const { code, out, error } = await demo(...args)

    expect({ code, error }).toEqual({ code: 0, error: "" })
    expectTold(name, out)
  }
})

test("a tour that there is not is told, with those that there are", async () => {
  const { code, error } = await demo("--tour", "nowhere")

  expect(code).toBe(2)
  expect(error.trim()).toBe(`there is no tour nowhere; there are ${Object.keys(tours).join(", ")}`)
})
