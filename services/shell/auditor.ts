/**
 * The auditor's process: `bun services/shell/auditor.ts`. It audits the outboxes of all services, drops the slots that have
 * served their time, and tells how it goes on its admin port, on loopback: `GET /metrics`, `GET /health`, `GET /health/ready`.
 */
import { Config, Effect, Latch, Layer, Option, Redacted } from "effect"
import { Hono } from "hono"
import { layerKafka, layerKafkaOffsets, startAuditor, startRetention, type Auditor, type Retention } from "oncebox"
import { services } from "../index.ts"
import { readConfig, readSecret, setting } from "./config.ts"
import { runProcess } from "./process.ts"
import { auditorRole } from "./provision.ts"
import { listen } from "./server.ts"
import { allTopicNames } from "./topics.ts"
import { startWatchdog, type Watchdog } from "./watchdog.ts"

const milliseconds = (name: string, usual: number) => Config.Int(name).pipe(Config.withDefault(usual))

const readSettings = readConfig(
  Config.all({
    ...setting,
    passwordFile: Config.NonEmptyString("DATABASE_PASSWORD_FILE"),
    adminPort: Config.Port("ADMIN_PORT").pipe(Config.withDefault(9006)),
    graceMs: milliseconds("AUDIT_GRACE_MS", 30_000),
    everyMs: milliseconds("AUDIT_EVERY_MS", 2_000),
    connectUrl: Config.option(Config.URL("CONNECT_URL")),
    replicationPasswordFile: Config.option(Config.NonEmptyString("REPLICATION_PASSWORD_FILE")),
    keepMs: milliseconds("OUTBOX_KEEP_MS", 2 * 86_400_000),
    standsMs: milliseconds("GROUP_STANDS_MS", 60_000)
  })
)

/** What is wrong, for whoever looks: it goes on by itself. */
const reasonsOf = (auditor: Auditor): ReadonlyArray<string> =>
  [...auditor.states()].flatMap(([name, { failure }]) => (failure === undefined ? [] : [`${name}: ${failure}`]))

const makeApp = (auditor: Auditor, retention: Retention, watchdog: Watchdog): Hono =>
  new Hono()
    .get("/metrics", (c) =>
      c.text(metrics(auditor, retention, watchdog), 200, { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" })
    )
    .get("/health", (c) =>
      c.json({
        reasons: reasonsOf(auditor),
        warnings: watchdog.warnings(),
        ...auditor.remembered(),
        outboxes: Object.fromEntries(auditor.states()),
        held: Object.fromEntries(retention.held())
      })
    )
    .get("/health/ready", (c) => {
      const reasons = reasonsOf(auditor)
      return c.json({ reasons }, reasons.length === 0 ? 200 : 503)
    })

const gauges = {
  audit_watermark_lag_seconds: ["gauge", "watermarkLag"],
  audit_oldest_unseen_seconds: ["gauge", "oldestUnseen"],
  audit_exceptions: ["gauge", "exceptions"],
  audit_healed_total: ["counter", "healed"],
  audit_republished_total: ["counter", "republished"]
} as const

/** In Prometheus' text format. */
const metrics = (auditor: Auditor, retention: Retention, watchdog: Watchdog): string => {
  const states = [...auditor.states()]
  const { messages, full } = auditor.remembered()
  const each = Object.entries(gauges).flatMap(([name, [type, field]]) => [
    `# TYPE oncebox_${name} ${type}`,
    ...states.map(([database, state]) => `oncebox_${name}{database="${database}"} ${state[field]}`)
  ])
  return [
    ...each,
    "# TYPE oncebox_retention_dropped_total counter",
    ...[...retention.dropped()].map(([name, count]) => `oncebox_retention_dropped_total{database="${name}"} ${count}`),
    "# TYPE oncebox_retention_held gauge",
    `oncebox_retention_held ${retention.held().size}`,
    "# TYPE oncebox_group_lag gauge",
    ...[...watchdog.groups()].map(([group, { lag }]) => `oncebox_group_lag{group="${group}"} ${lag}`),
    "# TYPE oncebox_group_standing_seconds gauge",
    ...[...watchdog.groups()].map(
      ([group, { standing }]) => `oncebox_group_standing_seconds{group="${group}"} ${standing}`
    ),
    "# TYPE oncebox_group_members gauge",
    ...[...watchdog.groups()].map(([group, { members }]) => `oncebox_group_members{group="${group}"} ${members}`),
    "# TYPE oncebox_connector_actions_total counter",
    ...[...watchdog.actions].map(([name, count]) => `oncebox_connector_actions_total{action="${name}"} ${count}`),
    "# TYPE oncebox_audit_remembered gauge",
    `oncebox_audit_remembered ${messages}`,
    "# TYPE oncebox_audit_standing_still gauge",
    `oncebox_audit_standing_still ${full ? 1 : 0}`,
    ""
  ].join("\n")
}

const consumers = services.map((service) => ({ group: service.name, topics: service.topics }))

/** Where the connectors are, for an auditor that is to mend them. */
const connectorsOf = Effect.fnUntraced(function* (settings: {
  readonly databaseHost: string
  readonly databasePort: number
  readonly connectUrl: Option.Option<URL>
  readonly replicationPasswordFile: Option.Option<string>
}) {
  if (Option.isNone(settings.connectUrl) || Option.isNone(settings.replicationPasswordFile)) return undefined
  const password = Redacted.value(yield* readSecret(settings.replicationPasswordFile.value))
  return {
    connectUrl: settings.connectUrl.value.href.replace(/\/$/, ""),
    database: { host: settings.databaseHost, port: settings.databasePort, password }
  }
})

const program = Effect.gen(function* () {
  const settings = yield* readSettings
  const { databaseHost, databasePort, brokers, passwordFile, adminPort, ...times } = settings
  const password = yield* readSecret(passwordFile)
  // No transaction of its own needs the usual 15 s, and two auditors do no harm: who was killed is to be back soon.
  const kafka = { brokers, clientId: "auditor", sessionTimeoutMs: 6_000 }
  const layers = yield* Layer.build(Layer.merge(layerKafka(kafka), layerKafkaOffsets(kafka)))
  const outboxes = services.map(({ database }) => ({
    name: database,
    source: `/oncebox/${database}`,
    database: { host: databaseHost, port: databasePort, database, username: auditorRole, password }
  }))
  const auditor = yield* startAuditor({
    outboxes,
    topics: allTopicNames,
    grace: `${times.graceMs} millis`,
    every: `${times.everyMs} millis`
  }).pipe(Effect.provide(layers))
  const retention = yield* startRetention({
    outboxes,
    keep: `${times.keepMs} millis`,
    consumers
  }).pipe(Effect.provide(layers))
  const watchdog = yield* startWatchdog({
    consumers,
    connectors: yield* connectorsOf(settings),
    standsFor: `${times.standsMs} millis`
  }).pipe(Effect.provide(layers))
  yield* listen({
    hostname: "127.0.0.1",
    port: adminPort,
    fetch: makeApp(auditor, retention, watchdog).fetch,
    closing: yield* Latch.make(false)
  })
  yield* Effect.logInfo(`auditor: admin port ${adminPort}`)
  return yield* auditor.stopped
})

if (import.meta.main) runProcess(program, { name: "auditor" })
