/** The smallest campaign: see main.ts. It has a stack of its own, and takes three minutes. */
import { expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { files } from "./files.ts"
import type { Verdict } from "./verdict.ts"

setDefaultTimeout(900_000)

const dir = resolve(import.meta.dir, "..", "..", "..", ".stack", "campaign-smoke")

test("2,000 orders through 40 faults: no violation, and every defence had to act", async () => {
  const options = ["--orders", "2000", "--faults", "40", "--seed", "1", "--dir", dir]
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "main.ts"), ...options], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
    timeout: 880_000
  })
  const code = await child.exited
  // the checker wrote it
  const { violations, void: why } = JSON.parse(readFileSync(join(dir, files.verdict), "utf8")) as Verdict
  expect({ violations, why, code }).toEqual({ violations: {}, why: [], code: 0 })
})
