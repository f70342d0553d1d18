/** Which orders may have ended in a timeout: those of which the saga's log shows that all was tried, and of which nothing is left. */
import type { SagaDefinition } from "oncebox"
import { CancelOrderCommand } from "../../order/contract.ts"
import { definitions } from "../../orchestrator/definitions.ts"
import { by } from "../checks/check.ts"
import type { LogEntry, SagaRow, Snapshot } from "./dump.ts"

type World = Pick<
  Snapshot["world"],
  "orders" | "sagas" | "sagaLog" | "reservations" | "payments" | "shipments" | "charges"
>

export const givenUp = (world: World): ReadonlySet<string> => {
  const sagas = by(world.sagas, ({ id }) => id)
  const entries = Map.groupBy(world.sagaLog, ({ saga_id }) => saga_id)
  const held = heldIn(world)
  return new Set(
    world.orders.flatMap(({ id, status, reason }) => {
      const saga = sagas.get(id)
      if (status !== "REJECTED" || reason === null || saga?.state !== "COMPENSATED") return []
      const definition = Object.values(definitions).find(({ name }) => name === saga.definition)
      if (definition === undefined || held.has(id)) return []
      const log = (entries.get(id) ?? []).toSorted((a, b) => a.position - b.position)
      const shown = saga.coordination === "orchestration" ? triedInVain : endedByDeadline
      return shown(definition, saga, log, reason) ? [id] : []
    })
  )
}

/** Orders that still hold stock, money or a shipment. */
const heldIn = ({ reservations, payments, shipments, charges }: World): ReadonlySet<string> => {
  const undone = new Set(["FAILED", "CANCELLED", "REFUNDED"])
  return new Set([
    ...[...reservations, ...payments, ...shipments].flatMap(({ order_id, status }) =>
      undone.has(status) ? [] : [order_id]
    ),
    ...charges.flatMap(({ key, status }) => (status === "CHARGED" ? [key.replace(/^charge:/, "")] : []))
  ])
}

// they are texts after they were written and read
const timeOf = (date: Date): number => new Date(date).getTime()

type Shown = (definition: SagaDefinition, saga: SagaRow, log: ReadonlyArray<LogEntry>, reason: string) => boolean

/** The step that the reason names was asked for as often as it may be, and waited for each time; or the saga's own time was over. */
const triedInVain: Shown = ({ steps, pivot, deadlineMs }, { started_at }, log, reason) => {
  const n = log.findIndex(({ state }) => state !== "RUNNING")
  const [waiting, gaveUp] = [log[n - 1], log[n]]
  const index = steps.findIndex(({ name }) => name === waiting?.step)
  const step = steps[index]
  if (waiting === undefined || gaveUp === undefined || step === undefined || index >= pivot) return false
  if (!gaveUp.cause_type.startsWith("due ") || gaveUp.reason !== reason) return false
  if (reason !== `${step.name.toUpperCase()}_TIMEOUT`) return false
  const asked = log.slice(0, n).filter((entry) => entry.step === step.name)
  const exhausted =
    asked.length === step.attempts &&
    asked.every(({ attempt, at }, tried) => {
      const next = asked[tried + 1] ?? gaveUp
      return attempt === tried + 1 && timeOf(next.at) - timeOf(at) >= step.deadlineMs * 2 ** tried
    })
  return exhausted || timeOf(gaveUp.at) - timeOf(started_at) >= deadlineMs
}

/** Of a choreographed saga nobody waits for a step: its end was asked for when its own time was over. */
const endedByDeadline: Shown = ({ deadlineMs }, { started_at }, log, reason) =>
  reason === "TIMEOUT" &&
  log.some(
    ({ at, cause_type, asked_type }) =>
      cause_type.startsWith("due ") &&
      asked_type === CancelOrderCommand.type &&
      timeOf(at) - timeOf(started_at) >= deadlineMs
  )

/** In runs of fewer orders none may be given up. */
const fewOrders = 10_000
const mostPercent = 1

/** Whether more were given up than the size of the run forgives. */
export const tooMany = (count: number, orders: number): ReadonlyArray<string> => {
  const most = orders < fewOrders ? 0 : Math.floor((orders * mostPercent) / 100)
  return count > most ? [`${count} of ${orders} orders were given up, more than ${most}`] : []
}
