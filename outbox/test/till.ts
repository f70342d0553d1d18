/**
 * A till for the tests: payments that a card processor outside takes, as the smallest participant that shows calls. Its
 * decisions can be made to fail through `Switches`, which production code never has.
 */
import { Schema } from "effect"
import { Call } from "../calls/call.ts"
import { Topic, Request } from "../message.ts"
import { Participant, type Decision } from "../participant.ts"
import { Table, type RowOf } from "../table.ts"

const commands = Topic.commands("till-commands")
const events = Topic.events("till-events")

const pay = { order: Schema.String, amount: Schema.Int }

export const Pay = commands.message("Pay", { ...pay, dueInMs: Schema.optionalKey(Schema.Int) }, { key: "order" })
export const Undo = commands.message("Undo", { order: Schema.String }, { key: "order" })
/** Asks for the charge whatever is known of the order. */
export const Insist = commands.message("Insist", pay, { key: "order" })
export const InsistNow = Request.make("InsistNow", { payload: pay, reply: Schema.Null })

export const Paid = events.message("Paid", { order: Schema.String, charge: Schema.String }, { key: "order" })
export const NotPaid = events.message("NotPaid", { order: Schema.String, reason: Schema.String }, { key: "order" })
export const Undone = events.message("Undone", { order: Schema.String }, { key: "order" })

export const Charge = Call.make("charge", {
  request: { amount: Schema.Int },
  result: Schema.Union([
    Schema.Struct({ status: Schema.Literal("CHARGED"), charge: Schema.String }),
    Schema.Struct({ status: Schema.Literal("REFUSED"), reason: Schema.String })
  ])
})
export const Refund = Call.make("refund", { request: {}, result: Schema.Struct({ refunded: Schema.Boolean }) })

export const payments = Table.make("payments", {
  key: "id",
  row: {
    id: Schema.String,
    amount: Schema.Int,
    status: Schema.Literals(["PLANNED", "PENDING", "PAID", "REFUSED", "UNDOING", "UNDONE"]),
    due_at: Schema.NullOr(Schema.Date)
  }
})
type Payment = RowOf<typeof payments>

export const schema = `
  create table payments (id text primary key, amount int not null, status text not null, due_at timestamptz);
  grant select, insert, update on payments to bank_service;`

export interface Switches {
  /** May throw. */
  decide?: (order: string) => void
}

const tables = { payments }
type Decided = Decision<typeof tables, void>

const pending = (order: string, amount: number): Decided => ({
  put: { payments: [{ id: order, amount, status: "PENDING", due_at: null }] },
  call: [Charge.of(order, { amount })]
})

const settled = (payment: Payment, status: Payment["status"], more: Decided): Decided => ({
  ...more,
  put: { payments: [{ ...payment, status, due_at: null }] }
})

const undone = (payment: Payment): Decided => settled(payment, "UNDONE", { send: [Undone.of({ order: payment.id })] })

export const till = (switches: Switches = {}) =>
  Participant.make("till", tables)
    .on(Pay, {
      touches: { payments: (m) => [m.order] },
      decide: ({ payments }, { order, amount, dueInMs }, { now }) => {
        if (payments.get(order) !== undefined) return {}
        if (dueInMs === undefined) return pending(order, amount)
        const due_at = new Date(now.getTime() + dueInMs)
        return { put: { payments: [{ id: order, amount, status: "PLANNED", due_at }] } }
      }
    })
    .on(Undo, {
      touches: { payments: (m) => [m.order] },
      decide: ({ payments }, { order }) => {
        const payment = payments.get(order)
        if (payment === undefined) return undone({ id: order, amount: 0, status: "UNDONE", due_at: null })
        if (payment.status === "PENDING") return settled(payment, "UNDOING", {})
        if (payment.status === "PAID") return settled(payment, "UNDOING", { call: [Refund.of(order, {})] })
        return payment.status === "UNDOING" ? {} : undone(payment)
      }
    })
    .on(Insist, {
      touches: { payments: (m) => [m.order] },
      decide: (_rows, { order, amount }) => ({ call: [Charge.of(order, { amount })] })
    })
    .answers(InsistNow, {
      decide: (_rows, { order, amount }) => ({ call: [Charge.of(order, { amount })], reply: null })
    })
    .due("payments", { decide: (_rows, { id, amount }) => pending(id, amount) })
    .called(Charge, {
      touches: { payments: ({ key }) => [key] },
      decide: ({ payments }, { key, result }) => {
        switches.decide?.(key)
        const payment = payments.get(key)
        if (payment === undefined) return {}
        if (payment.status === "UNDOING")
          return result.status === "CHARGED" ? { call: [Refund.of(key, {})] } : undone(payment)
        if (payment.status !== "PENDING") return {}
        return result.status === "CHARGED"
          ? settled(payment, "PAID", { send: [Paid.of({ order: key, charge: result.charge })] })
          : settled(payment, "REFUSED", { send: [NotPaid.of({ order: key, reason: result.reason })] })
      }
    })
    .called(Refund, {
      touches: { payments: ({ key }) => [key] },
      decide: ({ payments }, { key }) => {
        const payment = payments.get(key)
        return payment?.status === "UNDOING" ? undone(payment) : {}
      }
    })
