/** The shipment service: hands orders to the carrier. */
import { join } from "node:path"
import { Service } from "../shell/service.ts"
import { routes } from "./http.ts"
import { makeQueries } from "./queries.ts"
import { shipment } from "./shipment.ts"

export const service = Service.make({
  name: "shipment",
  port: 8005,
  database: "shipments",
  participant: shipment,
  migrations: [{ name: "shipment", folder: join(import.meta.dir, "migrations") }],
  routes: (edge) => routes(edge, makeQueries(edge.reads.sql))
})

if (import.meta.main) Service.main(service)
