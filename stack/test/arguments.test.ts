/** Every command with options tells how it is used: when it is asked, and when it is told what it does not know. */
import { expect, test } from "bun:test"
import { join } from "node:path"

const root = join(import.meta.dir, "..", "..")
const withinMs = 60_000

const commands = [
  ["stack/main.ts", "bun run stack"],
  ["stack/load/main.ts", "bun run load"],
  ["stack/bench/main.ts", "bun run bench"],
  ["stack/demo.ts", "bun run demo"],
  ["stack/sagas.ts", "bun run sagas"],
  ["services/test/simulation/main.ts", "bun run simulate"],
  ["services/test/campaign/main.ts", "bun run campaign"],
  ["connectors/apply.ts", "bun connectors/apply.ts"]
] as const

const told = async (script: string, option: string) => {
  const child = Bun.spawn([process.execPath, script, option], {
    cwd: root,
    stdout: "pipe",
    stderr: "pipe",
    timeout: withinMs,
    killSignal: "SIGKILL"
  })
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { out, err, code: await child.exited }
}

for (const [script, called] of commands) {
  test(
    `${called} --help prints the usage`,
    async () => {
      const { out, err, code } = await told(script, "--help")

      expect(out).toStartWith(called)
      expect([err, code]).toEqual(["", 0])
    },
    withinMs
  )

  test(
    `${called} refuses an option that there is not, and prints the usage`,
    async () => {
      const { out, err, code } = await told(script, "--nonsense")

      expect(err).toStartWith("Unknown option '--nonsense'")
      expect(err).toContain(`\n\n${called}`)
      expect([out, code]).toEqual(["", 2])
    },
    withinMs
  )
}
