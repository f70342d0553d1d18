/**
 * `bun run load`: orders at a running stack, and what they cost.
 *
 * One order in twenty asks for a product that is sold out, one in ten comes from a user without money. At the end stock
 * and money must add up, or the run does not count.
 */
import { join } from "node:path"
import { parseArgs } from "node:util"
import { Kafka, logLevel } from "kafkajs"
import { argumentsOf } from "./arguments.ts"
import { readLedger, lives } from "./ledger.ts"
import { readPorts } from "./engines.ts"
import { cpuSecondsOf } from "./cpu.ts"
import { text, until, within } from "./wait.ts"

const usage = `bun run load [options]

  --in-flight N  closed loop: N orders at any time
  --rate R       open loop: R orders a second, Poisson arrivals; latency counts from the scheduled arrival to the moment
                 the outcome is read from the order service's topic
  --seconds S    how long to measure (20)
  --warm-up S    for how long before that (10)
  --seed N       what the mix of orders follows (1)
  --dir D        the stack's folder (.stack/run)`

const { values } = argumentsOf(usage, () =>
  parseArgs({
    options: {
      "in-flight": { type: "string" },
      rate: { type: "string" },
      seconds: { type: "string", default: "20" },
      "warm-up": { type: "string", default: "10" },
      seed: { type: "string", default: "1" },
      dir: { type: "string", default: join(import.meta.dirname, "..", ".stack", "run") },
      help: { type: "boolean", short: "h" }
    }
  })
)
const seconds = Number(values.seconds)
const warmUp = Number(values["warm-up"])
const inFlight = values["in-flight"] === undefined ? undefined : Number(values["in-flight"])
const rate = values.rate === undefined ? undefined : Number(values.rate)

const orderUrl = "http://127.0.0.1:8002"
const productUrl = "http://127.0.0.1:8001"
const userUrl = "http://127.0.0.1:8000"

/** A generator of numbers in [0, 1) that a seed determines (mulberry32). */
const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}
const next = random(Number(values.seed))

const post = async (url: string, body: object, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(60_000)
  })

interface Account {
  readonly id: string
  readonly balance: number
}
interface Stocked {
  readonly id: string
  readonly price: number
  readonly quantity: number
}

const run = Date.now().toString(36)
const products: ReadonlyArray<Stocked> = [...Array(50).keys()].map((n) => ({
  id: `p${n}-${run}`,
  price: 1_000 + n,
  quantity: 1_000_000_000
}))
const soldOut: Stocked = { id: `gone-${run}`, price: 1_000, quantity: 0 }
const users: ReadonlyArray<Account> = [...Array(500).keys()].map((n) => ({
  id: `u${n}-${run}`,
  balance: 1_000_000_000_000
}))
const poor: Account = { id: `poor-${run}`, balance: 0 }

const prepare = async (): Promise<void> => {
  const created = async (url: string, body: object) => {
    const response = await post(url, body)
    if (response.status !== 201) throw new Error(`${url} answered ${response.status}: ${await response.text()}`)
  }
  await Promise.all([
    ...[...products, soldOut].map((product) => created(`${productUrl}/products`, { ...product, name: product.id })),
    ...[...users, poor].map((user) =>
      created(`${userUrl}/users`, { ...user, name: user.id, email: `${user.id}@example.org` })
    )
  ])
}

const pick = <A>(list: ReadonlyArray<A>): A => {
  const found = list[Math.floor(next() * list.length)]
  if (found === undefined) throw new Error("an empty list")
  return found
}

/** What an order should come to. */
const makeOrder = () => {
  const dice = next()
  const user = dice < 0.1 ? poor : pick(users)
  const product = dice >= 0.1 && dice < 0.15 ? soldOut : pick(products)
  const approved = user !== poor && product !== soldOut
  return { body: { userId: user.id, items: [{ productId: product.id, quantity: 1 }] }, approved, product, user }
}

/** Outcomes as the order service tells them on its topic: waiting for them costs the services nothing. */
const outcomes = new Map<string, string>()
const waiting = new Map<string, (status: string) => void>()

const followOutcomes = async (broker: string): Promise<() => Promise<void>> => {
  const consumer = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING }).consumer({
    groupId: `load-${run}`,
    maxWaitTimeInMs: 250
  })
  const joined = Promise.withResolvers<void>()
  consumer.on(consumer.events.GROUP_JOIN, () => joined.resolve())
  await consumer.connect()
  await consumer.subscribe({ topics: ["orders-events"], fromBeginning: false })
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      for (const { key, headers } of batch.messages) {
        const type = String(headers?.["ce_type"])
        const status =
          type === "OrderApprovedEvent" ? "APPROVED" : type === "OrderRejectedEvent" ? "REJECTED" : undefined
        if (status === undefined || key === null) continue
        const id = key.toString()
        const waits = waiting.get(id)
        if (waits === undefined) outcomes.set(id, status)
        else {
          waiting.delete(id)
          waits(status)
        }
      }
    }
  })
  await joined.promise
  return () => consumer.disconnect()
}

const outcomeOf = async (id: string): Promise<string> => {
  const early = outcomes.get(id)
  outcomes.delete(id)
  if (early !== undefined) return early
  const { promise, resolve } = Promise.withResolvers<string>()
  waiting.set(id, resolve)
  return within(`order ${id}`, 60_000, promise)
}

