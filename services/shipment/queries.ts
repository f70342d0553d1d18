/** What the shipment service's API reads. */
import type { Sql } from "oncebox"
import { shipments } from "./shipment.ts"

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  shipment: async (orderId: string) => {
    const rows = await sql`
      select order_id, id, status, reason, items, updated_at
      from shipments
      where order_id = ${orderId}`
    return rows.map((row) => {
      const { order_id, id, status, reason, items, updated_at } = shipments.decode(row)
      return { id, orderId: order_id, items, status, reason, updatedAt: updated_at.toISOString() }
    })[0]
  }
})
