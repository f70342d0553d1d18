/** The orchestrator: drives each order's saga to its end. */
import { Migrations } from "oncebox"
import { read } from "../shell/edge.ts"
import { Service } from "../shell/service.ts"
import { routes } from "./http.ts"
import { orchestrator } from "./orchestrator.ts"
import { makeQueries } from "./queries.ts"

export const service = Service.make({
  name: "orchestrator",
  port: 8003,
  database: "sagas",
  participant: orchestrator,
  migrations: [Migrations.saga],
  routes: (edge) => routes(edge, makeQueries(edge.reads.sql)),
  gauges: (edge) => read(edge, makeQueries(edge.reads.sql).gauges)
})

if (import.meta.main) Service.main(service)
