/** What the user service's API reads. */
import type { Sql } from "oncebox"
import type { Page } from "../shell/request.ts"
import { users, userView } from "./user.ts"

const view = (row: unknown) => userView(users.decode(row))

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  user: async (id: string) => {
    const rows = await sql`
      select id, name, email, balance, position, created_at
      from users
      where id = ${id}`
    return rows.map(view)[0]
  },

  users: async ({ limit, after }: Page) => {
    const rows = await sql`
      select id, name, email, balance, position, created_at
      from users
      ${after === undefined ? sql`` : sql`where id > ${after}`}
      order by id
      limit ${limit + 1}`
    return rows.map(view)
  },

  /** Of these users, those whose account is open. */
  withAccount: async (ids: ReadonlyArray<string>) => {
    const rows = await sql`
      select id, name, email, balance, position, created_at
      from users
      where id = any(array(select id from jsonb_array_elements_text(${JSON.stringify(ids)}::text::jsonb) as ids(id)))
        and balance is not null`
    return rows.map(view)
  }
})
