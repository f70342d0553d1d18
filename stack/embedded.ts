/**
 * The whole system in one process: Postgres from npm, a broker in memory, a relay per outbox, and the six services on
 * real ports. What is committed stays in `dir`; after a crash the relays publish it again and the inboxes drop what was
 * seen. Closing the scope stops everything; what a killed process left behind is ended by the next start.
 */
import { mkdirSync } from "node:fs"
import { join, resolve } from "node:path"
import { Effect, Exit, Layer, Redacted, Schema, Scope } from "effect"
import { Broker, layerPostgres, makeInProcess, type ConnectionOptions, type Running } from "oncebox"
import { services } from "../services/index.ts"
import { provision, readPasswords, type Passwords } from "../services/shell/provision.ts"
import { Service } from "../services/shell/service.ts"
import { openLedger } from "./ledger.ts"
import { freePorts } from "./ports.ts"
import { makePassable, startPostgres } from "./postgres.ts"
import { startProcessor } from "./processor.ts"
import { setup } from "./setup.ts"
import { text } from "./wait.ts"

export type ServiceName = (typeof services)[number]["name"]

export interface EmbeddedOptions {
  /** Where data, logs and passwords are kept. */
  readonly dir: string
  /** The services' own ports, or any that are free. */
  readonly ports: "own" | "free"
  /** How often a message that is published now is delivered; once when absent. */
  readonly deliveries?: () => number
  /** Who charges cards; without one they are not taken. */
  readonly cardProcessorUrl?: string
}

export interface Embedded {
  /** By service: its address, such as `http://127.0.0.1:8002`. */
  readonly urls: ReadonlyMap<ServiceName, string>
  /** By service: where its metrics are. */
  readonly adminUrls: ReadonlyMap<ServiceName, string>
  readonly running: ReadonlyMap<ServiceName, Running>
  /** Stops a service: it answers nobody, and what is sent to it waits. */
  readonly stop: (name: ServiceName) => Effect.Effect<void>
  /** Starts it again. */
  readonly start: (name: ServiceName) => Effect.Effect<void, EmbeddedFailed>
  readonly broker: ReturnType<typeof makeInProcess>
  /** How to connect to a database as its owner. */
  readonly owner: (database: string) => ConnectionOptions
}

/** The system did not come up. */
export class EmbeddedFailed extends Schema.TaggedError<EmbeddedFailed>()("EmbeddedFailed", {
  message: Schema.String,
  cause: Schema.Defect()
}) {}

const host = "127.0.0.1"

/** Starts it all, or nothing. */
export const startEmbedded = Effect.fnUntraced(function* (
  options: EmbeddedOptions
): Effect.fn.Return<Embedded, EmbeddedFailed, Scope.Scope> {
  const dir = resolve(options.dir)
  const { port, passwords } = yield* startDatabase(dir)
  yield* attempt(() => provision({ host, port, passwords }))

  const broker = makeInProcess({ partitions: 6 })
  const ports = yield* attempt(() =>
    options.ports === "free"
      ? freePorts(services.flatMap(() => [[], []]))
      : Promise.resolve(services.flatMap((service) => [service.port, service.adminPort]))
  )
  const whole = yield* Effect.scope
  const scopes = new Map<ServiceName, Scope.Closeable>()
  const running = new Map<ServiceName, Running>()
  const portsOf = (index: number, service: (typeof services)[number]) => ({
    port: ports[2 * index] ?? service.port,
    adminPort: ports[2 * index + 1] ?? service.adminPort
  })
  const start = (name: ServiceName) =>
    Effect.gen(function* () {
      const index = services.findIndex((service) => service.name === name)
      const service = services[index]
      if (service === undefined || scopes.has(name)) return
      const scope = yield* Scope.fork(whole)
      scopes.set(name, scope)
      const settings = {
        orders: { choreography: true, coordination: "orchestration" as const, definition: "place-order" as const },
        cardProcessorUrl: options.cardProcessorUrl,
        database: { host, port, password: yield* Effect.fromNullishOr(passwords.services.get(service.database)) },
        host,
        ...portsOf(index, service)
      }
      const store = layerPostgres(Service.connection(service, settings), service.name)
      const delivering = repeating(broker.broker, options.deliveries ?? (() => 1))
      yield* Effect.gen(function* () {
        const context = yield* Layer.build(Layer.merge(store, Layer.succeed(Broker, delivering)))
        running.set(name, yield* Service.launch(service, settings, { relay: true }).pipe(Effect.provide(context)))
      }).pipe(Scope.provide(scope))
    }).pipe(
      // what of it had begun before it failed must not go on
      Effect.onError(() => stop(name)),
      Effect.mapError(failed)
    )
  const stop = (name: ServiceName) =>
    Effect.suspend(() => {
      const scope = scopes.get(name)
      scopes.delete(name)
      return scope === undefined ? Effect.void : Scope.close(scope, Exit.void)
    })
  yield* Effect.forEach(services, ({ name }) => start(name), { concurrency: "unbounded" })

  const urls = (port: "port" | "adminPort") =>
    new Map(services.map((service, index) => [service.name, `http://${host}:${portsOf(index, service)[port]}`]))
  return {
    urls: urls("port"),
    adminUrls: urls("adminPort"),
    running,
    start,
    stop,
    broker,
    owner: (name) => ({ host, port, database: name, username: "oncebox_owner", password: passwords.owner })
  }
})

/** A card processor beside it; answers its address. */
export const cardProcessor = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => startProcessor()),
    (processor) => Effect.promise(() => processor.stop())
  ),
  ({ url }) => url
)

const repeating = (broker: Broker["Service"], deliveries: () => number): Broker["Service"] => ({
  ...broker,
  publish: (records) => broker.publish(Array.from({ length: deliveries() }, () => records).flat())
})

/** A running Postgres, and the passwords of its roles. */
export const startDatabase = Effect.fnUntraced(function* (
  dir: string
): Effect.fn.Return<{ port: number; passwords: Passwords }, EmbeddedFailed, Scope.Scope> {
  const secrets = join(dir, "secrets")
  yield* attempt(async () => {
    makePassable(dir)
    makePassable(join(dir, "data"))
    mkdirSync(join(dir, "log"), { recursive: true })
    setup(secrets)
  })
  const passwords = yield* Effect.mapError(readPasswords(secrets), failed)
  const ledger = yield* Effect.acquireRelease(
    attempt(() => openLedger(dir)),
    (opened) => Effect.sync(() => opened.close())
  )
  const [port = 0] = yield* attempt(() => freePorts([[]]))
  yield* Effect.acquireRelease(
    attempt(() =>
      startPostgres({
        dataDir: join(dir, "data", "postgres"),
        logFile: join(dir, "log", "postgres.log"),
        port,
        passwordFile: join(secrets, "postgres_password"),
        password: Redacted.value(passwords.superuser),
        ledger
      })
    ),
    (postgres) => Effect.promise(() => postgres.stop())
  )
  return { port, passwords }
})

const attempt = <A>(run: () => Promise<A>): Effect.Effect<A, EmbeddedFailed> =>
  Effect.tryPromise({ try: run, catch: failed })

const failed = (cause: unknown): EmbeddedFailed => new EmbeddedFailed({ message: text(cause), cause })
