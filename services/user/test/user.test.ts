import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { decidedAt, decideWith, type Input } from "oncebox/testing"
import {
  AccountOpenedEvent,
  DepositMadeEvent,
  DepositMoneyCommand,
  DepositRefusedEvent,
  PaymentProcessedEvent,
  PaymentRefundedEvent
} from "../../payment/contract.ts"
import { UserCreatedEvent, UserDeletedEvent } from "../contract.ts"
import { RequestDeposit, type Deposit } from "../deposit.ts"
import { CloseUser, CreateUser, EditUser, user, userView, type User } from "../user.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const ann: User = {
  id: "ann",
  name: "Ann",
  email: "ann@example.com",
  balance: null,
  position: 0,
  status: "ACTIVE",
  version: 1,
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
  [
    "a payment with a card leaves the balance as it is",
    [opened, PaymentProcessedEvent.of({ orderId, userId: "ann", amount: 4000, balance: null, position: null })],
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

test("news told again writes no row", () => {
  expect(decideWith(user, { users: [ann] }, opened, paid, paid).put).toBeUndefined()
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
    user: {
      id: "eve",
      name: "Eve",
      email: "eve@example.com",
      balance: null,
      status: "ACTIVE",
      version: 1,
      createdAt: "2026-01-01T00:00:00.000Z"
    }
  })
})

test("a user who exists already is neither changed nor announced", () => {
  const { reply, send, put } = decideWith(user, { users: [{ ...ann, id: "eve" }] }, create)

  expect(reply).toEqual({ _tag: "exists" })
  expect(send).toBeUndefined()
  expect(put).toBeUndefined()
})

type Precondition = "*" | ReadonlyArray<string>
const edit = (id: string, precondition: Precondition) => ({
  request: EditUser,
  payload: { id, name: "Anna", email: "anna@example.com", precondition }
})
const close = (id: string, precondition: Precondition = "*") => ({ request: CloseUser, payload: { id, precondition } })
const done = (change: Partial<User>) => ({ _tag: "done", user: userView({ ...ann, ...change }) })

const edited = { name: "Anna", email: "anna@example.com", version: 2 }
const closed = { status: "CLOSED", version: 2 } as const

const changes: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Partial<User>]> = [
  ["an edit changes name and address, and is a new version", [edit("ann", ['"1"'])], edited],
  ["an edit may be meant for any version", [edit("ann", "*")], edited],
  [
    "money that moves is no new version",
    [opened, paid, edit("ann", ['"1"'])],
    { ...edited, balance: 6000, position: 2 }
  ],
  ["a user is closed", [close("ann")], closed],
  ["a user is closed in a version", [close("ann", ['"1"'])], closed]
]

test.each(changes)("%s", (_name, inputs, change) => {
  const { reply, rows } = decideWith(user, { users: [ann] }, ...inputs)

  expect(rows.users).toEqual([{ ...ann, ...change }])
  expect(reply).toEqual(done(change))
})

const noChanges: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Input, object]> = [
  ["an edit of nobody", [], edit("bob", "*"), { _tag: "unknown" }],
  ["an edit of an older version", [edit("ann", "*")], edit("ann", ['"1"']), { _tag: "stale", version: 2 }],
  ["an edit of who is closed", [close("ann")], edit("ann", ['"1"']), { _tag: "closed" }],
  ["closing nobody", [], close("bob"), { _tag: "unknown" }],
  ["closing another version", [], close("ann", ['"2"']), { _tag: "stale", version: 1 }],
  ["closing again", [close("ann")], close("ann", ['"1"']), done(closed)]
]

test.each(noChanges)("%s changes no row and tells nobody", (_name, before, input, answer) => {
  const { put, send, reply } = decideWith(user, { users: [ann] }, ...before, input)

  expect(put).toBeUndefined()
  expect(send).toBeUndefined()
  expect(reply).toEqual(answer)
})

test("who is closed is announced, and news of the account is still heard", () => {
  const { send } = decideWith(user, { users: [ann] }, close("ann"))
  const { rows } = decideWith(user, { users: [ann] }, close("ann"), opened, paid, refunded)

  expect(send).toEqual([UserDeletedEvent.of({ userId: "ann" })])
  expect(rows.users).toEqual([{ ...ann, ...closed, balance: 10_000, position: 3 }])
})

