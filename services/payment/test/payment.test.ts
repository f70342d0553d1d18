import { expect, test } from "bun:test"
import fc from "fast-check"
import type { Outgoing } from "oncebox"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import { UserCreatedEvent, UserDeletedEvent } from "../../user/contract.ts"
import {
  AccountClosedEvent,
  AccountOpenedEvent,
  DepositMadeEvent,
  DepositMoneyCommand,
  DepositRefusedEvent,
  PaymentFailedEvent,
  PaymentProcessedEvent,
  PaymentRefundedEvent,
  ProcessPaymentCommand,
  RefundPaymentCommand
} from "../contract.ts"
import { payment, type Account } from "../payment.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const otherId = "00000000-0000-4000-8000-000000000002"

const account = (user_id: string, balance: number): Account => ({
  user_id,
  opening_balance: balance,
  balance,
  position: 1,
  opened_at: decidedAt,
  closed_at: null
})
const bank = { accounts: [account("ann", 10_000), account("bob", 500)] }

const pay = (amount: number, userId = "ann", order = orderId) =>
  ProcessPaymentCommand.of({ orderId: order, userId, amount, payment: { method: "account" } })
const refund = (order = orderId) => RefundPaymentCommand.of({ orderId: order })

const depositId = "00000000-0000-4000-8000-000000000011"
const otherDepositId = "00000000-0000-4000-8000-000000000012"
const deposit = (amount: number, userId = "ann", id = depositId) =>
  DepositMoneyCommand.of({ userId, depositId: id, amount })
const made = (amount: number, balance: number, position = 2) =>
  DepositMadeEvent.of({ depositId, userId: "ann", amount, balance, position })
const notMade = (reason: string, userId = "ann") => DepositRefusedEvent.of({ userId, depositId, reason })
const close = (userId = "ann") => UserDeletedEvent.of({ userId })
const most = 1_000_000_000_000

const paid = (amount: number, balance: number, position = 2) =>
  PaymentProcessedEvent.of({ orderId, userId: "ann", amount, balance, position })
const failed = (reason: string) => PaymentFailedEvent.of({ orderId, reason })
const refunded = (amount: number, balance: number, position = 3) =>
  PaymentRefundedEvent.of({ orderId, refund: { userId: "ann", amount, balance, position } })
const nothingRefunded = PaymentRefundedEvent.of({ orderId, refund: null })

const cases: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Outgoing, annHas: number]> = [
  ["an order is paid from its user's account", [pay(4000)], paid(4000, 6000), 6000],
  ["a balance can be spent to the last", [pay(10_000)], paid(10_000, 0), 0],
  ["asked twice, it is paid once", [pay(4000), pay(4000)], paid(4000, 6000), 6000],
  ["asked twice with another amount, it is paid the first", [pay(4000), pay(1)], paid(4000, 6000), 6000],
  [
    "asked again after other payments, it hears the same",
    [pay(4000), pay(1000, "ann", otherId), pay(4000)],
    paid(4000, 6000),
    5000
  ],
  ["more than the balance is not paid", [pay(10_001)], failed("INSUFFICIENT_FUNDS"), 10_000],
  ["who has no account pays nothing", [pay(1, "zoe")], failed("USER_UNKNOWN"), 10_000],
  ["a refund gives all of it back", [pay(4000), refund()], refunded(4000, 10_000), 10_000],
  [
    "a second refund gives nothing more back and says the same",
    [pay(4000), refund(), refund()],
    refunded(4000, 10_000),
    10_000
  ],
  [
    "a refund asked again says what it said, whatever came since",
    [pay(4000), refund(), pay(1000, "ann", otherId), refund()],
    refunded(4000, 10_000),
    9000
  ],
  ["a refunded order is not paid again", [pay(4000), refund(), pay(4000)], failed("ALREADY_CANCELLED"), 10_000],
  ["a refund that comes first gives nothing back", [refund()], nothingRefunded, 10_000],
  ["a refund that comes first refuses the payment", [refund(), pay(4000)], failed("ALREADY_CANCELLED"), 10_000],
  ["it goes on refusing after another refund", [refund(), refund(), pay(4000)], failed("ALREADY_CANCELLED"), 10_000],
  ["a refused payment is refunded nothing", [refund(), pay(4000), refund()], nothingRefunded, 10_000],
  ["a failed payment is refunded nothing", [pay(10_001), refund()], nothingRefunded, 10_000],
  [
    "a failed payment fails again, though there is money since",
    [pay(4000, "ann", otherId), pay(7000), refund(otherId), pay(7000)],
    failed("INSUFFICIENT_FUNDS"),
    10_000
  ],
  ["a closed account pays nothing", [close(), pay(4000)], failed("ACCOUNT_CLOSED"), 10_000],
  ["what a closed account paid before it is asked again", [pay(4000), close(), pay(4000)], paid(4000, 6000), 6000],
  ["a closed account is given back what it paid", [pay(4000), close(), refund()], refunded(4000, 10_000), 10_000],
  ["a deposit is added to the balance", [deposit(500)], made(500, 10_500), 10_500],
  ["what was deposited can be spent", [deposit(500), pay(10_500)], paid(10_500, 0, 3), 0],
  ["a deposit asked twice is made once", [deposit(500), deposit(500)], made(500, 10_500), 10_500],
  ["a deposit asked twice with another amount is made as the first", [deposit(5), deposit(9)], made(5, 10_005), 10_005],
  ["a deposit asked again says what it said", [deposit(500), pay(1), close(), deposit(500)], made(500, 10_500), 10_499],
  ["a deposit may fill an account", [deposit(most - 10_000)], made(most - 10_000, most), most],
  ["a deposit may not overfill it", [deposit(most - 9_999)], notMade("BALANCE_TOO_LARGE"), 10_000],
  [
    "a deposit that was refused stays refused, though there is room since",
    [deposit(most - 9_999), pay(1), deposit(most - 9_999)],
    notMade("BALANCE_TOO_LARGE"),
    9_999
  ],
  [
    "a refund may overfill an account",
    [pay(4000), deposit(most - 6000), refund()],
    refunded(4000, most + 4000, 4),
    most + 4000
  ],
  ["who has no account deposits nothing", [deposit(1, "zoe")], notMade("USER_UNKNOWN", "zoe"), 10_000],
  ["a closed account takes no deposit", [close(), deposit(1)], notMade("ACCOUNT_CLOSED"), 10_000],
  ["a deleted user's account is closed", [close()], AccountClosedEvent.of({ userId: "ann" }), 10_000]
]

