/** Real engines, started once for the file, and a database made by hand after the contract that provisioning follows. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { randomUUID } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { availableParallelism, loadavg, tmpdir } from "node:os"
import { join } from "node:path"
import { type IHeaders, Kafka, type KafkaMessage, logLevel } from "kafkajs"
import postgres from "postgres"
import { applyConnectors, watchConnectors } from "../../connectors/apply.ts"
import { startProxy, type Proxy } from "../../outbox/test/proxy.ts"
import { type RunningEngines, readSecret, startEngines } from "../engines.ts"
import { installEngines } from "../install.ts"
import { freePorts } from "../ports.ts"
import { connectorTarget } from "../supervise.ts"
import { until, within } from "../wait.ts"

const TOPIC = "orders-events"
const FLOWS_WITHIN_MS = 60_000

setDefaultTimeout(180_000)

let dir: string
let engines: RunningEngines
/** On Connect's way to Postgres. */
let toPostgres: Proxy
let startedInMs: number
let loadWhileStarting: number
let sql: postgres.Sql

beforeAll(async () => {
  await installEngines()
  dir = mkdtempSync(join(tmpdir(), "oncebox-engines-"))
  const [postgresPort = 0, kafkaPort = 0] = await freePorts([[], []])
  toPostgres = await startProxy({ host: "127.0.0.1", port: postgresPort })
  const begun = performance.now()
  engines = await startEngines({
    dir,
    ports: { postgres: postgresPort, kafka: kafkaPort },
    brief: true,
    detours: { kafka: [], connect: { brokers: `127.0.0.1:${kafkaPort}`, postgresPort: toPostgres.port } }
  })
  startedInMs = performance.now() - begun
  loadWhileStarting = loadavg()[0] ?? 0
  sql = connection("orders")
  await makeDatabase()
  const admin = kafka().admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic: TOPIC, numPartitions: 6, replicationFactor: 1 }] })
  await admin.disconnect()
  await apply()
})

afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await engines?.stop()
  await toPostgres?.close()
  if (dir) rmSync(dir, { recursive: true, force: true })
})

test("three engines are ready within 15 s of a start with nothing on disk", () => {
  // A promise about the machine too, which can't be asked of one that has more to do than it has processors.
  expect(startedInMs).toBeLessThan(loadWhileStarting > availableParallelism() ? 120_000 : 15_000)
})

test("an outbox row becomes one record: bare key, the payload's text, every column a header", async () => {
  const full = row({
    payload: { total: 12345678901234567890n, note: 'ä "quoted" 日本', nothing: null, lines: [1, "two", {}] },
    correlation: randomUUID(),
    causation: randomUUID(),
    coordination: "orchestration",
    definition: "place-order",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
  })
  const bare = row({})

  await append(full, bare)

  const records = await read((messages) => has(messages, full.id) && has(messages, bare.id))
  const [stored] = await sql`select payload::text as payload from outbox where id = ${full.id}`
  expect(headerTexts(find(records, full.id).headers)).toEqual({
    id: full.id,
    ce_id: full.id,
    ce_type: full.type,
    ce_source: "/oncebox/orders",
    ce_time: full.createdAt,
    ce_specversion: "1.0",
    correlation: full.correlation,
    causation: full.causation,
    coordination: full.coordination,
    definition: full.definition,
    traceparent: full.traceparent,
    schema_version: "3"
  })
  expect(find(records, full.id).key?.toString()).toBe(full.key)
  expect(find(records, full.id).value?.toString()).toBe(stored?.["payload"])
  expect(headerTexts(find(records, bare.id).headers)).toEqual({
    id: bare.id,
    ce_id: bare.id,
    ce_type: bare.type,
    ce_source: "/oncebox/orders",
    ce_time: bare.createdAt,
    ce_specversion: "1.0",
    correlation: null,
    causation: null,
    coordination: null,
    definition: null,
    traceparent: null,
    schema_version: "3"
  })
})

