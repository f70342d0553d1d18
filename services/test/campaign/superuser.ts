/** For what the owners of the databases may not do. */
import { Redacted } from "effect"
import { connect, type Sql } from "oncebox"
import type { Stack } from "../stack.ts"

export const asSuperuser = ({ engines }: Stack): Sql => {
  const { host, port, superuserPassword } = engines.postgres
  const password = Redacted.make(superuserPassword)
  return connect({ host, port, database: "postgres", username: "postgres", password }, { name: "nemesis", max: 1 })
}
