/** Whether each message was decided once, by what it caused, and whether sagas went the way that they may go. */
import type { Saga, RowOf } from "oncebox"
import { OrderRejectedEvent } from "../../order/contract.ts"
import { definitions } from "../../orchestrator/definitions.ts"
import { repeated, when, type Seen, type World } from "../checks/check.ts"
import type { Commit } from "./dump.ts"

/** One decision sends no two messages of a type about the same thing: what is there twice was decided twice. */
export const decidedTwice = (commits: ReadonlyArray<Commit>): ReadonlyArray<string> =>
  repeated(
    commits.flatMap(({ database, cause, type, key }) =>
      cause === null ? [] : [`${database} sent ${type} of ${key} twice for ${cause}`]
    )
  )

/** Who answers each command that it decides, in the transaction in which it decides it. */
const answering = [
  { consumer: "product", topic: "products-commands", database: "products" },
  { consumer: "shipment", topic: "shipments-commands", database: "shipments" }
] as const

/** A command that was decided was answered. */
export const unanswered = (commits: ReadonlyArray<Commit>, inbox: ReadonlyArray<Seen>): ReadonlyArray<string> => {
  const seen = new Set(inbox.map(({ consumer, id }) => `${consumer} ${id}`))
  const causes = new Set(commits.map(({ database, cause }) => `${database} ${cause}`))
  return commits.flatMap(({ id, topic, type, key }) => {
    const [by] = answering.filter((one) => one.topic === topic)
    if (by === undefined || !seen.has(`${by.consumer} ${id}`)) return []
    return when(
      !causes.has(`${by.database} ${id}`),
      `${by.consumer} decided ${type} ${id} of ${key} and did not answer`
    )
  })
}

/** Who takes what back, and the row that it must have then: what was done, or the tombstone that refuses to do it. */
const undoing = [
  { consumer: "product", command: "CancelProductReservationCommand", rows: "reservations" },
  { consumer: "payment", command: "RefundPaymentCommand", rows: "payments" },
  { consumer: "shipment", command: "CancelShipmentCommand", rows: "shipments" }
] as const

/** An undo leaves a row, whatever it found. */
export const unfenced = (
  commits: ReadonlyArray<Commit>,
  world: Pick<World, "inbox" | "outbox" | (typeof undoing)[number]["rows"]>
): ReadonlyArray<string> => {
  const seen = new Set(world.inbox.map(({ consumer, id }) => `${consumer} ${id}`))
  const choreographed = new Set(
    world.outbox.flatMap(({ id, coordination }) => (coordination === "choreography" ? [id] : []))
  )
  return undoing.flatMap(({ consumer, command, rows }) => {
    const there = new Set(world[rows].map(({ order_id }) => order_id))
    return commits.flatMap(({ id, type, key }) => {
      const undoes = type === command || (type === OrderRejectedEvent.type && choreographed.has(id))
      const decided = undoes && seen.has(`${consumer} ${id}`)
      return when(decided && !there.has(key), `${consumer} took back ${key} for ${type} ${id} and has no row of it`)
    })
  })
}

type Entry = Pick<RowOf<(typeof Saga.tables)["saga_log"]>, "saga_id" | "position" | "state" | "step" | "attempt">
type Row = Pick<RowOf<(typeof Saga.tables)["sagas"]>, "id" | "definition" | "coordination">

const ranks: ReadonlyArray<Entry["state"]> = ["RUNNING", "COMPENSATING", "COMPLETED", "COMPENSATED"]

/** An orchestrated saga goes forward step by step, then back step by step, and then it has ended. A step is asked for again as its next attempt. */
export const strayed = (sagas: ReadonlyArray<Row>, log: ReadonlyArray<Entry>): ReadonlyArray<string> => {
  const entries = Map.groupBy(log, ({ saga_id }) => saga_id)
  return sagas.flatMap(({ id, definition, coordination }) => {
    if (coordination !== "orchestration") return []
    const steps = Object.values(definitions).find(({ name }) => name === definition)?.steps ?? []
    const own = (entries.get(id) ?? []).toSorted((a, b) => a.position - b.position)
    const wrong = own.find((entry, n) => {
      const before = own[n - 1]
      if (before === undefined) return false
      const over = before.state === "COMPLETED" || before.state === "COMPENSATED"
      const place = (one: Entry): number => steps.findIndex(({ name }) => name === one.step)
      const moved = place(entry) - place(before)
      return (
        over ||
        ranks.indexOf(entry.state) < ranks.indexOf(before.state) ||
        (entry.state === before.state && (entry.state === "RUNNING" ? moved < 0 : moved > 0)) ||
        (entry.state === before.state && moved === 0 && entry.attempt <= before.attempt)
      )
    })
    return wrong === undefined
      ? []
      : [
          `saga ${id} went to ${wrong.state} ${wrong.step} from ${own[own.indexOf(wrong) - 1]?.state} ${own[own.indexOf(wrong) - 1]?.step}`
        ]
  })
}
