/** Each check finds what it is there for: a small world in which all is well, broken in one place at a time. */
import { expect, test } from "bun:test"
import { violations, type checks } from "./checks.ts"
import { handles, type Expected, type World } from "./checks/check.ts"
import type { Planned } from "./orders.ts"

const at = (second: number): Date => new Date(Date.UTC(2026, 0, 1, 0, 0, second))

const bought = "00000000-0000-7000-8000-000000000001"
const returned = "00000000-0000-7000-8000-000000000002"
const late = "00000000-0000-7000-8000-000000000003"

const planned = (
  key: string,
  items: Planned["body"]["items"],
  outcome: Planned["outcome"],
  userId = "ann"
): Planned => ({ key, entry: "order", body: { userId, items }, outcome, posts: 1 })

const tea = { productId: "tea", quantity: 2 }
const teaLine = { ...tea, price: 30 }
const cup = { productId: "cup", quantity: 1 }
const cupLine = { ...cup, price: 5 }

const expected: Expected = {
  plan: {
    products: [
      { id: "tea", price: 30, quantity: 10 },
      { id: "cup", price: 5, quantity: 0 }
    ],
    accounts: [
      { id: "ann", balance: 100 },
      { id: "bob", balance: 7 }
    ]
  },
  placed: new Map([
    [bought, planned("a", [tea], { status: "APPROVED" })],
    [returned, planned("b", [tea], { status: "REJECTED", reason: "SHIPMENT_REFUSED" })],
    [late, planned("c", [cup], { status: "FIRST_COME" })]
  ]),
  subscribers: [
    { consumer: "payment", topic: "payments-commands", type: "ProcessPaymentCommand" },
    { consumer: "user", topic: "payments-events", type: "PaymentProcessedEvent" },
    { consumer: "orchestrator", topic: "payments-events", type: "PaymentProcessedEvent" },
    {
      consumer: "shipment",
      topic: "payments-events",
      type: "PaymentProcessedEvent",
      coordination: "choreography"
    }
  ]
}

const order = (id: string, items: Planned["body"]["items"]) => ({
  id,
  user_id: "ann",
  items,
  lines: null,
  total: null,
  payment: { method: "account" } as const,
  country: null,
  status: "REJECTED" as const,
  reason: "OUT_OF_STOCK",
  coordination: "orchestration" as const,
  definition: "place-order" as const,
  archived_at: null,
  created_at: at(1),
  due_at: null
})
const reservation = (order_id: string) => ({ order_id, reason: null, product_id: null, updated_at: at(2) })
const payment = (order_id: string) => ({
  order_id,
  user_id: "ann",
  amount: 60,
  method: "account" as const,
  charge: null,
  reason: null,
  refund_balance: null,
  refund_position: null,
  updated_at: at(3)
})
const entry = (position: number, amount: number, balance: number) => ({
  user_id: "ann",
  position,
  amount,
  balance,
  deposit_id: null,
  at: at(3)
})
const deposit = (position: number) => ({
  ...entry(position, 10, 40 + 10 * (position - 4)),
  kind: "DEPOSIT" as const,
  order_id: null,
  deposit_id: "00000000-0000-7000-8000-000000000004"
})
const shipment = (order_id: string) => ({
  order_id,
  id: `s-${order_id}`,
  reason: null,
  items: [tea],
  updated_at: at(4)
})
const history = (order_id: string, end: "APPROVED" | "REJECTED") => [
  { order_id, status: "CREATED" as const, reason: null, at: at(1) },
  { order_id, status: end, reason: null, at: at(5) }
]
const saga = (id: string, state: "COMPLETED" | "COMPENSATED") => ({
  id,
  state,
  position: 2,
  due_at: null,
  ended_at: at(6)
})
const log = (saga_id: string, state: "COMPLETED" | "COMPENSATED") => [
  { saga_id, position: 1, state: "RUNNING" as const },
  { saga_id, position: 2, state }
]

const command = { id: "m1", topic: "payments-commands", type: "ProcessPaymentCommand" }
const event = {
  id: "m2",
  topic: "payments-events",
  type: "PaymentProcessedEvent",
  coordination: "orchestration"
} as const

