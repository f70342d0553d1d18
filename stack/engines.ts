/**
 * Postgres, the broker and Kafka Connect, together in one folder:
 *
 *   data/ log/ conf/   theirs
 *   secrets/           one file per password, made by setup.ts when absent
 *   ports.json         the ports of the last start, taken again when they are free
 *   pids.json          see ledger.ts
 *
 * All of them survive a kill of any of them, and a start cleans up after a killed supervisor. Whoever starts must stop.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { startConnect } from "./connect.ts"
import { installEngines } from "./install.ts"
import { startKafka, type Detour } from "./kafka.ts"
import { type Ledger, openLedger } from "./ledger.ts"
import { freePorts } from "./ports.ts"
import { makePassable, startPostgres } from "./postgres.ts"
import type { Running } from "./process.ts"
import { setup, type Secret } from "./setup.ts"

export interface EnginesOptions {
  readonly dir: string
  /** Wishes: a port that is taken is replaced by the last start's or by any free one. */
  readonly ports?: { readonly postgres?: number; readonly kafka?: number; readonly connect?: number } | undefined
  readonly log?: ((line: string) => void) | undefined
  /** They are to run for minutes only. */
  readonly brief?: boolean | undefined
  /** Settings of Postgres on top of the stack's own. */
  readonly postgresSettings?: Readonly<Record<string, string>> | undefined
  /** Proxies between the engines and whoever talks to them. */
  readonly detours?:
    | {
        readonly kafka: ReadonlyArray<Detour>
        /** Where Connect looks for the broker and for Postgres. */
        readonly connect: { readonly brokers: string; readonly postgresPort: number }
      }
    | undefined
  /** What needs one engine only: done as soon as that one is up, beside the start of the others, and part of the start. */
  readonly prepare?: { readonly postgres: Preparation; readonly kafka: Preparation } | undefined
}

export type Preparation = (engines: EngineAddresses) => Promise<void>

/** What can be done to an engine: see process.ts. */
export type Engine = Running

/** Where the engines are: known before they are up. */
export interface EngineAddresses {
  readonly dir: string
  readonly postgres: {
    readonly host: string
    readonly port: number
    readonly secretsDir: string
    readonly superuserPassword: string
  }
  readonly kafka: { readonly brokers: string }
  readonly connect: { readonly url: string }
  /** For other processes that belong to the same folder. */
  readonly ledger: Ledger
}

export interface RunningEngines extends EngineAddresses {
  readonly postgres: Engine & EngineAddresses["postgres"]
  readonly kafka: Engine & EngineAddresses["kafka"]
  readonly connect: Engine & EngineAddresses["connect"]
  readonly stop: () => Promise<void>
}

/** Starts all three, or none. */
export const startEngines = async (options: EnginesOptions): Promise<RunningEngines> => {
  const dir = resolve(options.dir)
  const engines = { ...(await installEngines(options.log)), brief: options.brief }
  makePassable(dir)
  const ledger = await openLedger(dir)
  const started: Running[] = []
  const begin = async (starting: Promise<Running>): Promise<Running> => {
    const engine = await starting
    started.push(engine)
    return engine
  }
  try {
    const secretsDir = join(dir, "secrets")
    setup(secretsDir)
    const secret = (name: Secret) => readSecret(secretsDir, name)
    const [postgresPort, kafkaPort, controllerPort, connectPort] = await choosePorts(dir, options.ports)
    const host = "127.0.0.1"
    const brokers = `${host}:${kafkaPort}`
    const addresses: EngineAddresses = {
      dir,
      postgres: { host, port: postgresPort, secretsDir, superuserPassword: secret("postgres_password") },
      kafka: { brokers },
      connect: { url: `http://${host}:${connectPort}` },
      ledger
    }
    makePassable(join(dir, "data"))
    mkdirSync(join(dir, "conf"), { recursive: true })
    const logFile = (name: string) => join(dir, "log", `${name}.log`)

    const postgresStarting = begin(
      startPostgres({
        dataDir: join(dir, "data", "postgres"),
        logFile: logFile("postgres"),
        port: postgresPort,
        passwordFile: join(secretsDir, "postgres_password"),
        password: secret("postgres_password"),
        settings: options.postgresSettings,
        ledger
      })
    )
    const kafkaStarting = begin(
      startKafka({
        engines,
        dataDir: join(dir, "data", "kafka"),
        propertiesFile: join(dir, "conf", "kafka.properties"),
        logFile: logFile("kafka"),
        port: kafkaPort,
        controllerPort,
        detours: options.detours?.kafka,
        ledger
      })
    )
    const connectStarting = kafkaStarting.then(() =>
      begin(
        startConnect({
          engines,
          propertiesFile: join(dir, "conf", "connect.properties"),
          logFile: logFile("connect"),
          port: connectPort,
          brokers: options.detours?.connect.brokers ?? brokers,
          postgres: { host, port: options.detours?.connect.postgresPort ?? postgresPort },
          replicationPassword: secret("replication_password"),
          ledger
        })
      )
    )
    const preparing = [
      postgresStarting.then(() => options.prepare?.postgres(addresses)),
      kafkaStarting.then(() => options.prepare?.kafka(addresses))
    ]
    const starting = [postgresStarting, kafkaStarting, connectStarting] as const
    // When one fails the others are waited for, so that what comes up late is known and ended.
    await Promise.allSettled([...starting, ...preparing])
    const [postgres, kafka, connect] = await Promise.all(starting)
    await Promise.all(preparing)
    return {
      dir,
      // Not spread: that would freeze the pid, which changes with every start.
      postgres: Object.assign(postgres, addresses.postgres),
      kafka: Object.assign(kafka, addresses.kafka),
      connect: Object.assign(connect, addresses.connect),
      ledger,
      stop: async () => {
        // Connect commits its last offsets while both others still answer.
        const ended = [
          ...(await Promise.allSettled([connect.stop()])),
          ...(await Promise.allSettled([kafka.stop(), postgres.stop()]))
        ]
        ledger.close()
        for (const outcome of ended) if (outcome.status === "rejected") throw outcome.reason
      }
    }
  } catch (cause) {
    await Promise.allSettled(started.map((engine) => engine.kill()))
    ledger.close()
    throw cause
  }
}

/** The text of a secret of a folder that has been started before. */
export const readSecret = (secretsDir: string, name: Secret): string =>
  readFileSync(join(secretsDir, name), "utf8").trim()

type Ports = readonly [postgres: number, kafka: number, controller: number, connect: number]

const choosePorts = async (dir: string, wishes: EnginesOptions["ports"]): Promise<Ports> => {
  const file = join(dir, "ports.json")
  const last = readPorts(file)
  const ports = await freePorts([
    [wishes?.postgres, last[0]],
    [wishes?.kafka, last[1]],
    [last[2]],
    [wishes?.connect, last[3]]
  ])
  writeFileSync(file, `${JSON.stringify(ports)}\n`)
  const [postgres, kafka, controller, connect] = ports
  if (postgres === undefined || kafka === undefined || controller === undefined || connect === undefined)
    throw new Error("four ports")
  return [postgres, kafka, controller, connect]
}

/** The ports of the last start: Postgres, broker, controller, Connect. */
export const readPorts = (file: string): ReadonlyArray<number | undefined> => {
  try {
    const ports: unknown = JSON.parse(readFileSync(file, "utf8"))
    return Array.isArray(ports) ? ports.map((port) => (typeof port === "number" ? port : undefined)) : []
  } catch {
    return []
  }
}