test.each(cases)("%s", (_name, inputs, answer, annHas) => {
  const { send, rows } = decideWith(payment, bank, ...inputs)

  expect(send).toEqual([answer])
  expect(rows.accounts.find(({ user_id }) => user_id === "ann")?.balance).toBe(annHas)
})

const repeated: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Input]> = [
  ["a payment", [pay(4000)], pay(4000)],
  ["a failed payment", [pay(10_001)], pay(10_001)],
  ["a payment of nobody", [pay(1, "zoe")], pay(1, "zoe")],
  ["a refund", [pay(4000), refund()], refund()],
  ["a refund of a failed payment", [pay(10_001)], refund()],
  ["a refund that came first", [refund()], refund()],
  ["a refused payment", [refund()], pay(4000)],
  ["a deposit", [deposit(500)], deposit(500)],
  ["a refused deposit", [deposit(1, "zoe")], deposit(1, "zoe")],
  ["an account's closing", [close()], close()],
  ["an account's closing before it was opened", [close("eve")], close("eve")],
  ["an account's opening", [], UserCreatedEvent.of({ userId: "ann", balance: 10_000 })]
]

test.each(repeated)("%s, asked again, writes no row", (_name, before, again) => {
  const { put } = decideWith(payment, bank, ...before, again)

  expect(put).toBeUndefined()
})

test("the ledger has an entry for whatever moved money", () => {
  const open = UserCreatedEvent.of({ userId: "eve", balance: 900 })

  const failing = [pay(600, "eve", otherId), refund(otherId), deposit(most, "eve", otherDepositId)]
  const { rows } = decideWith(
    payment,
    {},
    open,
    pay(400, "eve"),
    ...failing,
    refund(),
    deposit(70, "eve"),
    close("eve")
  )

  const eve = { user_id: "eve", at: decidedAt, order_id: null, deposit_id: null }
  expect(rows.ledger).toEqual([
    { ...eve, position: 1, kind: "OPENING", amount: 900, balance: 900 },
    { ...eve, position: 2, kind: "PAYMENT", amount: -400, order_id: orderId, balance: 500 },
    { ...eve, position: 3, kind: "REFUND", amount: 400, order_id: orderId, balance: 900 },
    { ...eve, position: 4, kind: "DEPOSIT", amount: 70, deposit_id: depositId, balance: 970 }
  ])
})

test.each([0, 900, 1_000_000_000_000])("an account is opened for a new user, with %p", (balance) => {
  const { send, rows } = decideWith(payment, {}, UserCreatedEvent.of({ userId: "eve", balance }))

  expect(send).toEqual([AccountOpenedEvent.of({ userId: "eve", balance, position: 1 })])
  expect(rows.accounts).toEqual([account("eve", balance)])
  expect(rows.ledger).toHaveLength(1)
})

test("a failure on demand fails an order by its cost, however it is paid, and takes nothing", () => {
  const rules = { failure_rules: [{ step: "pay", above: 3_999, percent: 0, seed: "", delay_ms: null }] }
  const card = ProcessPaymentCommand.of({
    orderId,
    userId: "ann",
    amount: 4000,
    payment: { method: "card", card: "card-1" }
  })

  for (const command of [pay(4000), card]) {
    const { send, call, rows } = decideWith(payment, { ...bank, ...rules }, command)

    expect([send, call]).toEqual([[failed("FAILED_ON_DEMAND")], undefined])
    expect(rows.accounts).toEqual(bank.accounts)
  }
  expect(decideWith(payment, { ...bank, ...rules }, pay(3_999)).send).toEqual([paid(3_999, 6_001)])
})

