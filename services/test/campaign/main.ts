/**
 * `bun run campaign`: orders on the real stack while a nemesis kills, stops, cuts and poisons it by a seeded schedule, and a
 * checker that judges from what clients were told and what lies in the databases and on the topics. Exits 1 when something did
 * not hold, 3 when the run is void. With `--plants` the same is done to systems with a bug, and 1 is for a bug that was not
 * found.
 *
 * This process supervises: it owns the pids, so the nemesis is here, too, and so are the proxies. Load, injector and checker
 * are processes of their own.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { killLeftovers, lives, readLedger } from "../../../stack/ledger.ts"
import { text } from "../../../stack/wait.ts"
import { files } from "./files.ts"
import { readArguments, type Options } from "./options.ts"
import { playPlants, tellPlants } from "./plant.ts"
import { play } from "./play.ts"
import { schedule } from "./schedule.ts"
import { startSite } from "./site.ts"

const warmUpSeconds = 8
/** Of a hundred orders that would be approved; it is about a tenth of all. */
const cancelledPercent = 20

type Ends = Array<() => unknown>

const campaign = async ({ dir, seed, orders, faults, seconds, replay }: Options, ends: Ends): Promise<void> => {
  const planned = faults === 0 ? [] : schedule(seed, faults, seconds)
  for (const { id, class: name, target, atMs, lastsMs } of planned)
    console.log(
      `  ${String(id).padStart(4)}  ${(atMs / 1_000).toFixed(1).padStart(7)} s  ${name} of ${target}, ${lastsMs} ms`
    )
  await play(
    await startSite(ends, dir),
    {
      dir,
      work: { name: "campaign", count: orders, seed, cancelledPercent },
      faults: planned,
      warmUpSeconds,
      seconds,
      injector: { copiedPercent: 12, againPercent: 5, latestMs: 20_000 },
      plant: null,
      skips: false,
      replay
    },
    ends
  )
}

/** Has the checker judge in a process of its own, and answers its exit code. */
const check = async (dir: string, told: "inherit" | "ignore" = "inherit"): Promise<number> => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "check.ts"), dir], {
    stdout: told,
    stderr: "inherit"
  })
  return await child.exited
}

/** A folder of its own: what an earlier campaign left there is ended and goes. */
const clear = async (dir: string): Promise<void> => {
  const { owner } = readLedger(dir)
  if (owner !== undefined && lives(owner)) throw new Error(`${dir} is in use by process ${owner.pid}`)
  const marks = [files.mark, files.schedule]
  if (existsSync(dir) && readdirSync(dir).length > 0 && !marks.some((name) => existsSync(join(dir, name))))
    throw new Error(`${dir} was not left by a campaign: choose another folder`)
  await killLeftovers(dir)
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(join(dir, "log"), { recursive: true })
  await Bun.write(join(dir, files.mark), "")
}

const run = async (options: Options, ends: Ends, stop: () => Promise<void>): Promise<number> => {
  if (options.plants.length > 0) {
    const site = await startSite(ends, options.dir)
    const judge = (dir: string): Promise<number> => check(dir, "ignore")
    const played = await playPlants(site, options.plants, { ...options, check: judge })
    await stop()
    const { table, good } = tellPlants(played)
    console.log(`\n${table}`)
    return good ? 0 : 1
  }
  await campaign(options, ends)
  await stop()
  return await check(options.dir)
}

const main = async (): Promise<number> => {
  const options = readArguments()
  await clear(options.dir)
  const ends: Ends = []
  let stopping: Promise<void> | undefined
  const stop = (): Promise<void> =>
    (stopping ??= (async () => {
      for (const end of ends.splice(0).reverse())
        await Promise.resolve(end()).catch((cause: unknown) => console.error(text(cause)))
    })())
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => void stop().then(() => process.exit(130)))
  let code = 1
  try {
    code = await run(options, ends, stop)
  } finally {
    await stop()
  }
  console.log(`seed ${options.seed}, ${options.dir}`)
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
