/**
 * The closed loop on the real stack: whatever makes Debezium pass over rows of an outbox, the auditor publishes them again
 * and every order ends. The orchestrator's deadlines are of an hour here, so nothing that is lost is asked for again.
 */
import { expect, setDefaultTimeout } from "bun:test"
import { readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import { connect } from "oncebox"
import { Redacted } from "effect"
import { microsecondsOf } from "../../outbox/delivery/seen.ts"
import { freePorts } from "../../stack/ports.ts"
import { AUDITOR, auditorEnv, startService, type Service } from "../../stack/supervise.ts"
import { until, within } from "../../stack/wait.ts"
import {
  happensWithinMs,
  offsetsMovedForward,
  outOfThePublication,
  slotLost,
  slotMadeAnew,
  slotMadeAnewEarly,
  type Fault
} from "./debezium-faults.ts"
import { placeAll, planOf, prepare, type Plan, type Planned } from "./orders.ts"
import { onStack, useStack, type Stack } from "./stack.ts"
import type { Taped } from "./tape.ts"
import { ended, endedOf, expectExactlyOnce, quiet, unpublished } from "./world.ts"

setDefaultTimeout(300_000)
useStack([["orchestrator", join(import.meta.dir, "broken", "orchestrator-patient.ts")]])

const orderCount = 240
/** How many orders are placed when a fault is over. */
const afterwards = 20
const graceMs = 4_000
const everyMs = 500

const startAuditor = async ({ engines }: Stack, settings: Readonly<Record<string, string>> = {}): Promise<Service> => {
  const [port = 0] = await freePorts([[]])
  const times = { AUDIT_GRACE_MS: String(graceMs), AUDIT_EVERY_MS: String(everyMs) }
  const env = { ...auditorEnv(engines, port), ...times, ...settings }
  return startService(AUDITOR.name, env, join(engines.dir, "log", "auditor.log"), {
    ledger: engines.ledger,
    script: AUDITOR.script,
    readyWithinMs: happensWithinMs
  })
}

/** The sum of a metric over all outboxes, or over those that are labelled so. */
const metric = async (auditor: Service, name: string, label = ""): Promise<number> => {
  const response = await fetch(`${auditor.url}/metrics`, { signal: AbortSignal.timeout(5_000) })
  const found = [...(await response.text()).matchAll(new RegExp(`^oncebox_${name}\\{.*${label}.*\\} (\\S+)$`, "gm"))]
  if (found.length === 0) throw new Error(`the auditor has no ${name}`)
  return found.reduce((sum, [, value]) => sum + Number(value), 0)
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

/** Places orders, a quarter of them before the fault and the others in the midst of it. */
const through = async (
  stack: Stack,
  orders: ReadonlyArray<Planned>,
  fault: Fault,
  audited: () => Promise<void>
): Promise<ReadonlyMap<string, Planned>> => {
  const first = placeAll(stack, orders.slice(0, orders.length / 4))
  await first.reached(orders.length / 8)
  const placed = new Map<string, Planned>()
  const flow = async (): Promise<void> => {
    const others = placeAll(stack, orders.slice(orders.length / 4))
    await Promise.all([first.done, others.done])
    for (const [id, planned] of [...first.placed, ...others.placed]) placed.set(id, planned)
  }
  await fault(stack, flow, audited)
  return placed
}

/** Orders flow, something makes Debezium pass over rows, and with the auditor every order ends as it must. */
const healing = (name: string, prefix: string, seed: number, fault: Fault): void =>
  onStack(name, async (stack) => {
    const plan = planOf(prefix, orderCount, seed)
    await prepare(stack, plan)
    await stack.tape.caughtUp()
    const from = stack.tape.records.length
    const auditor = await startAuditor(stack)
    try {
      const placed = await through(stack, plan.orders, fault, () =>
        until("published again", happensWithinMs, async () => (await metric(auditor, "audit_republished_total")) > 0)
      )

      await expectExactlyOnce(stack, plan, placed)
      await until("nothing unseen", happensWithinMs, async () => (await metric(auditor, "audit_exceptions")) === 0)
      const healed = await metric(auditor, "audit_healed_total")
      const twice = expectAlike(stack, from)
      console.log(`${name}: ${healed} messages healed, ${twice} published twice, ${placed.size} orders ended`)
      expect(healed).toBeGreaterThan(0)
    } finally {
      await auditor.stop()
    }
  })

healing("a replication slot is dropped and made anew while orders are committed", "anew", 31, slotMadeAnew)
healing("a slot is lost, and its connector begins again", "slotless", 33, slotLost)

const nobody = (): Promise<void> => Promise.resolve()

/** Orders through a fault without the auditor; the body goes on from there, with as many more to place. */
const unaudited = (
  name: string,
  prefix: string,
  seed: number,
  fault: Fault,
  body: (stack: Stack, plan: Plan, placed: ReadonlyMap<string, Planned>, from: number) => Promise<void>
): void =>
  onStack(name, async (stack) => {
    const plan = planOf(prefix, 80 + afterwards, seed)
    await prepare(stack, plan)
    await stack.tape.caughtUp()
    const from = stack.tape.records.length
    const placed = await through(stack, plan.orders.slice(afterwards), fault, nobody)
    await body(stack, plan, placed, from)
  })

/** Orders that are placed when the fault is over. They end, all of them: answers those, with the ones before. */
const goOn = async (
  stack: Stack,
  plan: Plan,
  placed: ReadonlyMap<string, Planned>
): Promise<ReadonlyMap<string, Planned>> => {
  const later = placeAll(stack, plan.orders.slice(0, afterwards))
  await later.done
  await ended(stack, later.placed)
  return new Map([...placed, ...later.placed])
}

for (const [what, prefix, seed, fault] of [
  ["of an outbox out of its publication", "unaudited", 35, outOfThePublication],
  ["that a connector's offsets were moved over", "overtaken", 36, offsetsMovedForward],
  ["between two slots, the second of which nobody noticed,", "between", 34, slotMadeAnewEarly]
] as const) {
  const name = `without the auditor, orders ${what} never end, and with it they do`
  unaudited(name, prefix, seed, fault, async (stack, plan, before, from) => {
    const written = new Set((await unpublished(stack)).map(({ id }) => id))
    const placed = await goOn(stack, plan, before)
    // connectors read in the order of commits: what they have not published by now they never will
    await stack.tape.caughtUp()
    const lost = new Set((await unpublished(stack)).map(({ id }) => id).filter((id) => written.has(id)))
    await quiet(stack, happensWithinMs, lost)
    const open = before.size - (await endedOf(stack, before))
    expect([lost.size > 0, open > 0]).toEqual([true, true])

    const auditor = await startAuditor(stack)
    try {
      await expectExactlyOnce(stack, plan, placed)
      await until("nothing unseen", happensWithinMs, async () => (await metric(auditor, "audit_exceptions")) === 0)
      const healed = await metric(auditor, "audit_healed_total")
      console.log(`${name}: ${lost.size} messages lost, ${open} orders open, ${healed} messages healed`)
      expect(healed).toBeGreaterThanOrEqual(lost.size)
      expectAlike(stack, from)
    } finally {
      await auditor.stop()
    }
  })
}

for (const [what, prefix, seed, fault] of [
  ["made anew", "unhurried", 37, slotMadeAnew],
  ["lost", "snapshot", 38, slotLost]
] as const)
  unaudited(
    `a slot that is ${what} costs orders only time: its connector publishes the whole outbox when it is back`,
    prefix,
    seed,
    fault,
    async (stack, plan, before) => void (await expectExactlyOnce(stack, plan, await goOn(stack, plan, before)))
  )

onStack("a consumer that lives and does not advance is told of until it moves again", async (stack) => {
  const auditor = await startAuditor(stack, { GROUP_STANDS_MS: "2000" })
  const warnings = async (): Promise<string> => {
    const response = await fetch(`${auditor.url}/health`, { signal: AbortSignal.timeout(5_000) })
    // what the auditor says of itself
    return ((await response.json()) as { readonly warnings: ReadonlyArray<string> }).warnings.join("\n")
  }
  const logFile = join(stack.engines.dir, "log", "auditor.log")
  const before = statSync(logFile).size
  const log = (): string => readFileSync(logFile).subarray(before).toString()
  const complaint = /shipment has \d+ records to read and has not moved for \d+ s, with 1 in its group/
  const { host, port, superuserPassword } = stack.engines.postgres
  const owner = connect(
    { host, port, database: "shipments", username: "postgres", password: Redacted.make(superuserPassword) },
    { name: "e2e", max: 1, session: { transaction_timeout: 0, idle_in_transaction_session_timeout: 0 } }
  )
  try {
    const plan = planOf("standing", 40, 39)
    await prepare(stack, plan)
    const holding = Promise.withResolvers<void>()
    const locked = Promise.withResolvers<void>()
    const hold = owner.begin(async (transaction) => {
      // no pass can claim anything; the consumer's heartbeats go on
      await transaction`lock table inbox in access exclusive mode`
      locked.resolve()
      await holding.promise
    })
    await within("the lock", happensWithinMs, Promise.race([locked.promise, hold]))
    const placing = placeAll(stack, plan.orders)
    try {
      await until("it is told of", happensWithinMs, async () => complaint.test(await warnings()))
      expect(log()).toMatch(complaint)
      expect(await metric(auditor, "group_standing_seconds", 'group="shipment"')).toBeGreaterThan(2)
      expect(await metric(auditor, "group_members", 'group="shipment"')).toBe(1)
    } finally {
      holding.resolve()
      await within("the end of the lock", happensWithinMs, hold)
    }
    await placing.done
    await until("nothing is told any more", happensWithinMs, async () => !(await warnings()).includes("shipment"))
    expect(log()).toContain("shipment moves again")
    await expectExactlyOnce(stack, plan, placing.placed)
  } finally {
    await owner.end({ timeout: 1 })
    await auditor.stop()
  }
})