test("what a choreographed order takes along is told with its payment", () => {
  const items = [{ productId: "tea", quantity: 1 }]
  const order = {
    definition: "place-order",
    userId: "ann",
    items,
    payment: { method: "account" },
    country: null,
    lines: [{ productId: "tea", quantity: 1, price: 4000 }],
    total: 4000
  } as const
  const command = ProcessPaymentCommand.of({ orderId, userId: "ann", amount: 4000, payment: order.payment, order })

  expect(decideWith(payment, bank, command).send).toEqual([
    PaymentProcessedEvent.of({ orderId, userId: "ann", amount: 4000, balance: 6000, position: 2, order })
  ])
})

test("rows say when they changed: a payment that is given back, an account that is opened after it was closed", () => {
  const before = new Date(0)
  const settled = decideWith(payment, bank, pay(4000)).rows
  const payments = settled.payments.map((row) => ({ ...row, updated_at: before }))

  expect(decideWith(payment, { ...settled, payments }, refund()).rows.payments[0]?.updated_at).toEqual(decidedAt)
  const [closed] = decideWith(payment, {}, close("eve")).rows.accounts
  if (closed === undefined) throw new Error("there is no account")
  const accounts = [{ ...closed, opened_at: before, closed_at: before }]
  expect(decideWith(payment, { accounts }, UserCreatedEvent.of({ userId: "eve", balance: 9 })).rows.accounts).toEqual([
    { ...account("eve", 9), closed_at: before }
  ])
  expect(decideWith(payment, { accounts }, close("eve")).put).toBeUndefined()
})

test("an account that is open already says what it was opened with", () => {
  const again = UserCreatedEvent.of({ userId: "ann", balance: 1 })

  const { send, rows } = decideWith(payment, bank, pay(4000), again)

  expect(send).toEqual([AccountOpenedEvent.of({ userId: "ann", balance: 10_000, position: 1 })])
  expect(rows.accounts).toContainEqual({ ...account("ann", 10_000), balance: 6000, position: 2 })
})

test("a user's end that overtakes the beginning leaves an account that is opened closed", () => {
  const open = UserCreatedEvent.of({ userId: "eve", balance: 900 })

  const inTurn = decideWith(payment, {}, open, close("eve"))
  const overtaken = decideWith(payment, {}, close("eve"), pay(1, "eve"), open)

  expect(overtaken.send).toEqual([AccountOpenedEvent.of({ userId: "eve", balance: 900, position: 1 })])
  expect(overtaken.rows.accounts).toEqual([{ ...account("eve", 900), closed_at: decidedAt }])
  expect(overtaken.rows.accounts).toEqual(inTurn.rows.accounts)
  expect(overtaken.rows.ledger).toEqual(inTurn.rows.ledger)
})

test("whatever is asked, in whatever order, no money is lost and none is made", () => {
  const orders = fc.constantFrom(orderId, otherId)
  const asked = fc.tuple(fc.integer({ min: 1, max: 6000 }), fc.constantFrom("ann", "bob", "zoe"), orders)
  const depositIds = fc.constantFrom(depositId, otherDepositId)
  const deposits = fc.tuple(fc.integer({ min: 1, max: 6000 }), fc.constantFrom("ann", "bob", "zoe"), depositIds)
  const inputs = fc.array(
    fc.oneof(
      asked.map((asked) => pay(...asked)),
      orders.map(refund),
      deposits.map((asked) => deposit(...asked)),
      fc.constantFrom("ann", "bob").map(close)
    ),
    { maxLength: 12, size: "max" }
  )

  fc.assert(
    fc.property(inputs, (inputs) => {
      const { rows } = decideWith(payment, bank, ...inputs)

      for (const { user_id, opening_balance, balance, position } of rows.accounts) {
        const entries = rows.ledger.filter((entry) => entry.user_id === user_id)
        const paid = rows.payments.filter((row) => row.user_id === user_id && row.status === "PROCESSED")
        const put = rows.deposits.filter((row) => row.user_id === user_id && row.status === "MADE")
        const sum = (amounts: ReadonlyArray<{ readonly amount: number }>) =>
          amounts.reduce((sum, { amount }) => sum + amount, 0)
        expect(balance).toBe(opening_balance + sum(put) - sum(paid))
        expect(balance).toBe(opening_balance + sum(entries))
        expect(balance).toBeGreaterThanOrEqual(0)
        // the opening is position 1; the ones after it follow without a gap
        expect(entries.map((entry) => entry.position)).toEqual(entries.map((_, index) => index + 2))
        expect(position).toBe(entries.length + 1)
      }
    })
  )
})
