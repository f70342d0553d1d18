/** The order service's routes. */
import { Effect } from "effect"
import { Hono } from "hono"
import { Id, OrderId } from "../shell/bounds.ts"
import { accepted, found, read, submit, waitersFor, type Edge } from "../shell/edge.ts"
import { answer } from "../shell/http.ts"
import { takeOrder } from "../shell/new-order.ts"
import { problem } from "../shell/problem.ts"
import { notFound, pathId, readPage, toPage } from "../shell/request.ts"
import { OrderStatus } from "./contract.ts"
import { ArchiveOrder, CancelOrder, PlaceOrder } from "./order.ts"
import type { Queries } from "./queries.ts"

export const routes = Effect.fnUntraced(function* (edge: Edge, queries: Queries) {
  const outcomes = yield* waitersFor(edge, queries.ended)
  return new Hono()
    .post(
      "/orders",
      answer(function* (c) {
        return yield* takeOrder(edge, c, PlaceOrder, "/orders", outcomes)
      })
    )
    .get(
      "/orders",
      answer(function* (c) {
        const page = yield* readPage(c, OrderId, { status: OrderStatus, user: Id })
        return c.json(toPage(yield* read(edge, () => queries.orders(page)), page))
      })
    )
    .get(
      "/orders/:id",
      answer(function* (c) {
        const id = yield* pathId(c, OrderId)
        return c.json(yield* found(edge, id, () => queries.order(id)))
      })
    )
    .post(
      "/orders/:id/cancel",
      answer(function* (c) {
        const orderId = yield* pathId(c, OrderId)
        const reply = yield* submit(edge, c, CancelOrder, { orderId }, { body: { cancel: orderId } })
        if (reply._tag === "unknown") return yield* notFound(orderId)
        if (reply._tag === "too-late")
          return yield* problem("too-late", `It is ${reply.order.status} and can't be cancelled any more.`)
        return yield* accepted(c, { current: reply.order, location: `/orders/${orderId}`, outcomes })
      })
    )
    .delete(
      "/orders/:id",
      answer(function* (c) {
        const orderId = yield* pathId(c, OrderId)
        const { outcome } = yield* submit(edge, c, ArchiveOrder, { orderId }, { body: { archive: orderId } })
        if (outcome === "unknown") return yield* notFound(orderId)
        if (outcome === "open")
          return yield* problem("open", `It is not finished. POST /orders/${orderId}/cancel would end it.`)
        return c.body(null, 204)
      })
    )
    .get(
      "/orders/:id/history",
      answer(function* (c) {
        const id = yield* pathId(c, OrderId)
        const items = yield* read(edge, () => queries.history(id))
        // an order has an entry from its first moment on
        return items.length === 0 ? yield* notFound(id) : c.json({ items, next: null })
      })
    )
})