describe("a deposit", () => {
  const depositId = "00000000-0000-4000-8000-000000000011"
  const request = (userId = "ann") => ({ request: RequestDeposit, payload: { depositId, userId, amount: 500 } })
  const minutes = (count: number) => new Date(decidedAt.getTime() + count * 60_000)
  const pending: Deposit = {
    id: depositId,
    user_id: "ann",
    amount: 500,
    status: "PENDING",
    reason: null,
    created_at: decidedAt,
    due_at: minutes(1)
  }
  const command = DepositMoneyCommand.of({ userId: "ann", depositId, amount: 500 })
  const made = DepositMadeEvent.of({ userId: "ann", depositId, amount: 500, balance: 10_500, position: 2 })
  const refused = DepositRefusedEvent.of({ userId: "ann", depositId, reason: "ACCOUNT_CLOSED" })
  const settledAs = (change: Partial<Deposit>) => [{ ...pending, due_at: null, ...change }]

  test("is asked of the payment service, and moves nothing yet", () => {
    const { send, reply, rows } = decideWith(user, { users: [ann] }, opened, request())

    expect(send).toEqual([command])
    expect(rows.deposits).toEqual([pending])
    expect(rows.users).toMatchObject([{ balance: 10_000, position: 1, version: 1 }])
    const createdAt = decidedAt.toISOString()
    const deposit = { id: depositId, userId: "ann", amount: 500, status: "PENDING", reason: null, createdAt }
    expect(reply).toEqual({ _tag: "asked", deposit })
  })

  test("of nobody, or of who is closed, is not asked", () => {
    for (const [before, userId, _tag] of [
      [[], "bob", "unknown"],
      [[close("ann")], "ann", "closed"]
    ] as const) {
      const { send, reply, rows } = decideWith(user, { users: [ann] }, ...before, request(userId))

      expect(reply).toEqual({ _tag })
      expect(send).toBeUndefined()
      expect(rows.deposits).toEqual([])
    }
  })

  const answers: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Partial<Deposit>, balance: number]> = [
    ["is made together with the balance that includes it", [made], { status: "MADE" }, 10_500],
    ["is made once", [made, made], { status: "MADE" }, 10_500],
    ["is made, though later news of the account came first", [paidAgain, made], { status: "MADE" }, 9999],
    ["is refused for a reason", [refused], { status: "REFUSED", reason: "ACCOUNT_CLOSED" }, 10_000],
    ["stays as it was first answered", [made, refused], { status: "MADE" }, 10_500]
  ]
  test.each(answers)("%s", (_name, inputs, change, balance) => {
    const { rows } = decideWith(user, { users: [ann] }, opened, request(), ...inputs)

    expect(rows.deposits).toEqual(settledAs(change))
    expect(rows.users[0]?.balance).toBe(balance)
  })

  test("that nobody here knows changes the balance only", () => {
    const { rows } = decideWith(user, { users: [ann] }, opened, made, refused)

    expect(rows.deposits).toEqual([])
    expect(rows.users).toMatchObject([{ balance: 10_500, position: 2 }])
  })

  test("that is not answered is asked again, less and less often", () => {
    const again = { due: "deposits", key: depositId }

    const asks = [0, 1, 2, 3, 4].map((times) =>
      decideWith(user, { users: [ann] }, request(), ...Array.from({ length: times }, () => again))
    )

    for (const { send } of asks) expect(send).toEqual([command])
    expect(asks.map(({ rows }) => rows.deposits[0]?.due_at)).toEqual([1, 3, 7, 15, 25].map(minutes))
  })

  test("is asked again after a minute when the clock was set back", () => {
    const ahead: Deposit = { ...pending, created_at: minutes(5), due_at: decidedAt }

    const { rows } = decideWith(user, { users: [ann], deposits: [ahead] }, { due: "deposits", key: depositId })

    expect(rows.deposits[0]?.due_at).toEqual(minutes(1))
  })
})
