/** The payment service: accounts, their ledger, and what was paid for orders. */
import { join } from "node:path"
import { Service } from "../shell/service.ts"
import { cardCallers } from "./card.ts"
import { routes } from "./http.ts"
import { payment } from "./payment.ts"
import { makeQueries } from "./queries.ts"

export const service = Service.make({
  name: "payment",
  port: 8004,
  database: "payments",
  participant: payment,
  callers: ({ cardProcessorUrl }) => cardCallers(cardProcessorUrl),
  migrations: [{ name: "payment", folder: join(import.meta.dir, "migrations") }],
  routes: (edge) => routes(edge, makeQueries(edge.reads.sql))
})

if (import.meta.main) Service.main(service)
