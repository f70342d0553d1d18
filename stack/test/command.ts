import { join } from "node:path"

const root = join(import.meta.dir, "..", "..")

/** How long a command may take that works for some seconds at most, beside other tests. */
export const withinMs = 120_000

/** What a script of the repository prints, and its exit code. */
export const outputOf = async (script: string, ...words: ReadonlyArray<string>) => {
  const child = Bun.spawn([process.execPath, script, ...words], {
    cwd: root,
    stdout: "pipe",
    stderr: "pipe",
    timeout: withinMs,
    killSignal: "SIGKILL"
  })
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { out, err, code: await child.exited }
}