test("the replication role reads the outbox and nothing else", async () => {
  const replication = connection(
    "orders",
    "oncebox_replication",
    readSecret(engines.postgres.secretsDir, "replication_password")
  )
  try {
    expect(await replication`select count(*) from outbox`).toHaveLength(1)
    expect(code(replication`select * from orders`)).resolves.toBe("42501")
    expect(code(replication`insert into outbox (id, topic, type) values (${randomUUID()}, 't', 't')`)).resolves.toBe(
      "42501"
    )
    expect(code(replication`create table mine (id int)`)).resolves.toBe("42501")
  } finally {
    await replication.end({ timeout: 1 })
  }
})

test("applying connectors again touches nothing", async () => {
  const lines: string[] = []

  await apply((line) => lines.push(line))

  expect(lines).toEqual([])
})

test("a quiet database's slot does not hold back the server's log", async () => {
  const busy = connection("postgres")
  try {
    await busy`create table if not exists noise (n int)`
    await busy`insert into noise select generate_series(1, 1000)`
    const [position] = await busy`select pg_current_wal_lsn()::text as lsn`

    await until("slot moved on", FLOWS_WITHIN_MS, async () => {
      const [slot] = await busy`
        select confirmed_flush_lsn >= ${String(position?.["lsn"])}::pg_lsn as passed
        from pg_replication_slots
        where slot_name = 'orders_outbox'`
      return slot?.["passed"] === true
    })
  } finally {
    await busy.end({ timeout: 1 })
  }
})

test("a connector whose offsets were deleted publishes every retained row again", async () => {
  const retained = (await sql`select id from outbox`).map((found) => String(found["id"]))
  const before = await countOf(retained)

  await rest("PUT", "stop")
  await until("stopped", FLOWS_WITHIN_MS, async () => (await rest("GET", "status")).includes('"state":"STOPPED"'))
  await rest("DELETE", "offsets")
  await rest("PUT", "resume")

  await until("published again", FLOWS_WITHIN_MS, async () => {
    const now = await countOf(retained)
    return retained.every((id) => (now.get(id) ?? 0) > (before.get(id) ?? 0))
  })
  expect(retained.length).toBeGreaterThan(0)
})

test("a dropped slot leads to the same: rows written while there was none are published", async () => {
  await rest("PUT", "stop")
  // a task that has yet to end makes the slot anew by itself, and goes on from there
  await until("no task left", FLOWS_WITHIN_MS, async () => (await rest("GET", "status")).includes('"tasks":[]'))
  await sql`select pg_drop_replication_slot('orders_outbox')`
  const unseen = row({})
  await append(unseen)

  await apply()

  expect(has(await read((messages) => has(messages, unseen.id)), unseen.id)).toBe(true)
})

test("a slot that Postgres has invalidated is replaced when connectors are applied", async () => {
  const server = connection("postgres")
  const unseen = row({})
  const lines: string[] = []
  try {
    await rest("PUT", "stop")
    await server`alter system set idle_replication_slot_timeout = '1s'`
    await server`select pg_reload_conf()`
    await append(unseen)
    await until("slot invalidated", FLOWS_WITHIN_MS, async () => {
      await server`checkpoint`
      const [slot] = await server`select wal_status from pg_replication_slots where slot_name = 'orders_outbox'`
      return slot?.["wal_status"] === "lost"
    })
    await server`alter system reset idle_replication_slot_timeout`
    await server`select pg_reload_conf()`
  } finally {
    await server.end({ timeout: 1 })
  }

  await apply((line) => lines.push(line))

  expect(lines).toContain("connector orders: dropping its slot, which Postgres has invalidated")
  await read((messages) => has(messages, unseen.id))
})

test("a task that failed is started again when connectors are applied", async () => {
  const unseen = row({})
  const lines: string[] = []
  await sql`drop publication outbox`
  await rest("POST", "restart?includeTasks=true")
  await until("failed", FLOWS_WITHIN_MS, async () => (await rest("GET", "status")).includes('"state":"FAILED"'))
  await makePublication(sql)
  await append(unseen)

  await apply((line) => lines.push(line))

  expect(lines.join()).toContain("restarting what failed")
  await read((messages) => has(messages, unseen.id))
})

