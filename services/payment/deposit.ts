/** Deposits. The deposit's row is the fence: it answers whatever is asked again. */
import { Schema } from "effect"
import { Table, type Outgoing, type RowOf } from "oncebox"
import { Balance, DepositAmount, DepositId, Id, Position, Reason } from "../shell/bounds.ts"
import { DepositMadeEvent, DepositRefusedEvent } from "./contract.ts"

export const deposits = Table.make("deposits", {
  key: "deposit_id",
  row: {
    deposit_id: DepositId,
    user_id: Id,
    amount: DepositAmount,
    status: Schema.Literals(["MADE", "REFUSED"]),
    reason: Schema.NullOr(Reason),
    /** What the account was left with, to answer the same again; null when it was refused. */
    balance: Schema.NullOr(Balance),
    position: Schema.NullOr(Position),
    decided_at: Schema.Date
  }
})
export type Deposit = RowOf<typeof deposits>

export const depositOutcome = (deposit: Deposit): Outgoing => {
  const { deposit_id: depositId, user_id: userId, amount, reason, balance, position } = deposit
  return balance === null || position === null
    ? DepositRefusedEvent.of({ userId, depositId, reason: reason ?? "REFUSED" })
    : DepositMadeEvent.of({ userId, depositId, amount, balance, position })
}