const good: World = {
  orders: [
    { ...order(bought, [tea]), status: "APPROVED", reason: null, lines: [teaLine], total: 60 },
    { ...order(returned, [tea]), reason: "SHIPMENT_REFUSED" },
    order(late, [cup])
  ],
  history: [...history(bought, "APPROVED"), ...history(returned, "REJECTED"), ...history(late, "REJECTED")],
  products: [
    { id: "tea", name: "tea", price: 30, quantity: 8, status: "ACTIVE", version: 1, created_at: at(0) },
    { id: "cup", name: "cup", price: 5, quantity: 0, status: "ACTIVE", version: 1, created_at: at(0) }
  ],
  reservations: [
    { ...reservation(bought), status: "RESERVED", lines: [teaLine], total: 60 },
    { ...reservation(returned), status: "CANCELLED", lines: [teaLine], total: 60 },
    { ...reservation(late), status: "FAILED", lines: [], total: 0, reason: "OUT_OF_STOCK", product_id: "cup" }
  ],
  accounts: [
    { user_id: "ann", opening_balance: 100, balance: 40, position: 4, opened_at: at(0), closed_at: null },
    { user_id: "bob", opening_balance: 7, balance: 7, position: 1, opened_at: at(0), closed_at: null }
  ],
  payments: [
    { ...payment(bought), status: "PROCESSED", balance: 40, position: 2 },
    { ...payment(returned), status: "REFUNDED", balance: -20, position: 3, refund_balance: 40, refund_position: 4 }
  ],
  ledger: [
    { ...entry(1, 100, 100), kind: "OPENING", order_id: null },
    { ...entry(2, -60, 40), kind: "PAYMENT", order_id: bought },
    { ...entry(3, -60, -20), kind: "PAYMENT", order_id: returned },
    { ...entry(4, 60, 40), kind: "REFUND", order_id: returned },
    { ...entry(1, 7, 7), user_id: "bob", kind: "OPENING", order_id: null }
  ],
  users: [
    {
      id: "ann",
      name: "Ann",
      email: "ann@example.org",
      balance: 40,
      position: 4,
      status: "ACTIVE",
      version: 1,
      created_at: at(0)
    },
    {
      id: "bob",
      name: "Bob",
      email: "bob@example.org",
      balance: 7,
      position: 1,
      status: "ACTIVE",
      version: 1,
      created_at: at(0)
    }
  ],
  shipments: [
    { ...shipment(bought), status: "CREATED" },
    { ...shipment(returned), status: "FAILED", reason: "SHIPMENT_REFUSED" }
  ],
  sagas: [saga(bought, "COMPLETED"), saga(returned, "COMPENSATED"), saga(late, "COMPENSATED")],
  sagaLog: [...log(bought, "COMPLETED"), ...log(returned, "COMPENSATED"), ...log(late, "COMPENSATED")],
  outbox: [command, event],
  inbox: [
    { consumer: "payment", id: "m1" },
    { consumer: "user", id: "m2" },
    { consumer: "orchestrator", id: "m2" }
  ],
  letters: [],
  records: [
    { ...command, injected: false },
    { ...command, injected: false },
    { ...event, injected: false },
    { ...command, id: "m9", injected: true }
  ],
  charges: []
}

test("nothing is wrong with a world in which all is well", () => {
  expect(violations(good, expected)).toEqual({})
})

const charge = (status: "CHARGED" | "REFUNDED", amount = 60) =>
  ({ key: `charge:${bought}`, id: "ch_1", amount, card: "card-1", status, reason: null }) as const

/** A world in which the order that was bought is paid with a card, of which this amount was taken. */
const paidByCard = (amount: number): World => ({
  ...good,
  orders: good.orders.map((row) => (row.id === bought ? { ...row, payment: { method: "card", card: "card-1" } } : row)),
  payments: [
    { ...payment(bought), method: "card", status: "PROCESSED", charge: "ch_1", balance: null, position: null },
    { ...payment(returned), status: "REFUNDED", balance: 40, position: 2, refund_balance: 100, refund_position: 3 },
    { ...payment(late), method: "card", status: "FAILED", balance: null, position: null, reason: "CARD_DECLINED" }
  ],
  accounts: good.accounts.map((row) => (row.user_id === "ann" ? { ...row, balance: 100, position: 3 } : row)),
  users: good.users.map((row) => (row.id === "ann" ? { ...row, balance: 100, position: 3 } : row)),
  ledger: [
    { ...entry(1, 100, 100), kind: "OPENING", order_id: null },
    { ...entry(2, -60, 40), kind: "PAYMENT", order_id: returned },
    { ...entry(3, 60, 100), kind: "REFUND", order_id: returned },
    { ...entry(1, 7, 7), user_id: "bob", kind: "OPENING", order_id: null }
  ],
  charges: [charge("CHARGED", amount)]
})

