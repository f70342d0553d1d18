/** The user service's routes. */
import { Effect, Option, Schema } from "effect"
import { Hono } from "hono"
import { Amount, Email, Id, Name } from "../shell/bounds.ts"
import { found, newId, read, submit, waitersFor, type Edge } from "../shell/edge.ts"
import { answer } from "../shell/http.ts"
import { problem } from "../shell/problem.ts"
import { pathId, readBody, readPage, toPage } from "../shell/request.ts"
import type { Queries } from "./queries.ts"
import { CreateUser } from "./user.ts"

const NewUser = Schema.Struct({ id: Schema.optionalKey(Id), name: Name, email: Email, balance: Amount })

const accountWithin = "10 seconds"

export const routes = Effect.fnUntraced(function* (edge: Edge, queries: Queries) {
  const accounts = yield* waitersFor(edge, queries.withAccount)
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
        return Option.isSome(opened) ? c.json(opened.value, 201) : c.json(user, 202)
      })
    )
    .get(
      "/users",
      answer(function* (c) {
        const page = yield* readPage(c, Id)
        return c.json(toPage(yield* read(edge, () => queries.users(page)), page))
      })
    )
    .get(
      "/users/:id",
      answer(function* (c) {
        const id = yield* pathId(c, Id)
        return c.json(yield* found(edge, id, () => queries.user(id)))
      })
    )
})
