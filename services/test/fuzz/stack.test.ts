/** Spoilt records of every type on real topics, among real orders: nothing stops, waits or restarts, and each is decided or parked. */
import { expect, setDefaultTimeout } from "bun:test"
import { SERVICE_NAMES } from "../../../stack/supervise.ts"
import { seeded } from "../../../outbox/testing/simulation/choices.ts"
import type { BrokerRecord } from "../../../outbox/broker/broker.ts"
import { ledgers, movements } from "../checks/goods-and-money.ts"
import { repeated } from "../checks/check.ts"
import { planOf, post, prepare, type Planned } from "../orders.ts"
import { onStack, useStack, type Stack } from "../stack.ts"
import { injectedHeader, partitionOf, type Raw } from "../tape.ts"
import { consumed, expectExactlyOnce, quiet, readRows, readSeen } from "../world.ts"
import { discardAll, dueOf, harmless, lettersAt, unexpected } from "./parked.ts"
import { contracts, recordsOf, type Source } from "./records.ts"

const seed = Number(process.env["SEED"] ?? 20260301)
/** PER_TYPE=2000 is half a million records, and took eleven minutes on two busy cores (2026-11-21). */
const perType = Number(process.env["PER_TYPE"] ?? 50)
const perTurn = 500
const ordersPerTurn = 2
/** A topic takes a batch of 1 MiB. */
const batchBytes = 500_000

setDefaultTimeout(600_000 + perType * 1_000)
useStack()

const rawOf = ({ topic, partition, key, value, headers }: BrokerRecord): Raw => ({
  topic,
  partition,
  key: key && Buffer.from(key),
  value: value && Buffer.from(value),
  // the client library has its own word for what a header may be
  headers: Object.fromEntries([
    ...Object.entries(headers).filter(([, one]) => one !== undefined),
    [injectedHeader, "fuzzed"]
  ]) as Raw["headers"]
})

/** What lies just before it on its partition, wherever a pass begins and ends. */
const harmlessBefore = (source: Source, { topic, partition }: BrokerRecord): ReadonlyArray<BrokerRecord> =>
  harmless(source, topic, 2).map((record) => ({ ...record, partition }))

const produce = async (stack: Stack, records: ReadonlyArray<Raw>): Promise<void> => {
  let batch: Array<Raw> = []
  let bytes = 0
  for (const record of records) {
    const size = 1_000 + (record.value?.length ?? 0)
    if (bytes + size > batchBytes && batch.length > 0) {
      await stack.tape.produce(batch)
      batch = []
      bytes = 0
    }
    batch.push(record)
    bytes += size
  }
  await stack.tape.produce(batch)
}

/** Places an order, once: whatever lies on the topics, its client is answered at the first try. */
const placed = async (stack: Stack, planned: Planned): Promise<readonly [string, Planned]> => {
  const { entry, key, body } = planned
  const answer = await post(`${stack.service(entry).url}/orders`, body, { "idempotency-key": key })
  expect(answer).toEqual({ ...answer, status: 202 })
  return [String(answer.body["id"]), planned]
}

onStack(`${perType} records of each type among orders are decided or parked (SEED=${seed})`, async (stack) => {
  const source: Source = { choices: seeded(seed), nowMs: Date.now(), ids: [], strangers: 8 }
  const turns = contracts.flatMap((contract) => {
    const records = recordsOf(source, contract, seed, perType)
    return Array.from({ length: Math.ceil(perType / perTurn) }, (_, n) => records.slice(n * perTurn, (n + 1) * perTurn))
  })
  const plan = planOf("fuzzed", turns.length * ordersPerTurn, 8)
  const pids = SERVICE_NAMES.map((name) => stack.service(name).pid)
  for (const name of SERVICE_NAMES) await discardAll(stack.service(name).adminUrl)
  await prepare(stack, plan)
  const before = await stack.tape.caughtUp()

  const orders = new Map<string, Planned>()
  for (const [n, records] of turns.entries()) {
    if (n % 10 === 9) console.log(`${n} of ${turns.length} turns`)
    const placing = plan.orders.slice(n * ordersPerTurn, (n + 1) * ordersPerTurn).map((one) => placed(stack, one))
    await produce(
      stack,
      records.flatMap(({ record }) => [...harmlessBefore(source, record), record].map(rawOf))
    )
    for (const [id, planned] of await Promise.all(placing)) orders.set(id, planned)
    await consumed(stack)
  }
  await expectExactlyOnce(stack, plan, orders)
  await quiet(stack)

  expect(SERVICE_NAMES.map((name) => stack.service(name).pid)).toEqual(pids)
  const fresh = stack.tape.records.filter((record) => record.offset >= (before.get(partitionOf(record)) ?? 0n))
  expect(fresh.filter(({ injected }) => injected).length).toBeGreaterThan(contracts.length * perType)
  const seen = await readSeen(stack)
  const counts: Record<string, string> = {}
  for (const { name, settled, parked } of dueOf(fresh)) {
    const service = stack.service(SERVICE_NAMES.find((one) => one === name) ?? "order")
    const own = seen.filter(({ consumer }) => consumer === name).map(({ id }) => id)
    expect([name, [...settled.difference(new Set(own))]]).toEqual([name, []])
    expect([name, repeated(own)]).toEqual([name, []])
    const letters = await lettersAt(service.adminUrl)
    expect([name, unexpected(letters)]).toEqual([name, []])
    expect([name, [...parked.difference(new Set(letters.map(({ id }) => id)))]]).toEqual([name, []])
    const ready = await fetch(`${service.url}/health/ready`, { signal: AbortSignal.timeout(10_000) })
    expect([name, ready.status]).toEqual([name, 200])
    counts[name] = `${settled.size} settled, ${letters.length} parked`
    await discardAll(service.adminUrl)
  }
  console.log(`${contracts.length} types, ${fresh.length} records`, counts)
  // of all rows, those of spoilt records, too
  const rows = await readRows(stack)
  // an account that was closed before it was opened has no ledger
  const accounts = rows.accounts.filter(({ balance, position }) => balance !== 0 || position !== 0)
  const whole = { ...rows, accounts, outbox: [], inbox: [], letters: [], records: [], charges: [] }
  const expected = { plan, placed: orders, subscribers: [] }
  expect([...ledgers(whole, expected), ...movements(whole, expected)]).toEqual([])
})
