/**
 * `bun run test`: types, format, lint, then every test, on real engines. Ends with one line, `N passed, N failed`, and
 * exits 1 when anything failed. With arguments only the tests run, and only those: `bun run test outbox`.
 */
import { spawn } from "node:child_process"
import { join } from "node:path"

const root = join(import.meta.dirname, "..")

/** Runs a command, shows what it prints, and answers its exit code and its output. */
const show = (
  command: string,
  parameters: ReadonlyArray<string>
): Promise<{ readonly code: number; readonly output: string }> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, [...parameters], { cwd: root, stdio: ["ignore", "pipe", "pipe"] })
    let output = ""
    const take = (stream: NodeJS.WriteStream) => (chunk: Buffer) => {
      output += chunk.toString()
      stream.write(chunk)
    }
    child.stdout.on("data", take(process.stdout))
    child.stderr.on("data", take(process.stderr))
    child.on("error", reject)
    child.on("close", (code) => resolve({ code: code ?? 1, output }))
  })

const bun = process.execPath
const checks: ReadonlyArray<readonly [name: string, command: string, parameters: ReadonlyArray<string>]> = [
  ["types", bun, ["check"]],
  ["format", bun, ["fmt", "--check"]],
  ["lint", join(root, "node_modules", ".bin", "oxlint"), ["--deny-warnings"]]
]

const last = (output: string, pattern: RegExp): number => Number([...output.matchAll(pattern)].at(-1)?.[1] ?? 0)

const main = async (): Promise<void> => {
  const chosen = process.argv.slice(2)
  let passed = 0
  let failed = 0
  for (const [name, command, parameters] of chosen.length > 0 ? [] : checks) {
    const { code } = await show(command, parameters)
    if (code === 0) passed++
    else {
      failed++
      console.log(`the ${name} check failed`)
    }
  }
  const { code, output } = await show(bun, ["test", ...chosen])
  const ran = last(output, /^\s*(\d+) pass$/gm)
  const lost = last(output, /^\s*(\d+) fail$/gm)
  passed += ran
  // a crash of the runner, or a run in which no test ran, is a failure of its own
  failed += code !== 0 && lost === 0 ? 1 : lost
  if (ran === 0) failed++
  console.log(`${passed} passed, ${failed} failed`)
  process.exit(failed === 0 ? 0 : 1)
}

await main()
