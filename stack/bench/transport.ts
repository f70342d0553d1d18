/**
 * What it costs to carry a message and nothing else: rows go into five outboxes at once, as fast as they are taken, and through
 * Debezium and the broker to one consumer that does nothing. A saga sends ten messages, so it can't cost less than ten times
 * this. On the stack's own engines, with its own settings.
 */
import { rmSync } from "node:fs"
import { join } from "node:path"
import { Deferred, Effect, Fiber, Layer, Redacted, type Scope } from "effect"
import { Broker, connect, layerKafka, type BrokerError } from "oncebox"
import { seal } from "../../outbox/message.ts"
import { appendStatement, outboxRows } from "../../outbox/store/outbox.ts"
import { readSecret, startEngines } from "../engines.ts"
import { readLedger } from "../ledger.ts"
import { cpuSecondsOf } from "../load/usage.ts"
import { prepare, runConnectors } from "../supervise.ts"
import { ownCpu, roundTrips, type Bench, type Cost } from "./measure.ts"
import { created, newOrders } from "./records.ts"

/** Rows of one transaction. */
const batches = [40, 200]
/** Of one outbox. */
const rowsOfRound = 4_800
/** Two JVMs compile for as long as they meet new work. */
const warmUps = 16
const nameOf = (batch: number): string => `transport of ${batch}`

export const transportNames: ReadonlyArray<string> = batches.map(nameOf)

/** By database: the topic that its rows go to. */
const topicOf = {
  orders: "orders-events",
  products: "products-events",
  payments: "payments-events",
  shipments: "shipments-events",
  sagas: "orders-commands"
} as const

/** The benches, with engines that live as long as the scope. */
export const transportIn = Effect.fnUntraced(function* (
  dir: string
): Effect.fn.Return<ReadonlyArray<Bench>, Error | BrokerError, Scope.Scope> {
  // what earlier runs carried would only grow
  rmSync(join(dir, "data"), { recursive: true, force: true })
  const engines = yield* Effect.acquireRelease(
    Effect.promise(() => startEngines({ dir, prepare })),
    (running) => Effect.promise(() => running.stop())
  )
  yield* Effect.promise(() => runConnectors(engines))
  const { host, port, secretsDir } = engines.postgres
  const password = Redacted.make(readSecret(secretsDir, "owner_password"))
  const outboxes = yield* Effect.forEach(Object.entries(topicOf), ([database, topic]) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const sql = connect({ host, port, database, username: "oncebox_owner", password }, { name: "bench", max: 1 })
        return { sql, topic }
      }),
      ({ sql }) => Effect.promise(() => sql.end({ timeout: 1 }))
    )
  )

  const brokers = [engines.kafka.brokers]
  const context = yield* Layer.build(layerKafka({ brokers, clientId: "bench" }))
  const subscription = yield* Effect.flatMap(Broker, (broker) =>
    broker.subscribe({ group: "bench", topics: Object.values(topicOf) })
  ).pipe(Effect.provide(context))
  const awaited = new Set<string>()
  let arrived = Deferred.makeUnsafe<void>()
  const reader = yield* Effect.gen(function* () {
    const records = yield* subscription.take({ messages: 1_000, bytes: 8_000_000 })
    for (const { key } of records) awaited.delete(String(key))
    if (awaited.size === 0) yield* Deferred.succeed(arrived, undefined)
    yield* subscription.processed(records)
  }).pipe(Effect.forever, Effect.forkScoped)

  /** Carries a round of messages. */
  const carry = async (batch: number): Promise<void> => {
    const sent = outboxes.map((outbox) => ({ ...outbox, orders: newOrders(rowsOfRound) }))
    arrived = Deferred.makeUnsafe()
    for (const { orders } of sent) for (const order of orders) awaited.add(order)
    const writing = sent.map(async ({ sql, topic, orders }) => {
      for (let at = 0; at < orders.length; at += batch) {
        const rows = orders.slice(at, at + batch).map((order, n) => rowOf(order, n, topic))
        await sql.unsafe(appendStatement, outboxRows(rows), { prepare: true })
      }
    })
    const all = Effect.andThen(
      Effect.promise(() => Promise.all(writing)),
      Deferred.await(arrived)
    )
    await Effect.runPromise(
      Effect.raceFirst(all, Fiber.join(reader)).pipe(
        Effect.timeoutOrElse({
          duration: "60 seconds",
          orElse: () => Effect.die(new Error(`${awaited.size} of ${outboxes.length * rowsOfRound} rows did not arrive`))
        })
      )
    )
  }
  for (let n = 0; n < warmUps; n++) yield* Effect.promise(() => carry(batches[n % batches.length] ?? 1))

  const work = (batch: number) => async (): Promise<Cost> => {
    const { processes } = readLedger(dir)
    const before = cpuSecondsOf(processes)
    const own = await ownCpu(() => carry(batch))
    const parts = [...cpuSecondsOf(processes)].map(
      ([name, seconds]) => [name, seconds - (before.get(name) ?? 0)] as const
    )
    const all: Readonly<Record<string, number>> = { ...Object.fromEntries(parts), "writer and reader": own }
    return {
      units: outboxes.length * rowsOfRound,
      seconds: Object.values(all).reduce((sum, seconds) => sum + seconds, 0),
      parts: all
    }
  }
  return batches.map((batch) => ({ name: nameOf(batch), unit: "row", work: work(batch), reference: roundTrips }))
})

const rowOf = (orderId: string, n: number, topic: string) => {
  const origin = {
    correlation: orderId,
    causation: Bun.randomUUIDv7(),
    coordination: "orchestration",
    definition: "place-order",
    traceparent: null
  } as const
  return { ...seal(created(orderId, n), origin, () => Bun.randomUUIDv7()), topic }
}
