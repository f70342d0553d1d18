/**
 * The closed loop on the real stack: whatever makes Debezium pass over rows of an outbox, the auditor publishes them again
 * and every order ends. The orchestrator's deadlines are of an hour here, so nothing that is lost is asked for again.
 */
import { expect, setDefaultTimeout } from "bun:test"
import { join } from "node:path"
import { connect } from "oncebox"
import { Redacted } from "effect"
import { microsecondsOf } from "../../outbox/delivery/seen.ts"
import { applyConnectors } from "../../connectors/apply.ts"
import { freePorts } from "../../stack/ports.ts"
import { AUDITOR, auditorEnv, connectorTarget, startService, type Service } from "../../stack/supervise.ts"
import { until } from "../../stack/wait.ts"
import { placeAll, planOf, prepare, type Placing, type Plan } from "./orders.ts"
import { connector, onStack, useStack, type Database, type Stack } from "./stack.ts"
import type { Taped } from "./tape.ts"
import { ended, expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const orderCount = 240
const happensWithinMs = 60_000
/** How long an order may take that waits for nobody. */
const orderTakesMs = 20_000
const graceMs = 4_000
const everyMs = 500

/** The stack with the patient orchestrator, while the body runs. */
const patiently = async (stack: Stack, body: (stack: Stack) => Promise<void>): Promise<void> => {
  await stack.service("orchestrator").stop()
  try {
    const script = join(import.meta.dir, "broken", "orchestrator-patient.ts")
    const patient = await stack.start("orchestrator", "orchestrator-patient", script)
    try {
      await body({ ...stack, service: (name) => (name === "orchestrator" ? patient : stack.service(name)) })
    } finally {
      await patient.stop()
    }
  } finally {
    await stack.service("orchestrator").restart()
  }
}

const startAuditor = async ({ engines }: Stack): Promise<Service> => {
  const [port = 0] = await freePorts([[]])
  const env = { ...auditorEnv(engines, port), AUDIT_GRACE_MS: String(graceMs), AUDIT_EVERY_MS: String(everyMs) }
  return startService(AUDITOR.name, env, join(engines.dir, "log", "auditor.log"), {
    ledger: engines.ledger,
    script: AUDITOR.script,
    readyWithinMs: happensWithinMs
  })
}

/** The sum of a metric over all outboxes. */
const metric = async (auditor: Service, name: string): Promise<number> => {
  const response = await fetch(`${auditor.url}/metrics`, { signal: AbortSignal.timeout(5_000) })
  const found = [...(await response.text()).matchAll(new RegExp(`^oncebox_${name}\\{.*\\} (\\S+)$`, "gm"))]
  if (found.length === 0) throw new Error(`the auditor has no ${name}`)
  return found.reduce((sum, [, value]) => sum + Number(value), 0)
}

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
    (await connector(stack, name, "GET", "status")).includes('"state":"STOPPED"')
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
type Fault = (
  stack: Stack,
  placing: Placing,
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

// Debezium sees that the slot is another one and publishes the whole table: what it has not missed for long needs nobody else.
const slotMadeAnew: Fault = (stack, placing, audited) =>
  without(stack, "products", async () => {
    await placing.done
    await audited()
    await administer(
      stack,
      "products",
      "select pg_drop_replication_slot('products_outbox')",
      "select pg_create_logical_replication_slot('products_outbox', 'pgoutput')"
    )
  })

/** Returns when an outbox has grown by so many rows; counts from now on, not from when it is called. */
const growth = async (stack: Stack, name: Database): Promise<(rows: number) => Promise<void>> => {
  const size = async (): Promise<number> =>
    (await stack.database(name)<Array<{ rows: number }>>`select count(*) as rows from outbox`)[0]?.rows ?? 0
  const before = await size()
  return (rows) => until(`${rows} more rows in ${name}`, happensWithinMs, async () => (await size()) >= before + rows)
}

const outOfThePublication: Fault = async (stack, placing) => {
  const sql = stack.database("payments")
  await sql`alter publication outbox drop table outbox`
  try {
    const grown = await growth(stack, "payments")
    await placing.done
    await grown(20)
  } finally {
    await sql`alter publication outbox add table outbox`
  }
}

const slotLost: Fault = (stack, placing, audited) =>
  without(stack, "orders", async () => {
    // the limit of its WAL is set on the server's command line; the limit of its idleness loses a slot the same way
    const limit = "idle_replication_slot_timeout"
    await administer(stack, "orders", `alter system set ${limit} = '1s'`, "select pg_reload_conf()")
    try {
      await placing.done
      await until("the slot is lost", happensWithinMs, async () => {
        const look = "select wal_status from pg_replication_slots where slot_name = 'orders_outbox'"
        const [slot] = await administer(stack, "orders", "checkpoint", look)
        return slot?.["wal_status"] === "lost"
      })
      await audited()
    } finally {
      await administer(stack, "orders", `alter system reset ${limit}`, "select pg_reload_conf()")
    }
  })

const offsetsMovedForward: Fault = (stack, placing) =>
  without(stack, "shipments", async () => {
    const grown = await growth(stack, "shipments")
    await placing.done
    await grown(5)
    await moveOffsets(stack, "shipments")
  })

/** Tells Connect that all was published that is in the WAL by now. */
const moveOffsets = async (stack: Stack, name: Database): Promise<void> => {
  const [place] = await administer(stack, name, "select (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint as lsn")
  const lsn = Number(place?.["lsn"])
  const said: unknown = JSON.parse(await connector(stack, name, "GET", "offsets"))
  // what Connect says of its own offsets
  const { offsets } = said as { readonly offsets: ReadonlyArray<{ partition: object; offset: object }> }
  const moved = offsets.map(({ partition, offset }) => ({
    partition,
    offset: { ...offset, lsn, lsn_proc: lsn, lsn_commit: lsn }
  }))
  const response = await fetch(`${stack.engines.connect.url}/connectors/${name}/offsets`, {
    method: "PATCH",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ offsets: moved }),
    signal: AbortSignal.timeout(10_000)
  })
  expect([response.status, moved.length]).toEqual([200, 1])
}