test("a connector whose connection is dead says RUNNING and does not read its slot, and the watch restarts it", async () => {
  const unseen = row({})
  const lines: string[] = []
  const server = connection("postgres")
  const look = () => server`
    select active, pg_terminate_backend(active_pid)
    from pg_replication_slots
    where slot_name = 'orders_outbox'`
  try {
    // as on a network that loses everything: Postgres gives its side up, and Connect does not hear of it
    toPostgres.stop()
    await until("nobody reads the slot", FLOWS_WITHIN_MS, async () => (await look())[0]?.["active"] === false)
  } finally {
    await server.end({ timeout: 1 })
  }
  await append(unseen)
  const statuses = new Set<string>()
  const stop = new AbortController()
  const watch = watchConnectors(
    { ...connectorTarget(engines), names: ["orders"], idleMs: 3_000, log: (line) => lines.push(line) },
    stop.signal
  )
  try {
    await until("restarted", FLOWS_WITHIN_MS, async () => {
      if (lines.length > 0) return true
      for (const [state] of (await rest("GET", "status")).matchAll(/"state":"\w+"/g)) statuses.add(state)
      return false
    })
    expect(lines[0]).toBe("connector orders: restarting it, for its slot is idle")
    expect([...statuses]).toEqual(['"state":"RUNNING"'])
    await until("it runs", FLOWS_WITHIN_MS, () => lines.includes("connector orders: running"))
  } finally {
    stop.abort()
    await within("the watch's end", FLOWS_WITHIN_MS, watch)
  }

  await read((messages) => has(messages, unseen.id))
})

test("Connect killed: rows written meanwhile and afterwards arrive", async () => {
  const meanwhile = row({})
  const afterwards = row({})

  await engines.connect.kill()
  expect(engines.connect.alive()).toBe(false)
  await append(meanwhile)
  await engines.connect.restart()
  await append(afterwards)

  await read((messages) => has(messages, meanwhile.id) && has(messages, afterwards.id))
})

test("Postgres killed: every backend is gone, committed rows are there and flow again", async () => {
  const before = row({})
  const afterwards = row({})
  await append(before)

  await engines.postgres.kill()
  await engines.postgres.restart()
  await until(
    "reconnected",
    FLOWS_WITHIN_MS,
    async () => (await sql`select 1 from outbox where id = ${before.id}`).length === 1
  )
  await append(afterwards)

  await read((messages) => has(messages, before.id) && has(messages, afterwards.id))
})

test("the broker killed: rows flow again, acknowledged records are still there", async () => {
  const before = row({})
  const afterwards = row({})
  await append(before)
  await read((messages) => has(messages, before.id))

  await engines.kafka.kill()
  await engines.kafka.restart()
  await append(afterwards)

  await read((messages) => has(messages, before.id) && has(messages, afterwards.id))
})

const apply = (log?: (line: string) => void): Promise<void> =>
  applyConnectors({ ...connectorTarget(engines), names: ["orders"], withinMs: FLOWS_WITHIN_MS, log })

const connection = (database: string, user = "postgres", password = engines.postgres.superuserPassword): postgres.Sql =>
  postgres({
    host: engines.postgres.host,
    port: engines.postgres.port,
    database,
    user,
    password,
    max: 1,
    connect_timeout: 5,
    connection: { statement_timeout: 10_000 },
    onnotice: () => {}
  })

const makeDatabase = async (): Promise<void> => {
  const server = connection("postgres")
  const replicationPassword = readSecret(engines.postgres.secretsDir, "replication_password")
  await server`create role oncebox_owner`
  await server.unsafe(`create role oncebox_replication login replication password '${replicationPassword}'`)
  await server`create database orders owner oncebox_owner`
  await server`revoke connect on database orders from public`
  await server`grant connect on database orders to oncebox_replication`
  await server.end({ timeout: 1 })
  await sql.begin(async (tx) => {
    await tx`set local role oncebox_owner`
    await tx`
      create table outbox (
        id uuid not null,
        topic text not null,
        key text,
        type text not null,
        payload jsonb,
        correlation text,
        causation text,
        coordination text,
        definition text,
        traceparent text,
        schema_version int4 not null default 1,
        created_at timestamptz not null default now()
      ) partition by range (created_at)`
    await tx`create table outbox_old partition of outbox for values from (minvalue) to ('2026-01-01')`
    await tx`create table outbox_new partition of outbox for values from ('2026-01-01') to (maxvalue)`
    await tx`create table orders (id uuid primary key)`
    await makePublication(tx)
    await tx`grant select on outbox to oncebox_replication`
  })
}

