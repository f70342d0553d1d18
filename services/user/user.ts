/** Users, and what was last heard of their accounts' balances: the accounts themselves are the payment service's. */
import { Schema } from "effect"
import { Participant, Request, Table, type Decision, type RowOf } from "oncebox"
import { AccountOpenedEvent, PaymentProcessedEvent, PaymentRefundedEvent } from "../payment/contract.ts"
import { Amount, Email, Id, Name, Timestamp } from "../shell/bounds.ts"
import { UserCreatedEvent } from "./contract.ts"

export const users = Table.make("users", {
  key: "id",
  row: {
    id: Id,
    name: Name,
    email: Email,
    /** Null until the account is open. */
    balance: Schema.NullOr(Amount),
    /** The ledger's entry that the balance is of; 0 before the first. */
    position: Schema.Natural,
    created_at: Schema.Date
  }
})
export type User = RowOf<typeof users>

const tables = { users }

export const UserView = Schema.Struct({
  id: Id,
  name: Name,
  email: Email,
  balance: Schema.NullOr(Amount),
  createdAt: Timestamp
})
export type UserView = typeof UserView.Type

export const CreateUser = Request.make("CreateUser", {
  payload: { id: Id, name: Name, email: Email, balance: Amount },
  reply: Schema.Union([Schema.TaggedStruct("created", { user: UserView }), Schema.TaggedStruct("exists", {})])
})

const byUser = { users: (message: { readonly userId: string }) => [message.userId] }

export const user = Participant.make("user", tables)
  .answers(CreateUser, {
    touches: { users: ({ id }) => [id] },
    decide: ({ users }, { id, name, email, balance }, { now }) => {
      if (users.get(id) !== undefined) return { reply: { _tag: "exists" as const } }
      const user: User = { id, name, email, balance: null, position: 0, created_at: now }
      return {
        put: { users: [user] },
        send: [UserCreatedEvent.of({ userId: id, balance })],
        reply: { _tag: "created" as const, user: userView(user) }
      }
    }
  })
  .on(AccountOpenedEvent, {
    touches: byUser,
    decide: ({ users }, opened) => heard(users.get(opened.userId), opened)
  })
  .on(PaymentProcessedEvent, {
    touches: byUser,
    decide: ({ users }, processed) => heard(users.get(processed.userId), processed)
  })
  .on(PaymentRefundedEvent, {
    touches: { users: ({ refund }) => (refund === null ? [] : [refund.userId]) },
    decide: ({ users }, { refund }) => (refund === null ? {} : heard(users.get(refund.userId), refund))
  })

/**
 * What the user's row becomes by news of the account. Each says the whole balance, so only the highest position
 * counts: it does not matter in which order they come, or whether one of them never does.
 */
const heard = (
  user: User | undefined,
  { balance, position }: { readonly balance: number; readonly position: number }
): Decision<typeof tables, void> =>
  user === undefined || position <= user.position ? {} : { put: { users: [{ ...user, balance, position }] } }

/** A user as HTTP shows it. */
export const userView = ({ id, name, email, balance, created_at }: User): UserView => ({
  id,
  name,
  email,
  balance,
  createdAt: created_at.toISOString()
})
