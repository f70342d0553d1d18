/** What the product service's API reads. */
import type { Sql } from "oncebox"
import type { Page } from "../shell/request.ts"
import { products, productView } from "./product.ts"

const view = (row: unknown) => productView(products.decode(row))

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  product: async (id: string) => {
    const rows = await sql`
      select id, name, price, quantity, created_at
      from products
      where id = ${id}`
    return rows.map(view)[0]
  },

  products: async ({ limit, after }: Page) => {
    const rows = await sql`
      select id, name, price, quantity, created_at
      from products
      ${after === undefined ? sql`` : sql`where id > ${after}`}
      order by id
      limit ${limit + 1}`
    return rows.map(view)
  }
})
