/** The product service's routes. */
import { Effect, Schema } from "effect"
import { Hono } from "hono"
import { Id, Name, Price, Stock } from "../shell/bounds.ts"
import { found, newId, read, submit, type Edge } from "../shell/edge.ts"
import { answer } from "../shell/http.ts"
import { problem } from "../shell/problem.ts"
import { pathId, readBody, readPage, toPage } from "../shell/request.ts"
import { CreateProduct } from "./product.ts"
import type { Queries } from "./queries.ts"

const NewProduct = Schema.Struct({ id: Schema.optionalKey(Id), name: Name, price: Price, quantity: Stock })

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
          return c.json(reply.product, 201, { Location: `/products/${reply.product.id}` })
        })
      )
      .get(
        "/products",
        answer(function* (c) {
          const page = yield* readPage(c, Id)
          return c.json(toPage(yield* read(edge, () => queries.products(page)), page))
        })
      )
      .get(
        "/products/:id",
        answer(function* (c) {
          const id = yield* pathId(c, Id)
          return c.json(yield* found(edge, id, () => queries.product(id)))
        })
      )
  )
