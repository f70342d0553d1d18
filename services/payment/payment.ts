/** Accounts, their ledger, and payments. An order's payment is the fence: it answers whatever is asked again. */
import { Schema } from "effect"
import { Participant, Table, type Decision, type Outgoing, type RowOf } from "oncebox"
import { alreadyCancelled, along, Amount, Id, OrderId, Position, Reason } from "../shell/bounds.ts"
import { UserCreatedEvent } from "../user/contract.ts"
import {
  AccountOpenedEvent,
  PaymentFailedEvent,
  PaymentProcessedEvent,
  PaymentRefundedEvent,
  ProcessPaymentCommand,
  RefundPaymentCommand,
  type Movement
} from "./contract.ts"

export const payments = Table.make("payments", {
  key: "order_id",
  row: {
    order_id: OrderId,
    /** Null when the payment was cancelled before it was asked for. */
    user_id: Schema.NullOr(Id),
    amount: Amount,
    status: Schema.Literals(["PROCESSED", "FAILED", "REFUNDED", "CANCELLED"]),
    reason: Schema.NullOr(Reason),
    /** What the account was left with, to answer the same again; null when no money moved. */
    balance: Schema.NullOr(Amount),
    position: Schema.NullOr(Position),
    refund_balance: Schema.NullOr(Amount),
    refund_position: Schema.NullOr(Position),
    updated_at: Schema.Date
  }
})
export type Payment = RowOf<typeof payments>

export const accounts = Table.make("accounts", {
  key: "user_id",
  row: { user_id: Id, opening_balance: Amount, balance: Amount, position: Position, opened_at: Schema.Date }
})
export type Account = RowOf<typeof accounts>

export const ledger = Table.log("ledger", {
  key: "user_id",
  row: {
    user_id: Id,
    position: Position,
    amount: Schema.Int,
    kind: Schema.Literals(["OPENING", "PAYMENT", "REFUND"]),
    order_id: Schema.NullOr(OrderId),
    balance: Amount,
    at: Schema.Date
  }
})
export type LedgerEntry = RowOf<typeof ledger>

// payments come first: whose account a refund touches is told by the payment
const tables = { payments, accounts, ledger }

export const payment = Participant.make("payment", tables)
  .on(UserCreatedEvent, {
    touches: { accounts: ({ userId }) => [userId] },
    decide: ({ accounts }, { userId, balance }, { now }) => {
      const earlier = accounts.get(userId)
      if (earlier !== undefined) return { send: [opening(earlier)] }
      const account: Account = { user_id: userId, opening_balance: balance, balance, position: 1, opened_at: now }
      const entry = entryOf(account, { amount: balance, kind: "OPENING", order_id: null, at: now })
      return { put: { accounts: [account], ledger: [entry] }, send: [opening(account)] }
    }
  })
  .on(ProcessPaymentCommand, {
    touches: { payments: ({ orderId }) => [orderId], accounts: ({ userId }) => [userId] },
    decide: ({ payments, accounts }, command, { now }) => {
      const { orderId, userId, amount } = command
      const earlier = payments.get(orderId)
      if (earlier !== undefined) return { send: [outcomeOf(earlier, command)] }
      const asked: Payment = { ...nothingPaid(orderId, now), user_id: userId, amount }
      const account = accounts.get(userId)
      if (account === undefined) return failed(asked, "USER_UNKNOWN", command)
      return account.balance < amount
        ? failed(asked, "INSUFFICIENT_FUNDS", command)
        : processed(asked, account, command, now)
    }
  })
  .on(RefundPaymentCommand, {
    touches: {
      payments: ({ orderId }) => [orderId],
      accounts: ({ orderId }, { payments }) => payerOf(payments.get(orderId))
    },
    decide: ({ payments, accounts }, { orderId }, { now }) => {
      const earlier = payments.get(orderId)
      if (earlier === undefined) return cancelled(nothingPaid(orderId, now))
      if (earlier.status !== "PROCESSED") return { send: [refundOf(earlier)] }
      const [account] = payerOf(earlier).map((payer) => accounts.get(payer))
      // accounts are never deleted: what was paid can always be given back
      if (account === undefined) throw new Error(`order ${orderId} was paid from an account that does not exist`)
      return refunded(earlier, account, now)
    }
  })

/** Left like this by a refund that came first, it refuses the command when it comes. */
const nothingPaid = (orderId: string, now: Date): Payment => ({
  order_id: orderId,
  user_id: null,
  amount: 0,
  status: "CANCELLED",
  reason: null,
  balance: null,
  position: null,
  refund_balance: null,
  refund_position: null,
  updated_at: now
})

type Settlement = Decision<typeof tables, void>

const cancelled = (payment: Payment): Settlement => ({ put: { payments: [payment] }, send: [refundOf(payment)] })

type Command = typeof ProcessPaymentCommand.schema.Type

const failed = (asked: Payment, reason: string, command: Command): Settlement => {
  const payment: Payment = { ...asked, status: "FAILED", reason }
  return { put: { payments: [payment] }, send: [outcomeOf(payment, command)] }
}

const processed = (asked: Payment, account: Account, command: Command, now: Date): Settlement => {
  const debited = moved(account, -asked.amount)
  const { balance, position } = debited
  const payment: Payment = { ...asked, status: "PROCESSED", balance, position }
  const entry = entryOf(debited, { amount: -asked.amount, kind: "PAYMENT", order_id: asked.order_id, at: now })
  return { put: { payments: [payment], accounts: [debited], ledger: [entry] }, send: [outcomeOf(payment, command)] }
}

const refunded = (paid: Payment, account: Account, now: Date): Settlement => {
  const credited = moved(account, paid.amount)
  const { balance: refund_balance, position: refund_position } = credited
  const payment: Payment = { ...paid, status: "REFUNDED", refund_balance, refund_position, updated_at: now }
  const entry = entryOf(credited, { amount: paid.amount, kind: "REFUND", order_id: paid.order_id, at: now })
  return { put: { payments: [payment], accounts: [credited], ledger: [entry] }, send: [refundOf(payment)] }
}

const moved = (account: Account, amount: number): Account => ({
  ...account,
  balance: account.balance + amount,
  position: account.position + 1
})

/** The ledger's entry of what brought the account to its balance and position. */
const entryOf = (
  { user_id, balance, position }: Account,
  movement: Pick<LedgerEntry, "amount" | "kind" | "order_id" | "at">
): LedgerEntry => ({ user_id, balance, position, ...movement })

const payerOf = (payment: Payment | undefined): ReadonlyArray<string> =>
  payment?.status === "PROCESSED" && payment.user_id !== null ? [payment.user_id] : []

const opening = ({ user_id, opening_balance }: Account): Outgoing =>
  AccountOpenedEvent.of({ userId: user_id, balance: opening_balance, position: 1 })

const outcomeOf = (payment: Payment, command: Command): Outgoing => {
  const { order_id: orderId, status, reason, balance, position } = payment
  const taken = status === "PROCESSED" ? movementOf(payment, balance, position) : null
  return taken === null
    ? PaymentFailedEvent.of({ orderId, reason: reason ?? alreadyCancelled })
    : PaymentProcessedEvent.of({ orderId, ...taken, ...along(command) })
}

const refundOf = (payment: Payment): Outgoing =>
  PaymentRefundedEvent.of({
    orderId: payment.order_id,
    refund: movementOf(payment, payment.refund_balance, payment.refund_position)
  })

const movementOf = ({ user_id, amount }: Payment, balance: number | null, position: number | null): Movement | null =>
  user_id === null || balance === null || position === null ? null : { userId: user_id, amount, balance, position }
