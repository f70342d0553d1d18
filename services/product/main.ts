/** The product service: products, their prices and stock, and what is reserved of it. */
import { join } from "node:path"
import { Service } from "../shell/service.ts"
import { routes } from "./http.ts"
import { product } from "./product.ts"
import { makeQueries } from "./queries.ts"

export const service = Service.make({
  name: "product",
  port: 8001,
  database: "products",
  participant: product,
  migrations: [{ name: "product", folder: join(import.meta.dir, "migrations") }],
  routes: (edge) => routes(edge, makeQueries(edge.reads.sql))
})

if (import.meta.main) Service.main(service)
