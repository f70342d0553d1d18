/** How a client places an order, with whichever service takes it. Prices and totals are none of its business. */
import { Effect, Schema } from "effect"
import type { Context } from "hono"
import type { Coordination, Request } from "oncebox"
import type { OrderView } from "../order/contract.ts"
import { Id, Items } from "./bounds.ts"
import { accepted, newId, submit, type Edge } from "./edge.ts"
import type { Problem } from "./problem.ts"
import { readBody } from "./request.ts"
import type { Waiters } from "./waiters.ts"

export const NewOrder = Schema.Struct({
  userId: Id,
  items: Items,
  coordination: Schema.optionalKey(Schema.Literals(["orchestration"]))
})

type OrderPayload = Omit<typeof NewOrder.Type, "coordination"> & {
  readonly coordination: Coordination
  readonly orderId: string
}

/** Has the order decided by `request`; the answer's location is below `path`. */
export const takeOrder = Effect.fnUntraced(function* (
  edge: Edge,
  c: Context,
  request: Request<OrderPayload, OrderView>,
  path: string,
  outcomes: Waiters<OrderView>
): Effect.fn.Return<Response, Problem> {
  const body = yield* readBody(c, NewOrder)
  const coordination = body.coordination ?? "orchestration"
  const payload = { ...body, coordination, orderId: newId() }
  const current = yield* submit(edge, c, request, payload, { body, coordination })
  return yield* accepted(c, { current, location: `${path}/${current.id}`, outcomes })
})
