/** Payments with a card, decision by decision, and in every order of what may come. */
import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import type { Outgoing } from "oncebox"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import { Charge, Refund } from "../card.ts"
import {
  PaymentFailedEvent,
  PaymentProcessedEvent,
  PaymentRefundedEvent,
  ProcessPaymentCommand,
  RefundPaymentCommand
} from "../contract.ts"
import type { Payment } from "../outcome.ts"
import { payment } from "../payment.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const bank = {
  accounts: [
    { user_id: "ann", opening_balance: 5, balance: 5, position: 1, opened_at: decidedAt, closed_at: null },
    { user_id: "gone", opening_balance: 5, balance: 5, position: 1, opened_at: decidedAt, closed_at: decidedAt }
  ]
}
const request = { amount: 4_000, card: "card-1" }
const pay = (userId = "ann") =>
  ProcessPaymentCommand.of({ orderId, userId, amount: 4_000, payment: { method: "card", card: "card-1" } })
const undo = RefundPaymentCommand.of({ orderId })
const taken = Charge.answered(orderId, request, { status: "CHARGED", charge: "c1" })
const declined = Charge.answered(orderId, request, { status: "REFUSED", reason: "CARD_DECLINED" })
const back = Refund.answered(orderId, {}, { status: "REFUNDED" })

const movement = { userId: "ann", amount: 4_000, balance: null, position: null }
const processed = PaymentProcessedEvent.of({ orderId, ...movement })
const failed = (reason: string) => PaymentFailedEvent.of({ orderId, reason })
const refunded = PaymentRefundedEvent.of({ orderId, refund: movement })
const nothingBack = PaymentRefundedEvent.of({ orderId, refund: null })
const charge = Charge.of(orderId, request)
const giveBack = Refund.of(orderId, {})

type Case = readonly [string, ReadonlyArray<Input>, ReadonlyArray<Outgoing>, ReadonlyArray<object>, Payment["status"]]
const cases: ReadonlyArray<Case> = [
  ["the processor is asked, and nothing said yet", [pay()], [], [charge], "PENDING"],
  ["asked for again meanwhile, nothing is", [pay(), pay()], [], [], "PENDING"],
  ["a charge is a payment", [pay(), taken], [processed], [], "PROCESSED"],
  ["asked for again, it says so again", [pay(), taken, pay()], [processed], [], "PROCESSED"],
  ["a declined card is no payment", [pay(), declined], [failed("CARD_DECLINED")], [], "FAILED"],
  ["asked for again, it is declined again", [pay(), declined, pay()], [failed("CARD_DECLINED")], [], "FAILED"],
  ["a payment is given back by the processor", [pay(), taken, undo], [], [giveBack], "REFUNDING"],
  ["asked for again meanwhile, nothing is said", [pay(), taken, undo, undo], [], [], "REFUNDING"],
  ["given back, it says so", [pay(), taken, undo, back], [refunded], [], "REFUNDED"],
  ["and again", [pay(), taken, undo, back, undo], [refunded], [], "REFUNDED"],
  ["an undo waits for the processor's answer", [pay(), undo], [], [], "UNDOING"],
  ["what was charged meanwhile is given back", [pay(), undo, taken], [], [giveBack], "REFUNDING"],
  ["what was declined meanwhile is nothing to give back", [pay(), undo, declined], [nothingBack], [], "CANCELLED"],
  ["a payment that is being undone is refused", [pay(), undo, pay()], [failed("ALREADY_CANCELLED")], [], "UNDOING"],
  ["an undo that comes first refuses the payment", [undo, pay()], [failed("ALREADY_CANCELLED")], [], "CANCELLED"],
  ["a declined payment has nothing to give back", [pay(), declined, undo], [nothingBack], [], "FAILED"],
  ["a user whom nobody knows is not charged", [pay("nobody")], [failed("USER_UNKNOWN")], [], "FAILED"],
  ["a closed account is not charged", [pay("gone")], [failed("ACCOUNT_CLOSED")], [], "FAILED"]
]

test.each(cases)("%s", (_name, inputs, send, call, status) => {
  const decided = decideWith(payment, bank, ...inputs)

  expect(decided.send ?? []).toEqual([...send])
  expect(decided.call ?? []).toEqual([...call] as typeof decided.call & object)
  expect(decided.rows.payments).toMatchObject([{ order_id: orderId, status }])
  // a card never moves the account's money
  expect(decided.rows.accounts).toEqual(bank.accounts)
  expect(decided.rows.ledger).toEqual([])
})

describe("in every order of commands and answers", () => {
  test("a card is charged once at most, and no charge is kept for a payment that was undone", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom<"pay" | "undo" | "answer">("pay", "undo", "answer"), { maxLength: 12 }),
        fc.boolean(),
        (moves, declines) => {
          const inputs: Array<Input> = []
          // what the processor did, and what it has yet to answer
          const waiting: Array<Input> = []
          let [charges, refunds] = [0, 0]
          const tell = (input: Input): void => {
            inputs.push(input)
            for (const { contract } of decideWith(payment, bank, ...inputs).call ?? []) {
              if (contract.kind === Charge.kind) charges += 1
              else refunds += 1
              waiting.push(contract.kind === Refund.kind ? back : declines ? declined : taken)
            }
          }
          for (const move of moves) {
            const next = move === "answer" ? waiting.shift() : move === "pay" ? pay() : undo
            if (next !== undefined) tell(next)
          }
          for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) tell(next)

          expect(charges).toBeLessThanOrEqual(1)
          const undone = moves.includes("undo")
          expect(refunds).toBe(undone && charges === 1 && !declines ? 1 : 0)
          const [row] = inputs.length === 0 ? [] : decideWith(payment, bank, ...inputs).rows.payments
          if (charges === 1)
            expect(row?.status).toBe(
              declines
                ? undone && inputs.indexOf(undo) < inputs.indexOf(declined)
                  ? "CANCELLED"
                  : "FAILED"
                : undone
                  ? "REFUNDED"
                  : "PROCESSED"
            )
        }
      ),
      { seed: 20261121, numRuns: 2_000 }
    )
  })
})
