/**
 * The real stack for the end-to-end tests: engines, jobs and the six services on free ports, in a folder of its own
 * under `.stack/`. Started by the first test file of a process that needs it, kept for the next ones, stopped when none
 * came. A warden process ends what is left when this process dies. Tests place orders with users and products of their own.
 */
import { afterAll, beforeAll, test } from "bun:test"
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { basename, join, resolve } from "node:path"
import { Redacted } from "effect"
import { connect, type Sql } from "oncebox"
import { readSecret, startEngines, type EnginesOptions, type RunningEngines } from "../../stack/engines.ts"
import { killLeftovers, lives, readLedger } from "../../stack/ledger.ts"
import { startProcessor, type Processor } from "../../stack/processor.ts"
import { freePorts } from "../../stack/ports.ts"
import {
  prepare,
  runConnectors,
  SERVICE_NAMES,
  serviceEnv,
  SERVICES,
  startService,
  type Service,
  type ServiceName
} from "../../stack/supervise.ts"
import { text, until, within } from "../../stack/wait.ts"
import { startTape, type Tape, type TapeOptions } from "./tape.ts"
import { keepFile } from "./warden.ts"

export interface Replica extends Service {
  readonly adminUrl: string
}

export interface Stack {
  readonly engines: RunningEngines
  readonly service: (name: ServiceName) => Replica
  /** A database, as its owner. */
  readonly database: (name: Database) => Sql
  /** Opens its connections to the databases anew: the driver may never get over one that was lost with Postgres. */
  readonly reconnect: () => Promise<void>
  readonly tape: Tape
  /** The card processor outside: it outlives whatever is killed here. */
  readonly processor: Processor
  /**
   * Another process of a service, in the same consumer group, on ports of its own or on those of one that was stopped; or
   * another program in its place.
   */
  readonly start: (name: ServiceName, label: string, script?: string, inPlaceOf?: Replica) => Promise<Replica>
  /** Has another program do a service's work from now on; without one the service's own does it again. */
  readonly exchange: (name: ServiceName, script?: string) => Promise<void>
  /** Starts again whatever an earlier test that failed left dead. */
  readonly revive: () => Promise<void>
  /** Keeps the folder for whoever looks into what failed. */
  readonly keep: () => void
}

export type Database = (typeof SERVICES)[ServiceName]["database"]

const folder = resolve(import.meta.dir, "..", "..", ".stack")
const prefix = "e2e-"
const graceMs = 3_000
const wardenWithinMs = 30_000

let current: { readonly stack: Promise<Stack>; readonly stop: () => Promise<void> } | undefined
let users = 0
let grace: Timer | undefined

/**
 * Has the stack for the tests of this file, with other programs in some services' place. It lingers for the next file: which
 * is the last, only the test runner knows.
 */
export const useStack = (programs: ReadonlyArray<readonly [name: ServiceName, script: string]> = []): void => {
  beforeAll(async () => {
    clearTimeout(grace)
    users++
    current ??= begin()
    const stack = await current.stack
    for (const [name, script] of programs) await stack.exchange(name, script)
  })
  afterAll(async () => {
    const ended = current
    try {
      const stack = await ended?.stack
      for (const [name] of programs) await stack?.exchange(name)
    } finally {
      users--
      if (users === 0 && ended !== undefined) linger(ended)
    }
  })
}

const linger = (ended: Exclude<typeof current, undefined>): void => {
  const stop = async (): Promise<void> => {
    if (users > 0 || current !== ended) return
    current = undefined
    await ended.stop()
  }
  grace = setTimeout(() => void stop(), graceMs)
}

/** A test on the stack. When it fails it says where the logs are, and they stay there. */
export const onStack = (name: string, body: (stack: Stack) => Promise<void>): void =>
  test(name, async () => {
    if (current === undefined) throw new Error("call useStack() in the file")
    const stack = await current.stack
    try {
      await stack.revive()
      await body(stack)
    } catch (cause) {
      stack.keep()
      console.error(`logs: ${join(stack.engines.dir, "log")}`)
      throw cause
    }
  })

const begin = () => {
  const ends: Array<() => unknown> = []
  const stop = async (): Promise<void> => {
    for (const end of ends.splice(0).reverse()) await end()
  }
  const stack = startStack(ends).catch(async (cause) => {
    await stop().catch((failure: unknown) => console.error(`the stack could not be stopped: ${text(failure)}`))
    throw cause
  })
  // whoever awaits it is told
  stack.catch(() => {})
  return { stack, stop }
}

export interface StackOptions {
  /** A folder that is there and stays; without one it is made, and removed at the end. */
  readonly dir?: string
  readonly engines?: Omit<EnginesOptions, "dir" | "prepare">
  readonly tape?: TapeOptions
  /** Where a service looks for the broker and for Postgres. */
  readonly env?: (name: ServiceName) => Readonly<Record<string, string>>
}

