/** A tool that is told to stop releases what it holds, and ends well. */
import { expect, test } from "bun:test"
import { join } from "node:path"
import { until, within } from "../wait.ts"

const endsWithinMs = 20_000

const tool = `
  import { Effect } from "effect"
  import { runTool } from ${JSON.stringify(join(import.meta.dir, "..", "tool.ts"))}
  const held = Effect.acquireRelease(
    Effect.sync(() => {
      console.log("held")
      return Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() })
    }),
    (server) => Effect.promise(() => server.stop()).pipe(Effect.andThen(Effect.sync(() => console.log("released"))))
  )
  // it says so once it listens to signals
  runTool(Effect.yieldNow.pipe(Effect.andThen(held), Effect.andThen(Effect.never)))`

test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s", async (signal) => {
  const child = Bun.spawn([process.execPath, "-e", tool], { cwd: import.meta.dir, stdout: "pipe", stderr: "inherit" })
  let said = ""
  const reading = (async () => {
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) said += chunk
  })()
  try {
    await until("the tool at work", endsWithinMs, () => said === "held\n")
    child.kill(signal)
    const code = await within("the tool's end", endsWithinMs, child.exited)
    await within("its last line", endsWithinMs, reading)

    expect([code, said]).toEqual([0, "held\nreleased\n"])
  } finally {
    child.kill("SIGKILL")
  }
})
