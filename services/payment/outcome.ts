/** Payments, and what is answered about them: an order's payment is the fence, whoever asks again is told from it. */
import { Schema } from "effect"
import { Table, type Outgoing, type RowOf } from "oncebox"
import {
  alreadyCancelled,
  Amount,
  Balance,
  Id,
  OrderId,
  Position,
  Reason,
  type PaymentMethod
} from "../shell/bounds.ts"
import { along, type OrderContext } from "../shell/order-context.ts"
import { PaymentFailedEvent, PaymentProcessedEvent, PaymentRefundedEvent, type Movement } from "./contract.ts"

/**
 * With a card the processor has the last word: PENDING until it has answered; UNDOING when the payment is to be taken back
 * before that; REFUNDING until it has given the money back.
 */
export const PaymentStatus = Schema.Literals([
  "PENDING",
  "PROCESSED",
  "FAILED",
  "UNDOING",
  "REFUNDING",
  "REFUNDED",
  "CANCELLED"
])

export const payments = Table.make("payments", {
  key: "order_id",
  row: {
    order_id: OrderId,
    /** Null when the payment was cancelled before it was asked for. */
    user_id: Schema.NullOr(Id),
    amount: Amount,
    method: Schema.Literals(["account", "card"]),
    status: PaymentStatus,
    reason: Schema.NullOr(Reason),
    /** The processor's name for what it charged; null unless a card was. */
    charge: Schema.NullOr(Id),
    /** What the account was left with, to answer the same again; null when its money did not move. */
    balance: Schema.NullOr(Balance),
    position: Schema.NullOr(Position),
    refund_balance: Schema.NullOr(Balance),
    refund_position: Schema.NullOr(Position),
    updated_at: Schema.Date
  }
})
export type Payment = RowOf<typeof payments>

/** Left like this by a refund that came first, it refuses the command when it comes. */
export const nothingPaid = (orderId: string, now: Date, method: PaymentMethod["method"] = "account"): Payment => ({
  order_id: orderId,
  user_id: null,
  amount: 0,
  method,
  status: "CANCELLED",
  reason: null,
  charge: null,
  balance: null,
  position: null,
  refund_balance: null,
  refund_position: null,
  updated_at: now
})

/** What became of the payment, if that is known yet. */
export const outcomeOf = (payment: Payment, asked: { readonly order?: OrderContext }): ReadonlyArray<Outgoing> => {
  const { order_id: orderId, status, reason, balance, position } = payment
  if (status === "PENDING") return []
  const taken = status === "PROCESSED" ? movementOf(payment, balance, position) : null
  return [
    taken === null
      ? PaymentFailedEvent.of({ orderId, reason: reason ?? alreadyCancelled })
      : PaymentProcessedEvent.of({ orderId, ...taken, ...along(asked) })
  ]
}

/** That nothing is paid any more; with what was given back, if anything had been. */
export const refundOf = (payment: Payment): ReadonlyArray<Outgoing> => {
  const { order_id: orderId, status, refund_balance, refund_position } = payment
  if (status === "UNDOING" || status === "REFUNDING") return []
  const refund = status === "REFUNDED" ? movementOf(payment, refund_balance, refund_position) : null
  return [PaymentRefundedEvent.of({ orderId, refund })]
}

const movementOf = ({ user_id, amount }: Payment, balance: number | null, position: number | null): Movement | null =>
  user_id === null ? null : { userId: user_id, amount, balance, position }
