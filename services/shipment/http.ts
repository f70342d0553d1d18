/** The shipment service's routes. */
import { Effect } from "effect"
import { Hono } from "hono"
import { OrderId } from "../shell/bounds.ts"
import { found, type Edge } from "../shell/edge.ts"
import { answer } from "../shell/http.ts"
import { pathId } from "../shell/request.ts"
import type { Queries } from "./queries.ts"

export const routes = (edge: Edge, queries: Queries) =>
  Effect.succeed(
    new Hono().get(
      "/shipments/:orderId",
      answer(function* (c) {
        const id = yield* pathId(c, OrderId, "orderId")
        return c.json(yield* found(edge, id, () => queries.shipment(id)))
      })
    )
  )
