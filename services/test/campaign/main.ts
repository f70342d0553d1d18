/**
 * `bun run campaign`: orders on the real stack while a nemesis kills, stops, cuts and poisons it by a seeded schedule, and a
 * checker that judges from what clients were told and what lies in the databases and on the topics. Exits 1 when something did
 * not hold, 3 when the run is void.
 *
 * This process supervises: it owns the pids, so the nemesis is here, too, and so are the proxies. Load, injector and checker
 * are processes of their own.
 */
import { appendFileSync, mkdirSync, readdirSync, rmSync, writeFileSync, readFileSync, existsSync } from "node:fs"
import { join } from "node:path"
import { applyConnectors, watchConnectors } from "../../../connectors/apply.ts"
import { killLeftovers, lives, readLedger } from "../../../stack/ledger.ts"
import { connectorTarget, SERVICE_NAMES } from "../../../stack/supervise.ts"
import { text, until, within } from "../../../stack/wait.ts"
import { prepare } from "../orders.ts"
import { startStack, type Stack } from "../stack.ts"
import { ended, groups, quiet } from "../world.ts"
import { files } from "./check.ts"
import { readSnapshot, type Run } from "./dump.ts"
import { readLines, type Event } from "./history.ts"
import type { Injected, InjectorJob } from "./injector.ts"
import { makeLinks, type Links } from "./links.ts"
import type { LoadJob } from "./load.ts"
import { readArguments, type Options } from "./options.ts"
import { plants } from "./plants.ts"
import { unleash } from "./nemesis.ts"
import { startSamples } from "./samples.ts"
import { schedule, type Fault } from "./schedule.ts"
import { placedOf, type Verdict } from "./verdict.ts"
import { workloadOf } from "./workload.ts"

const warmUpSeconds = 8
const quietWithinMs = 120_000
// a choreographed saga whose beginning was heard of after its end is cleared up by its deadline, which is five minutes
const settlesWithinMs = 420_000
/** With a bug there may be no quiet at all. */
const quietWithBugMs = 30_000
const loadEndsWithinMs = 150_000

const log = (line: string): void => console.log(`${new Date().toISOString().slice(11, 19)} ${line}`)

/** A process of the campaign: told to end by the end of its stdin. */
const spawn = (script: string, job: object, logFile: string) => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, script), JSON.stringify(job)], {
    stdin: "pipe",
    stdout: Bun.file(`${logFile}.out`),
    stderr: Bun.file(logFile),
    env: { ...process.env, BUN_CONFIG_MAX_HTTP_REQUESTS: "2048" }
  })
  return {
    end: () => child.stdin.end(),
    exited: async (): Promise<void> => {
      const code = await within(`the end of ${script}`, loadEndsWithinMs, child.exited)
      if (code !== 0) throw new Error(`${script} ended with ${code}: ${readFileSync(logFile, "utf8").slice(-1_000)}`)
    },
    kill: () => child.kill("SIGKILL")
  }
}

