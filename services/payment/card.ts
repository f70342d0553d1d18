/**
 * Payments with a card: a processor outside is asked, by calls that are carried out after the transaction that asked for them.
 * It knows each call by order and step, so a payment that is asked for twice is charged once.
 */
import { Schema } from "effect"
import { Call, type Caller, type Decision, type OutgoingCall, type PayloadOf } from "oncebox"
import { Amount, Id, Reason, type PaymentMethod } from "../shell/bounds.ts"
import { along, order } from "../shell/order-context.ts"
import type { ProcessPaymentCommand } from "./contract.ts"
import { outcomeOf, refundOf, type Payment, type payments } from "./outcome.ts"

export const Charge = Call.make("charge", {
  // the order's context comes along for the answer; the processor is not told
  request: { amount: Amount, card: Id, order },
  result: Schema.Union([
    Schema.Struct({ status: Schema.Literal("CHARGED"), charge: Id }),
    Schema.Struct({ status: Schema.Literal("REFUSED"), reason: Reason })
  ])
})
type Charged = typeof Charge.result.Type

export const Refund = Call.make("refund", { request: {}, result: Schema.Struct({ status: Reason }) })

type Settlement = Decision<{ readonly payments: typeof payments }, void>

/** Asks for the charge; what becomes of it is told when it is known. */
export const pending = (
  asked: Payment,
  command: PayloadOf<typeof ProcessPaymentCommand>,
  { card }: Extract<PaymentMethod, { readonly method: "card" }>
): Settlement => ({
  put: { payments: [{ ...asked, status: "PENDING" }] },
  call: [Charge.of(command.orderId, { amount: command.amount, card, ...along(command) })]
})

/** Takes a card's payment back: at once, or when it is known whether there is one. */
export const takenBack = (payment: Payment, now: Date): Settlement => {
  if (payment.status === "PENDING") return settled({ ...payment, status: "UNDOING" }, now)
  return { ...settled({ ...payment, status: "REFUNDING" }, now), call: [giveBack(payment)] }
}

/** What the processor's answer to a charge makes of its payment. */
export const charged = (
  payment: Payment | undefined,
  request: typeof Charge.request.Type,
  result: Charged,
  now: Date
): Settlement => {
  if (payment?.status === "PENDING") {
    const known: Payment =
      result.status === "CHARGED"
        ? { ...payment, status: "PROCESSED", charge: result.charge }
        : { ...payment, status: "FAILED", reason: result.reason }
    return settled(known, now, outcomeOf(known, request))
  }
  if (payment?.status !== "UNDOING") return {}
  if (result.status === "CHARGED") {
    const back: Payment = { ...payment, status: "REFUNDING", charge: result.charge }
    return { ...settled(back, now), call: [giveBack(back)] }
  }
  const cancelled: Payment = { ...payment, status: "CANCELLED" }
  return settled(cancelled, now, refundOf(cancelled))
}

/** What the processor's answer to a refund makes of its payment. */
export const givenBack = (payment: Payment | undefined, now: Date): Settlement => {
  if (payment?.status !== "REFUNDING") return {}
  const refunded: Payment = { ...payment, status: "REFUNDED" }
  return settled(refunded, now, refundOf(refunded))
}

const settled = (payment: Payment, now: Date, send: Settlement["send"] = []): Settlement => ({
  put: { payments: [{ ...payment, updated_at: now }] },
  send
})

const giveBack = ({ order_id }: Payment): OutgoingCall => Refund.of(order_id, {})

const attempts = { deadline: "10 seconds", concurrency: 32 } as const

/** What carries the calls out. Without a processor cards are refused. */
export const cardCallers = (processorUrl: string | undefined): ReadonlyArray<Caller> => [
  Charge.caller({
    ...attempts,
    carry: async ({ amount, card }, { idempotencyKey, signal }) => {
      if (processorUrl === undefined) return { status: "REFUSED", reason: "CARDS_NOT_TAKEN" }
      const headers = { "content-type": "application/json", "idempotency-key": idempotencyKey }
      const body = JSON.stringify({ amount, card })
      const response = await fetch(`${processorUrl}/charges`, { method: "POST", headers, body, signal })
      const said: unknown = await response.json()
      if (response.status === 201) return { status: "CHARGED", charge: fieldOf(said, "id") }
      if (response.status === 402) return { status: "REFUSED", reason: reasonOf(said) }
      throw new Error(`the card processor answered ${response.status} ${JSON.stringify(said)}`)
    }
  }),
  Refund.caller({
    ...attempts,
    carry: async (_request, { key, signal }) => {
      // what is given back is the charge, by the name under which it was made
      if (processorUrl === undefined) throw new Error("there is a charge to give back: set CARD_PROCESSOR_URL")
      const path = `${processorUrl}/charges/${encodeURIComponent(`${Charge.kind}:${key}`)}/refund`
      const response = await fetch(path, { method: "POST", signal })
      const said: unknown = await response.json()
      if (response.status === 200) return { status: fieldOf(said, "status") }
      throw new Error(`the card processor answered ${response.status} ${JSON.stringify(said)}`)
    }
  })
]

/** The processor's reason, when it is a code as ours are. */
const reasonOf = (said: unknown): string => {
  const reason = fieldOf(said, "reason")
  return Schema.is(Reason)(reason) ? reason : "CARD_REFUSED"
}

/** What is missing or odd breaks the result's contract, and the call is carried out again. */
const fieldOf = (said: unknown, name: string): string =>
  typeof said === "object" && said !== null ? String(Reflect.get(said, name)) : ""
