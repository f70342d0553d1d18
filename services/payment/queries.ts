/** What the payment service's API reads. */
import type { Sql } from "oncebox"
import { payments } from "./outcome.ts"

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  payment: async (orderId: string) => {
    const rows = await sql`
      select order_id, user_id, amount, method, status, reason, charge, balance, position, refund_balance, refund_position, updated_at
      from payments
      where order_id = ${orderId}`
    return rows.map((row) => {
      const { order_id, user_id, amount, method, status, reason, updated_at } = payments.decode(row)
      return { orderId: order_id, userId: user_id, amount, method, status, reason, updatedAt: updated_at.toISOString() }
    })[0]
  }
})
