/** The README's participant and its saga. */
import { Schema } from "effect"
import { Orchestrator, Participant, Saga, Table, Topic } from "oncebox"

const commands = Topic.commands("products-commands")
const events = Topic.events("products-events")

export const Reserve = commands.message(
  "Reserve",
  { orderId: Schema.String, productId: Schema.String },
  { key: "orderId" }
)
export const Reserved = events.message("Reserved", { orderId: Schema.String }, { key: "orderId" })
export const SoldOut = events.message("SoldOut", { orderId: Schema.String, reason: Schema.String }, { key: "orderId" })

const reservations = Table.make("reservations", {
  key: "order_id",
  row: { order_id: Schema.String, taken: Schema.Boolean }
})
const products = Table.make("products", { key: "id", row: { id: Schema.String, quantity: Schema.Int } })

const outcome = (orderId: string, taken: boolean) =>
  taken ? Reserved.of({ orderId }) : SoldOut.of({ orderId, reason: "OUT_OF_STOCK" })

export const product = Participant.make("product", { reservations, products }).on(Reserve, {
  touches: { reservations: (m) => [m.orderId], products: (m) => [m.productId] },
  decide: ({ reservations, products }, { orderId, productId }) => {
    const earlier = reservations.get(orderId)
    if (earlier) return { send: [outcome(orderId, earlier.taken)] }
    const found = products.get(productId)
    const taken = found !== undefined && found.quantity > 0
    return {
      put: {
        reservations: [{ order_id: orderId, taken }],
        products: found && taken ? [{ ...found, quantity: found.quantity - 1 }] : []
      },
      send: [outcome(orderId, taken)]
    }
  }
})

const Release = commands.message("Release", { orderId: Schema.String }, { key: "orderId" })
const Released = events.message("Released", { orderId: Schema.String }, { key: "orderId" })
const Confirm = commands.message("Confirm", { orderId: Schema.String }, { key: "orderId" })
const Confirmed = events.message("Confirmed", { orderId: Schema.String }, { key: "orderId" })

const step = Saga.step<{ readonly productId: string }>()

export const rent = Saga.define({
  name: "rent",
  version: 1,
  data: { productId: Schema.String },
  pivot: "confirm",
  steps: [
    step({
      name: "reserve",
      ask: ({ id, data }) => Reserve.of({ orderId: id, productId: data.productId }),
      success: Reserved,
      failure: SoldOut,
      undo: { ask: ({ id }) => Release.of({ orderId: id }), done: Released },
      deadline: "30 seconds",
      attempts: 3
    }),
    step({
      name: "confirm",
      ask: ({ id }) => Confirm.of({ orderId: id }),
      success: Confirmed,
      deadline: "30 seconds",
      attempts: 3
    })
  ]
})

export const orchestrator = Orchestrator.make("orchestrator", [rent], { starts: [] })
