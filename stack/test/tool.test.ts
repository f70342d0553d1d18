/** A process that is told to stop releases what it holds, and ends well; one that fails says why in one line. */
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

const ended = async (tool: string) => {
  const imports = `
    import { Effect } from "effect"
    import { runProcess } from ${JSON.stringify(join(import.meta.dir, "..", "..", "services", "shell", "process.ts"))}\n`
  const child = Bun.spawn([process.execPath, "-e", imports + tool], {
    cwd: import.meta.dir,
    stdout: "inherit",
    stderr: "pipe",
    timeout: endsWithinMs,
    killSignal: "SIGKILL"
  })
  return { said: await child.stderr.text(), code: await child.exited }
}

test("a program that fails says why, in one line with its name", async () => {
  const { said, code } = await ended(`runProcess(Effect.fail({ message: "the stock is lost" }), { name: "shop" })`)

  expect([said, code]).toEqual(["shop: the stock is lost\n", 1])
})

test("a bug is told with where it is", async () => {
  const { said, code } = await ended(`runProcess(Effect.die(new Error("a bug")), { name: "shop" })`)

  expect(said).toMatch(/^shop: Error: a bug\n    at /)
  expect(code).toBe(1)
})

test.each([
  ["has failed", `Effect.fail({ message: "the stock is lost" })`],
  ["has ended", "Effect.succeed(0)"],
  ["is told to stop", `Effect.sync(() => process.kill(process.pid, "SIGTERM")).pipe(Effect.andThen(Effect.never))`]
])("one that %s and can't release what it holds ends all the same, with 1", async (_how, body) => {
  const stuck = `Effect.addFinalizer(() => Effect.never).pipe(Effect.andThen(Effect.yieldNow), Effect.andThen(${body}))`

  const { code } = await ended(`setInterval(() => {}, 1_000); runProcess(${stuck}, { stopsWithinMs: 50 })`)

  expect(code).toBe(1)
})
