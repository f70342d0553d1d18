/**
 * Apache Kafka as a plain process: one KRaft node, broker and controller in one, loopback only. Topics are never made by
 * mention. An acknowledged record survives a kill of the process (it is with the operating system), not a power cut.
 */
import { randomBytes } from "node:crypto"
import { existsSync, mkdirSync, rmSync } from "node:fs"
import { connect } from "node:net"
import { dirname, join } from "node:path"
import { type Engines, javaCommand, writeProperties } from "./jvm.ts"
import type { Ledger } from "./ledger.ts"
import { type Running, run } from "./process.ts"

export interface KafkaOptions {
  readonly engines: Engines
  readonly dataDir: string
  readonly propertiesFile: string
  readonly logFile: string
  readonly port: number
  readonly controllerPort: number
  /** More ports, for clients that are to be told that the broker is somewhere else: at a proxy's port. */
  readonly detours?: ReadonlyArray<Detour> | undefined
  readonly ledger?: Ledger | undefined
}

export interface Detour {
  /** Capital letters. */
  readonly name: string
  readonly port: number
  readonly advertisedPort: number
}

const READY_WITHIN_MS = 120_000
const STOP_WITHIN_MS = 20_000

export const startKafka = async (options: KafkaOptions): Promise<Running> => {
  mkdirSync(dirname(options.dataDir), { recursive: true })
  const detours = options.detours ?? []
  const listeners = (port: (detour: Detour) => number): ReadonlyArray<string> => [
    `PLAINTEXT://127.0.0.1:${options.port}`,
    ...detours.map((detour) => `${detour.name}://127.0.0.1:${port(detour)}`)
  ]
  writeProperties(options.propertiesFile, {
    "process.roles": "broker,controller",
    "node.id": 1,
    // Named here, not kept in the data, so that the data may be started on other ports.
    "controller.quorum.voters": `1@127.0.0.1:${options.controllerPort}`,
    "controller.listener.names": "CONTROLLER",
    listeners: [...listeners(({ port }) => port), `CONTROLLER://127.0.0.1:${options.controllerPort}`].join(),
    "advertised.listeners": listeners(({ advertisedPort }) => advertisedPort).join(),
    "listener.security.protocol.map": ["PLAINTEXT", "CONTROLLER", ...detours.map(({ name }) => name)]
      .map((name) => `${name}:PLAINTEXT`)
      .join(),
    "log.dirs": options.dataDir,
    "auto.create.topics.enable": false,
    "num.partitions": 1,
    "offsets.topic.num.partitions": 5,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    // After a kill its old registration holds for this long before the new process may take part.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    // A group of one starts at once; tests may use short sessions.
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000
  })
  if (!existsSync(join(options.dataDir, "meta.properties"))) await format(options)
  return run({
    name: "kafka",
    ...javaCommand({ engines: options.engines, mainClass: "kafka.Kafka", args: [options.propertiesFile], heapMb: 512 }),
    env: {},
    logFile: options.logFile,
    // Its port opens a little before the controller lets it take part: until then it knows of no broker, not even itself.
    ready: async () => (await countBrokers(options.port)) === 1,
    readyWithinMs: READY_WITHIN_MS,
    stopSignal: "SIGTERM",
    stopWithinMs: STOP_WITHIN_MS,
    ledger: options.ledger
  })
}

const format = async (options: KafkaOptions): Promise<void> => {
  rmSync(options.dataDir, { recursive: true, force: true })
  const clusterId = randomBytes(16).toString("base64url")
  const { file, args } = javaCommand({
    engines: options.engines,
    mainClass: "kafka.tools.StorageTool",
    // With an equals sign: one id in 64 begins with a dash.
    args: ["format", `--cluster-id=${clusterId}`, "-c", options.propertiesFile],
    heapMb: 128
  })
  const child = Bun.spawn([file, ...args], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: READY_WITHIN_MS,
    killSignal: "SIGKILL"
  })
  const said = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  if ((await child.exited) !== 0) {
    rmSync(options.dataDir, { recursive: true, force: true })
    throw new Error(`the broker's storage could not be formatted:\n${said.join("").trim()}`)
  }
}

// One Metadata request (version 0) by hand, of whose answer only the number of brokers is read: a client library for this would
// be more code at run time than the question is worth, and kafkajs leaves a timer spinning (TimeoutNegativeWarning).
const countBrokers = (port: number): Promise<number> =>
  new Promise((resolve, reject) => {
    const request = Buffer.alloc(18)
    request.writeInt32BE(14, 0)
    request.writeInt16BE(3, 4)
    const socket = connect({ host: "127.0.0.1", port })
    socket.setTimeout(5000, () => socket.destroy(new Error("no answer to a metadata request")))
    socket.once("error", reject)
    socket.once("close", () => reject(new Error("the connection was closed before the answer")))
    socket.once("connect", () => socket.write(request))
    socket.on("readable", () => {
      // Size, correlation id, number of brokers.
      const head: unknown = socket.read(12)
      if (!(head instanceof Buffer)) return
      resolve(head.readInt32BE(8))
      socket.destroy()
    })
  })
