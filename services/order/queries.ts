/** What the order service's API reads. */
import type { Sql } from "oncebox"
import type { Page } from "../shell/request.ts"
import type { OrderStatus } from "./contract.ts"
import { orders, ordersHistory, orderView } from "./order.ts"

const view = (row: unknown) => orderView(orders.decode(row))

interface OrderFilter {
  readonly status?: OrderStatus
  readonly user?: string
}

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  order: async (id: string) => {
    const rows = await sql`
      select id, user_id, items, lines, total, payment, country, status, reason, coordination, definition, created_at, archived_at, due_at
      from orders
      where id = ${id}`
    return rows.map(view)[0]
  },

  /** The newest first: ids grow with time. */
  orders: async ({ limit, after, where: { status, user } }: Page<OrderFilter>) => {
    const rows = await sql`
      select id, user_id, items, lines, total, payment, country, status, reason, coordination, definition, created_at, archived_at, due_at
      from orders
      where archived_at is null
        ${after === undefined ? sql`` : sql`and id < ${after}`}
        ${status === undefined ? sql`` : sql`and status = ${status}`}
        ${user === undefined ? sql`` : sql`and user_id = ${user}`}
      order by id desc
      limit ${limit + 1}`
    return rows.map(view)
  },

  /** Of these orders, those that ended. */
  ended: async (ids: ReadonlyArray<string>) => {
    const rows = await sql`
      select id, user_id, items, lines, total, payment, country, status, reason, coordination, definition, created_at, archived_at, due_at
      from orders
      where id = any(array(select id::uuid from jsonb_array_elements_text(${JSON.stringify(ids)}::text::jsonb) as ids(id)))
        and status in ('APPROVED', 'REJECTED')`
    return rows.map(view)
  },

  history: async (orderId: string) => {
    const rows = await sql`
      select order_id, status, reason, at
      from orders_history
      where order_id = ${orderId}
      order by at, array_position(array['CREATED', 'CANCELLING', 'APPROVED', 'REJECTED'], status)`
    return rows.map((row) => {
      const { status, reason, at } = ordersHistory.decode(row)
      return { status, reason, at: at.toISOString() }
    })
  }
})
