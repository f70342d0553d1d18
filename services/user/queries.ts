/** What the user service's API reads. */
import type { Sql } from "oncebox"
import type { Page } from "../shell/request.ts"
import { deposits, depositView } from "./deposit.ts"
import { users, userView, type UserStatus } from "./user.ts"

const view = (row: unknown) => userView(users.decode(row))
const viewOfDeposit = (row: unknown) => depositView(deposits.decode(row))

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  user: async (id: string) => {
    const rows = await sql`
      select id, name, email, balance, position, status, version, created_at
      from users
      where id = ${id}`
    return rows.map(view)[0]
  },

  /** Those whose accounts are not closed, unless others are asked for. */
  users: async ({ limit, after, where }: Page<{ readonly status?: UserStatus }>) => {
    const rows = await sql`
      select id, name, email, balance, position, status, version, created_at
      from users
      where status = ${where.status ?? "ACTIVE"}
        ${after === undefined ? sql`` : sql`and id > ${after}`}
      order by id
      limit ${limit + 1}`
    return rows.map(view)
  },

  /** Of these users, those whose account is open. */
  withAccount: async (ids: ReadonlyArray<string>) => {
    const rows = await sql`
      select id, name, email, balance, position, status, version, created_at
      from users
      where id = any(array(select id from jsonb_array_elements_text(${JSON.stringify(ids)}::text::jsonb) as ids(id)))
        and balance is not null`
    return rows.map(view)
  },

  deposit: async (userId: string, id: string) => {
    const rows = await sql`
      select id, user_id, amount, status, reason, created_at, due_at
      from deposits
      where id = ${id}
        and user_id = ${userId}`
    return rows.map(viewOfDeposit)[0]
  },

  /** Of these deposits, those that were made or refused. */
  settledDeposits: async (ids: ReadonlyArray<string>) => {
    const rows = await sql`
      select id, user_id, amount, status, reason, created_at, due_at
      from deposits
      where id = any(array(select id::uuid from jsonb_array_elements_text(${JSON.stringify(ids)}::text::jsonb) as ids(id)))
        and status <> 'PENDING'`
    return rows.map(viewOfDeposit)
  }
})
