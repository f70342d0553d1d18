/** The user service's routes. */
import { Effect, Option, Schema } from "effect"
import { Hono } from "hono"
import { Amount, DepositAmount, DepositId, Email, Id, Name } from "../shell/bounds.ts"
import { accepted, found, newId, read, submit, versioned, waitersFor, type Edge } from "../shell/edge.ts"
import { answer } from "../shell/http.ts"
import { problem, problemForNow } from "../shell/problem.ts"
import { ifMatch, notFound, pathId, readBody, readPage, requiredIfMatch, stale, toPage } from "../shell/request.ts"
import { etagOf } from "../shell/version.ts"
import { RequestDeposit } from "./deposit.ts"
import type { Queries } from "./queries.ts"
import { CloseUser, CreateUser, EditUser, UserStatus } from "./user.ts"

const NewUser = Schema.Struct({ id: Schema.optionalKey(Id), name: Name, email: Email, balance: Amount })
const EditedUser = Schema.Struct({ name: Name, email: Email })
const NewDeposit = Schema.Struct({ amount: DepositAmount })

const accountWithin = "10 seconds"

export const routes = Effect.fnUntraced(function* (edge: Edge, queries: Queries) {
  const accounts = yield* waitersFor(edge, queries.withAccount)
  const settled = yield* waitersFor(edge, queries.settledDeposits)
  return new Hono()
    .post(
      "/users",
      answer(function* (c) {
        const body = yield* readBody(c, NewUser)
        const payload = { ...body, id: body.id ?? newId() }
        const reply = yield* submit(edge, c, CreateUser, payload, { body })
        if (reply._tag === "exists") return yield* problem("exists", `There is a user ${payload.id} already.`)
        const { user } = reply
        c.header("Location", `/users/${user.id}`)
        const opened = yield* accounts.outcome(user.id, accountWithin)
        return Option.isSome(opened) ? versioned(c, opened.value, 201) : versioned(c, user, 202)
      })
    )
    .get(
      "/users",
      answer(function* (c) {
        const page = yield* readPage(c, Id, { status: UserStatus })
        return c.json(toPage(yield* read(edge, () => queries.users(page)), page))
      })
    )
    .get(
      "/users/:id",
      answer(function* (c) {
        const id = yield* pathId(c, Id)
        return versioned(c, yield* found(edge, id, () => queries.user(id)))
      })
    )
    .put(
      "/users/:id",
      answer(function* (c) {
        const id = yield* pathId(c, Id)
        const payload = { id, ...(yield* readBody(c, EditedUser)), precondition: yield* requiredIfMatch(c) }
        const reply = yield* submit(edge, c, EditUser, payload, { body: payload })
        if (reply._tag === "unknown") return yield* notFound(id)
        if (reply._tag === "stale") return yield* stale(reply.version)
        if (reply._tag === "closed") return yield* closed(id)
        return versioned(c, reply.user)
      })
    )
    .delete(
      "/users/:id",
      answer(function* (c) {
        const id = yield* pathId(c, Id)
        const payload = { id, precondition: (yield* ifMatch(c)) ?? "*" }
        const reply = yield* submit(edge, c, CloseUser, payload, { body: payload })
        if (reply._tag === "unknown") return yield* notFound(id)
        if (reply._tag === "stale") return yield* stale(reply.version)
        return c.body(null, 204, { ETag: etagOf(reply.user.version) })
      })
    )
    .post(
      "/users/:id/deposits",
      answer(function* (c) {
        const userId = yield* pathId(c, Id)
        const body = { userId, ...(yield* readBody(c, NewDeposit)) }
        // the payment service refuses for good what it is asked before it has opened the account
        const { balance } = yield* found(edge, userId, () => queries.user(userId))
        if (balance === null) return yield* problemForNow("unavailable", "The user's account is not open yet.")
        const reply = yield* submit(edge, c, RequestDeposit, { ...body, depositId: newId() }, { body })
        if (reply._tag === "unknown") return yield* notFound(userId)
        if (reply._tag === "closed") return yield* closed(userId)
        const { deposit } = reply
        const location = `/users/${userId}/deposits/${deposit.id}`
        return yield* accepted(c, { current: deposit, location, outcomes: settled })
      })
    )
    .get(
      "/users/:id/deposits/:depositId",
      answer(function* (c) {
        const userId = yield* pathId(c, Id)
        const id = yield* pathId(c, DepositId, "depositId")
        return c.json(yield* found(edge, id, () => queries.deposit(userId, id)))
      })
    )
})

const closed = (id: string) => problem("account-closed", `User ${id} is kept for the orders that were made.`)
