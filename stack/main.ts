/** `bun run stack`: the whole system without Docker. */
import { rmSync } from "node:fs"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { argumentsOf } from "./arguments.ts"
import { type RunningEngines, startEngines } from "./engines.ts"
import { installEngines } from "./install.ts"
import { killAll, killLeftovers, lives, readLedger, signal } from "./ledger.ts"
import { startProcessor } from "./processor.ts"
import { describe, exitOf, type Running, sizeOf, spawnLogged, tail } from "./process.ts"
import { linesOf, look, readState, writeState, type Row } from "./state.ts"
import {
  AUDITOR,
  auditorEnv,
  SERVICE_NAMES,
  type Service,
  keepAlive,
  prepare,
  runConnectors,
  serviceEnv,
  startService
} from "./supervise.ts"
import { text, until, within } from "./wait.ts"

interface Settings {
  readonly dir: string
  readonly enginesOnly: boolean
}

const WISHED_PORTS = { postgres: 5432, kafka: 9092, connect: 8083 }
const UP_WITHIN_MS = 10 * 60_000
const DOWN_WITHIN_MS = 90_000
// Everything that `up` writes into its folder, and nothing else: `--dir` may name any folder.
const CONTENTS = ["data", "log", "conf", "secrets", "pids.json", "ports.json", "state.json"]

const usage = `bun run stack <command> [--dir <folder>]

  up [--engines-only] [--detach]   start everything; Ctrl-C stops it in order
  status                           what is up; exit code 1 when something is not
  down                             stop what up started, from anywhere
  reset                            down, then delete data, secrets and logs

State is kept in .stack/run, or in the folder given by --dir.`

const say = (line: string): void => console.log(line)

const main = async (): Promise<number> => {
  const { positionals, values } = argumentsOf(usage, () =>
    parseArgs({
      args: Bun.argv.slice(2),
      allowPositionals: true,
      options: {
        "engines-only": { type: "boolean" },
        detach: { type: "boolean" },
        dir: { type: "string" },
        help: { type: "boolean", short: "h" }
      }
    })
  )
  const settings = {
    dir: resolve(values.dir ?? join(import.meta.dir, "..", ".stack", "run")),
    enginesOnly: values["engines-only"] ?? false
  }
  switch (positionals.join(" ")) {
    case "up":
      return values.detach ? await upDetached(settings) : await up(settings)
    case "down":
      return await down(settings.dir)
    case "status":
      return await status(settings.dir)
    case "reset": {
      const code = await down(settings.dir)
      if (code === 0) for (const name of CONTENTS) rmSync(join(settings.dir, name), { recursive: true, force: true })
      return code
    }
    default:
      console.error(usage)
      return 2
  }
}

/** Stays in the foreground until it is told to stop; a second signal doesn't wait for good order. */
const up = async ({ dir, enginesOnly }: Settings): Promise<number> => {
  const told = Promise.withResolvers<"stop">()
  let signals = 0
  let begun = false
  const onSignal = (): void => {
    signals++
    // While it is still starting there is no order to stop in: everything that was begun is in the ledger, and crash-safe.
    if (begun && signals === 1) return told.resolve("stop")
    void killMine(dir).finally(() => process.exit(1))
  }
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, onSignal)

  const engines = await startEngines({
    dir,
    ports: WISHED_PORTS,
    log: say,
    prepare: enginesOnly ? undefined : prepare
  })
  const services: Service[] = []
  const releases: Array<() => void> = []
  const stop = async (): Promise<void> => {
    rmSync(join(dir, "state.json"), { force: true })
    for (const release of releases) release()
    await Promise.allSettled(services.map((service) => service.stop()))
    await engines.stop()
  }
  try {
    const watch = (running: Running): void => void releases.push(keepAlive(running, say))
    for (const engine of [engines.postgres, engines.kafka, engines.connect]) watch(engine)
    if (!enginesOnly) {
      say("engines, databases and topics are there; connectors and services next")
      // in this process: what it charged is in its record when the stack is up again
      const processor = startProcessor({ record: join(dir, "data", "processor.jsonl") })
      releases.push(() => void processor.stop())
      const starting = SERVICE_NAMES.map(async (name) => {
        const env = { ...serviceEnv(engines, name), CARD_PROCESSOR_URL: processor.url }
        const service = await startService(name, env, join(dir, "log", `${name}.log`), {
          ledger: engines.ledger
        })
        services.push(service)
        watch(service)
      })
      starting.push(
        startService(AUDITOR.name, auditorEnv(engines), join(dir, "log", `${AUDITOR.name}.log`), {
          ledger: engines.ledger,
          script: AUDITOR.script
        }).then((service) => {
          services.push(service)
          watch(service)
        })
      )
      const connecting = runConnectors(engines)
      await Promise.allSettled([connecting, ...starting])
      await Promise.all([connecting, ...starting])
    }
    const rows = [...rowsOf(engines), ...services.map(({ name, url }) => ({ name, url })).sort(byUsualOrder)]
    writeState(dir, rows)
    printTable(dir, rows, () => "up")
    say(`logs are in ${join(dir, "log")}; Ctrl-C stops everything`)
    begun = true
    if (signals === 0) await told.promise
    say("stopping")
  } catch (cause) {
    await within("stopping", DOWN_WITHIN_MS, stop()).catch(() => killMine(dir))
    throw cause
  }
  await within("stopping", DOWN_WITHIN_MS, stop()).catch((cause: unknown) => {
    say(`${text(cause)}: killing what is left`)
    return killMine(dir)
  })
  return 0
}

