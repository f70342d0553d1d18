/** The orchestrator's routes. */
import { Effect } from "effect"
import { Hono } from "hono"
import { OrderId } from "../shell/bounds.ts"
import { found, read, waitersFor, type Edge } from "../shell/edge.ts"
import { answer } from "../shell/http.ts"
import { takeOrder } from "../shell/new-order.ts"
import { pathId, readPage, toPage } from "../shell/request.ts"
import { StartOrder } from "./orchestrator.ts"
import { StateFilter, waitingSince, type Queries } from "./queries.ts"

export const routes = Effect.fnUntraced(function* (edge: Edge, queries: Queries) {
  const outcomes = yield* waitersFor(edge, queries.ended)
  return new Hono()
    .post(
      "/orders",
      answer(function* (c) {
        return yield* takeOrder(edge, c, StartOrder, "/sagas", outcomes)
      })
    )
    .get(
      "/sagas",
      answer(function* (c) {
        const page = yield* readPage(c, OrderId, { state: StateFilter })
        return c.json(toPage(yield* read(edge, () => queries.sagas(page)), page))
      })
    )
    .get(
      "/sagas/:id",
      answer(function* (c) {
        const id = yield* pathId(c, OrderId)
        const saga = yield* found(edge, id, () => queries.saga(id))
        const log = yield* read(edge, () => queries.log(id))
        return c.json({ ...saga, waitingSince: waitingSince(saga, log), log })
      })
    )
})