const campaign = async (options: Options, ends: Array<() => unknown>): Promise<void> => {
  const { dir, seed } = options
  const at = (name: keyof typeof files): string => join(dir, files[name])
  const write = (name: keyof typeof files, value: unknown): void => writeFileSync(at(name), JSON.stringify(value))
  const faults: ReadonlyArray<Fault> = options.faults === 0 ? [] : schedule(seed, options.faults, options.seconds)
  writeFileSync(at("schedule"), `${JSON.stringify(faults, null, 1)}\n`)
  writeFileSync(at("nemesis"), "")
  for (const { id, class: name, target, atMs, lastsMs } of faults)
    console.log(
      `  ${String(id).padStart(4)}  ${(atMs / 1_000).toFixed(1).padStart(7)} s  ${name} of ${target}, ${lastsMs} ms`
    )

  const links = await makeLinks()
  ends.push(() => links.close())
  const plant = plants[options.plant ?? ""] ?? {}
  const stack = await startStack(ends, {
    dir,
    engines: links.options.engines ?? {},
    env: { ...links.options.env, PLANTED: options.plant ?? "" },
    scripts: plant.service === undefined ? {} : { [plant.service]: join(import.meta.dir, "planted-service.ts") }
  })
  await plant.prepare?.(stack)
  log("the stack runs")
  const { plan } = workloadOf(options.orders, seed)
  await prepare(stack, plan)
  const watching = new AbortController()
  const connectorLog = join(dir, "log", "connectors.log")
  // who looks after the connectors would put the planted configuration right
  if (plant.skips) watching.abort()
  void watchConnectors(
    { ...connectorTarget(stack.engines), log: (line) => appendFileSync(connectorLog, `${line}\n`) },
    watching.signal
  )
  ends.push(() => watching.abort())
  const samples = startSamples(stack)

  const injector = spawn(
    "injector.ts",
    { brokers: stack.engines.kafka.brokers, seed, result: at("injected") } satisfies InjectorJob,
    join(dir, "log", "injector.log")
  )
  const load = spawn(
    "load.ts",
    {
      orderUrl: stack.service("order").url,
      orchestratorUrl: stack.service("orchestrator").url,
      count: options.orders,
      seed,
      perSecond: options.orders / (warmUpSeconds + options.seconds),
      history: at("history")
    } satisfies LoadJob,
    join(dir, "log", "load.log")
  )
  ends.push(load.kill, injector.kill)
  log(`${options.orders} orders in ${warmUpSeconds + options.seconds} s`)
  await Bun.sleep(warmUpSeconds * 1_000)

  const faultsFrom = Date.now()
  log(`${faults.length} faults in ${options.seconds} s`)
  await unleash(
    stack,
    links,
    faults,
    (done) => {
      appendFileSync(at("nemesis"), `${JSON.stringify(done)}\n`)
      if (done.failure !== null) log(`fault ${done.id}, ${done.class} of ${done.target}: ${done.failure}`)
    },
    plant.skips
  )
  await Bun.sleep(Math.max(0, faultsFrom + options.seconds * 1_000 - Date.now()))
  const faultsTo = Date.now()

  log("healing")
  const notQuiet = await heal(stack, links)
  load.end()
  await load.exited()
  const loadTo = Date.now()
  const answered = placedOf(readLines<Event>(at("history")), [], plan)
  const withinMs = options.plant === undefined ? quietWithinMs : quietWithBugMs
  notQuiet.push(...(await failing(() => within("the end of all orders", withinMs, ended(stack, answered)))))
  injector.end()
  await injector.exited()
  notQuiet.push(
    ...(await failing(() => within("quiet", options.plant === undefined ? settlesWithinMs : withinMs, settled(stack))))
  )
  const quietAfterMs = Date.now() - faultsTo
  log(`quiet after ${(quietAfterMs / 1_000).toFixed(1)} s${notQuiet.length > 0 ? ", but" : ""} ${notQuiet.join("; ")}`)

  const run: Run = {
    orders: options.orders,
    seed,
    faults: faults.length,
    plant: options.plant ?? null,
    seconds: options.seconds,
    faultsFrom,
    faultsTo,
    loadTo,
    notQuiet,
    quietAfterMs,
    injected: JSON.parse(readFileSync(at("injected"), "utf8")) as Injected,
    samples: await samples.stop()
  }
  write("run", run)
  write("snapshot", await readSnapshot(stack, plan, answered))
  if (!options.replay || notQuiet.length > 0) return
  log("every topic from its first record once more")
  await replay(stack)
  write("replayed", await readSnapshot(stack, plan, answered))
}

/** Ends what is left of the faults. Answers what could not be healed. */
const heal = async (stack: Stack, { of }: Links): Promise<Array<string>> => {
  for (const link of Object.values(of)) {
    link.release()
    link.latencyMs = 0
  }
  try {
    await within("a revival", quietWithinMs, stack.revive())
    await applyConnectors(connectorTarget(stack.engines))
    return []
  } catch (cause) {
    return [text(cause)]
  }
}