/** The same, by a supervisor in the background; returns when that one is up. */
const upDetached = async ({ dir, enginesOnly }: Settings): Promise<number> => {
  // Here, where its progress is seen.
  await installEngines(say)
  const owner = readLedger(dir).owner
  if (owner && lives(owner)) throw new Error(`already up or starting (supervisor ${owner.pid}): see 'status'`)
  rmSync(join(dir, "state.json"), { force: true })
  const logFile = join(dir, "log", "supervisor.log")
  const logFrom = sizeOf(logFile)
  const args = [import.meta.path, "up", "--dir", dir, ...(enginesOnly ? ["--engines-only"] : [])]
  const child = spawnLogged({ file: process.execPath, args, env: {}, logFile })
  // in a session of its own, it would go on starting without anybody
  let told = false
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.once(name, () => {
      told = true
      child.kill("SIGTERM")
    })
  let ended = ""
  void exitOf(child).then((exit) => (ended = describe(exit)))
  await until("the supervisor", UP_WITHIN_MS, () => ended !== "" || readState(dir) !== undefined, 50)
  if (told && ended !== "") return 1
  const rows = readState(dir)
  if (ended !== "" || rows === undefined) {
    throw new Error(`it did not come up (${ended}), last lines of ${logFile}:\n${tail(logFile, logFrom)}`)
  }
  printTable(dir, rows, () => "up")
  say(`supervisor ${child.pid}, logs are in ${join(dir, "log")}; 'down' stops everything`)
  child.unref()
  return 0
}

const down = async (dir: string): Promise<number> => {
  const { owner } = readLedger(dir)
  if (owner && lives(owner)) {
    signal(owner.pid, "SIGTERM")
    try {
      await until("the supervisor's end", DOWN_WITHIN_MS + 10_000, () => !lives(owner))
    } catch {
      await killAll([owner])
    }
    say("stopped")
  }
  const left = await killLeftovers(dir)
  if (left > 0) say(`ended ${left} processes that a killed supervisor had left behind`)
  rmSync(join(dir, "state.json"), { force: true })
  return 0
}

const status = async (dir: string): Promise<number> => {
  const { owner } = readLedger(dir)
  const rows = readState(dir)
  if (rows === undefined || !owner || !lives(owner)) {
    say(owner && lives(owner) ? `starting (supervisor ${owner.pid})` : "down")
    return 1
  }
  const states = new Map(await Promise.all(rows.map(async (row) => [row.name, await look(dir, row)] as const)))
  printTable(dir, rows, (row) => states.get(row.name) ?? "down")
  return [...states.values()].every((state) => state === "up") ? 0 : 1
}

const printTable = (dir: string, rows: readonly Row[], state: (row: Row) => string): void => {
  for (const line of linesOf(dir, rows, state)) say(line)
}

const killMine = (dir: string): Promise<void> => killAll(readLedger(dir).processes)

const rowsOf = (engines: RunningEngines): Row[] => [
  { name: "postgres", url: `postgres://postgres@${engines.postgres.host}:${engines.postgres.port}` },
  { name: "kafka", url: `kafka://${engines.kafka.brokers}` },
  { name: "connect", url: engines.connect.url }
]

const byUsualOrder = (one: Row, other: Row): number =>
  SERVICE_NAMES.findIndex((name) => name === one.name) - SERVICE_NAMES.findIndex((name) => name === other.name)

if (import.meta.main) {
  try {
    process.exit(await main())
  } catch (cause) {
    console.error(text(cause))
    process.exit(1)
  }
}