/** Whoever published a message, it is the same record. Answers how many were published more than once. */
const expectAlike = (stack: Stack, from: number): number => {
  const times = [...Map.groupBy(stack.tape.records.slice(from), ({ id }) => id).values()].filter(
    (copies) => copies.length > 1
  )
  for (const [first, ...others] of times) for (const other of others) expect(plain(other)).toEqual(plain(first))
  return times.length
}

/** A record without what differs by who wrote it: headers that say nothing, and how a time is written. */
const plain = (record: Taped | undefined) => {
  const headers = Object.entries(record?.headers ?? {}).flatMap(([name, value]) =>
    value === undefined || value === null ? [] : [[name, value.toString()] as const]
  )
  const { ce_time: time = "", ...rest } = Object.fromEntries(headers)
  return {
    ...rest,
    key: record?.key?.toString(),
    value: record?.value?.toString(),
    time: microsecondsOf(time)
  }
}

/** Orders flow, something makes Debezium pass over rows, and with the auditor every order ends as it must. */
const healing = (name: string, prefix: string, seed: number, fault: Fault): void =>
  onStack(name, (usual) =>
    patiently(usual, async (stack) => {
      const plan = planOf(prefix, orderCount, seed)
      await prepare(stack, plan)
      await stack.tape.caughtUp()
      const from = stack.tape.records.length
      const auditor = await startAuditor(stack)
      try {
        const placing = placeAll(stack, plan.orders)
        await placing.reached(orderCount / 4)
        await fault(stack, placing, () =>
          until("published again", happensWithinMs, async () => (await metric(auditor, "audit_republished_total")) > 0)
        )

        await expectExactlyOnce(stack, plan, placing.placed)
        await until("nothing unseen", happensWithinMs, async () => (await metric(auditor, "audit_exceptions")) === 0)
        const healed = await metric(auditor, "audit_healed_total")
        const twice = expectAlike(stack, from)
        console.log(`${name}: ${healed} messages healed, ${twice} published twice, ${placing.placed.size} orders ended`)
        expect(healed).toBeGreaterThan(0)
      } finally {
        await auditor.stop()
      }
    })
  )

healing("a replication slot is dropped and made anew while orders are committed", "anew", 31, slotMadeAnew)
healing("an outbox is out of its publication for a while", "unpublished", 32, outOfThePublication)
healing("a slot is lost, and its connector begins again", "slotless", 33, slotLost)
healing(
  "a connector's offsets are moved forward over rows that it has not published",
  "forward",
  34,
  offsetsMovedForward
)

onStack("without the auditor orders that were lost on the way never end, and with it they do", (usual) =>
  patiently(usual, async (stack) => {
    const plan: Plan = planOf("unaudited", 80, 35)
    await prepare(stack, plan)
    const placing = placeAll(stack, plan.orders)
    await placing.reached(20)
    await outOfThePublication(stack, placing, () => Promise.resolve())

    const all = until("all orders ended", orderTakesMs, async () => {
      await ended(stack, placing.placed)
      return true
    })
    await expect(all).rejects.toThrow(/not within|no answer within/)
    const auditor = await startAuditor(stack)
    try {
      await expectExactlyOnce(stack, plan, placing.placed)
      expect(await metric(auditor, "audit_healed_total")).toBeGreaterThan(0)
    } finally {
      await auditor.stop()
    }
  })
)