const makePublication = (on: postgres.ISql): PromiseLike<unknown> =>
  on`create publication outbox for table outbox with (publish = 'insert', publish_via_partition_root = true)`

interface Row {
  readonly id: string
  readonly key: string
  readonly type: string
  readonly payload: unknown
  readonly correlation: string | null
  readonly causation: string | null
  readonly coordination: string | null
  readonly definition: string | null
  readonly traceparent: string | null
  readonly createdAt: string
}

const row = (given: Partial<Row>): Row => ({
  id: randomUUID(),
  key: randomUUID(),
  type: "OrderCreatedEvent",
  payload: {},
  correlation: null,
  causation: null,
  coordination: null,
  definition: null,
  traceparent: null,
  createdAt: "2026-11-21T09:30:00.123456Z",
  ...given
})

const append = async (...rows: readonly Row[]): Promise<void> => {
  for (const given of rows) {
    const { id, key, type, payload, correlation, causation, coordination, definition, traceparent, createdAt } = given
    const json = JSON.stringify(payload, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value))
    await sql`
      insert into outbox (id, topic, key, type, payload, correlation, causation, coordination, definition, traceparent, schema_version, created_at)
      values (${id}, ${TOPIC}, ${key}, ${type}, ${json}::text::jsonb, ${correlation}, ${causation}, ${coordination}, ${definition}, ${traceparent}, 3, ${createdAt}::text::timestamptz)`
  }
}

const kafka = (): Kafka =>
  new Kafka({
    brokers: engines.kafka.brokers.split(","),
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 50, retries: 20 }
  })

/** The topic from its beginning on, as far as it takes until `enough`. */
const read = async (enough: (messages: readonly KafkaMessage[]) => boolean): Promise<readonly KafkaMessage[]> => {
  const consumer = kafka().consumer({
    groupId: `test-${randomUUID()}`,
    sessionTimeout: 10_000,
    maxWaitTimeInMs: 50,
    allowAutoTopicCreation: false
  })
  const messages: KafkaMessage[] = []
  try {
    await consumer.connect()
    await consumer.subscribe({ topic: TOPIC, fromBeginning: true })
    await consumer.run({ eachMessage: async ({ message }) => void messages.push(message) })
    await until("records on the topic", FLOWS_WITHIN_MS, () => enough(messages))
    return messages
  } finally {
    await consumer.disconnect()
  }
}

/** How often each of the ids is on the topic by now. */
const countOf = async (ids: readonly string[]): Promise<ReadonlyMap<string, number>> => {
  const admin = kafka().admin()
  await admin.connect()
  const offsets = await admin.fetchTopicOffsets(TOPIC)
  await admin.disconnect()
  const total = offsets.reduce((sum, partition) => sum + Number(partition.high) - Number(partition.low), 0)
  const messages = await read((seen) => seen.length >= total)
  return new Map(ids.map((id) => [id, messages.filter((message) => idOf(message) === id).length]))
}

const idOf = (message: KafkaMessage): string | undefined => message.headers?.["id"]?.toString()
const has = (messages: readonly KafkaMessage[], id: string): boolean => messages.some((message) => idOf(message) === id)

const find = (messages: readonly KafkaMessage[], id: string): KafkaMessage => {
  const [found, ...more] = messages.filter((message) => idOf(message) === id)
  if (!found || more.length > 0) throw new Error(`${id} is there ${found ? more.length + 1 : 0} times`)
  return found
}

const headerTexts = (headers: IHeaders | undefined): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(headers ?? {}).map(([name, value]) => [name, Buffer.isBuffer(value) ? value.toString() : value])
  )

const rest = async (method: string, what: string): Promise<string> => {
  const url = `${engines.connect.url}/connectors/orders/${what}`
  let said = ""
  await until(`${method} ${what}`, FLOWS_WITHIN_MS, async () => {
    const response = await fetch(url, { method, signal: AbortSignal.timeout(5000) })
    said = await response.text()
    if (!response.ok) throw new Error(said)
    return true
  })
  return said
}

const code = (query: PromiseLike<unknown>): Promise<string> =>
  Promise.resolve(query).then(
    () => "none",
    (cause: unknown) => (cause instanceof postgres.PostgresError ? cause.code : String(cause))
  )
