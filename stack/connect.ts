/**
 * Kafka Connect with the Debezium plugin, as a plain process: a distributed worker, REST on loopback only. Producer settings are
 * the worker's and can't be overridden over REST: idempotent, ordered, without linger. After a kill the tasks start again within
 * the session timeout; offsets are flushed every second, which bounds what is published again.
 */
import { mkdirSync } from "node:fs"
import { dirname } from "node:path"
import { type Engines, javaCommand, writeProperties } from "./jvm.ts"
import type { Ledger } from "./ledger.ts"
import { type Running, run } from "./process.ts"

export interface ConnectOptions {
  readonly engines: Engines
  readonly propertiesFile: string
  readonly logFile: string
  readonly port: number
  readonly brokers: string
  readonly postgres: { readonly host: string; readonly port: number }
  readonly replicationPassword: string
  readonly ledger?: Ledger | undefined
}

const READY_WITHIN_MS = 120_000
const STOP_WITHIN_MS = 20_000

/** How often connectors look for rows, and how many they take at once: see connectors/README.md. */
export const usualPace = { DEBEZIUM_POLL_MS: "10", DEBEZIUM_BATCH: "2048" } as const

const paceOf = (env: Readonly<Record<string, string | undefined>>): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(usualPace).map(([name, usual]) => [name, env[name] ?? usual]))

export const startConnect = async (options: ConnectOptions): Promise<Running> => {
  mkdirSync(dirname(options.propertiesFile), { recursive: true })
  const converter = "org.apache.kafka.connect.storage.StringConverter"
  writeProperties(options.propertiesFile, {
    "bootstrap.servers": options.brokers,
    "group.id": "oncebox-connect",
    listeners: `http://127.0.0.1:${options.port}`,
    "rest.advertised.host.name": "127.0.0.1",
    "rest.advertised.port": options.port,
    "plugin.path": options.engines.plugins,
    "plugin.discovery": "service_load",
    "config.storage.topic": "oncebox-connect-configs",
    "config.storage.replication.factor": 1,
    "offset.storage.topic": "oncebox-connect-offsets",
    "offset.storage.replication.factor": 1,
    "offset.storage.partitions": 1,
    "status.storage.topic": "oncebox-connect-status",
    "status.storage.replication.factor": 1,
    "status.storage.partitions": 1,
    "offset.flush.interval.ms": 1000,
    "key.converter": converter,
    "value.converter": converter,
    "header.converter": converter,
    // Connector files name these variables instead of holding secrets.
    "config.providers": "env",
    "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
    "config.providers.env.param.allowlist.pattern":
      "^(POSTGRES_HOST|POSTGRES_PORT|REPLICATION_PASSWORD|DEBEZIUM_POLL_MS|DEBEZIUM_BATCH)$",
    "connector.client.config.override.policy": "None",
    "producer.acks": "all",
    "producer.linger.ms": 0,
    "producer.compression.type": "none",
    "producer.enable.idempotence": true,
    "producer.max.in.flight.requests.per.connection": 5,
    // A worker that was killed and comes back gets its tasks at once, after its old self's session.
    "scheduled.rebalance.max.delay.ms": 0,
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 1500
  })
  return run({
    name: "connect",
    ...javaCommand({
      engines: options.engines,
      mainClass: "org.apache.kafka.connect.cli.ConnectDistributed",
      args: [options.propertiesFile],
      heapMb: 512,
      slack: true
    }),
    env: {
      POSTGRES_HOST: options.postgres.host,
      POSTGRES_PORT: String(options.postgres.port),
      REPLICATION_PASSWORD: options.replicationPassword,
      ...paceOf(process.env)
    },
    logFile: options.logFile,
    ready: async () => {
      const response = await fetch(`http://127.0.0.1:${options.port}/health`, { signal: AbortSignal.timeout(5000) })
      return response.ok
    },
    readyWithinMs: READY_WITHIN_MS,
    stopSignal: "SIGTERM",
    stopWithinMs: STOP_WITHIN_MS,
    ledger: options.ledger
  })
}
