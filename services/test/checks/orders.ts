/** What became of orders: each has ended as it had to, and all who took part say so. */
import { by, repeated, sameLines, sum, when, type Check } from "./check.ts"
import type { Planned } from "../orders.ts"

/** Every order that was answered with a 2xx has ended, and there are no others: one order for each client's key. */
export const terminal: Check = ({ orders }, { placed }) => {
  const stored = by(orders, ({ id }) => id)
  return [
    ...[...placed].flatMap(([id, { key }]) => {
      const status = stored.get(id)?.status
      return when(status !== "APPROVED" && status !== "REJECTED", `order ${id} (${key}) is ${status ?? "not there"}`)
    }),
    ...orders.flatMap(({ id }) => when(!placed.has(id), `order ${id} is nobody's`))
  ]
}

/** Each order ended as it had to, at the prices of the products; of those that compete for stock as many as there was. */
export const outcomes: Check = ({ orders, reservations }, { plan, placed, givenUp }) => {
  const prices = new Map(plan.products.map(({ id, price }) => [id, price]))
  const stored = by(orders, ({ id }) => id)
  const approved = new Map<string, number>()
  const asked = new Map<string, number>()
  const released = new Map<string, number>()
  const reserved = new Set(reservations.flatMap(({ order_id, lines }) => (lines.length > 0 ? [order_id] : [])))
  const count = (counts: Map<string, number>, items: Planned["body"]["items"]): void => {
    for (const { productId, quantity } of items) counts.set(productId, (counts.get(productId) ?? 0) + quantity)
  }
  const wrong = [...placed].flatMap(([id, { body, outcome }]) => {
    const order = stored.get(id)
    if (order === undefined) return []
    const said = `${order.status}${order.reason === null ? "" : ` ${order.reason}`}`
    const priced = body.items.map((item) => ({ ...item, price: prices.get(item.productId) ?? 0 }))
    const total = sum(priced.map(({ quantity, price }) => quantity * price))
    const charged = when(
      order.status === "APPROVED" && (order.total !== total || !sameLines(order.lines ?? [], priced)),
      `order ${id} has total ${order.total} and lines ${JSON.stringify(order.lines)}, not ${total} for ${JSON.stringify(priced)}`
    )
    if (givenUp?.has(id) === true && said.endsWith("TIMEOUT")) {
      // who never had it kept it from nobody
      if (outcome.status === "FIRST_COME" && reserved.has(id)) count(released, body.items)
      return []
    }
    if (outcome.status === "FIRST_COME") {
      count(asked, body.items)
      if (order.status === "APPROVED") count(approved, body.items)
      return [...charged, ...when(said !== "APPROVED" && said !== "REJECTED OUT_OF_STOCK", `order ${id} is ${said}`)]
    }
    if (outcome.status === "RACING")
      return [...charged, ...when(said !== "APPROVED" && said !== "REJECTED USER_CANCELLED", `order ${id} is ${said}`)]
    const due = outcome.status === "APPROVED" ? "APPROVED" : `REJECTED ${outcome.reason}`
    return [...charged, ...when(said !== due, `order ${id} is ${said}, not ${due}`)]
  })
  return [
    ...wrong,
    ...[...asked].flatMap(([id, wanted]) => {
      const due = Math.min(wanted, plan.products.find((product) => product.id === id)?.quantity ?? 0)
      const sold = approved.get(id) ?? 0
      // who gave up had it in the meantime
      const least = due - (released.get(id) ?? 0)
      return when(sold > due || sold < least, `${sold} of ${id} were sold, not ${due}`)
    })
  ]
}