/** Returns when nothing moves any more, and nobody waits to move: a call whose caller was killed is ours until its lease is over. */
const settled = async (stack: Stack): Promise<void> => {
  await until("no open saga and no open call", settlesWithinMs, async () => {
    const sagas = await stack.database("sagas")`select id from sagas where ended_at is null`
    const calls = await stack.database("payments")`select id from calls where done_at is null`
    if (sagas.length + calls.length > 0) throw new Error(`${sagas.length} sagas and ${calls.length} calls are open`)
    return true
  })
  await quiet(stack)
  // once more for what the last of it caused after the outboxes were read
  await quiet(stack)
}

/** Why it failed, or nothing. */
const failing = async (wait: () => Promise<void>): Promise<ReadonlyArray<string>> => {
  try {
    await wait()
    return []
  } catch (cause) {
    return [text(cause)]
  }
}

const replay = async (stack: Stack): Promise<void> => {
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).stop()))
  await stack.tape.admin((admin) => admin.deleteGroups(groups.map(({ group }) => group)))
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).restart()))
  await quiet(stack)
}

/** Has the checker judge in a process of its own, and answers its exit code. */
const check = async (dir: string): Promise<number> => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "check.ts"), dir], {
    stdout: "inherit",
    stderr: "inherit"
  })
  return await child.exited
}

/** A folder of its own: what an earlier campaign left there is ended and goes. */
const clear = async (dir: string): Promise<void> => {
  const { owner } = readLedger(dir)
  if (owner !== undefined && lives(owner)) throw new Error(`${dir} is in use by process ${owner.pid}`)
  if (existsSync(dir) && readdirSync(dir).length > 0 && !existsSync(join(dir, files.schedule)))
    throw new Error(`${dir} was not left by a campaign: choose another folder`)
  await killLeftovers(dir)
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(join(dir, "log"), { recursive: true })
}

/** A run with a bug does not wait for sagas that only their deadline ends: that they are open shows nothing. */
const showsBug = (dir: string): boolean => {
  // the checker wrote it
  const { violations } = JSON.parse(readFileSync(join(dir, files.verdict), "utf8")) as Verdict
  return Object.keys(violations).some((name) => name !== "quiet" && name !== "sagas")
}

/** One campaign for each bug, each in a process of its own. */
const tryAll = async (): Promise<number> => {
  const found: Array<readonly [name: string, code: number]> = []
  for (const name of Object.keys(plants)) {
    const child = Bun.spawn(
      [process.execPath, import.meta.path, ...process.argv.slice(2).map((word) => (word === "all" ? name : word))],
      { stdout: "inherit", stderr: "inherit" }
    )
    found.push([name, await child.exited])
  }
  console.log()
  for (const [name, code] of found) console.log(`${code === 0 ? "found    " : "NOT FOUND"}  ${name}`)
  return found.every(([, code]) => code === 0) ? 0 : 1
}

const main = async (): Promise<number> => {
  const options = readArguments()
  if (options.plant === "all") return await tryAll()
  await clear(options.dir)
  const ends: Array<() => unknown> = []
  let stopping: Promise<void> | undefined
  const stop = (): Promise<void> =>
    (stopping ??= (async () => {
      for (const end of ends.splice(0).reverse())
        await Promise.resolve(end()).catch((cause: unknown) => console.error(text(cause)))
    })())
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => void stop().then(() => process.exit(130)))
  try {
    await campaign(options, ends)
  } finally {
    await stop()
  }
  const code = await check(options.dir)
  console.log(`seed ${options.seed}, ${options.dir}`)
  if (options.plant !== undefined) {
    const found = code === 1 && showsBug(options.dir)
    console.log(found ? `found: ${options.plant}` : `NOT FOUND: ${options.plant}`)
    return found ? 0 : 1
  }
  // what the engines stored is large, and needed only where something is to be found out
  if (code === 0) rmSync(join(options.dir, "data"), { recursive: true, force: true })
  return code
}

if (import.meta.main) {
  process.exit(
    await main().catch((cause: unknown) => {
      console.error(text(cause))
      return 1
    })
  )
}
