/** The user service: users, and what was last heard of their balances. */
import { join } from "node:path"
import { Service } from "../shell/service.ts"
import { routes } from "./http.ts"
import { makeQueries } from "./queries.ts"
import { user } from "./user.ts"

export const service = Service.make({
  name: "user",
  port: 8000,
  database: "users",
  participant: user,
  migrations: [{ name: "user", folder: join(import.meta.dir, "migrations") }],
  routes: (edge) => routes(edge, makeQueries(edge.reads.sql))
})

if (import.meta.main) Service.main(service)
