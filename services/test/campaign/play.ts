/**
 * Plays one campaign on a site: orders come, the nemesis is at work, all is healed, and when nothing moves any more what there
 * is, is dumped for the checker. Load and injector are processes of their own.
 */
import { appendFileSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { within } from "../../../stack/wait.ts"
import { prepare } from "../orders.ts"
import type { Stack } from "../stack.ts"
import { placedOf } from "./clients.ts"
import { lettersOf, readSnapshot, type Run } from "./dump.ts"
import { allEnded, failing, heal, openOrders, replay, settled } from "./ending.ts"
import { files } from "./files.ts"
import { readLines, type Event } from "./history.ts"
import type { Injected, InjectorJob } from "./injector.ts"
import type { LoadJob } from "./load.ts"
import { unleash } from "./nemesis.ts"
import { startSamples } from "./samples.ts"
import type { Fault } from "./schedule.ts"
import type { Site } from "./site.ts"
import { workloadOf, type Work } from "./workload.ts"

export interface Game {
  readonly dir: string
  readonly work: Work
  readonly faults: ReadonlyArray<Fault>
  /** Without faults, and then with them. */
  readonly warmUpSeconds: number
  readonly seconds: number
  readonly injector: Pick<InjectorJob, "copiedPercent" | "againPercent" | "latestMs">
  /** The bug that there is. */
  readonly plant: string | null
  /** Connectors that lose their offsets skip: see nemesis.ts. */
  readonly skips: boolean
  /** How long all may take to end, and to become quiet, after the last order; less than that only for who knows that they won't. */
  readonly patienceMs?: number
  /** Whether every topic is read from its first record once more. */
  readonly replay: boolean
}

const partEndsWithinMs = 150_000
/** Orders that are placed while so many are open would only wait, and longer than sagas do. */
const mostOpen = 700
const tellsEveryMs = 1_000
const clientsEndWithinMs = 12_000
/** A look takes as long, when all patience is spent. */
const leastMs = 1_000
/** What was held back of the load may be placed after the faults: so much longer for each order. */
const lateMsForOrder = 13

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
    tell: async (line: string): Promise<void> => {
      // one that has ended listens no more
      if (child.exitCode !== null) return
      child.stdin.write(`${line}\n`)
      await child.stdin.flush()
    },
    end: () => child.stdin.end(),
    exited: async (withinMs = partEndsWithinMs): Promise<void> => {
      const code = await within(`the end of ${script}`, withinMs, child.exited)
      if (code !== 0) throw new Error(`${script} ended with ${code}: ${readFileSync(logFile, "utf8").slice(-1_000)}`)
    },
    kill: () => child.kill("SIGKILL")
  }
}

type Part = ReturnType<typeof spawn>

