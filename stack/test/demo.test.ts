/** Every tour of the demo, as a user runs it. */
import { expect, setDefaultTimeout, test } from "bun:test"
import { join } from "node:path"
import { tours } from "../tours.ts"

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

for (const [name, { scenes }] of Object.entries(tours)) {
  test(`the tour ${name} ends as it says, and all adds up`, async () => {
    const { code, out, error } = await demo("--tour", name)

    expect({ code, error }).toEqual({ code: 0, error: "" })
    expect(out).toContain("Everything adds up.")
    expect(out.match(/→ (APPROVED|REJECTED)/g) ?? []).toHaveLength(scenes.length)
    if (name === "styles") expect(out.match(/✓ adds up/g)).toHaveLength(2)
    if (name === "outage") expect(out.match(/waits for PaymentProcessedEvent/g)).toHaveLength(scenes.length)
    if (name === "choreography") expect(out).not.toContain("Command ")
    if (name === "duplicates") expect(out).toMatch(/dropped: orchestrator [1-9]\d*, order [1-9]/)
  })
}

test("a tour that there is not is told, with those that there are", async () => {
  const { code, error } = await demo("--tour", "nowhere")

  expect(code).toBe(2)
  expect(error.trim()).toBe(`there is no tour nowhere; there are ${Object.keys(tours).join(", ")}`)
})
