/** Users, and what was last heard of their accounts' balances: the accounts themselves are the payment service's. */
import { Schema } from "effect"
import { Participant, Request, Table, type Decision, type RowOf } from "oncebox"
import {
  AccountOpenedEvent,
  DepositMadeEvent,
  DepositRefusedEvent,
  PaymentProcessedEvent,
  PaymentRefundedEvent
} from "../payment/contract.ts"
import { Amount, Balance, Email, Id, Name, Timestamp } from "../shell/bounds.ts"
import { isMeantFor, Precondition, Version } from "../shell/version.ts"
import { UserCreatedEvent, UserDeletedEvent } from "./contract.ts"
import { asked, deposits, depositView, RequestDeposit, settled } from "./deposit.ts"

export const UserStatus = Schema.Literals(["ACTIVE", "CLOSED"])
export type UserStatus = typeof UserStatus.Type

export const users = Table.make("users", {
  key: "id",
  row: {
    id: Id,
    name: Name,
    email: Email,
    /** Null until the account is open. */
    balance: Schema.NullOr(Balance),
    /** The ledger's entry that the balance is of; 0 before the first. */
    position: Schema.Natural,
    status: UserStatus,
    /** Of what clients edit: news of the account leaves it as it is. */
    version: Version,
    created_at: Schema.Date
  }
})
export type User = RowOf<typeof users>

const tables = { users, deposits }

export const UserView = Schema.Struct({
  id: Id,
  name: Name,
  email: Email,
  balance: Schema.NullOr(Balance),
  status: UserStatus,
  version: Version,
  createdAt: Timestamp
})
export type UserView = typeof UserView.Type

export const CreateUser = Request.make("CreateUser", {
  payload: { id: Id, name: Name, email: Email, balance: Amount },
  reply: Schema.Union([Schema.TaggedStruct("created", { user: UserView }), Schema.TaggedStruct("exists", {})])
})

const done = Schema.TaggedStruct("done", { user: UserView })
const unknown = Schema.TaggedStruct("unknown", {})
const stale = Schema.TaggedStruct("stale", { version: Version })

export const EditUser = Request.make("EditUser", {
  payload: { id: Id, name: Name, email: Email, precondition: Precondition },
  reply: Schema.Union([done, unknown, stale, Schema.TaggedStruct("closed", {})])
})

export const CloseUser = Request.make("CloseUser", {
  payload: { id: Id, precondition: Precondition },
  reply: Schema.Union([done, unknown, stale])
})

const byId = { users: ({ id }: { readonly id: string }) => [id] }
const byUser = { users: (message: { readonly userId: string }) => [message.userId] }
const byDeposit = { ...byUser, deposits: (message: { readonly depositId: string }) => [message.depositId] }

export const user = Participant.make("user", tables)
  .answers(CreateUser, {
    touches: byId,
    decide: ({ users }, { id, name, email, balance }, { now }) => {
      if (users.get(id) !== undefined) return { reply: { _tag: "exists" as const } }
      const account = { balance: null, position: 0 }
      const user: User = { id, name, email, ...account, status: "ACTIVE", version: 1, created_at: now }
      return {
        put: { users: [user] },
        send: [UserCreatedEvent.of({ userId: id, balance })],
        reply: { _tag: "created" as const, user: userView(user) }
      }
    }
  })
  .answers(EditUser, {
    touches: byId,
    decide: ({ users }, { id, name, email, precondition }) => {
      const user = users.get(id)
      if (user === undefined) return { reply: { _tag: "unknown" as const } }
      const { status, version } = user
      if (status === "CLOSED") return { reply: { _tag: "closed" as const } }
      if (!isMeantFor(precondition, version)) return { reply: { _tag: "stale" as const, version } }
      const edited: User = { ...user, name, email, version: version + 1 }
      return { put: { users: [edited] }, reply: { _tag: "done" as const, user: userView(edited) } }
    }
  })
  .answers(CloseUser, {
    touches: byId,
    decide: ({ users }, { id, precondition }) => {
      const user = users.get(id)
      if (user === undefined) return { reply: { _tag: "unknown" as const } }
      const { status, version } = user
      // whoever asked for it before may not have heard that it was done
      if (status === "CLOSED") return { reply: { _tag: "done" as const, user: userView(user) } }
      if (!isMeantFor(precondition, version)) return { reply: { _tag: "stale" as const, version } }
      const closed: User = { ...user, status: "CLOSED", version: version + 1 }
      return {
        put: { users: [closed] },
        send: [UserDeletedEvent.of({ userId: id })],
        reply: { _tag: "done" as const, user: userView(closed) }
      }
    }
  })
  .answers(RequestDeposit, {
    touches: byDeposit,
    decide: ({ users }, { depositId, userId, amount }, { now }) => {
      const user = users.get(userId)
      if (user === undefined) return { reply: { _tag: "unknown" as const } }
      if (user.status === "CLOSED") return { reply: { _tag: "closed" as const } }
      const requested = { id: depositId, user_id: userId, amount, status: "PENDING", reason: null } as const
      const { deposit, command } = asked({ ...requested, created_at: now }, now)
      return {
        put: { deposits: [deposit] },
        send: [command],
        reply: { _tag: "asked" as const, deposit: depositView(deposit) }
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
  .on(DepositMadeEvent, {
    touches: byDeposit,
    decide: ({ users, deposits }, made) => {
      const deposit = settled(deposits.get(made.depositId), { status: "MADE", reason: null })
      return { put: { ...heard(users.get(made.userId), made).put, deposits: deposit } }
    }
  })
  .on(DepositRefusedEvent, {
    touches: { deposits: ({ depositId }) => [depositId] },
    decide: ({ deposits }, { depositId, reason }) => ({
      put: { deposits: settled(deposits.get(depositId), { status: "REFUSED", reason }) }
    })
  })
  .due("deposits", {
    decide: (_rows, unanswered, { now }) => {
      const { deposit, command } = asked(unanswered, now)
      return { put: { deposits: [deposit] }, send: [command] }
    }
  })

/**
 * What the user's row becomes by news of the account. Each says the whole balance, so only the highest position
 * counts: it does not matter in which order they come, or whether one of them never does.
 */
const heard = (
  user: User | undefined,
  { balance, position }: { readonly balance: number | null; readonly position: number | null }
): Decision<typeof tables, void> =>
  user === undefined || position === null || position <= user.position
    ? {}
    : { put: { users: [{ ...user, balance, position }] } }

/** A user as HTTP shows it. */
export const userView = ({ id, name, email, balance, status, version, created_at }: User): UserView => ({
  id,
  name,
  email,
  balance,
  status,
  version,
  createdAt: created_at.toISOString()
})
