/**
 * Accounts, their ledger, payments and deposits. An order's payment is the fence, and so is a deposit's row: it answers
 * whatever is asked again.
 */
import { Schema } from "effect"
import { Participant, Table, type Decision, type Outgoing, type RowOf } from "oncebox"
import { Amount, Balance, DepositId, greatestAmount, Id, OrderId, Position } from "../shell/bounds.ts"
import { delayable, delayedCommands } from "../shell/delays.ts"
import { failedOnDemand, failsOnDemand, failureRules } from "../shell/failures.ts"
import { UserCreatedEvent, UserDeletedEvent } from "../user/contract.ts"
import {
  AccountClosedEvent,
  AccountOpenedEvent,
  DepositMoneyCommand,
  ProcessPaymentCommand,
  RefundPaymentCommand
} from "./contract.ts"
import { Charge, charged, givenBack, pending, Refund, takenBack } from "./card.ts"
import { depositOutcome, deposits, type Deposit } from "./deposit.ts"
import { nothingPaid, outcomeOf, payments, refundOf, type Payment } from "./outcome.ts"

export const accounts = Table.make("accounts", {
  key: "user_id",
  row: {
    user_id: Id,
    opening_balance: Amount,
    balance: Balance,
    /** Of its newest entry in the ledger; 0 when it was closed before it was opened. */
    position: Schema.Natural,
    opened_at: Schema.Date,
    closed_at: Schema.NullOr(Schema.Date)
  }
})
export type Account = RowOf<typeof accounts>

export const ledger = Table.log("ledger", {
  key: "user_id",
  row: {
    user_id: Id,
    position: Position,
    amount: Schema.Int,
    kind: Schema.Literals(["OPENING", "DEPOSIT", "PAYMENT", "REFUND"]),
    order_id: Schema.NullOr(OrderId),
    deposit_id: Schema.NullOr(DepositId),
    balance: Balance,
    at: Schema.Date
  }
})
export type LedgerEntry = RowOf<typeof ledger>

// what is put aside comes first: it is locked first when it falls due, too; then payments: whose account a refund touches is
// told by the payment
const tables = { delayed_commands: delayedCommands, payments, deposits, accounts, ledger, failure_rules: failureRules }

const paying = delayable(tables, "pay", ProcessPaymentCommand, {
  touches: {
    payments: ({ orderId }) => [orderId],
    accounts: ({ userId }) => [userId],
    failure_rules: () => ["pay"]
  },
  decide: ({ payments, accounts, failure_rules }, command, { now }) => {
    const { orderId, userId, amount, payment: method } = command
    const earlier = payments.get(orderId)
    if (earlier !== undefined) return { send: outcomeOf(earlier, command) }
    const asked: Payment = { ...nothingPaid(orderId, now, method.method), user_id: userId, amount }
    const account = accounts.get(userId)
    if (account === undefined) return failed(asked, "USER_UNKNOWN", command)
    if (account.closed_at !== null) return failed(asked, "ACCOUNT_CLOSED", command)
    if (failsOnDemand(failure_rules.get("pay"), orderId, amount)) return failed(asked, failedOnDemand, command)
    if (method.method === "card") return pending(asked, command, method)
    return account.balance < amount
      ? failed(asked, "INSUFFICIENT_FUNDS", command)
      : processed(asked, account, command, now)
  }
})

export const payment = Participant.make("payment", tables)
  .on(UserCreatedEvent, {
    touches: { accounts: ({ userId }) => [userId] },
    decide: ({ accounts }, { userId, balance }, { now }) => {
      const earlier = accounts.get(userId) ?? unopened(userId, now)
      if (earlier.position > 0) return { send: [opening(earlier)] }
      const account: Account = { ...earlier, opening_balance: balance, balance, position: 1, opened_at: now }
      const entry = entryOf(account, { amount: balance, kind: "OPENING", at: now })
      return { put: { accounts: [account], ledger: [entry] }, send: [opening(account)] }
    }
  })
  .on(UserDeletedEvent, {
    touches: { accounts: ({ userId }) => [userId] },
    decide: ({ accounts }, { userId }, { now }) => {
      const send = [AccountClosedEvent.of({ userId })]
      // a user who is not known yet: UserCreatedEvent was parked, and this one overtook it
      const account = accounts.get(userId) ?? unopened(userId, now)
      return account.closed_at === null ? { put: { accounts: [{ ...account, closed_at: now }] }, send } : { send }
    }
  })
  .on(DepositMoneyCommand, {
    touches: { deposits: ({ depositId }) => [depositId], accounts: ({ userId }) => [userId] },
    decide: ({ deposits, accounts }, { userId, depositId, amount }, { now }) => {
      const earlier = deposits.get(depositId)
      if (earlier !== undefined) return { send: [depositOutcome(earlier)] }
      const asked = { deposit_id: depositId, user_id: userId, amount, decided_at: now }
      const account = accounts.get(userId)
      if (account === undefined) return refused(asked, "USER_UNKNOWN")
      if (account.closed_at !== null) return refused(asked, "ACCOUNT_CLOSED")
      const tooLarge = account.balance + amount > greatestAmount
      return tooLarge ? refused(asked, "BALANCE_TOO_LARGE") : deposited(asked, account)
    }
  })
  .on(ProcessPaymentCommand, paying.asked)
  .due("delayed_commands", paying.due)
  .on(RefundPaymentCommand, {
    touches: {
      payments: ({ orderId }) => [orderId],
      accounts: ({ orderId }, { payments }) => payerOf(payments.get(orderId))
    },
    decide: ({ payments, accounts }, { orderId }, { now }) => {
      const earlier = payments.get(orderId)
      if (earlier === undefined) return cancelled(nothingPaid(orderId, now))
      const toTakeBack = earlier.status === "PROCESSED" || earlier.status === "PENDING"
      if (!toTakeBack) return { send: refundOf(earlier) }
      if (earlier.method === "card") return takenBack(earlier, now)
      const [account] = payerOf(earlier).map((payer) => accounts.get(payer))
      // accounts are never deleted: what was paid can always be given back
      if (account === undefined) throw new Error(`order ${orderId} was paid from an account that does not exist`)
      return refunded(earlier, account, now)
    }
  })
  .called(Charge, {
    touches: { payments: ({ key }) => [key] },
    decide: ({ payments }, { key, request, result }, { now }) => charged(payments.get(key), request, result, now)
  })
  .called(Refund, {
    touches: { payments: ({ key }) => [key] },
    decide: ({ payments }, { key }, { now }) => givenBack(payments.get(key), now)
  })