test("nothing is wrong with a card that was charged once for what stands, or gave all back", () => {
  expect(violations(paidByCard(60), expected)).toEqual({})
  expect(violations({ ...good, charges: [charge("REFUNDED")] }, expected)).toEqual({})
})

/** The world with one row of a table changed. */
const changed = <K extends keyof World>(table: K, index: number, change: Partial<World[K][number]>): World => ({
  ...good,
  [table]: good[table].map((row, n) => (n === index ? { ...row, ...change } : row))
})
const without = (table: keyof World, index: number): World => ({
  ...good,
  [table]: good[table].filter((_, n) => n !== index)
})
const twice = (table: keyof World, index: number): World => ({
  ...good,
  [table]: [...good[table], ...good[table].slice(index, index + 1)]
})

/** The world with one more row in a table. */
const more = <K extends keyof World>(table: K, row: World[K][number]): World => ({
  ...good,
  [table]: [...good[table], row]
})
const cancelling = (order_id: string) => ({ order_id, status: "CANCELLING" as const, reason: null, at: at(3) })

test("nothing is wrong with an order that was being cancelled before it was rejected, or whose prices are known", () => {
  expect(violations(more("history", cancelling(returned)), expected)).toEqual({})
  expect(violations(changed("orders", 1, { lines: [teaLine], total: 60 }), expected)).toEqual({})
})

