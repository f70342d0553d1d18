/** Waits for the end of the process that started it, then ends what that one left running in its folder. */
import { existsSync, rmSync } from "node:fs"
import { join } from "node:path"
import { killLeftovers, lives, readLedger } from "../../stack/ledger.ts"
import { until } from "../../stack/wait.ts"

/** A folder that holds this file is kept for whoever looks into what failed. */
export const keepFile = "keep"

const watch = async (dir: string): Promise<void> => {
  // Ctrl-C reaches the whole group: it is the other process that has to end
  process.on("SIGINT", () => {})
  process.on("SIGTERM", () => {})
  // nothing is ever said; the stream ends with the process that holds its other end
  for await (const said of Bun.stdin.stream()) void said
  await until("the end of the tests", 30_000, () => {
    const { owner } = readLedger(dir)
    return owner === undefined || !lives(owner)
  })
  await killLeftovers(dir)
  if (!existsSync(join(dir, keepFile))) rmSync(dir, { recursive: true, force: true })
}

if (import.meta.main) await watch(Bun.argv[2] ?? "")
