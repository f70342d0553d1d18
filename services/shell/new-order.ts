/** How a client places an order, with whichever service takes it. Prices and totals are none of its business. */
import { Effect, Schema } from "effect"
import type { Context } from "hono"
import { Coordination, type Request } from "oncebox"
import type { OrderView } from "../order/contract.ts"
import { Country, DefinitionName, fromAccount, Id, Items, PaymentMethod } from "./bounds.ts"
import { accepted, newId, submit, type Edge } from "./edge.ts"
import type { OrderRequest } from "./order-context.ts"
import { problem, type Problem } from "./problem.ts"
import { readBody } from "./request.ts"
import type { Waiters } from "./waiters.ts"

export const NewOrder = Schema.Struct({
  userId: Id,
  items: Items,
  payment: Schema.optionalKey(PaymentMethod),
  country: Schema.optionalKey(Country),
  coordination: Schema.optionalKey(Coordination),
  definition: Schema.optionalKey(DefinitionName)
})

/** Has the order decided by `request`; the answer's location is below `path`. */
export const takeOrder = Effect.fnUntraced(function* (
  edge: Edge,
  c: Context,
  request: Request<OrderRequest, OrderView>,
  path: string,
  outcomes: Waiters<OrderView>
): Effect.fn.Return<Response, Problem> {
  const body = yield* readBody(c, NewOrder)
  const { coordination = edge.orders.coordination, definition = edge.orders.definition } = body
  if (coordination === "choreography" && !edge.orders.choreography)
    return yield* problem("invalid-request", "Choreography is not enabled here: order with orchestration.", [
      { field: "coordination", detail: 'Expected "orchestration"' }
    ])
  const payload = { payment: fromAccount, country: null, ...body, coordination, definition, orderId: newId() }
  const current = yield* submit(edge, c, request, payload, { body, coordination, definition })
  return yield* accepted(c, { current, location: `${path}/${current.id}`, outcomes })
})
