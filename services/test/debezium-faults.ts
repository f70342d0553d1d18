/** What makes the real Debezium pass over rows of an outbox, or read them late. */
import { expect } from "bun:test"
import { Redacted } from "effect"
import { connect } from "oncebox"
import { applyConnectors } from "../../connectors/apply.ts"
import { connectorTarget } from "../../stack/supervise.ts"
import { until } from "../../stack/wait.ts"
import { connector, type Database, type Stack } from "./stack.ts"

export const happensWithinMs = 60_000

/** As the superuser, in a database. */
const administer = async ({ engines }: Stack, database: Database, ...statements: ReadonlyArray<string>) => {
  const { host, port, superuserPassword } = engines.postgres
  const password = Redacted.make(superuserPassword)
  const sql = connect({ host, port, database, username: "postgres", password }, { name: "e2e", max: 1 })
  try {
    let rows: ReadonlyArray<Readonly<Record<string, unknown>>> = []
    for (const statement of statements) rows = await sql.unsafe(statement)
    return rows
  } finally {
    await sql.end({ timeout: 1 })
  }
}

const stopConnector = async (stack: Stack, name: Database): Promise<void> => {
  await connector(stack, name, "PUT", "stop")
  await until(`connector ${name} stopped`, happensWithinMs, async () =>
    /"state":"STOPPED".*"tasks":\[\]/.test(await connector(stack, name, "GET", "status"))
  )
  await until(`nobody reads slot ${name}_outbox`, happensWithinMs, async () => {
    const [slot] = await administer(
      stack,
      name,
      `select active from pg_replication_slots where slot_name = '${name}_outbox'`
    )
    return slot?.["active"] === false
  })
}

const runConnector = (stack: Stack, name: string): Promise<void> =>
  applyConnectors({ ...connectorTarget(stack.engines), names: [name], withinMs: happensWithinMs })

/** Where messages are lost, and how; it ends with Debezium at work again. */
export type Fault = (
  stack: Stack,
  /** Places orders; returns when they were answered. */
  flow: () => Promise<void>,
  /** Returns when the auditor has published something again. */
  audited: () => Promise<void>
) => Promise<void>

/** Stops a connector meanwhile. */
const without = async (stack: Stack, name: Database, body: () => Promise<void>): Promise<void> => {
  try {
    await stopConnector(stack, name)
    await body()
  } finally {
    await runConnector(stack, name)
  }
}

const makeSlotAnew = (stack: Stack) =>
  administer(
    stack,
    "products",
    "select pg_drop_replication_slot('products_outbox')",
    "select pg_create_logical_replication_slot('products_outbox', 'pgoutput')"
  )

// Debezium sees that the slot begins after what it read last and publishes the whole table: what it has not missed for long
// needs nobody else.
export const slotMadeAnew: Fault = (stack, flow, audited) =>
  without(stack, "products", async () => {
    await flow()
    await audited()
    await makeSlotAnew(stack)
  })

/** Of a connector that has read nothing since its snapshot: it does not see that the slot is another one. */
export const slotMadeAnewEarly: Fault = (stack, flow) =>
  without(stack, "products", async () => {
    const grown = await growth(stack, "products")
    await flow()
    await grown(5)
    await changeOffset(stack, "products", ({ lsn_proc: _read, lsn_commit: _committed, ...snapshot }) => snapshot)
    await makeSlotAnew(stack)
  })

/** Returns when an outbox has grown by so many rows; counts from now on, not from when it is called. */
const growth = async (stack: Stack, name: Database): Promise<(rows: number) => Promise<void>> => {
  const size = async (): Promise<number> =>
    (await stack.database(name)<Array<{ rows: number }>>`select count(*) as rows from outbox`)[0]?.rows ?? 0
  const before = await size()
  return (rows) => until(`${rows} more rows in ${name}`, happensWithinMs, async () => (await size()) >= before + rows)
}

export const outOfThePublication: Fault = async (stack, flow) => {
  const sql = stack.database("payments")
  await sql`alter publication outbox drop table outbox`
  try {
    const grown = await growth(stack, "payments")
    await flow()
    await grown(20)
  } finally {
    await sql`alter publication outbox add table outbox`
  }
}

/** So many segments of the WAL (16 MB each) are ended; returns when all slots but one have read beyond them. */
const passedBy = async (stack: Stack, slot: string, segments: number): Promise<void> => {
  const end = "select pg_logical_emit_message(false, 'segment', ''), pg_switch_wal()"
  const [place] = await administer(
    stack,
    "orders",
    ...Array.from({ length: segments }, () => end),
    "select pg_current_wal_lsn()::text as lsn"
  )
  // a slot moves on to where it is told which transactions are open, once what it has read is confirmed
  const look = `select bool_and(restart_lsn >= '${String(place?.["lsn"])}') as past from pg_replication_slots where slot_name <> '${slot}'`
  const past = async (): Promise<boolean> => {
    const [others] = await administer(stack, "orders", "select pg_log_standby_snapshot()", look)
    return others?.["past"] === true
  }
  await until("the other slots are past it", happensWithinMs, past, 500)
}

export const slotLost: Fault = (stack, flow, audited) =>
  without(stack, "orders", async () => {
    await flow()
    await passedBy(stack, "orders_outbox", 4)
    const limit = "max_slot_wal_keep_size"
    await administer(stack, "orders", `alter system set ${limit} = '32MB'`, "select pg_reload_conf()")
    try {
      const look = "select wal_status, invalidation_reason from pg_replication_slots where slot_name = 'orders_outbox'"
      let slot: Readonly<Record<string, unknown>> | undefined
      await until("the slot is lost", happensWithinMs, async () => {
        slot = (await administer(stack, "orders", "checkpoint", look))[0]
        return slot?.["wal_status"] === "lost"
      })
      expect(slot?.["invalidation_reason"]).toBe("wal_removed")
      await audited()
    } finally {
      await administer(stack, "orders", `alter system reset ${limit}`, "select pg_reload_conf()")
    }
  })

export const offsetsMovedForward: Fault = (stack, flow) =>
  without(stack, "shipments", async () => {
    const grown = await growth(stack, "shipments")
    await flow()
    await grown(5)
    await moveOffsets(stack, "shipments")
  })

type Offset = Readonly<Record<string, unknown>>

/** Has Connect think that it has come elsewhere with a connector that is stopped. */
const changeOffset = async (stack: Stack, name: Database, change: (offset: Offset) => Offset): Promise<void> => {
  const said: unknown = JSON.parse(await connector(stack, name, "GET", "offsets"))
  // what Connect says of its own offsets
  const { offsets } = said as { readonly offsets: ReadonlyArray<{ partition: object; offset: Offset }> }
  const changed = offsets.map(({ partition, offset }) => ({ partition, offset: change(offset) }))
  const response = await fetch(`${stack.engines.connect.url}/connectors/${name}/offsets`, {
    method: "PATCH",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ offsets: changed }),
    signal: AbortSignal.timeout(10_000)
  })
  expect([response.status, changed.length]).toEqual([200, 1])
}

/** Tells Connect that all was published that is in the WAL by now. */
const moveOffsets = async (stack: Stack, name: Database): Promise<void> => {
  const [place] = await administer(stack, name, "select (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint as lsn")
  const lsn = Number(place?.["lsn"])
  await changeOffset(stack, name, (offset) => ({ ...offset, lsn, lsn_proc: lsn, lsn_commit: lsn }))
}