export const play = async (site: Site, game: Game, ends: Array<() => unknown>): Promise<void> => {
  const { dir, work, faults, seconds } = game
  const { stack } = site
  const at = (name: keyof typeof files): string => join(dir, files[name])
  const write = (name: keyof typeof files, value: unknown): void => writeFileSync(at(name), JSON.stringify(value))
  writeFileSync(at("schedule"), `${JSON.stringify(faults, null, 1)}\n`)
  writeFileSync(at("nemesis"), "")

  const { plan } = workloadOf(work)
  await prepare(stack, plan)
  // of those who played before
  const letters = new Set(await lettersOf(stack))
  const samples = startSamples(site)
  const { load, injector } = startParts(stack, game, at)
  ends.push(load.kill, injector.kill)
  const telling = new AbortController()
  void tellOpen(stack, plan.prefix, load.tell, telling.signal)
  ends.push(() => telling.abort())
  log(`${work.count} orders in ${game.warmUpSeconds + seconds} s`)
  const loadFrom = Date.now()
  await Bun.sleep(game.warmUpSeconds * 1_000)

  const faultsFrom = Date.now()
  log(`${faults.length} faults in ${seconds} s`)
  await unleash({ ...site, skips: game.skips }, faults, (done) => {
    appendFileSync(at("nemesis"), `${JSON.stringify(done)}\n`)
    if (done.failure !== null) log(`fault ${done.id}, ${done.class} of ${done.target}: ${done.failure}`)
  })
  await Bun.sleep(Math.max(0, faultsFrom + seconds * 1_000 - Date.now()))
  const faultsTo = Date.now()

  log("healing")
  const notQuiet = await heal(site, game)
  const loadCut = await endLoad(load, game)
  telling.abort()
  const loadTo = Date.now()
  log("waiting for the orders' ends")
  const answered = placedOf(readLines<Event>(at("history")), [], plan)
  const { patienceMs } = game
  const until = Date.now() + (patienceMs ?? 0)
  const left = () => (patienceMs === undefined ? undefined : Math.max(leastMs, until - Date.now()))
  notQuiet.push(...(await failing(allEnded(stack, plan.prefix, answered, left))))
  injector.end()
  await injector.exited()
  // who has not ended does not settle
  if (notQuiet.length === 0) notQuiet.push(...(await failing(settled(stack, plan.prefix, work.count, left))))
  const quietAfterMs = Date.now() - faultsTo
  log(`quiet after ${(quietAfterMs / 1_000).toFixed(1)} s${notQuiet.length > 0 ? ", but" : ""} ${notQuiet.join("; ")}`)

  const run: Run = {
    work,
    faults: faults.length,
    plant: game.plant,
    seconds,
    loadFrom,
    faultsFrom,
    faultsTo,
    loadTo,
    loadCut,
    notQuiet,
    quietAfterMs,
    injected: JSON.parse(readFileSync(at("injected"), "utf8")) as Injected,
    samples: await samples.stop()
  }
  write("run", run)
  write("snapshot", await readSnapshot(stack, plan, answered, letters))
  if (!game.replay || notQuiet.length > 0) return
  log("every topic from its first record once more")
  await replay(stack, work.count)
  write("replayed", await readSnapshot(stack, plan, answered, letters))
}

const startParts = (stack: Stack, game: Game, at: (name: keyof typeof files) => string) => {
  const { work } = game
  const injector = spawn(
    "injector.ts",
    {
      brokers: stack.engines.kafka.brokers,
      seed: work.seed,
      result: at("injected"),
      ...game.injector
    } satisfies InjectorJob,
    join(game.dir, "log", "injector.log")
  )
  const load = spawn(
    "load.ts",
    {
      orderUrl: stack.service("order").url,
      orchestratorUrl: stack.service("orchestrator").url,
      shipmentUrl: stack.service("shipment").url,
      work,
      perSecond: work.count / (game.warmUpSeconds + game.seconds),
      mostOpen,
      history: at("history")
    } satisfies LoadJob,
    join(game.dir, "log", "load.log")
  )
  return { load, injector }
}

/**
 * Its clients end by themselves; those that wait for what a bug keeps from them are not waited for. Answers whether any were
 * cut off.
 */
const endLoad = async (load: Part, { work, patienceMs }: Game): Promise<boolean> => {
  const withinMs = patienceMs === undefined ? partEndsWithinMs + lateMsForOrder * work.count : clientsEndWithinMs
  const cut = (await failing(load.exited(withinMs))).length > 0
  if (!cut) return false
  if (patienceMs !== undefined) load.kill()
  else {
    load.end()
    await load.exited()
  }
  return true
}

/** Tells again and again how many orders are open. */
const tellOpen = async (
  stack: Stack,
  prefix: string,
  tell: (line: string) => Promise<void>,
  over: AbortSignal
): Promise<void> => {
  while (!over.aborted) {
    try {
      const open = await within("a count of open orders", tellsEveryMs, openOrders(stack, prefix))
      if (!over.aborted) await tell(String(open))
    } catch {
      // Postgres is away, and what was told before still holds; or the load has ended
    }
    await Bun.sleep(tellsEveryMs)
  }
}
