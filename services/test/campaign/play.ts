/**
 * Plays one campaign on a site: orders come, the nemesis is at work, all is healed, and when nothing moves any more what there
 * is, is dumped for the checker. Load and injector are processes of their own.
 */
import { appendFileSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { applyConnectors } from "../../../connectors/apply.ts"
import { connectorTarget, SERVICE_NAMES } from "../../../stack/supervise.ts"
import { text, until, within } from "../../../stack/wait.ts"
import { prepare } from "../orders.ts"
import type { Stack } from "../stack.ts"
import { ended, groups, quiet } from "../world.ts"
import { lettersOf, readSnapshot, type Run } from "./dump.ts"
import { files } from "./files.ts"
import { readLines, type Event } from "./history.ts"
import type { Injected, InjectorJob } from "./injector.ts"
import { release } from "./links.ts"
import type { LoadJob } from "./load.ts"
import { unleash } from "./nemesis.ts"
import { startSamples } from "./samples.ts"
import type { Fault } from "./schedule.ts"
import { databases, type Site } from "./site.ts"
import { placedOf } from "./verdict.ts"
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

const quietWithinMs = 120_000
// a choreographed saga whose beginning was heard of after its end is cleared up by its deadline, which is five minutes
const settlesWithinMs = 420_000
/** What is behind when the load ends is to be made up for: so much longer for each order. */
const msForOrder = 20
const partEndsWithinMs = 150_000
/** Orders that are placed while so many are open would only wait, and longer than sagas do. */
const mostOpen = 700
const tellsEveryMs = 1_000
const clientsEndWithinMs = 12_000
/** What was held back of the load may be placed after the faults: so much longer for each order. */
const lateMsForOrder = 13
const looksEveryMs = 500

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
  await endLoad(load, game)
  telling.abort()
  const loadTo = Date.now()
  log("waiting for the orders' ends")
  const answered = placedOf(readLines<Event>(at("history")), [], plan)
  const more = msForOrder * work.count
  notQuiet.push(...(await failing(allEnded(stack, plan.prefix, answered, game.patienceMs ?? quietWithinMs + more))))
  injector.end()
  await injector.exited()
  // who has not ended does not settle
  if (notQuiet.length === 0)
    notQuiet.push(...(await failing(settled(stack, plan.prefix, game.patienceMs ?? settlesWithinMs + more))))
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
    notQuiet,
    quietAfterMs,
    injected: JSON.parse(readFileSync(at("injected"), "utf8")) as Injected,
    samples: await samples.stop()
  }
  write("run", run)
  await reconnected(stack)
  write("snapshot", await readSnapshot(stack, plan, answered, letters))
  if (!game.replay || notQuiet.length > 0) return
  log("every topic from its first record once more")
  await replay(stack, quietWithinMs + more)
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

/** Its clients end by themselves; those that wait for what a bug keeps from them are not waited for. */
const endLoad = async (load: Part, { work, patienceMs }: Game): Promise<void> => {
  if (patienceMs !== undefined) {
    await load.exited(clientsEndWithinMs).catch(load.kill)
    return
  }
  await load.exited(partEndsWithinMs + lateMsForOrder * work.count).catch(() => {})
  load.end()
  await load.exited()
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
      const [open] = await within(
        "a count of open orders",
        tellsEveryMs,
        stack.database("orders")<Array<{ count: number }>>`
        select count(*)::int as count
        from orders
        where status not in ('APPROVED', 'REJECTED') and starts_with(user_id, ${prefix})`
      )
      if (!over.aborted) await tell(String(open?.count ?? 0))
    } catch {
      // Postgres is away, and what was told before still holds; or the load has ended
    }
    await Bun.sleep(tellsEveryMs)
  }
}

/** Ends what is left of the faults. Answers what could not be healed. */
const heal = async ({ stack, links, auditor }: Site, { skips }: Game): Promise<Array<string>> => {
  for (const link of links.of.values()) release(link)
  try {
    await within("a revival", quietWithinMs, revive(stack))
    // who looks after the connectors would put the planted configuration right
    if (skips) return []
    if (!auditor.alive()) await auditor.restart()
    await applyConnectors(connectorTarget(stack.engines))
    return []
  } catch (cause) {
    return [text(cause)]
  }
}

/** Starts whatever is dead; stack.revive knows nothing of what was put in a service's place. */
const revive = async (stack: Stack): Promise<void> => {
  const { postgres, kafka, connect } = stack.engines
  for (const one of [postgres, kafka, connect, ...SERVICE_NAMES.map(stack.service)])
    if (!one.alive()) await one.restart()
}

/** Returns when every order that a client knows of has ended. */
const allEnded = (
  stack: Stack,
  prefix: string,
  answered: Parameters<typeof ended>[1],
  withinMs: number
): Promise<void> =>
  until(
    "the end of all orders",
    withinMs,
    async () => {
      const [open] = await stack.database("orders")<Array<{ count: number }>>`
        select count(*)::int as count
        from orders
        where status not in ('APPROVED', 'REJECTED') and starts_with(user_id, ${prefix})`
      // only then all are looked for, which takes longer
      const least = open?.count === 0 ? answered.size : 0
      await ended(stack, answered, least)
      if (least < answered.size) throw new Error(`${open?.count} are open`)
      return true
    },
    looksEveryMs
  )

/** Returns when nothing moves any more, and nobody waits to move: a call whose caller was killed is ours until its lease is over. */
const settled = async (stack: Stack, prefix: string, withinMs: number): Promise<void> => {
  const waiting = async (): Promise<ReadonlyArray<string>> => {
    const [open] = await stack.database("sagas")<Array<{ count: number }>>`
      select count(*)::int as count
      from sagas
      where ended_at is null and starts_with(data ->> 'userId', ${prefix})`
    const [calls] = await stack.database("payments")<Array<{ count: number }>>`
      select count(*)::int as count from calls where done_at is null`
    const unseen = await Promise.all(
      databases.map((name) => stack.database(name)<Array<{ id: string }>>`select id from audit_exceptions limit 1`)
    )
    return [
      ...(open?.count === 0 ? [] : [`${open?.count} sagas are open`]),
      ...(calls?.count === 0 ? [] : [`${calls?.count} calls are open`]),
      ...(unseen.flat().length === 0 ? [] : ["the auditor misses messages"])
    ]
  }
  await until(
    "nobody who waits",
    withinMs,
    async () => {
      const found = await waiting()
      if (found.length > 0) throw new Error(found.join(", "))
      return true
    },
    looksEveryMs
  )
  await quiet(stack, withinMs)
  // once more for what the last of it caused after the outboxes were read
  await quiet(stack, withinMs)
}

/** A connection that was idle while Postgres died says so when it is used next. */
const reconnected = async (stack: Stack): Promise<void> => {
  for (const name of databases)
    await until(`connections to ${name}`, quietWithinMs, async () => {
      const sql = stack.database(name)
      // a pool has two
      await Promise.all([sql`select pg_sleep(0.05)`, sql`select pg_sleep(0.05)`])
      return true
    })
}

/** Why it failed, or nothing. */
const failing = async (wait: Promise<void>): Promise<ReadonlyArray<string>> => {
  try {
    await wait
    return []
  } catch (cause) {
    return [text(cause)]
  }
}

const replay = async (stack: Stack, withinMs: number): Promise<void> => {
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).stop()))
  await stack.tape.admin((admin) => admin.deleteGroups(groups.map(({ group }) => group)))
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).restart()))
  await quiet(stack, withinMs)
}
