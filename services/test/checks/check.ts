/** What checks are given, and the little that they share. */
import type { Coordination, RowOf, Saga, SagaRow } from "oncebox"
import type { Order, ordersHistory } from "../../order/order.ts"
import type { Payment } from "../../payment/outcome.ts"
import type { Account, LedgerEntry } from "../../payment/payment.ts"
import type { Product, Reservation } from "../../product/product.ts"
import type { Shipment } from "../../shipment/shipment.ts"
import type { User } from "../../user/user.ts"
import type { ProcessorEntry } from "../../../stack/processor.ts"
import type { Plan, Planned } from "../orders.ts"

/** A message as some outbox holds it. */
export interface Sent {
  readonly id: string
  readonly topic: string
  readonly type: string
  readonly coordination?: Coordination
}

/** A record as it lies on a topic. */
export interface Published extends Sent {
  readonly injected: boolean
}

/** That a consumer has decided a message, or has put it aside. */
export interface Seen {
  readonly consumer: string
  readonly id: string
}

/** That a participant handles messages of a type. */
export interface Subscriber {
  readonly consumer: string
  readonly topic: string
  readonly type: string
  /** Only messages of this style, when it says so. */
  readonly coordination?: Coordination | undefined
}

export const handles = (subscriber: Subscriber, message: Sent): boolean =>
  subscriber.topic === message.topic &&
  subscriber.type === message.type &&
  (subscriber.coordination === undefined || subscriber.coordination === message.coordination)

/** All rows and records that belong to one plan. */
export interface World {
  readonly orders: ReadonlyArray<Order>
  readonly history: ReadonlyArray<RowOf<typeof ordersHistory>>
  readonly products: ReadonlyArray<Product>
  readonly reservations: ReadonlyArray<Reservation>
  readonly accounts: ReadonlyArray<Account>
  readonly payments: ReadonlyArray<Payment>
  readonly ledger: ReadonlyArray<LedgerEntry>
  readonly users: ReadonlyArray<User>
  readonly shipments: ReadonlyArray<Shipment>
  readonly sagas: ReadonlyArray<Pick<SagaRow, "id" | "state" | "position" | "due_at" | "ended_at">>
  readonly sagaLog: ReadonlyArray<Pick<RowOf<(typeof Saga.tables)["saga_log"]>, "saga_id" | "position" | "state">>
  readonly outbox: ReadonlyArray<Sent>
  readonly inbox: ReadonlyArray<Seen>
  readonly letters: ReadonlyArray<Seen & { readonly reason: string }>
  readonly records: ReadonlyArray<Published>
  /** What the card processor did. */
  readonly charges: ReadonlyArray<ProcessorEntry>
}

export interface Expected {
  readonly plan: Pick<Plan, "products" | "accounts">
  /** What was answered with a 2xx, by order. */
  readonly placed: ReadonlyMap<string, Planned>
  readonly subscribers: ReadonlyArray<Subscriber>
  /** Orders that may have been given up, for all was tried. */
  readonly givenUp?: ReadonlySet<string>
}

export type Check = (world: World, expected: Expected) => ReadonlyArray<string>

export const by = <A, K extends string>(rows: ReadonlyArray<A>, key: (row: A) => K): ReadonlyMap<K, A> =>
  new Map(rows.map((row) => [key(row), row]))

export const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, one) => total + one, 0)

export const when = (wrong: boolean, what: string): ReadonlyArray<string> => (wrong ? [what] : [])

/** Values that stand there more than once. */
export const repeated = (values: ReadonlyArray<string>): ReadonlyArray<string> => {
  const seen = new Set<string>()
  return values.filter((value) => seen.size === seen.add(value).size)
}

export const sameLines = (
  lines: ReadonlyArray<{ readonly productId: string; readonly quantity: number; readonly price: number }>,
  others: typeof lines
): boolean =>
  lines.length === others.length &&
  lines.every((line, n) => {
    const other = others[n]
    return other?.productId === line.productId && other.quantity === line.quantity && other.price === line.price
  })