/** An approved order has stock, money and shipment; a rejected one has none of them. */
export const states: Check = ({ orders, reservations, payments, shipments }) => {
  const reservation = by(reservations, ({ order_id }) => order_id)
  const payment = by(payments, ({ order_id }) => order_id)
  const shipment = by(shipments, ({ order_id }) => order_id)
  return orders.flatMap(({ id, status, total, lines }) => {
    const [reserved, paid, shipped] = [reservation.get(id), payment.get(id), shipment.get(id)]
    const found = [reserved?.status, paid?.status, shipped?.status].map((state) => state ?? "none").join(", ")
    const holds = [reserved?.status === "RESERVED", paid?.status === "PROCESSED", shipped?.status === "CREATED"]
    if (status === "APPROVED")
      return [
        ...when(!holds.every(Boolean), `order ${id} is approved and has: ${found}`),
        ...when(
          reserved?.total !== total || paid?.amount !== total || !sameLines(reserved?.lines ?? [], lines ?? []),
          `order ${id} costs ${total}, reserved are ${reserved?.total}, paid ${paid?.amount}`
        )
      ]
    return when(status === "REJECTED" && holds.some(Boolean), `order ${id} is rejected and has: ${found}`)
  })
}

const statuses = ["CREATED", "CANCELLING", "APPROVED", "REJECTED"]

/**
 * An order's history is that it was created, maybe that it was being cancelled, and after that how it ended. One that was
 * never created was only rejected. Several entries of one pass are of the same moment.
 */
export const histories: Check = ({ orders, history }) => {
  const entries = Map.groupBy(history, ({ order_id }) => order_id)
  const known = by(orders, ({ id }) => id)
  return [
    ...orders.flatMap(({ id, status }) => {
      const own = (entries.get(id) ?? []).toSorted((a, b) => statuses.indexOf(a.status) - statuses.indexOf(b.status))
      const found = own.map((entry) => entry.status)
      const cancelling = found.includes("CANCELLING") && status === "REJECTED" ? ["CANCELLING"] : []
      const due = found.length === 1 && status === "REJECTED" ? ["REJECTED"] : ["CREATED", ...cancelling, status]
      const inTurn = own.every((entry, n) => n === 0 || (own[n - 1]?.at ?? entry.at) <= entry.at)
      return when(
        found.join() !== due.join() || !inTurn,
        `order ${id} is ${status}, its history is: ${found.join(", ")}`
      )
    }),
    ...[...entries.keys()].flatMap((id) => when(!known.has(id), `${id} has a history and no order`))
  ]
}

/** Every order has one saga, which ended as the order did and waits for nothing. */
export const sagas: Check = ({ orders, sagas }) => {
  const stored = by(sagas, ({ id }) => id)
  const known = by(orders, ({ id }) => id)
  return [
    ...orders.flatMap(({ id, status }) => {
      const saga = stored.get(id)
      const due = status === "APPROVED" ? "COMPLETED" : "COMPENSATED"
      return [
        ...when(saga?.state !== due, `order ${id} is ${status}, its saga is ${saga?.state ?? "not there"}`),
        ...when(
          saga !== undefined && (saga.due_at !== null || saga.ended_at === null),
          `saga ${id} still waits for something`
        )
      ]
    }),
    ...sagas.flatMap(({ id }) => when(!known.has(id), `saga ${id} has no order`)),
    ...repeated(sagas.map(({ id }) => id)).map((id) => `there are two sagas ${id}`)
  ]
}

/** Every saga's log has no gaps and ends with the saga's state. */
export const sagaLogs: Check = ({ sagas, sagaLog }) => {
  const entries = Map.groupBy(sagaLog, ({ saga_id }) => saga_id)
  return sagas.flatMap(({ id, position, state }) => {
    const own = (entries.get(id) ?? []).toSorted((a, b) => a.position - b.position)
    return [
      ...when(
        own.length !== position || own.some((entry, n) => entry.position !== n + 1),
        `the log of saga ${id} has the entries ${own.map((entry) => entry.position).join(", ")}, not 1 to ${position}`
      ),
      ...when(own.at(-1)?.state !== state, `saga ${id} is ${state}, its log ends with ${own.at(-1)?.state}`)
    ]
  })
}