const broken: Readonly<Record<keyof typeof checks, Readonly<Record<string, World>>>> = {
  terminal: {
    "an order is still being cancelled": changed("orders", 1, { status: "CANCELLING" }),
    "an order was placed by nobody": more("orders", order("00000000-0000-7000-8000-000000000009", [cup])),
    "an order is still open": changed("orders", 0, { status: "CREATED" }),
    "an order was answered and is not there": without("orders", 2),
    "one request made two orders": changed("orders", 2, { id: "00000000-0000-7000-8000-000000000009" })
  },
  outcomes: {
    "an order that comes too late is rejected for another reason": changed("orders", 2, { reason: "USER_UNKNOWN" }),
    "an order has another quantity": changed("orders", 0, { lines: [{ ...teaLine, quantity: 1 }] }),
    "an order has another product": changed("orders", 0, { lines: [{ ...teaLine, productId: "cup" }] }),
    "an order has no lines": changed("orders", 0, { lines: [] }),
    "an order that was to be approved is rejected": changed("orders", 0, {
      status: "REJECTED",
      reason: "OUT_OF_STOCK"
    }),
    "an order is rejected for another reason": changed("orders", 1, { reason: "USER_UNKNOWN" }),
    "an order has another total": changed("orders", 0, { total: 61 }),
    "an order has another price": changed("orders", 0, { lines: [{ ...teaLine, price: 60 }] }),
    "more was sold than there is": changed("orders", 2, {
      status: "APPROVED",
      reason: null,
      lines: [cupLine],
      total: 5
    })
  },
  stock: {
    "a reservation holds another product": changed("orders", 0, { items: [{ ...tea, productId: "cup" }] }),
    "a reservation holds less than was ordered": changed("orders", 0, { items: [{ ...tea, quantity: 3 }] }),
    "a reservation holds a part of what was ordered": changed("orders", 0, { items: [tea, cup] }),
    "more is reserved than there was": {
      ...changed("orders", 0, { items: [{ ...tea, quantity: 12 }] }),
      products: changed("products", 0, { quantity: -2 }).products,
      reservations: changed("reservations", 0, { lines: [{ ...teaLine, quantity: 12 }], total: 360 }).reservations
    },
    "stock was taken twice": changed("products", 0, { quantity: 6 }),
    "stock was given back twice": changed("products", 0, { quantity: 10 }),
    "a product is gone": without("products", 1),
    "a reservation holds what nobody ordered": changed("reservations", 0, { lines: [{ ...teaLine, quantity: 3 }] }),
    "a reservation does not add up": changed("reservations", 0, { total: 1 }),
    "an order has two reservations": twice("reservations", 1)
  },
  balances: {
    "money was taken twice": changed("accounts", 0, { balance: -20 }),
    "money was given back twice": changed("accounts", 0, { balance: 100 }),
    "an account is gone": without("accounts", 0)
  },
  ledgers: {
    "an entry has another position": changed("ledger", 3, { position: 5 }),
    "the account has another balance": changed("accounts", 0, { balance: 41 }),
    "nobody has a ledger": more("ledger", { ...entry(1, 5, 5), user_id: "nobody", kind: "OPENING", order_id: null }),
    "an entry is missing": without("ledger", 1),
    "an entry is there twice": twice("ledger", 3),
    "an entry has another amount": changed("ledger", 1, { amount: -59 }),
    "an entry has another balance": changed("ledger", 2, { balance: 0 }),
    "the account says something else": changed("accounts", 0, { position: 5 }),
    "a ledger has no account": changed("ledger", 3, { user_id: "bob" })
  },
  movements: {
    "what was paid was given back to another": changed("ledger", 3, { user_id: "bob" }),
    "nobody's payment was given back": more("ledger", { ...entry(5, 60, 100), kind: "REFUND", order_id: late }),
    "a payment that failed was taken": changed("payments", 0, { status: "FAILED" }),
    "a payment that stands was given back": changed("payments", 1, { status: "PROCESSED" }),
    "an order was paid twice": changed("ledger", 2, { order_id: bought }),
    "an order was given back twice": twice("ledger", 3),
    "a deposit was made twice": { ...good, ledger: [...good.ledger, deposit(5), deposit(6)] },
    "what was never paid was given back": changed("ledger", 3, { order_id: late }),
    "more was given back than was paid": changed("ledger", 3, { amount: 61 }),
    "a payment has no entry": without("ledger", 1),
    "a refund has no entry": without("ledger", 3)
  },
  states: {
    "an approved order has stock for another total": changed("reservations", 0, { total: 61 }),
    "an approved order has other stock": changed("reservations", 0, { lines: [{ ...teaLine, quantity: 1 }] }),
    "an approved order has no stock": changed("reservations", 0, { status: "CANCELLED" }),
    "an approved order is not paid": changed("payments", 0, { status: "FAILED" }),
    "an approved order is not shipped": without("shipments", 0),
    "an approved order was charged otherwise": changed("payments", 0, { amount: 59 }),
    "a rejected order holds stock": changed("reservations", 1, { status: "RESERVED" }),
    "a rejected order is paid": changed("payments", 1, { status: "PROCESSED" }),
    "a rejected order is shipped": changed("shipments", 1, { status: "CREATED" })
  },
  histories: {
    "an approved order was being cancelled": more("history", cancelling(bought)),
    "nobody has a history": more("history", { order_id: "nobody", status: "CREATED", reason: null, at: at(1) }),
    "a history has no end": without("history", 1),
    "a history has two ends": twice("history", 1),
    "a history ends otherwise": changed("history", 1, { status: "REJECTED" }),
    "a history goes backwards": changed("history", 1, { at: at(0) }),
    "a history has no order": changed("history", 1, { order_id: "nobody" })
  },
  sagas: {
    "an order has no saga": without("sagas", 0),
    "an order has two": twice("sagas", 0),
    "a saga ended otherwise": changed("sagas", 0, { state: "COMPENSATED" }),
    "a saga waits for something": changed("sagas", 0, { due_at: at(9) }),
    "a saga never ended": changed("sagas", 0, { ended_at: null }),
    "a saga has no order": changed("sagas", 2, { id: "nobody" })
  },
  sagaLogs: {
    "a log ends with a gap": changed("sagaLog", 1, { position: 3 }),
    "a saga is further than its log": changed("sagas", 0, { position: 3 }),
    "a log has a gap": changed("sagaLog", 0, { position: 3 }),
    "a log lacks its end": without("sagaLog", 1),
    "a step was taken twice": twice("sagaLog", 1),
    "a log ends otherwise": changed("sagaLog", 1, { state: "RUNNING" })
  },
  charged: {
    "a card was charged for nothing": { ...good, charges: [charge("CHARGED")] },
    "a card was charged for another amount": paidByCard(50),
    "a payment stands and no card was charged": { ...paidByCard(60), charges: [charge("REFUNDED")] },
    "a card was charged twice": { ...paidByCard(60), charges: [charge("CHARGED"), charge("CHARGED")] }
  },
  readModel: {
    "a user has another balance": changed("users", 0, { balance: 41 }),
    "a user has an old balance": changed("users", 0, { balance: 100, position: 1 }),
    "a user has the balance of another entry": changed("users", 0, { position: 2 }),
    "an account's user is gone": without("users", 0)
  },
  delivered: {
    "a choreographed message was lost": changed("outbox", 1, { coordination: "choreography" }),
    "a message was lost on its way to one of two": without("inbox", 2),
    "a message was lost on its way": without("inbox", 0),
    "another one saw it": changed("inbox", 0, { consumer: "order" })
  },
  letters: {
    "a message was put aside": { ...good, letters: [{ consumer: "user", id: "m2", reason: "decision-failed" }] }
  },
  records: {
    "a record is on another topic": changed("records", 2, { topic: "orders-events" }),
    "a record comes from nowhere": changed("records", 2, { id: "m7" }),
    "a record is of another type": changed("records", 2, { type: "PaymentFailedEvent" }),
    "a message was never published": without("records", 2)
  }
}