/** Starts everything. What is to be done at its end, in reverse, is put to `ends` as it comes up. */
export const startStack = async (ends: Array<() => unknown>, options: StackOptions = {}): Promise<Stack> => {
  await removeOld()
  mkdirSync(folder, { recursive: true })
  const dir = options.dir ?? mkdtempSync(join(folder, prefix))
  if (options.dir !== undefined) keep(dir)
  const warden = Bun.spawn([process.execPath, join(import.meta.dir, "warden.ts"), dir], {
    stdin: "pipe",
    stdout: "ignore",
    stderr: "ignore"
  })
  warden.unref()
  ends.push(async () => {
    // it ends when its stdin does, and takes the folder with it
    await warden.stdin.end()
    await within("the warden's end", wardenWithinMs, warden.exited)
  })

  const engines = await startEngines({ brief: true, ...options.engines, dir, prepare })
  ends.push(() => engines.stop())
  await runConnectors(engines)

  const password = Redacted.make(readSecret(engines.postgres.secretsDir, "owner_password"))
  const open = (): ReadonlyMap<Database, Sql> =>
    new Map(
      SERVICE_NAMES.map((name) => {
        const { database } = SERVICES[name]
        const { host, port } = engines.postgres
        return [
          database,
          connect({ host, port, database, username: "oncebox_owner", password }, { name: "e2e", max: 2 })
        ] as const
      })
    )
  const close = async (pools: ReadonlyMap<Database, Sql>): Promise<void> => {
    await Promise.allSettled([...pools.values()].map((sql) => sql.end({ timeout: 1 })))
  }
  let databases = open()
  ends.push(() => close(databases))

  const processor = startProcessor()
  ends.push(() => processor.stop())
  const replicas: Array<Replica> = []
  ends.push(() => Promise.allSettled(replicas.map((replica) => replica.stop())))
  const start: Stack["start"] = async (name, label, script, inPlaceOf) => {
    const [port = 0, adminPort = 0] = inPlaceOf === undefined ? await freePorts([[], []]) : portsOf(inPlaceOf)
    const env = {
      ...serviceEnv(engines, name),
      ...options.env?.(name),
      PORT: String(port),
      ADMIN_PORT: String(adminPort),
      CARD_PROCESSOR_URL: processor.url
    }
    const service = await startService(name, env, join(engines.dir, "log", `${label}.log`), {
      ledger: engines.ledger,
      script,
      // one that was killed gets its partitions back when its group gives it up
      readyWithinMs: 120_000
    })
    const replica = Object.assign(service, { adminUrl: `http://127.0.0.1:${adminPort}` })
    replicas.push(replica)
    return replica
  }
  const services = new Map(
    await Promise.all(SERVICE_NAMES.map(async (name) => [name, await start(name, name)] as const))
  )

  const others = new Map<ServiceName, Replica>()
  const service = (name: ServiceName): Replica => others.get(name) ?? known(services, name)

  const tape = await startTape(engines.kafka.brokers, options.tape)
  ends.push(() => tape.stop())
  return {
    engines,
    service,
    database: (name) => known(databases, name),
    reconnect: async () => {
      const lost = databases
      databases = open()
      await close(lost)
    },
    tape,
    processor,
    start,
    exchange: async (name, script) => {
      await service(name).stop()
      others.delete(name)
      if (script === undefined) await service(name).restart()
      else others.set(name, await start(name, basename(script, ".ts"), script))
    },
    revive: async () => {
      for (const one of [engines.postgres, engines.kafka, engines.connect, ...SERVICE_NAMES.map(service)]) {
        if (!one.alive()) await one.restart()
      }
    },
    keep: () => keep(dir)
  }
}

const portsOf = ({ url, adminUrl }: Replica): ReadonlyArray<number> =>
  [url, adminUrl].map((at) => Number(new URL(at).port))

const keep = (dir: string): void => writeFileSync(join(dir, keepFile), "it is to be kept\n")

/** Folders of earlier runs: what their supervisor left is ended, what their failures kept goes. */
const removeOld = async (): Promise<void> => {
  const names = readdirSync(resolve(folder, ".."), { encoding: "utf8" }).includes(".stack") ? readdirSync(folder) : []
  for (const name of names.filter((found) => found.startsWith(prefix))) {
    const dir = join(folder, name)
    const { owner } = readLedger(dir)
    if (owner !== undefined && lives(owner)) continue
    await killLeftovers(dir)
    rmSync(dir, { recursive: true, force: true })
  }
}

const known = <K, V>(map: ReadonlyMap<K, V>, key: K): V => {
  const value = map.get(key)
  if (value === undefined) throw new Error(`there is no ${String(key)}`)
  return value
}

/** A service's counter, such as `duplicates`. It starts at 0 with each start of the process. */
export const counter = async (replica: Replica, name: string): Promise<number> => {
  const response = await fetch(`${replica.adminUrl}/metrics`, { signal: AbortSignal.timeout(5_000) })
  const found = new RegExp(`^oncebox_${name}_total\\S* (\\d+)$`, "m").exec(await response.text())
  if (found === null) throw new Error(`${replica.name} has no counter ${name}`)
  return Number(found[1])
}

/** A process held in its tracks, as one that is alive and does not answer. */
export const frozen = async (replica: Replica, body: () => Promise<void>): Promise<void> => {
  process.kill(replica.pid, "SIGSTOP")
  try {
    await body()
  } finally {
    process.kill(replica.pid, "SIGCONT")
  }
}

/** One request to a connector; Connect may be busy with a rebalance. */
export const connector = async (
  { engines }: Stack,
  name: string,
  method: "GET" | "PUT" | "DELETE",
  what: "status" | "stop" | "resume" | "offsets"
): Promise<string> => {
  let said = ""
  await until(`${method} ${what} of connector ${name}`, 30_000, async () => {
    const response = await fetch(`${engines.connect.url}/connectors/${name}/${what}`, {
      method,
      signal: AbortSignal.timeout(5_000)
    })
    said = await response.text()
    if (!response.ok) throw new Error(said)
    return true
  })
  return said
}
