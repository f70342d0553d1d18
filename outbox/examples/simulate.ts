/** The README's simulation: a front desk takes orders and has them reserved, whatever happens on the way. */
import { Schema } from "effect"
import { Participant, Request, Table, type Outgoing, type RowOf } from "oncebox"
import { simulate, type Scenario } from "oncebox/testing"
import { product, Reserve, Reserved, SoldOut } from "./rent.ts"

const Order = Request.make("Order", {
  payload: { orderId: Schema.String, productId: Schema.String },
  reply: Schema.Struct({ orderId: Schema.String })
})
const orders = Table.make("orders", {
  key: "id",
  row: { id: Schema.String, product_id: Schema.String, status: Schema.String, due_at: Schema.NullOr(Schema.Date) }
})
type Row = RowOf<typeof orders>

const asked = (order: Row, now: Date): { readonly put: { orders: [Row] }; readonly send: [Outgoing] } => ({
  put: { orders: [{ ...order, due_at: new Date(now.getTime() + 30_000) }] },
  send: [Reserve.of({ orderId: order.id, productId: order.product_id })]
})
const byOrder = { orders: ({ orderId }: { readonly orderId: string }) => [orderId] }
const settled = (order: Row | undefined, status: string) =>
  order === undefined ? {} : { put: { orders: [{ ...order, status, due_at: null }] } }

export const desk = Participant.make("desk", { orders })
  .answers(Order, {
    touches: byOrder,
    decide: (_rows, { orderId: id, productId: product_id }, { now }) => ({
      ...asked({ id, product_id, status: "OPEN", due_at: null }, now),
      reply: { orderId: id }
    })
  })
  .on(Reserved, { touches: byOrder, decide: ({ orders }, { orderId }) => settled(orders.get(orderId), "RESERVED") })
  .on(SoldOut, { touches: byOrder, decide: ({ orders }, { orderId }) => settled(orders.get(orderId), "SOLD_OUT") })
  // no answer yet: it is asked again, under another message id
  .due("orders", { decide: (_rows, order, { now }) => asked(order, now) })

/** Ten clients want one of three teapots. */
export const teapots: Scenario = {
  participants: [desk, product],
  plan: () => ({
    given: { product: { products: [{ id: "teapot", quantity: 3 }] } },
    requests: Array.from({ length: 10 }, (_, n) => ({
      to: "desk",
      request: Order,
      idempotencyKey: `client ${n}`,
      fingerprint: "one teapot",
      payload: (newId) => ({ orderId: newId(), productId: "teapot" })
    })),
    holds: ({ rows }) => {
      const [teapot] = rows("product", "products") as ReadonlyArray<{ readonly quantity: number }>
      const placed = rows("desk", "orders") as ReadonlyArray<Row>
      const left = teapot?.quantity
      const sold = placed.filter(({ status }) => status === "RESERVED").length
      const open = placed.filter(({ status }) => status === "OPEN")
      return [
        ...(left === 3 - sold ? [] : [`${sold} were sold and ${left} are left of 3`]),
        ...open.map(({ id }) => `order ${id} is open`)
      ]
    }
  }),
  // the desk asks again, and the answer is the same
  heals: () => true
}

if (import.meta.main) console.log(simulate(teapots, { seed: 1, runs: 1_000 }))
