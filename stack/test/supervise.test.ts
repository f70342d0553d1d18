/** Child processes of stand-ins, and a Postgres that its supervisor leaves behind. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import postgres from "postgres"
import { killAll, lives, livingIn, openLedger, readLedger, signal, startOf } from "../ledger.ts"
import { freePorts } from "../ports.ts"
import { makePassable, startPostgres } from "../postgres.ts"
import { type Service, keepAlive, runJob, startService } from "../supervise.ts"
import { until } from "../wait.ts"

setDefaultTimeout(60_000)

const STAND_IN = join(import.meta.dir, "stand-in.ts")
const WITHIN_MS = 20_000

let dir: string
const begun: Service[] = []

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "oncebox-supervise-"))
})

afterAll(async () => {
  await Promise.all(begun.map((service) => service.kill()))
  rmSync(dir, { recursive: true, force: true })
})

test("a killed service stays down until it is restarted, then has another pid", async () => {
  const service = await standIn()
  const { pid } = service

  await service.kill9()

  expect(service.alive()).toBe(false)
  expect(await answers(service)).toBe(false)
  await service.restart()
  expect(service.pid).not.toBe(pid)
  expect(await answers(service)).toBe(true)
})

test("a service that dies unasked is started again, until it is let go", async () => {
  const service = await standIn()
  const { pid } = service
  const lines: string[] = []
  const release = keepAlive(service, (line) => lines.push(line))

  signal(pid, "SIGKILL")

  await until("back", WITHIN_MS, () => lines.length === 2)
  expect(lines).toEqual([
    `stand-in ended (signal SIGKILL), starting it again in 250 ms`,
    `stand-in is back (pid ${service.pid})`
  ])
  expect(await answers(service)).toBe(true)
  release()
  await service.stop()
  expect(lines).toHaveLength(2)
})

test("a service that ends before it is ready fails the start with its last lines", async () => {
  const starting = startService("stand-in", { PORT: "1", BREAK: "no such table" }, join(dir, "broken.log"), {
    script: STAND_IN
  })

  expect(starting).rejects.toThrow(
    /stand-in ended before it was ready \(exit code 3\)\nlast lines of .*broken\.log:\nno such table/
  )
  await starting.catch(() => {})
})

test("a service that is never ready is ended at its deadline", async () => {
  const logFile = join(dir, "late.log")
  const [port] = await freePorts([[]])
  const starting = startService("stand-in", { PORT: String(port), STUBBORN: "1" }, logFile, {
    script: "-e=setInterval(()=>{},1000)",
    readyWithinMs: 500
  })

  expect(await starting.then(String, String)).toContain("stand-in ready: not within 0.5 s")
})

test("a service that does not heed SIGTERM is killed when its time is over", async () => {
  const service = await standIn({ STUBBORN: "1" }, 300)

  await service.stop()

  expect(await service.exited()).toEqual({ code: null, signal: "SIGKILL", asked: true })
})

test("a job's failure comes with its last lines", async () => {
  await runJob(STAND_IN, {}, join(dir, "job.log"))
  const failing = runJob(STAND_IN, { BREAK: "role exists already" }, join(dir, "job.log"))

  expect(await failing.then(String, String)).toMatch(
    /failed \(exit code 3\), last lines of .*job\.log:\nrole exists already$/
  )
})

test("what a killed supervisor left behind is gone at the next start, and its data is there", async () => {
  const home = join(dir, "abandoned")
  makePassable(dir)
  makePassable(home)
  writeFileSync(join(home, "password"), "abandoned", { mode: 0o600 })
  const [postgresPort, port] = await freePorts([[], []])
  const supervisor = Bun.spawn([process.execPath, STAND_IN], {
    env: { ...process.env, ABANDON_DIR: home, PORT: String(port), POSTGRES_PORT: String(postgresPort) },
    stdout: "pipe",
    stderr: "inherit"
  })
  await until("supervisor ready", WITHIN_MS, async () => {
    const { value } = await supervisor.stdout.getReader().read()
    return new TextDecoder().decode(value).includes("ready")
  })
  const options = {
    host: "127.0.0.1",
    port: postgresPort ?? 0,
    user: "postgres",
    password: "abandoned",
    max: 1,
    onnotice: () => {}
  }
  const before = postgres(options)
  await before`create table kept as select 42 as answer`

  supervisor.kill("SIGKILL")
  await supervisor.exited

  const left = readLedger(home).processes
  const backends = livingIn(join(home, "data", "postgres"), "postgres")
  expect(left.map((entry) => entry.name)).toEqual(["postgres", "stand-in"])
  expect(left.every(lives)).toBe(true)
  expect(backends.length).toBeGreaterThan(process.platform === "linux" ? 3 : -1)
  await before.end({ timeout: 1 })

  const ledger = await openLedger(home)
  const again = await startPostgres({
    dataDir: join(home, "data", "postgres"),
    logFile: join(home, "postgres.log"),
    port: postgresPort ?? 0,
    passwordFile: join(home, "password"),
    password: "abandoned",
    ledger
  })

  const after = postgres(options)
  try {
    expect([...left, ...backends].filter(lives)).toEqual([])
    expect([...(await after`select answer from kept`)]).toEqual([{ answer: 42 }])
  } finally {
    await after.end({ timeout: 1 })
    await again.stop()
    ledger.close()
  }
  expect(readLedger(home)).toEqual({ owner: undefined, processes: [] })
})

test("a folder has one supervisor at a time", async () => {
  const ledger = await openLedger(join(dir, "taken"))

  expect(await openLedger(join(dir, "taken")).then(String, String)).toContain(`in use by process ${process.pid}`)
  ledger.close()
  ;(await openLedger(join(dir, "taken"))).close()
})

test("a stranger that has a recorded pid by now is left alone", async () => {
  const stranger = Bun.spawn([process.execPath, "-e", "setInterval(() => {}, 1000)"])
  const started = startOf(stranger.pid)
  const home = join(dir, "reused")
  ;(await openLedger(home)).close()
  writeFileSync(
    join(home, "pids.json"),
    JSON.stringify({ processes: [{ name: "kafka", pid: stranger.pid, started: "long ago" }] })
  )

  ;(await openLedger(home)).close()

  expect(startOf(stranger.pid)).toBe(started)
  await killAll([{ name: "stranger", pid: stranger.pid, started: started ?? "" }])
})

test("free ports: a wish is granted when it is free, and no port twice", async () => {
  const taken = createServer()
  const [wish, occupied] = await freePorts([[], []])
  await new Promise<void>((resolve) => taken.listen(occupied, "127.0.0.1", resolve))

  const ports = await freePorts([[wish], [occupied], [wish], [undefined, undefined]])

  expect(ports[0]).toBe(wish)
  expect(ports).not.toContain(occupied)
  expect(new Set(ports).size).toBe(4)
  await new Promise((resolve) => taken.close(resolve))
})

const standIn = async (env: Record<string, string> = {}, stopWithinMs = 5000): Promise<Service> => {
  const [port] = await freePorts([[]])
  const service = await startService("stand-in", { PORT: String(port), ...env }, join(dir, "stand-in.log"), {
    script: STAND_IN,
    stopWithinMs
  })
  begun.push(service)
  return service
}

const answers = (service: Service): Promise<boolean> =>
  fetch(service.url, { signal: AbortSignal.timeout(2000) }).then(
    (response) => response.ok,
    () => false
  )
