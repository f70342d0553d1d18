/** The product service's routes. */
import { Effect, Schema } from "effect"
import { Hono } from "hono"
import { AddedStock, greatestStock, Id, Name, Price, Stock } from "../shell/bounds.ts"
import { found, newId, read, submit, versioned, type Edge } from "../shell/edge.ts"
import { answer } from "../shell/http.ts"
import { problem } from "../shell/problem.ts"
import { ifMatch, notFound, pathId, readBody, readPage, requiredIfMatch, stale, toPage } from "../shell/request.ts"
import { etagOf } from "../shell/version.ts"
import { AddStock, CreateProduct, DiscontinueProduct, EditProduct, ProductStatus } from "./product.ts"
import type { Queries } from "./queries.ts"

const NewProduct = Schema.Struct({ id: Schema.optionalKey(Id), name: Name, price: Price, quantity: Stock })
const EditedProduct = Schema.Struct({ name: Name, price: Price })
const NewStock = Schema.Struct({ quantity: AddedStock })

export const routes = (edge: Edge, queries: Queries) =>
  Effect.succeed(
    new Hono()
      .post(
        "/products",
        answer(function* (c) {
          const body = yield* readBody(c, NewProduct)
          const payload = { ...body, id: body.id ?? newId() }
          const reply = yield* submit(edge, c, CreateProduct, payload, { body })
          if (reply._tag === "exists") return yield* problem("exists", `There is a product ${payload.id} already.`)
          c.header("Location", `/products/${reply.product.id}`)
          return versioned(c, reply.product, 201)
        })
      )
      .get(
        "/products",
        answer(function* (c) {
          const page = yield* readPage(c, Id, { status: ProductStatus })
          return c.json(toPage(yield* read(edge, () => queries.products(page)), page))
        })
      )
      .get(
        "/products/:id",
        answer(function* (c) {
          const id = yield* pathId(c, Id)
          return versioned(c, yield* found(edge, id, () => queries.product(id)))
        })
      )
      .put(
        "/products/:id",
        answer(function* (c) {
          const id = yield* pathId(c, Id)
          const payload = { id, ...(yield* readBody(c, EditedProduct)), precondition: yield* requiredIfMatch(c) }
          const reply = yield* submit(edge, c, EditProduct, payload, { body: payload })
          if (reply._tag === "unknown") return yield* notFound(id)
          if (reply._tag === "stale") return yield* stale(reply.version)
          if (reply._tag === "discontinued") return yield* discontinued(id)
          return versioned(c, reply.product)
        })
      )
      .delete(
        "/products/:id",
        answer(function* (c) {
          const id = yield* pathId(c, Id)
          const payload = { id, precondition: (yield* ifMatch(c)) ?? "*" }
          const reply = yield* submit(edge, c, DiscontinueProduct, payload, { body: payload })
          if (reply._tag === "unknown") return yield* notFound(id)
          if (reply._tag === "stale") return yield* stale(reply.version)
          return c.body(null, 204, { ETag: etagOf(reply.product.version) })
        })
      )
      .post(
        "/products/:id/stock",
        answer(function* (c) {
          const id = yield* pathId(c, Id)
          const payload = { id, ...(yield* readBody(c, NewStock)) }
          const reply = yield* submit(edge, c, AddStock, payload, { body: payload })
          if (reply._tag === "unknown") return yield* notFound(id)
          if (reply._tag === "discontinued") return yield* discontinued(id)
          if (reply._tag === "full") {
            const detail = `There are ${reply.quantity} of ${id}, and there can be ${greatestStock} at most.`
            return yield* problem("stock-limit", detail)
          }
          return versioned(c, reply.product)
        })
      )
  )

const discontinued = (id: string) => problem("discontinued", `Product ${id} is kept for the orders that it is in.`)
