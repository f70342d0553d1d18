import { expect, test } from "bun:test"
import fc from "fast-check"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import { AccountOpenedEvent, PaymentProcessedEvent, PaymentRefundedEvent } from "../../payment/contract.ts"
import { UserCreatedEvent } from "../contract.ts"
import { CreateUser, user, type User } from "../user.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const ann: User = {
  id: "ann",
  name: "Ann",
  email: "ann@example.com",
  balance: null,
  position: 0,
  created_at: decidedAt
}

const opened = AccountOpenedEvent.of({ userId: "ann", balance: 10_000, position: 1 })
const paid = PaymentProcessedEvent.of({ orderId, userId: "ann", amount: 4000, balance: 6000, position: 2 })
const refunded = PaymentRefundedEvent.of({
  orderId,
  refund: { userId: "ann", amount: 4000, balance: 10_000, position: 3 }
})
const paidAgain = PaymentProcessedEvent.of({ orderId, userId: "ann", amount: 1, balance: 9999, position: 4 })
const news = [opened, paid, refunded, paidAgain]

const cases: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Partial<User>]> = [
  ["the balance is known once the account is open", [opened], { balance: 10_000, position: 1 }],
  ["a payment changes the balance", [opened, paid], { balance: 6000, position: 2 }],
  ["a refund changes the balance", [opened, paid, refunded], { balance: 10_000, position: 3 }],
  [
    "a refund of nothing changes nothing",
    [opened, PaymentRefundedEvent.of({ orderId, refund: null })],
    { balance: 10_000, position: 1 }
  ],
  ["late news changes nothing", [paidAgain, opened, refunded, paid], { balance: 9999, position: 4 }],
  ["news told twice changes nothing", [opened, paid, paid, opened], { balance: 6000, position: 2 }],
  ["missed news is made up for by what comes later", [refunded], { balance: 10_000, position: 3 }]
]

test.each(cases)("%s", (_name, inputs, expected) => {
  const { rows } = decideWith(user, { users: [ann] }, ...inputs)

  expect(rows.users).toEqual([{ ...ann, ...expected }])
})

test.each(news)("news of an unknown user is ignored: $contract.type", (message) => {
  const { put, rows } = decideWith(user, {}, message)

  expect(put).toBeUndefined()
  expect(rows.users).toEqual([])
})

test("in whatever order news comes, and however often, the last balance stands", () => {
  const inputs = fc.array(fc.constantFrom(...news), { maxLength: 12 }).map((told) => [...told, ...news])

  fc.assert(
    fc.property(
      inputs.chain((told) => fc.shuffledSubarray(told, { minLength: told.length })),
      (told) => {
        const { rows } = decideWith(user, { users: [ann] }, ...told)

        expect(rows.users).toEqual([{ ...ann, balance: 9999, position: 4 }])
      }
    )
  )
})

const create = {
  request: CreateUser,
  payload: { id: "eve", name: "Eve", email: "eve@example.com", balance: 500 }
}

test("a new user is announced, with the balance the account is to be opened with", () => {
  const { reply, send, rows } = decideWith(user, {}, create)

  expect(send).toEqual([UserCreatedEvent.of({ userId: "eve", balance: 500 })])
  expect(rows.users).toEqual([{ ...ann, id: "eve", name: "Eve", email: "eve@example.com" }])
  expect(reply).toEqual({
    _tag: "created",
    user: { id: "eve", name: "Eve", email: "eve@example.com", balance: null, createdAt: "2026-01-01T00:00:00.000Z" }
  })
})

test("a user who exists already is neither changed nor announced", () => {
  const { reply, send, put } = decideWith(user, { users: [{ ...ann, id: "eve" }] }, create)

  expect(reply).toEqual({ _tag: "exists" })
  expect(send).toBeUndefined()
  expect(put).toBeUndefined()
})