interface Tally {
  readonly latencies: Array<number>
  approved: number
  rejected: number
  wrong: number
  failed: number
}
const newTally = (): Tally => ({ latencies: [], approved: 0, rejected: 0, wrong: 0, failed: 0 })
const sold = new Map<string, number>()
const paid = new Map<string, number>()
let tally = newTally()

const place = async (scheduled: number): Promise<void> => {
  const into = tally
  const order = makeOrder()
  try {
    const response = await post(`${orderUrl}/orders`, order.body)
    // Our own service's answer, in the form that its contract promises.
    const answer = (await response.json()) as { readonly id: string }
    if (response.status !== 202) throw new Error(`${response.status} ${JSON.stringify(answer)}`)
    const approved = (await outcomeOf(answer.id)) === "APPROVED"
    into.latencies.push(performance.now() - scheduled)
    if (approved !== order.approved) into.wrong++
    if (!approved) into.rejected++
    else {
      into.approved++
      sold.set(order.product.id, (sold.get(order.product.id) ?? 0) + 1)
      paid.set(order.user.id, (paid.get(order.user.id) ?? 0) + order.product.price)
    }
  } catch (error) {
    into.failed++
    if (into.failed <= 3) console.error(text(error))
  }
}

const closedLoop = async (count: number, until: number): Promise<void> => {
  const worker = async () => {
    while (performance.now() < until) await place(performance.now())
  }
  await Promise.all(Array.from({ length: count }, worker))
}

const openLoop = async (perSecond: number, until: number): Promise<void> => {
  const open = new Set<Promise<void>>()
  let due = performance.now()
  while (due < until) {
    const wait = due - performance.now()
    if (wait > 0) await Bun.sleep(wait)
    const placed = place(due)
    open.add(placed)
    void placed.finally(() => open.delete(placed))
    due += (-Math.log(1 - next()) / perSecond) * 1000
  }
  await Promise.all(open)
}

const phase = (duration: number): Promise<void> => {
  const end = performance.now() + duration * 1000
  if (rate !== undefined) return openLoop(rate, end)
  return closedLoop(inFlight ?? 1024, end)
}

/** Stock and balances against what was approved. */
const conservation = async (): Promise<ReadonlyArray<string>> => {
  const errors: Array<string> = []
  await Promise.all([
    ...products.map(async ({ id, quantity }) => {
      const product = (await (await fetch(`${productUrl}/products/${id}`)).json()) as { quantity: number }
      const expected = quantity - (sold.get(id) ?? 0)
      if (product.quantity !== expected) errors.push(`${id}: ${product.quantity} in stock, expected ${expected}`)
    }),
    ...users.map(async ({ id, balance }) => {
      const expected = balance - (paid.get(id) ?? 0)
      let seen = Number.NaN
      await until(`balance of ${id}`, 15_000, async () => {
        seen = ((await (await fetch(`${userUrl}/users/${id}`)).json()) as { balance: number }).balance
        return seen === expected
      }).catch(() => errors.push(`${id}: balance ${seen}, expected ${expected}`))
    })
  ])
  return errors
}

const percentile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN

const main = async (): Promise<void> => {
  if (Number(process.env["BUN_CONFIG_MAX_HTTP_REQUESTS"] ?? 256) < (inFlight ?? 256)) {
    throw new Error(
      `Bun's fetch allows 256 requests at a time: set BUN_CONFIG_MAX_HTTP_REQUESTS=${(inFlight ?? 1024) * 2}`
    )
  }
  const page = readLedger(values.dir)
  const processes = page.processes.filter(lives)
  const [, kafkaPort] = readPorts(join(values.dir, "ports.json"))
  const unfollow = await followOutcomes(`127.0.0.1:${kafkaPort}`)
  await prepare()
  await phase(warmUp)
  const cpuBefore = cpuSecondsOf(processes)
  const started = performance.now()
  tally = newTally()
  await phase(seconds)
  const elapsed = (performance.now() - started) / 1000
  const cpuAfter = cpuSecondsOf(processes)
  const sorted = tally.latencies.toSorted((a, b) => a - b)
  const sagas = sorted.length
  console.log(
    `${rate === undefined ? `${inFlight ?? 1024} in flight` : `${rate}/s`}: ${(sagas / elapsed).toFixed(0)} sagas/s over ${elapsed.toFixed(1)} s (${tally.approved} approved, ${tally.rejected} rejected, ${tally.wrong} wrong, ${tally.failed} failed)`
  )
  console.log(
    `latency ms: p50 ${percentile(sorted, 0.5).toFixed(0)}  p95 ${percentile(sorted, 0.95).toFixed(0)}  p99 ${percentile(sorted, 0.99).toFixed(0)}  max ${percentile(sorted, 1).toFixed(0)}`
  )
  let total = 0
  for (const [name, after] of cpuAfter) {
    const used = after - (cpuBefore.get(name) ?? 0)
    total += used
    console.log(
      `  ${name.padEnd(14)} ${((used / sagas) * 1000).toFixed(3)} CPU-s per 1,000 sagas, ${((used / elapsed) * 100).toFixed(0)} % of a core`
    )
  }
  console.log(`  ${"all".padEnd(14)} ${((total / sagas) * 1000).toFixed(3)} CPU-s per 1,000 sagas`)
  const errors = await conservation()
  await unfollow()
  console.log(
    errors.length === 0 ? "stock and money add up" : `STOCK OR MONEY IS WRONG:\n${errors.slice(0, 10).join("\n")}`
  )
  if (errors.length > 0 || tally.wrong > 0) process.exit(1)
}

await main()
