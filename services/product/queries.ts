/** What the product service's API reads. */
import type { Sql } from "oncebox"
import type { Page } from "../shell/request.ts"
import { products, productView, type ProductStatus } from "./product.ts"

const view = (row: unknown) => productView(products.decode(row))

export type Queries = ReturnType<typeof makeQueries>

export const makeQueries = (sql: Sql) => ({
  product: async (id: string) => {
    const rows = await sql`
      select id, name, price, quantity, status, version, created_at
      from products
      where id = ${id}`
    return rows.map(view)[0]
  },

  /** Those that can be ordered, unless others are asked for. */
  products: async ({ limit, after, where }: Page<{ readonly status?: ProductStatus }>) => {
    const rows = await sql`
      select id, name, price, quantity, status, version, created_at
      from products
      where status = ${where.status ?? "ACTIVE"}
        ${after === undefined ? sql`` : sql`and id > ${after}`}
      order by id
      limit ${limit + 1}`
    return rows.map(view)
  }
})
