/** Payments with a card, decision by decision, and in every order of what may come. */
import { afterAll, describe, expect, test } from "bun:test"
import fc from "fast-check"
import type { Outgoing } from "oncebox"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import { cardCallers, Charge, Refund } from "../card.ts"
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
  ["told of twice, it says so once", [pay(), taken, undo, back, back], [], [], "REFUNDED"],
  ["a charge that is told of twice is one payment", [pay(), taken, taken], [], [], "PROCESSED"],
  ["and again", [pay(), taken, undo, back, undo], [refunded], [], "REFUNDED"],
  ["an undo waits for the processor's answer", [pay(), undo], [], [], "UNDOING"],
  ["and so does another", [pay(), undo, undo], [], [], "UNDOING"],
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

test("a payment keeps the processor's name for its charge, whenever it was told, and says when it last changed", () => {
  for (const inputs of [
    [pay(), taken],
    [pay(), undo, taken],
    [pay(), taken, undo, back]
  ])
    expect(decideWith(payment, bank, ...inputs).rows.payments[0]?.charge).toBe("c1")

  const [asked] = decideWith(payment, bank, pay()).rows.payments
  if (asked === undefined) throw new Error("there is no payment")
  const before = [{ ...asked, updated_at: new Date(0) }]
  for (const inputs of [[taken], [declined], [undo]])
    expect(decideWith(payment, { ...bank, payments: before }, ...inputs).rows.payments[0]?.updated_at).toEqual(
      decidedAt
    )
})

test("what a choreographed order takes along is given to the call, and told with the answer", () => {
  const order = {
    definition: "place-order",
    userId: "ann",
    items: [{ productId: "tea", quantity: 1 }],
    payment: { method: "card", card: "card-1" },
    country: "NL",
    lines: [{ productId: "tea", quantity: 1, price: 4_000 }],
    total: 4_000
  } as const
  const known = ProcessPaymentCommand.of({ orderId, userId: "ann", amount: 4_000, payment: order.payment, order })

  expect(decideWith(payment, bank, known).call).toEqual([Charge.of(orderId, { ...request, order })])
  const answer = Charge.answered(orderId, { ...request, order }, { status: "CHARGED", charge: "c1" })
  expect(decideWith(payment, bank, known, answer).send).toEqual([
    PaymentProcessedEvent.of({ orderId, ...movement, order })
  ])
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
          let rows: Parameters<typeof decideWith<typeof payment.tables>>[1] = bank
          const tell = (input: Input): void => {
            inputs.push(input)
            const decided = decideWith(payment, rows, input)
            rows = decided.rows
            for (const { contract } of decided.call ?? []) {
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
          const [row] = rows.payments ?? []
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

describe("the card processor is asked", () => {
  let says = { status: 200, body: "" }
  const asked: Array<readonly [method: string, path: string, key: string | null, body: string]> = []
  const processor = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (sent) => {
      const { pathname } = new URL(sent.url)
      asked.push([sent.method, pathname, sent.headers.get("idempotency-key"), await sent.text()])
      return new Response(says.body, { status: says.status })
    }
  })
  afterAll(() => processor.stop(true))
  const url = processor.url.origin
  const answering = (status: number, body: unknown) => void (says = { status, body: JSON.stringify(body) })
  const carry = async (kind: string, what: object, key = orderId) => {
    asked.length = 0
    const caller = cardCallers(url).find(({ call }) => call.kind === kind)
    const signal = AbortSignal.timeout(4_000)
    return await caller?.carry(what, { key, idempotencyKey: `${kind}:${key}`, attempt: 1, signal })
  }

  test("for a charge, under the call's key, and not told of the order", async () => {
    answering(201, { id: "ch_1" })

    const said = await carry("charge", { ...request, order: { userId: "ann" } })

    expect(said).toEqual({ status: "CHARGED", charge: "ch_1" })
    expect(asked).toEqual([["POST", "/charges", `charge:${orderId}`, JSON.stringify(request)]])
  })

  test.each<readonly [unknown, string]>([
    [{ reason: "CARD_DECLINED" }, "CARD_DECLINED"],
    [{ reason: "no, thanks" }, "CARD_REFUSED"],
    [{}, "CARD_REFUSED"],
    ["no", "CARD_REFUSED"]
  ])("and a refusal that says %p is %p", async (said, reason) => {
    answering(402, said)

    expect(await carry("charge", request)).toEqual({ status: "REFUSED", reason })
  })

  test("for the money back, by the name of the charge", async () => {
    answering(200, { id: "ch_1", status: "REFUNDED" })

    expect(await carry("refund", {}, "a/b c")).toEqual({ status: "REFUNDED" })
    expect(asked.map(([method, path]) => [method, path])).toEqual([["POST", "/charges/charge%3Aa%2Fb%20c/refund"]])
  })

  test("and whatever else it answers says nothing: the call is carried out again", async () => {
    for (const status of [200, 202, 400, 422, 500, 503]) {
      answering(status, { id: "ch_1", reason: "CARD_DECLINED" })
      await expect(carry("charge", request)).rejects.toThrow(`the card processor answered ${status}`)
    }
    for (const status of [201, 402, 404, 503]) {
      answering(status, { status: "REFUNDED" })
      await expect(carry("refund", {})).rejects.toThrow(`the card processor answered ${status}`)
    }
  })

  test("only if there is one: without, a charge is refused, and one that was made waits to be given back", async () => {
    const [charging, refunding] = cardCallers(undefined)
    const attempt = { key: orderId, idempotencyKey: "", attempt: 1, signal: AbortSignal.timeout(4_000) }

    expect(await charging?.carry(request, attempt)).toEqual({ status: "REFUSED", reason: "CARDS_NOT_TAKEN" })
    expect(async () => await refunding?.carry({}, attempt)).toThrow("set CARD_PROCESSOR_URL")
  })
})
