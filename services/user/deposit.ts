/**
 * Deposits as this service knows them. The account is the payment service's: it is asked by a command, again and again
 * until it answers, and makes a deposit once however often it is asked.
 */
import { Schema } from "effect"
import { Request, Table, type Outgoing, type RowOf } from "oncebox"
import { DepositMoneyCommand } from "../payment/contract.ts"
import { DepositAmount, DepositId, Id, Reason, Timestamp } from "../shell/bounds.ts"

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

const firstWaitMs = 60_000
const longestWaitMs = 600_000

/** The deposit asked for once more, and the row that says when to do so again. The wait doubles, as for orders. */
export const asked = (deposit: Omit<Deposit, "due_at">, now: Date): { deposit: Deposit; command: Outgoing } => {
  const ageMs = Math.max(0, now.getTime() - deposit.created_at.getTime())
  const due_at = new Date(now.getTime() + Math.min(longestWaitMs, ageMs + firstWaitMs))
  const { id: depositId, user_id: userId, amount } = deposit
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
