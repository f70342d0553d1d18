/** The system that orders are placed with: the stack that runs already, one that is started for it, or everything in one process. */
import { createInterface } from "node:readline"
import { join, resolve } from "node:path"
import { Readable } from "node:stream"
import { Redacted } from "effect"
import { connect, type Sql } from "oncebox"
import { readPorts, readSecret } from "../engines.ts"
import { killAll, killLeftovers, lives, openLedger, readLedger, startOf, type Entry, type Ledger } from "../ledger.ts"
import { freePorts } from "../ports.ts"
import { SERVICE_NAMES, SERVICES, serviceEnv, startService, type Service } from "../supervise.ts"
import { within } from "../wait.ts"
import { followOutcomes, type Outcome } from "./outcomes.ts"
import type { Addresses } from "./shop.ts"
import type { Sources } from "./usage.ts"

export interface System extends Sources {
  /** False of a stack that ran already. */
  readonly startedHere: boolean
  readonly at: Addresses
  /** Absent when the broker is in the process. */
  readonly broker: string | undefined
  readonly follow: (listener: (outcome: Outcome) => void) => Promise<() => Promise<void>>
}

export type Ends = Array<() => unknown>

const host = "127.0.0.1"
const startsWithinMs = 600_000

const ownersSql = (port: number, secretsDir: string, ends: Ends): Sql => {
  const password = Redacted.make(readSecret(secretsDir, "owner_password"))
  const sql = connect({ host, port, database: "orders", username: "oncebox_owner", password }, { name: "load", max: 1 })
  ends.push(() => sql.end({ timeout: 1 }))
  return sql
}

/** The stack in `dir`, started when it is down, with `replicas` of each service. What is started here is told to `ends`. */
export const stackIn = async (dir: string, replicas: number, ends: Ends): Promise<System> => {
  const startedHere = !isUp(dir)
  if (startedHere) {
    console.error(`no stack runs in ${dir}: starting one, and stopping it at the end`)
    const starting = stack("up", "--detach", "--dir", dir)
    ends.push(async () => {
      await starting.stop()
      await stack("down", "--dir", dir).done
    })
    await starting.done
  }
  const [postgresPort, kafkaPort] = readPorts(join(dir, "ports.json"))
  if (postgresPort === undefined || kafkaPort === undefined) throw new Error(`${dir} says nothing of its ports`)
  const broker = `${host}:${kafkaPort}`
  const secretsDir = join(dir, "secrets")
  const engines = { postgres: { host, port: postgresPort, secretsDir }, kafka: { brokers: broker } }
  const sql = ownersSql(postgresPort, secretsDir, ends)

  const more: Array<{ service: Service; adminUrl: string }> = []
  const ledger = await replicasLedger(join(dir, "replicas"), replicas)
  ends.push(async () => {
    await Promise.allSettled(more.map(({ service }) => service.stop()))
    if (ledger === undefined) return
    // those that were still starting
    await killAll(readLedger(join(dir, "replicas")).processes)
    ledger.close()
  })
  const start = async (name: (typeof SERVICE_NAMES)[number], number: number): Promise<void> => {
    const [port, adminPort] = await freePorts([[], []])
    const env = { ...serviceEnv(engines, name), PORT: String(port), ADMIN_PORT: String(adminPort) }
    const service = await startService(name, env, join(dir, "log", `${name}-${number}.log`), { ledger })
    more.push({ service, adminUrl: `http://${host}:${adminPort}` })
  }
  for (let number = 2; number <= replicas; number++) await Promise.all(SERVICE_NAMES.map((name) => start(name, number)))

  const url = (name: (typeof SERVICE_NAMES)[number]) => `http://${host}:${SERVICES[name].port}`
  const ofOrder = more.filter(({ service }) => service.name === "order").map(({ service }) => service.url)
  return {
    startedHere,
    at: { orders: [url("order"), ...ofOrder], product: url("product"), user: url("user") },
    broker,
    sql,
    admin: new Map([
      ...SERVICE_NAMES.map((name) => [name, `http://${host}:${SERVICES[name].port + 1_000}`] as const),
      ...more.map(({ service, adminUrl }) => [`${service.name} ${new URL(service.url).port}`, adminUrl] as const)
    ]),
    processes: [
      ...readLedger(dir).processes.filter(lives),
      ...more.map(({ service: { name, pid } }) => entryOf(name, pid))
    ],
    follow: (listener) => followOutcomes(broker, listener)
  }
}

const isUp = (dir: string): boolean => {
  const { owner } = readLedger(dir)
  return owner !== undefined && lives(owner)
}

/** Replicas that a killed run has left behind are ended first. One run at a time may have replicas of its own. */
const replicasLedger = async (dir: string, replicas: number): Promise<Ledger | undefined> => {
  if (replicas > 1) return openLedger(dir)
  await killLeftovers(dir)
  return undefined
}

const stack = (...args: ReadonlyArray<string>) => {
  const child = Bun.spawn([process.execPath, resolve(import.meta.dir, "..", "main.ts"), ...args], {
    stdout: "ignore",
    stderr: "inherit"
  })
  return {
    done: within(`stack ${args[0]}`, startsWithinMs, child.exited).then((code) => {
      if (code !== 0) throw new Error(`stack ${args[0]} ended with ${code}`)
    }),
    stop: () => {
      child.kill()
      return child.exited
    }
  }
}

const entryOf = (name: string, pid: number): Entry => ({ name, pid, started: startOf(pid) ?? "" })

/** What `embedded.ts` says first. */
export interface EmbeddedAt {
  readonly urls: Readonly<Record<string, string>>
  readonly adminUrls: Readonly<Record<string, string>>
  readonly postgresPort: number
}

/** Everything in one process, which is not this one, so that what it uses can be told apart. */
export const embeddedIn = async (dir: string, ends: Ends): Promise<System> => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "embedded.ts"), dir], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit"
  })
  ends.push(async () => {
    await child.stdin.end()
    await within("the end of the embedded system", 30_000, child.exited)
  })
  let listener: (outcome: Outcome) => void = () => {}
  const started = Promise.withResolvers<EmbeddedAt>()
  const lines = createInterface({ input: Readable.fromWeb(child.stdout as never) })
  lines.on("line", (line) => {
    const said = JSON.parse(line) as EmbeddedAt | Outcome
    if ("urls" in said) started.resolve(said)
    else listener(said)
  })
  lines.on("close", () => started.reject(new Error("the embedded system did not come up")))
  const { urls, adminUrls, postgresPort } = await within("the embedded system", startsWithinMs, started.promise)
  const url = (name: string) => urls[name] ?? ""
  return {
    startedHere: true,
    at: { orders: [url("order")], product: url("product"), user: url("user") },
    broker: undefined,
    sql: ownersSql(postgresPort, join(dir, "secrets"), ends),
    admin: new Map(Object.entries(adminUrls)),
    processes: [entryOf("embedded", child.pid)],
    follow: async (told) => {
      listener = told
      return async () => void (listener = () => {})
    }
  }
}
