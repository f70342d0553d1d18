/** What needs no database: reading records, passes over a working set, steps of a saga, the simulator. */
import { Effect, Semaphore } from "effect"
import type { Participant, Tables } from "oncebox"
import { simulate } from "oncebox/testing"
import type { BrokerRecord } from "../../outbox/broker/broker.ts"
import { readRecord } from "../../outbox/lanes/decode.ts"
import { contextOf } from "../../outbox/lanes/lane.ts"
import { decide, readerOf } from "../../outbox/lanes/topics.ts"
import { emptyDatabase, memoryLane } from "../../outbox/store/memory.ts"
import { orchestrator } from "../../services/orchestrator/orchestrator.ts"
import { product } from "../../services/product/product.ts"
import { shop } from "../../services/test/simulation/shop.ts"
import { ownCpu, roundTrips, type Bench } from "./measure.ts"
import { created, newOrders, products, recordsOf, reserve, reserved } from "./records.ts"

const messages = 5_000
const window = { slotMs: 86_400_000, slots: 8 }

/** Has a participant decide records on an empty database in memory, so many in a pass. */
const deciding = <T extends Tables>(
  by: Participant<T>,
  batch: number,
  rows: Iterable<[table: string, object[]]> = []
) => {
  const database = emptyDatabase()
  for (const [name, all] of rows)
    database.tables.set(name, new Map(all.map((row) => [String((row as { readonly id: string }).id), row])))
  const lane = memoryLane(database, Semaphore.makeUnsafe(1))
  const context = contextOf(by, window)
  const reader = readerOf(context)
  return async (records: ReadonlyArray<BrokerRecord>): Promise<void> => {
    for (let at = 0; at < records.length; at += batch) {
      const part = records.slice(at, at + batch)
      const outcomes = await Effect.runPromise(decide(context, lane, reader, part))
      const odd = outcomes.find(({ _tag }) => _tag !== "done")
      if (odd !== undefined || outcomes.length !== part.length) throw new Error(`not decided: ${JSON.stringify(odd)}`)
    }
  }
}

const decoding: Bench["work"] = async () => {
  const records = recordsOf(newOrders(messages), reserve)
  const reader = readerOf(contextOf(product, window))
  const seconds = await ownCpu(() => {
    for (const record of records)
      if (readRecord(reader, record)._tag !== "message") throw new Error("a record can't be read")
  })
  return { units: messages, seconds }
}

const reserving: Bench["work"] = async () => {
  const records = recordsOf(newOrders(messages), reserve)
  const decideAll = deciding(product, 50, [["products", [...products]]])
  return { units: messages, seconds: await ownCpu(() => decideAll(records)) }
}

const sagaSteps: Bench["work"] = async () => {
  const orders = newOrders(messages)
  const decideAll = deciding(orchestrator, 50)
  await decideAll(recordsOf(orders, created))
  const replies = recordsOf(orders, reserved)
  return { units: messages, seconds: await ownCpu(() => decideAll(replies)) }
}

let seed = 1
const simulating: Bench["work"] = async () => {
  const orders = 200
  const scenario = shop(orders)
  const runs = 3
  const seconds = await ownCpu(() => {
    const { failure } = simulate(scenario, { seed, runs })
    if (failure !== undefined) throw new Error(`seed ${failure.seed} does not hold`)
    seed += runs
  })
  return { units: orders * runs, seconds }
}

export const inMemory: ReadonlyArray<Bench> = [
  { name: "decode", unit: "record", work: decoding, reference: roundTrips },
  { name: "working set", unit: "message in a pass of 50", work: reserving, reference: roundTrips },
  { name: "saga step", unit: "message in a pass of 50", work: sagaSteps, reference: roundTrips },
  { name: "simulator", unit: "saga", work: simulating, reference: roundTrips }
]