type Settlement = Decision<typeof tables, void>

const cancelled = (payment: Payment): Settlement => ({ put: { payments: [payment] }, send: refundOf(payment) })

type Command = typeof ProcessPaymentCommand.schema.Type

const failed = (asked: Payment, reason: string, command: Command): Settlement => {
  const payment: Payment = { ...asked, status: "FAILED", reason }
  return { put: { payments: [payment] }, send: outcomeOf(payment, command) }
}

const processed = (asked: Payment, account: Account, command: Command, now: Date): Settlement => {
  const debited = moved(account, -asked.amount)
  const { balance, position } = debited
  const payment: Payment = { ...asked, status: "PROCESSED", balance, position }
  const entry = entryOf(debited, { amount: -asked.amount, kind: "PAYMENT", order_id: asked.order_id, at: now })
  return { put: { payments: [payment], accounts: [debited], ledger: [entry] }, send: outcomeOf(payment, command) }
}

const refunded = (paid: Payment, account: Account, now: Date): Settlement => {
  const credited = moved(account, paid.amount)
  const { balance: refund_balance, position: refund_position } = credited
  const payment: Payment = { ...paid, status: "REFUNDED", refund_balance, refund_position, updated_at: now }
  const entry = entryOf(credited, { amount: paid.amount, kind: "REFUND", order_id: paid.order_id, at: now })
  return { put: { payments: [payment], accounts: [credited], ledger: [entry] }, send: refundOf(payment) }
}

type AskedDeposit = Pick<Deposit, "deposit_id" | "user_id" | "amount" | "decided_at">

const refused = (asked: AskedDeposit, reason: string): Settlement => {
  const deposit: Deposit = { ...asked, status: "REFUSED", reason, balance: null, position: null }
  return { put: { deposits: [deposit] }, send: [depositOutcome(deposit)] }
}

const deposited = (asked: AskedDeposit, account: Account): Settlement => {
  const { deposit_id, amount, decided_at: at } = asked
  const credited = moved(account, amount)
  const { balance, position } = credited
  const deposit: Deposit = { ...asked, status: "MADE", reason: null, balance, position }
  const entry = entryOf(credited, { amount, kind: "DEPOSIT", deposit_id, at })
  return { put: { deposits: [deposit], accounts: [credited], ledger: [entry] }, send: [depositOutcome(deposit)] }
}

/** An account that is not there. Closed like this, it waits for its opening and is closed then too. */
const unopened = (userId: string, now: Date): Account => ({
  user_id: userId,
  opening_balance: 0,
  balance: 0,
  position: 0,
  opened_at: now,
  closed_at: null
})

const moved = (account: Account, amount: number): Account => ({
  ...account,
  balance: account.balance + amount,
  position: account.position + 1
})

/** The ledger's entry of what brought the account to its balance and position. */
const entryOf = (
  { user_id, balance, position }: Account,
  movement: Pick<LedgerEntry, "amount" | "kind" | "at"> & Partial<Pick<LedgerEntry, "order_id" | "deposit_id">>
): LedgerEntry => ({ user_id, balance, position, order_id: null, deposit_id: null, ...movement })

const payerOf = (payment: Payment | undefined): ReadonlyArray<string> =>
  payment?.status === "PROCESSED" && payment.method === "account" && payment.user_id !== null ? [payment.user_id] : []

const opening = ({ user_id, opening_balance }: Account): Outgoing =>
  AccountOpenedEvent.of({ userId: user_id, balance: opening_balance, position: 1 })