for (const [name, cases] of Object.entries(broken)) {
  for (const [what, world] of Object.entries(cases)) {
    test(`${name}: ${what}`, () => {
      expect(Object.keys(violations(world, expected))).toContain(name)
    })
  }
}

test("what was put aside counts as seen", () => {
  const world: World = { ...without("inbox", 0), letters: [{ consumer: "payment", id: "m1", reason: "unreadable" }] }

  expect(Object.keys(violations(world, expected))).toEqual(["letters"])
})

test("a subscriber handles a type of its topic, in its style if it says so", () => {
  const subscriber = { consumer: "user", topic: event.topic, type: event.type }

  expect(handles(subscriber, event)).toBe(true)
  expect(handles({ ...subscriber, coordination: "orchestration" }, event)).toBe(true)
  expect(handles({ ...subscriber, coordination: "choreography" }, event)).toBe(false)
  expect(handles(subscriber, { ...event, topic: "orders-events" })).toBe(false)
  expect(handles(subscriber, { ...event, type: "PaymentFailedEvent" })).toBe(false)
})

/** What is wrong when an order was to come to this outcome, and there were so many cups. */
const expecting = (
  world: World,
  id: string,
  outcome: Planned["outcome"],
  cups = 0,
  givenUp: ReadonlySet<string> = new Set()
) => {
  const items = id === late ? [cup] : [tea]
  const products = expected.plan.products.map((one) => (one.id === "cup" ? { ...one, quantity: cups } : one))
  const placed = new Map([...expected.placed, [id, planned("x", items, outcome)]])
  return Object.keys(violations(world, { ...expected, plan: { ...expected.plan, products }, placed, givenUp }))
}

test("an order that races with its cancel is approved at its prices, or rejected for the cancel", () => {
  const racing = { status: "RACING" } as const

  expect(expecting(changed("orders", 1, { reason: "USER_CANCELLED" }), returned, racing)).toEqual([])
  expect(expecting(good, bought, racing)).toEqual([])
  expect(expecting(good, returned, racing)).toEqual(["outcomes"])
  expect(expecting(changed("orders", 0, { lines: [{ ...teaLine, price: 60 }] }), bought, racing)).toContain("outcomes")
})

test("of orders that compete for stock as many are approved as there was, at their prices", () => {
  const competing = { status: "FIRST_COME" } as const
  const sold = { status: "APPROVED" as const, reason: null, lines: [cupLine], total: 5 }

  expect(expecting(good, late, competing, 1)).toContain("outcomes")
  expect(expecting(changed("orders", 2, sold), late, competing, 1)).not.toContain("outcomes")
  const dearer = { ...sold, lines: [{ ...cupLine, price: 6 }], total: 6 }
  expect(expecting(changed("orders", 2, dearer), late, competing, 1)).toContain("outcomes")
})

test("an order that waited for too long may have been given up, and what it held may not be sold", () => {
  const approved = { status: "APPROVED" } as const
  const competing = { status: "FIRST_COME" } as const
  const overdue = changed("orders", 1, { reason: "SHIP_TIMEOUT" })
  const [back, gone] = [new Set([returned]), new Set([late])]

  expect(expecting(overdue, returned, approved)).toEqual(["outcomes"])
  expect(expecting(overdue, returned, approved, 0, gone)).toEqual(["outcomes"])
  expect(expecting(overdue, returned, approved, 0, back)).toEqual([])
  expect(expecting(changed("orders", 1, { reason: "OUT_OF_STOCK" }), returned, approved, 0, back)).toEqual(["outcomes"])
  expect(expecting(changed("orders", 2, { reason: "TIMEOUT" }), late, competing, 1, gone)).not.toContain("outcomes")
})

test("of many things that are wrong some are told", () => {
  const letters = Array.from({ length: 50 }, (_, n) => ({ consumer: "user", id: `m${n}`, reason: "unreadable" }))

  expect(violations({ ...good, letters }, expected).letters).toHaveLength(20)
})
