/** The README's call to the outside: a payment that a card processor takes. */
import { Schema } from "effect"
import { Call, Participant, Table, Topic } from "oncebox"

const commands = Topic.commands("payments-commands")
const events = Topic.events("payments-events")

export const Pay = commands.message("Pay", { orderId: Schema.String, amount: Schema.Int }, { key: "orderId" })
export const Settled = events.message("Settled", { orderId: Schema.String, status: Schema.String }, { key: "orderId" })

const status = Schema.Literals(["PENDING", "CHARGED", "DECLINED"])
const payments = Table.make("payments", { key: "order_id", row: { order_id: Schema.String, status } })

export const Charge = Call.make("charge", {
  request: { amount: Schema.Int },
  result: Schema.Struct({ status: Schema.Literals(["CHARGED", "DECLINED"]) })
})

export const payment = Participant.make("payment", { payments })
  .on(Pay, {
    touches: { payments: (m) => [m.orderId] },
    decide: ({ payments }, { orderId, amount }) => {
      const earlier = payments.get(orderId)
      if (earlier?.status === "PENDING") return {}
      if (earlier) return { send: [Settled.of({ orderId, status: earlier.status })] }
      return { put: { payments: [{ order_id: orderId, status: "PENDING" }] }, call: [Charge.of(orderId, { amount })] }
    }
  })
  .called(Charge, {
    touches: { payments: ({ key }) => [key] },
    decide: (_rows, { key, result: { status } }) => ({
      put: { payments: [{ order_id: key, status }] },
      send: [Settled.of({ orderId: key, status })]
    })
  })

/** For `run(payment, { callers: [charger(url)] })`. What it throws is tried again, under the same key. */
export const charger = (url: string) =>
  Charge.caller({
    deadline: "10 seconds",
    concurrency: 8,
    carry: async ({ amount }, { idempotencyKey, signal }) => {
      const headers = { "content-type": "application/json", "idempotency-key": idempotencyKey }
      const body = JSON.stringify({ amount, card: "card-1" })
      const response = await fetch(`${url}/charges`, { method: "POST", headers, body, signal })
      if (response.status === 201) return { status: "CHARGED" }
      if (response.status === 402) return { status: "DECLINED" }
      throw new Error(`the card processor answered ${response.status}`)
    }
  })
