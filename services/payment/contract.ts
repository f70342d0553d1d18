/**
 * What the payment service is asked and what it tells. Messages about a payment are keyed by its order, those about an
 * account by its user. Whatever moves money says the account's balance after it and the entry's place in the ledger,
 * so that a reader keeps what it heard of the highest position and late messages do no harm.
 */
import { Schema } from "effect"
import { Topic } from "oncebox"
import {
  Amount,
  Balance,
  DepositAmount,
  DepositId,
  Id,
  OrderId,
  PaymentMethod,
  Position,
  Reason
} from "../shell/bounds.ts"
import { order } from "../shell/order-context.ts"

export const paymentsCommands = Topic.commands("payments-commands")
export const paymentsEvents = Topic.events("payments-events", { choreographyName: "payments-choreography" })

/** The account's balance and ledger position are null when a card was charged: the account's money did not move. */
const movement = {
  userId: Id,
  amount: Amount,
  balance: Schema.NullOr(Balance),
  position: Schema.NullOr(Position)
}

/** Money that was taken from an account or given back to it. */
export const Movement = Schema.Struct(movement)
export type Movement = typeof Movement.Type

export const ProcessPaymentCommand = paymentsCommands.message(
  "ProcessPaymentCommand",
  { orderId: OrderId, userId: Id, amount: Amount, payment: PaymentMethod, order },
  { key: "orderId" }
)

export const PaymentProcessedEvent = paymentsEvents.message(
  "PaymentProcessedEvent",
  { orderId: OrderId, ...movement, order },
  { key: "orderId" }
)

export const PaymentFailedEvent = paymentsEvents.message(
  "PaymentFailedEvent",
  { orderId: OrderId, reason: Reason },
  { key: "orderId" }
)

export const RefundPaymentCommand = paymentsCommands.message(
  "RefundPaymentCommand",
  { orderId: OrderId },
  { key: "orderId" }
)

/** The order is not paid any more, or will be. `refund` is null when nothing had been paid. */
export const PaymentRefundedEvent = paymentsEvents.message(
  "PaymentRefundedEvent",
  { orderId: OrderId, refund: Schema.NullOr(Movement) },
  { key: "orderId" }
)

export const AccountOpenedEvent = paymentsEvents.message(
  "AccountOpenedEvent",
  { userId: Id, balance: Amount, position: Position },
  { key: "userId" }
)

/** From now on the account takes no payments and no deposits. What was paid from it can still be refunded. */
export const AccountClosedEvent = paymentsEvents.message("AccountClosedEvent", { userId: Id }, { key: "userId" })

export const DepositMoneyCommand = paymentsCommands.message(
  "DepositMoneyCommand",
  { userId: Id, depositId: DepositId, amount: DepositAmount },
  { key: "userId" }
)

export const DepositMadeEvent = paymentsEvents.message(
  "DepositMadeEvent",
  { depositId: DepositId, ...movement, balance: Balance, position: Position },
  { key: "userId" }
)

export const DepositRefusedEvent = paymentsEvents.message(
  "DepositRefusedEvent",
  { userId: Id, depositId: DepositId, reason: Reason },
  { key: "userId" }
)
