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
import { placeAll, planOf, prepare, type Placing, type Plan } from "./orders.ts"
import { onStack, useStack, type Stack } from "./stack.ts"
import type { Taped } from "./tape.ts"
import { ended, expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const orderCount = 240
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
healing("the same, before its connector has read anything from it", "early", 30, slotMadeAnewEarly)
healing("an outbox is out of its publication for a while", "unpublished", 32, outOfThePublication)
healing("a slot is lost, and its connector begins again", "slotless", 33, slotLost)
healing(
  "a connector's offsets are moved forward over rows that it has not published",
  "forward",
  34,
  offsetsMovedForward
)

const nobody = (): Promise<void> => Promise.resolve()

/** A fault without the auditor; the body goes on from there. */
const unaudited = (
  name: string,
  prefix: string,
  seed: number,
  fault: Fault,
  body: (stack: Stack, plan: Plan, placing: Placing) => Promise<void>
): void =>
  onStack(name, (usual) =>
    patiently(usual, async (stack) => {
      const plan = planOf(prefix, 80, seed)
      await prepare(stack, plan)
      const placing = placeAll(stack, plan.orders)
      await placing.reached(20)
      await fault(stack, placing, nobody)
      await body(stack, plan, placing)
    })
  )

for (const [what, prefix, seed, fault] of [
  ["of an outbox out of its publication", "unaudited", 35, outOfThePublication],
  ["that a connector's offsets were moved over", "overtaken", 36, offsetsMovedForward],
  ["between two slots, the second of which nobody noticed,", "between", 34, slotMadeAnewEarly]
] as const)
  unaudited(
    `without the auditor, orders ${what} never end, and with it they do`,
    prefix,
    seed,
    fault,
    async (stack, plan, placing) => {
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
    }
  )

for (const [what, prefix, seed, fault] of [
  ["made anew", "unhurried", 37, slotMadeAnew],
  ["lost", "snapshot", 38, slotLost]
] as const)
  unaudited(
    `a slot that is ${what} costs orders only time: its connector publishes the whole outbox when it is back`,
    prefix,
    seed,
    fault,
    async (stack, plan, placing) => void (await expectExactlyOnce(stack, plan, placing.placed))
  )

onStack("a consumer that lives and does not advance is told of until it moves again", (stack) =>
  patiently(stack, async (patient) => {
    const auditor = await startAuditor(patient, { GROUP_STANDS_MS: "2000" })
    const warnings = async (): Promise<string> => {
      const response = await fetch(`${auditor.url}/health`, { signal: AbortSignal.timeout(5_000) })
      // what the auditor says of itself
      return ((await response.json()) as { readonly warnings: ReadonlyArray<string> }).warnings.join("\n")
    }
    const logFile = join(patient.engines.dir, "log", "auditor.log")
    const before = statSync(logFile).size
    const log = (): string => readFileSync(logFile).subarray(before).toString()
    const complaint = /shipment has \d+ records to read and has not moved for \d+ s, with 1 in its group/
    const { host, port, superuserPassword } = patient.engines.postgres
    const owner = connect(
      { host, port, database: "shipments", username: "postgres", password: Redacted.make(superuserPassword) },
      { name: "e2e", max: 1, session: { transaction_timeout: 0, idle_in_transaction_session_timeout: 0 } }
    )
    try {
      const plan = planOf("standing", 40, 39)
      await prepare(patient, plan)
      const holding = Promise.withResolvers<void>()
      const locked = Promise.withResolvers<void>()
      const hold = owner.begin(async (transaction) => {
        // no pass can claim anything; the consumer's heartbeats go on
        await transaction`lock table inbox in access exclusive mode`
        locked.resolve()
        await holding.promise
      })
      await within("the lock", happensWithinMs, Promise.race([locked.promise, hold]))
      const placing = placeAll(patient, plan.orders)
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
      await expectExactlyOnce(patient, plan, placing.placed)
    } finally {
      await owner.end({ timeout: 1 })
      await auditor.stop()
    }
  })
)
