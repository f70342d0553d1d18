/** What was said about an order: its messages as they lie on the topics, each under the one that caused it. */
import { expect } from "bun:test"
import type { Stack } from "./stack.ts"
import type { Taped } from "./tape.ts"

/**
 * Messages that caused each other, the first one first, each written as its topic and its type. When one caused several,
 * the chains that they begin stand at the end, in the order of their letters.
 */
export type Chain = ReadonlyArray<string | ReadonlyArray<Chain>>

/** A place-order saga that goes well, step by step; `well.paid` is all of it up to the payment. */
const created: ReadonlyArray<string> = ["orders-events OrderCreatedEvent"]
const reserved = [...created, "products-commands ReserveProductCommand", "products-events ProductReservedEvent"]
const paid = [...reserved, "payments-commands ProcessPaymentCommand", "payments-events PaymentProcessedEvent"]
const shipped = [...paid, "shipments-commands CreateShipmentCommand", "shipments-events ShipmentCreatedEvent"]
const approved = [...shipped, "orders-commands ApproveOrderCommand", "orders-events OrderApprovedEvent"]
export const well = { created, reserved, paid, shipped, approved }

/** How the steps are taken back. */
export const undone = {
  pay: ["payments-commands RefundPaymentCommand", "payments-events PaymentRefundedEvent"],
  reserve: ["products-commands CancelProductReservationCommand", "products-events ProductReservationCancelledEvent"],
  create: ["orders-commands RejectOrderCommand", "orders-events OrderRejectedEvent"]
}

/** What every participant says when a choreographed order is rejected, whether or not it had done anything. */
export const allTakeBack: ReadonlyArray<Chain> = [
  ["payments-events PaymentRefundedEvent"],
  ["products-events ProductReservationCancelledEvent"],
  ["shipments-events ShipmentCancelledEvent"]
]

/** The chain as it is said of a choreographed order: its events have topics of their own. */
export const onOwnTopics = (chain: Chain): Chain =>
  chain.map((said) => (typeof said === "string" ? said.replace("-events ", "-choreography ") : said.map(onOwnTopics)))

/** The order's messages, each once, in the order of their ids, which grow with time. */
export const messagesOf = (stack: Stack, id: string): ReadonlyArray<Taped> => {
  const about = stack.tape.records.filter(
    (record) => record.key?.toString() === id || header(record, "correlation") === id
  )
  return [...new Map(about.map((record) => [record.id, record])).values()].sort((a, b) => (a.id < b.id ? -1 : 1))
}

/**
 * Holds the order's messages against these chains; more than one when a client asked for something on the way. Each
 * message has the order as its key and its correlation, and each topic holds the order's messages in one partition.
 */
export const expectSaid = (stack: Stack, id: string, ...chains: ReadonlyArray<Chain>): void => {
  const messages = messagesOf(stack, id)
  const ids = new Set(messages.map((message) => message.id))
  const causes = Map.groupBy(messages, (message) => header(message, "causation"))
  const chainOf = (message: Taped): Chain => {
    const caused = (causes.get(message.id) ?? []).map(chainOf)
    const [next] = caused
    const rest = caused.length === 1 && next !== undefined ? next : caused.length === 0 ? [] : [caused.sort(byLetters)]
    return [nameOf(message), ...rest]
  }
  const roots = messages.filter((message) => !ids.has(header(message, "causation")))
  expect(roots.map(chainOf)).toEqual([...chains])

  for (const message of messages) {
    expect([nameOf(message), message.key?.toString(), header(message, "correlation")]).toEqual([
      nameOf(message),
      id,
      id
    ])
  }
  for (const [topic, own] of Map.groupBy(messages, (message) => message.topic)) {
    expect([topic, new Set(own.map(({ partition }) => partition)).size]).toEqual([topic, 1])
  }
}

/** Each of the order's messages says its style and its definition, as the order's row has them. */
export const expectLabelled = async (stack: Stack, id: string): Promise<void> => {
  const [order] = await stack.database("orders")<Array<{ coordination: string; definition: string }>>`
    select coordination, definition from orders where id = ${id}`
  if (order === undefined) throw new Error(`there is no order ${id}`)
  const labels = messagesOf(stack, id).map((message) => [
    nameOf(message),
    header(message, "coordination"),
    header(message, "definition")
  ])
  expect(labels).toEqual(labels.map(([name = ""]) => [name, order.coordination, order.definition]))
}

/** What the order's messages of a type say. */
export const payloadsOf = (stack: Stack, id: string, type: string): ReadonlyArray<unknown> =>
  messagesOf(stack, id)
    .filter((message) => message.type === type)
    .map(({ value }) => JSON.parse(value?.toString() ?? ""))

/** What the order's one message of a type says. */
export const payloadOf = (stack: Stack, id: string, type: string): unknown => {
  const [payload, ...others] = payloadsOf(stack, id, type)
  if (payload === undefined || others.length > 0) throw new Error(`order ${id} has not one ${type}`)
  return payload
}

/** Whether the order's message of a type lies on its topic. */
export const wasSaid = (stack: Stack, id: string, type: string): boolean =>
  messagesOf(stack, id).some((message) => message.type === type)

const nameOf = ({ topic, type }: Taped): string => `${topic} ${type}`

const header = ({ headers }: Taped, name: string): string => headers[name]?.toString() ?? ""

const byLetters = (a: Chain, b: Chain): number => (String(a) < String(b) ? -1 : 1)
