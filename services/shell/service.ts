/**
 * A service: its name, port, database, participant and routes, and how it is run.
 *
 * It stops in the order in which it must: no new requests, running ones finish, lanes end after the pass in flight,
 * pools close. A killed process leaves nothing to repair: whatever was not committed comes again.
 */
// before anything is decoded: schemas are compiled instead of interpreted, a third less CPU for a message (2026-11-21)
import "effect/schema/SchemaJITCompiler/enable"
import { Effect, Latch, Layer, type Scope } from "effect"
import type { Hono } from "hono"
import {
  Choreography,
  layerKafka,
  layerPostgres,
  Migrations,
  Pool,
  run,
  startRelay,
  type Broker,
  type Caller,
  type BrokerError,
  type ConnectionOptions,
  type MigrationSource,
  type Participant,
  type Running,
  type RunOptions,
  type Store,
  type StoreUnavailable,
  type TableKind,
  type Tables
} from "oncebox"
import { makeAdminApp, type Gauges } from "./admin.ts"
import { choreography } from "./choreography.ts"
import { readSettings, type Settings } from "./config.ts"
import { makeReaders, type Edge } from "./edge.ts"
import { makeApp } from "./http.ts"
import { runProcess } from "./process.ts"
import { listen, type CannotListen } from "./server.ts"

type RunSettings = Pick<Settings, "orders" | "cardProcessorUrl">

export interface Service {
  readonly name: string
  readonly port: number
  readonly adminPort: number
  readonly database: string
  /** The database's login role for this service. */
  readonly role: string
  readonly tables: ReadonlyArray<{ readonly name: string; readonly kind: TableKind }>
  /** Names of the topics that it reads. */
  readonly topics: ReadonlyArray<string>
  readonly migrations: ReadonlyArray<MigrationSource>
  readonly run: (
    options: RunOptions,
    settings: RunSettings
  ) => Effect.Effect<Running, StoreUnavailable | BrokerError, Broker | Store | Scope.Scope>
  readonly routes: (edge: Edge) => Effect.Effect<Hono, never, Scope.Scope>
  /** What its metrics show beside the counters. */
  readonly gauges: (edge: Edge) => Gauges
}

const make = <T extends Tables>(options: {
  readonly name: string
  readonly port: number
  readonly database: string
  readonly participant: Participant<T>
  /** What follows the library's own migrations. */
  readonly migrations: ReadonlyArray<MigrationSource>
  /** What carries out its calls to the outside. */
  readonly callers?: (settings: RunSettings) => ReadonlyArray<Caller>
  readonly routes: Service["routes"]
  readonly gauges?: Service["gauges"]
}): Service => {
  const joined = Choreography.join(options.participant, choreography)
  return {
    name: options.name,
    port: options.port,
    adminPort: options.port + 1000,
    database: options.database,
    role: `${options.database}_service`,
    tables: Object.values(options.participant.tables),
    topics: [...joined.topics.keys()],
    migrations: [Migrations.core, ...options.migrations],
    run: (runOptions, settings) =>
      run(settings.orders.choreography ? joined : options.participant, {
        ...runOptions,
        callers: options.callers?.(settings) ?? []
      }),
    routes: options.routes,
    gauges: options.gauges ?? (() => Effect.succeed({}))
  }
}

/** How a service connects to its database. */
const connection = (service: Service, settings: Pick<Settings, "database">): ConnectionOptions => ({
  ...settings.database,
  database: service.database,
  username: service.role
})

/** A client waits for a read: it is told to come back sooner than a pass gives up. */
const readConnection = (service: Service, settings: Pick<Settings, "database">): ConnectionOptions => ({
  ...connection(service, settings),
  bounds: { answerMs: 5_000 }
})

/** Runs a service for as long as the scope is open. With `relay` it publishes its outbox itself, without Debezium. */
const launch = Effect.fnUntraced(function* (
  service: Service,
  settings: Omit<Settings, "brokers">,
  options: { readonly relay: boolean } = { relay: false }
): Effect.fn.Return<Running, StoreUnavailable | BrokerError | CannotListen, Broker | Store | Scope.Scope> {
  const reads = yield* Effect.acquireRelease(
    Effect.sync(
      () => new Pool(readConnection(service, settings), { name: `${service.name} reads`, max: 5, readOnly: true })
    ),
    (pool) => Effect.promise(() => pool.close())
  )
  const relay = options.relay ? yield* startRelay(reads.sql, `/oncebox/${service.database}`) : undefined
  const running = yield* service.run(relay === undefined ? {} : { committed: relay.committed }, settings)
  const closing = yield* Latch.make(false)
  const edge: Edge = { reads, readers: makeReaders(), running, orders: settings.orders, closing }
  const { fetch: adminFetch } = makeAdminApp(service.name, edge, service.gauges(edge))
  yield* listen({ hostname: "127.0.0.1", port: settings.adminPort, fetch: adminFetch, closing })
  const { fetch } = makeApp(edge, yield* service.routes(edge))
  yield* listen({ hostname: settings.host, port: settings.port, fetch, closing })
  return running
})

/** Runs a service as this process, until it is told to stop or can't go on. */
const main = (service: Service): void =>
  runProcess(
    Effect.gen(function* () {
      const settings = yield* readSettings(service)
      const layers = Layer.merge(
        layerKafka({ brokers: settings.brokers, clientId: service.name }),
        layerPostgres(connection(service, settings), service.name)
      )
      const running = yield* launch(service, settings).pipe(Effect.provide(yield* Layer.build(layers)))
      yield* Effect.logInfo(`${service.name} listens on http://${settings.host}:${settings.port}`)
      return yield* running.stopped.pipe(
        // a new process would park the rest as well: this one stays, unready, for somebody to look at
        Effect.catchIf(
          (error) => !error.restart,
          (error) => Effect.logError(`${service.name} stopped: ${error.message}`).pipe(Effect.andThen(Effect.never))
        )
      )
    }),
    { name: service.name }
  )

export const Service = { make, connection, launch, main }
