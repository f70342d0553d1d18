/** What becomes of a connector that does not read its slot. Connect is a stand-in here; Postgres only in the last test. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { createServer, type AddressInfo } from "node:net"
import { Effect, Exit, Redacted, Scope } from "effect"
import { database, type Database } from "../../outbox/test/postgres.ts"
import { until, within } from "../../stack/wait.ts"
import { applyConnectors, connectorConfig, watchConnectors } from "../apply.ts"

setDefaultTimeout(60_000)

const name = "orders"
const happensWithinMs = 30_000
const scope = Scope.makeUnsafe()
let db: Database
let state = "RUNNING"
let restarts: Array<{ readonly how: string; readonly at: number }> = []

const connect = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch: (request) => {
    const { pathname, search } = new URL(request.url)
    if (request.method === "POST" && pathname === `/connectors/${name}/restart`) {
      restarts.push({ how: search, at: performance.now() })
      return new Response(null, { status: 204 })
    }
    if (pathname.endsWith("/config")) return Response.json({ ...connectorConfig(name), name })
    if (pathname.endsWith("/status")) return Response.json({ connector: { state: "RUNNING" }, tasks: [{ state }] })
    return new Response("not asked for in this test", { status: 500 })
  }
})

beforeAll(async () => {
  db = await Effect.runPromise(database({ schema: "" }).pipe(Scope.provide(scope)))
  // the connector's configuration names its database
  await db.superuser.unsafe(`create database ${name}`)
})

afterAll(async () => {
  await connect.stop(true)
  await db.superuser.unsafe(`drop database ${name} with (force)`)
  await Effect.runPromise(Scope.close(scope, Exit.void))
})

/** Watches until the body is done; answers what was done meanwhile. */
const watching = async (
  body: (acts: ReadonlyArray<string>, failures: ReadonlyArray<string>) => Promise<void>
): Promise<void> => {
  restarts = []
  const acts: Array<string> = []
  const failures: Array<string> = []
  const stop = new AbortController()
  const { host, port, password } = db.service
  const target = { host, port, password: Redacted.value(password) }
  const watch = watchConnectors(
    {
      connectUrl: `http://127.0.0.1:${connect.port}`,
      database: target,
      names: [name],
      idleMs: 1_500,
      withinMs: 8_000,
      acted: (connector, action) => acts.push(`${connector} ${action}`),
      failed: (failure) => failures.push(failure)
    },
    stop.signal
  )
  try {
    await body(acts, failures)
  } finally {
    stop.abort()
    await within("the watch's end", happensWithinMs + 10_000, watch)
  }
}

test("one that says RUNNING and does not read its slot is restarted, and again after a longer while", async () => {
  state = "RUNNING"
  await watching(async (acts) => {
    await until("restarted twice", happensWithinMs, () => restarts.length >= 2)
    const [first, second] = restarts
    expect([first?.how, second?.how]).toEqual(["?includeTasks=true", "?includeTasks=true"])
    expect((second?.at ?? 0) - (first?.at ?? 0)).toBeGreaterThan(2_800)
    expect(acts.slice(0, 2)).toEqual([`${name} restart`, `${name} restart`])
  })
})

test("one whose task has failed is restarted at once", async () => {
  state = "FAILED"
  await watching(async () => {
    await until("restarted", happensWithinMs, () => restarts.length > 0)
    expect(restarts[0]?.how).toBe("?includeTasks=true&onlyFailed=true")
  })
})

test("one that somebody has paused is left alone", async () => {
  state = "PAUSED"
  await watching(async (_acts, failures) => {
    await until("looked at, with nothing to tell", happensWithinMs, () => failures.length > 0)
    expect([failures[0], restarts]).toEqual(["", []])
  })
})

test("a Postgres that takes the connection and never answers does not hold up the deadline", async () => {
  state = "RUNNING"
  const greeting = Buffer.from("R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "latin1")
  const mute = createServer((socket) => {
    socket.once("data", () => socket.write(greeting))
    socket.on("error", () => {})
  })
  await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve))
  const { port } = mute.address() as AddressInfo
  try {
    const target = { host: "127.0.0.1", port, password: "any" }
    const connectUrl = `http://127.0.0.1:${connect.port}`
    const applied = applyConnectors({ connectUrl, database: target, names: [name], withinMs: 1_000 })
    const outcome = await within("giving up", happensWithinMs, applied).then(() => "done", String)

    expect(outcome).toBe(`Error: connector ${name} does not run: Postgres at 127.0.0.1:${port} did not answer`)
  } finally {
    mute.close()
  }
})
