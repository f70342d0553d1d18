/**
 * Deposits as this service knows them. The account is the payment service's: it is asked by a command, again and again
 * until it answers, and makes a deposit once however often it is asked.
 */
import { Schema } from "effect"
import { Request, Table, type Outgoing, type RowOf } from "oncebox"
import { DepositMoneyCommand } from "../payment/contract.ts"
import { DepositAmount, DepositId, Id, Reason, Timestamp } from "../shell/bounds.ts"
import { repeatAt } from "../shell/repeat.ts"

export const DepositStatus = Schema.Literals(["PENDING", "MADE", "REFUSED"])

export const deposits = Table.make("deposits", {
  key: "id",
  row: {
    id: DepositId,
    user_id: Id,
    amount: DepositAmount,
    status: DepositStatus,
    reason: Schema.NullOr(Reason),
    created_at: Schema.Date,
    /** When to ask again, should no answer have come. */
    due_at: Schema.NullOr(Schema.Date)
  }
})
export type Deposit = RowOf<typeof deposits>

export const DepositView = Schema.Struct({
  id: DepositId,
  userId: Id,
  amount: DepositAmount,
  status: DepositStatus,
  reason: Schema.NullOr(Reason),
  createdAt: Timestamp
})
export type DepositView = typeof DepositView.Type

export const RequestDeposit = Request.make("RequestDeposit", {
  payload: { depositId: DepositId, userId: Id, amount: DepositAmount },
  reply: Schema.Union([
    Schema.TaggedStruct("asked", { deposit: DepositView }),
    Schema.TaggedStruct("unknown", {}),
    Schema.TaggedStruct("closed", {})
  ])
})

/** The deposit asked for once more, and the row that says when to do so again. */
export const asked = (deposit: Omit<Deposit, "due_at">, now: Date): { deposit: Deposit; command: Outgoing } => {
  const { id: depositId, user_id: userId, amount } = deposit
  const due_at = repeatAt(deposit.created_at, now)
  return { deposit: { ...deposit, due_at }, command: DepositMoneyCommand.of({ depositId, userId, amount }) }
}

/** What the deposit's row becomes by the first answer. */
export const settled = (
  deposit: Deposit | undefined,
  answer: Pick<Deposit, "status" | "reason">
): ReadonlyArray<Deposit> => (deposit?.status === "PENDING" ? [{ ...deposit, ...answer, due_at: null }] : [])

/** A deposit as HTTP shows it. */
export const depositView = ({ id, user_id, amount, status, reason, created_at }: Deposit): DepositView => ({
  id,
  userId: user_id,
  amount,
  status,
  reason,
  createdAt: created_at.toISOString()
})
