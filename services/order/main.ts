/** The order service: takes orders and keeps what became of them. */
import { join } from "node:path"
import { Service } from "../shell/service.ts"
import { routes } from "./http.ts"
import { order } from "./order.ts"
import { makeQueries } from "./queries.ts"

export const service = Service.make({
  name: "order",
  port: 8002,
  database: "orders",
  participant: order,
  migrations: [{ name: "order", folder: join(import.meta.dir, "migrations") }],
  routes: (edge) => routes(edge, makeQueries(edge.reads.sql))
})

if (import.meta.main) Service.main(service)
