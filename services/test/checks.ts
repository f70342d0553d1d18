/**
 * What must be true once all is quiet, as pure functions over what was read from the databases and the topics. Each
 * answers with what is wrong; nothing is the good answer.
 */
import type { Coordination, RowOf, Saga, SagaRow } from "oncebox"
import type { Order, ordersHistory } from "../order/order.ts"
import type { Payment } from "../payment/outcome.ts"
import type { Account, LedgerEntry } from "../payment/payment.ts"
import type { Product, Reservation } from "../product/product.ts"
import type { Shipment } from "../shipment/shipment.ts"
import type { User } from "../user/user.ts"
import type { ProcessorEntry } from "../../stack/processor.ts"
import type { Plan, Planned } from "./orders.ts"

/** A message as some outbox holds it. */
export interface Sent {
  readonly id: string
  readonly topic: string
  readonly type: string
  readonly coordination?: Coordination
}

/** A record as it lies on a topic. */
export interface Published extends Sent {
  readonly injected: boolean
}

/** That a consumer has decided a message, or has put it aside. */
export interface Seen {
  readonly consumer: string
  readonly id: string
}

/** That a participant handles messages of a type. */
export interface Subscriber {
  readonly consumer: string
  readonly topic: string
  readonly type: string
  /** Only messages of this style, when it says so. */
  readonly coordination?: Coordination | undefined
}

export const handles = (subscriber: Subscriber, message: Sent): boolean =>
  subscriber.topic === message.topic &&
  subscriber.type === message.type &&
  (subscriber.coordination === undefined || subscriber.coordination === message.coordination)

/** All rows and records that belong to one plan. */
export interface World {
  readonly orders: ReadonlyArray<Order>
  readonly history: ReadonlyArray<RowOf<typeof ordersHistory>>
  readonly products: ReadonlyArray<Product>
  readonly reservations: ReadonlyArray<Reservation>
  readonly accounts: ReadonlyArray<Account>
  readonly payments: ReadonlyArray<Payment>
  readonly ledger: ReadonlyArray<LedgerEntry>
  readonly users: ReadonlyArray<User>
  readonly shipments: ReadonlyArray<Shipment>
  readonly sagas: ReadonlyArray<Pick<SagaRow, "id" | "state" | "position" | "due_at" | "ended_at">>
  readonly sagaLog: ReadonlyArray<Pick<RowOf<(typeof Saga.tables)["saga_log"]>, "saga_id" | "position" | "state">>
  readonly outbox: ReadonlyArray<Sent>
  readonly inbox: ReadonlyArray<Seen>
  readonly letters: ReadonlyArray<Seen & { readonly reason: string }>
  readonly records: ReadonlyArray<Published>
  /** What the card processor did. */
  readonly charges: ReadonlyArray<ProcessorEntry>
}

export interface Expected {
  readonly plan: Pick<Plan, "products" | "accounts">
  /** What was answered with a 2xx, by order. */
  readonly placed: ReadonlyMap<string, Planned>
  readonly subscribers: ReadonlyArray<Subscriber>
}

type Check = (world: World, expected: Expected) => ReadonlyArray<string>

const by = <A, K extends string>(rows: ReadonlyArray<A>, key: (row: A) => K): ReadonlyMap<K, A> =>
  new Map(rows.map((row) => [key(row), row]))

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, one) => total + one, 0)

const when = (wrong: boolean, what: string): ReadonlyArray<string> => (wrong ? [what] : [])

/** Values that stand there more than once. */
const repeated = (values: ReadonlyArray<string>): ReadonlyArray<string> => {
  const seen = new Set<string>()
  return values.filter((value) => seen.size === seen.add(value).size)
}

/** Every order that was answered with a 2xx has ended, and there are no others: one order for each client's key. */
const terminal: Check = ({ orders }, { placed }) => {
  const stored = by(orders, ({ id }) => id)
  return [
    ...[...placed].flatMap(([id, { key }]) => {
      const status = stored.get(id)?.status
      return when(status !== "APPROVED" && status !== "REJECTED", `order ${id} (${key}) is ${status ?? "not there"}`)
    }),
    ...orders.flatMap(({ id }) => when(!placed.has(id), `order ${id} is nobody's`))
  ]
}

/** Each order ended as it had to, at the prices of the products; of those that compete for stock as many as there was. */
const outcomes: Check = ({ orders }, { plan, placed }) => {
  const prices = new Map(plan.products.map(({ id, price }) => [id, price]))
  const stored = by(orders, ({ id }) => id)
  const approved = new Map<string, number>()
  const asked = new Map<string, number>()
  const count = (counts: Map<string, number>, items: Planned["body"]["items"]): void => {
    for (const { productId, quantity } of items) counts.set(productId, (counts.get(productId) ?? 0) + quantity)
  }
  const wrong = [...placed].flatMap(([id, { body, outcome }]) => {
    const order = stored.get(id)
    if (order === undefined) return []
    const said = `${order.status}${order.reason === null ? "" : ` ${order.reason}`}`
    const priced = body.items.map((item) => ({ ...item, price: prices.get(item.productId) ?? 0 }))
    const total = sum(priced.map(({ quantity, price }) => quantity * price))
    const charged = when(
      order.status === "APPROVED" && (order.total !== total || !sameLines(order.lines ?? [], priced)),
      `order ${id} has total ${order.total} and lines ${JSON.stringify(order.lines)}, not ${total} for ${JSON.stringify(priced)}`
    )
    if (outcome.status === "FIRST_COME") {
      count(asked, body.items)
      if (order.status === "APPROVED") count(approved, body.items)
      return [...charged, ...when(said !== "APPROVED" && said !== "REJECTED OUT_OF_STOCK", `order ${id} is ${said}`)]
    }
    if (outcome.status === "RACING")
      return [...charged, ...when(said !== "APPROVED" && said !== "REJECTED USER_CANCELLED", `order ${id} is ${said}`)]
    const due = outcome.status === "APPROVED" ? "APPROVED" : `REJECTED ${outcome.reason}`
    return [...charged, ...when(said !== due, `order ${id} is ${said}, not ${due}`)]
  })
  return [
    ...wrong,
    ...[...asked].flatMap(([id, wanted]) => {
      const due = Math.min(wanted, plan.products.find((product) => product.id === id)?.quantity ?? 0)
      const sold = approved.get(id) ?? 0
      return when(sold !== due, `${sold} of ${id} were sold, not ${due}`)
    })
  ]
}

const sameLines = (
  lines: ReadonlyArray<{ readonly productId: string; readonly quantity: number; readonly price: number }>,
  others: typeof lines
): boolean =>
  lines.length === others.length &&
  lines.every((line, n) => {
    const other = others[n]
    return other?.productId === line.productId && other.quantity === line.quantity && other.price === line.price
  })

/** Stock is what there was less what is reserved, and what is reserved is what the orders asked for. */
const stock: Check = ({ orders, products, reservations }, { plan }) => {
  const reserved = new Map<string, number>()
  for (const { status, lines } of reservations) {
    if (status !== "RESERVED") continue
    for (const { productId, quantity } of lines) reserved.set(productId, (reserved.get(productId) ?? 0) + quantity)
  }
  const stored = by(products, ({ id }) => id)
  const placed = by(orders, ({ id }) => id)
  return [
    ...plan.products.flatMap(({ id, quantity }) => {
      const due = quantity - (reserved.get(id) ?? 0)
      const found = stored.get(id)?.quantity
      return when(found !== due || due < 0, `${id} has ${found} in stock, not ${due}`)
    }),
    ...reservations.flatMap(({ order_id, status, lines, total }) => {
      const asked = placed.get(order_id)?.items ?? []
      const fits =
        lines.length === asked.length &&
        lines.every(({ productId, quantity }, n) => asked[n]?.productId === productId && asked[n].quantity === quantity)
      const adds = total === sum(lines.map(({ quantity, price }) => quantity * price))
      return when(status === "RESERVED" && !(fits && adds), `the reservation of ${order_id} is not what was ordered`)
    }),
    ...repeated(reservations.map(({ order_id }) => order_id)).map((id) => `order ${id} has two reservations`)
  ]
}

/** Balances are what there was less what the approved orders cost. */
const balances: Check = ({ orders, accounts }, { plan }) => {
  const stored = by(accounts, ({ user_id }) => user_id)
  return plan.accounts.flatMap(({ id, balance }) => {
    const paid = sum(
      orders
        .filter(
          ({ user_id, status, payment }) => user_id === id && status === "APPROVED" && payment.method === "account"
        )
        .map(({ total }) => total ?? 0)
    )
    const found = stored.get(id)?.balance
    return when(found !== balance - paid, `account ${id} has ${found}, not ${balance} - ${paid}`)
  })
}

/** Each account's ledger has no gaps, adds up entry by entry, and ends at the account's balance. */
const ledgers: Check = ({ accounts, ledger }) => {
  const entries = Map.groupBy(ledger, ({ user_id }) => user_id)
  const strangers = [...entries.keys()].filter((id) => !accounts.some(({ user_id }) => user_id === id))
  return [
    ...strangers.map((id) => `${id} has a ledger and no account`),
    ...accounts.flatMap(({ user_id, balance, position }) => {
      const own = (entries.get(user_id) ?? []).toSorted((a, b) => a.position - b.position)
      const gap = own.some((entry, n) => entry.position !== n + 1)
      const adds = own.every((entry, n) => entry.balance === sum(own.slice(0, n + 1).map(({ amount }) => amount)))
      return [
        ...when(
          gap || own.length !== position,
          `the ledger of ${user_id} has gaps, or not the account's ${position} entries`
        ),
        ...when(!adds || own.at(-1)?.balance !== balance, `the ledger of ${user_id} does not add up to ${balance}`)
      ]
    })
  ]
}

/** An order is paid once at most, and given back once at most, to whom and as much as was paid. A deposit is made once. */
const movements: Check = ({ ledger, payments }) => {
  const ofOrders = ledger.flatMap((entry) => (entry.order_id === null ? [] : [{ ...entry, order_id: entry.order_id }]))
  const paid = by(
    ofOrders.filter(({ kind }) => kind === "PAYMENT"),
    ({ order_id }) => order_id
  )
  const refunded = by(
    ofOrders.filter(({ kind }) => kind === "REFUND"),
    ({ order_id }) => order_id
  )
  const deposits = ledger.flatMap(({ deposit_id }) => (deposit_id === null ? [] : [deposit_id]))
  return [
    ...repeated(ofOrders.map(({ order_id, kind }) => `${kind} of order ${order_id}`)).map((what) => `two: ${what}`),
    ...repeated(deposits).map((id) => `two: deposit ${id}`),
    ...[...refunded.values()].flatMap(({ order_id, user_id, amount }) => {
      const payment = paid.get(order_id)
      return when(
        payment === undefined || payment.user_id !== user_id || payment.amount !== -amount,
        `the refund of order ${order_id} is not of its payment`
      )
    }),
    ...payments
      .filter(({ method }) => method === "account")
      .flatMap(({ order_id, status }) => [
        ...when(
          (status === "PROCESSED" || status === "REFUNDED") !== paid.has(order_id),
          `payment ${order_id} is ${status}, its ledger says otherwise`
        ),
        ...when(
          (status === "REFUNDED") !== refunded.has(order_id),
          `payment ${order_id} is ${status}, its refunds say otherwise`
        )
      ])
  ]
}

/** A card was charged once for each payment that stands, for its amount, and none is charged for any other. */
const charged: Check = ({ payments, charges }) => {
  const kept = charges.filter(({ status }) => status === "CHARGED")
  const made = by(kept, ({ key }) => key)
  const standing = payments.filter(({ method, status }) => method === "card" && status === "PROCESSED")
  const due = new Set(standing.map(({ order_id }) => `charge:${order_id}`))
  return [
    ...standing.flatMap(({ order_id, amount }) =>
      when(
        made.get(`charge:${order_id}`)?.amount !== amount,
        `order ${order_id} is paid with a card that was not charged`
      )
    ),
    ...kept.flatMap(({ key, amount }) => when(!due.has(key), `${key} took ${amount} for nothing`)),
    ...repeated(charges.map(({ key }) => key)).map((key) => `two: ${key}`)
  ]
}

/** An approved order has stock, money and shipment; a rejected one has none of them. */
const states: Check = ({ orders, reservations, payments, shipments }) => {
  const reservation = by(reservations, ({ order_id }) => order_id)
  const payment = by(payments, ({ order_id }) => order_id)
  const shipment = by(shipments, ({ order_id }) => order_id)
  return orders.flatMap(({ id, status, total, lines }) => {
    const [reserved, paid, shipped] = [reservation.get(id), payment.get(id), shipment.get(id)]
    const found = [reserved?.status, paid?.status, shipped?.status].map((state) => state ?? "none").join(", ")
    const holds = [reserved?.status === "RESERVED", paid?.status === "PROCESSED", shipped?.status === "CREATED"]
    if (status === "APPROVED")
      return [
        ...when(!holds.every(Boolean), `order ${id} is approved and has: ${found}`),
        ...when(
          reserved?.total !== total || paid?.amount !== total || !sameLines(reserved?.lines ?? [], lines ?? []),
          `order ${id} costs ${total}, reserved are ${reserved?.total}, paid ${paid?.amount}`
        )
      ]
    return when(status === "REJECTED" && holds.some(Boolean), `order ${id} is rejected and has: ${found}`)
  })
}

const statuses = ["CREATED", "CANCELLING", "APPROVED", "REJECTED"]

/**
 * An order's history is that it was created, maybe that it was being cancelled, and after that how it ended. One that was
 * never created was only rejected. Several entries of one pass are of the same moment.
 */
const histories: Check = ({ orders, history }) => {
  const entries = Map.groupBy(history, ({ order_id }) => order_id)
  return [
    ...orders.flatMap(({ id, status }) => {
      const own = (entries.get(id) ?? []).toSorted((a, b) => statuses.indexOf(a.status) - statuses.indexOf(b.status))
      const found = own.map((entry) => entry.status)
      const cancelling = found.includes("CANCELLING") && status === "REJECTED" ? ["CANCELLING"] : []
      const due = found.length === 1 && status === "REJECTED" ? ["REJECTED"] : ["CREATED", ...cancelling, status]
      const inTurn = own.every((entry, n) => n === 0 || (own[n - 1]?.at ?? entry.at) <= entry.at)
      return when(
        found.join() !== due.join() || !inTurn,
        `order ${id} is ${status}, its history is: ${found.join(", ")}`
      )
    }),
    ...[...entries.keys()].flatMap((id) =>
      when(!orders.some((order) => order.id === id), `${id} has a history and no order`)
    )
  ]
}

/** Every order has one saga, which ended as the order did and waits for nothing. */
const sagas: Check = ({ orders, sagas }) => {
  const stored = by(sagas, ({ id }) => id)
  return [
    ...orders.flatMap(({ id, status }) => {
      const saga = stored.get(id)
      const due = status === "APPROVED" ? "COMPLETED" : "COMPENSATED"
      return [
        ...when(saga?.state !== due, `order ${id} is ${status}, its saga is ${saga?.state ?? "not there"}`),
        ...when(
          saga !== undefined && (saga.due_at !== null || saga.ended_at === null),
          `saga ${id} still waits for something`
        )
      ]
    }),
    ...sagas.flatMap(({ id }) => when(!orders.some((order) => order.id === id), `saga ${id} has no order`)),
    ...repeated(sagas.map(({ id }) => id)).map((id) => `there are two sagas ${id}`)
  ]
}

/** Every saga's log has no gaps and ends with the saga's state. */
const sagaLogs: Check = ({ sagas, sagaLog }) => {
  const entries = Map.groupBy(sagaLog, ({ saga_id }) => saga_id)
  return sagas.flatMap(({ id, position, state }) => {
    const own = (entries.get(id) ?? []).toSorted((a, b) => a.position - b.position)
    return [
      ...when(
        own.length !== position || own.some((entry, n) => entry.position !== n + 1),
        `the log of saga ${id} has the entries ${own.map((entry) => entry.position).join(", ")}, not 1 to ${position}`
      ),
      ...when(own.at(-1)?.state !== state, `saga ${id} is ${state}, its log ends with ${own.at(-1)?.state}`)
    ]
  })
}

/** What the user service has heard of each balance is the newest there is. */
const readModel: Check = ({ users, accounts }) => {
  const heard = by(users, ({ id }) => id)
  return accounts.flatMap(({ user_id, balance, position }) => {
    const user = heard.get(user_id)
    return when(
      user?.balance !== balance || user.position !== position,
      `account ${user_id} has ${balance} at ${position}, its user ${user?.balance} at ${user?.position}`
    )
  })
}

/** Every message in an outbox was decided, or put aside, by every participant that handles its type. */
const delivered: Check = (world, { subscribers }) =>
  undelivered(world, subscribers).map(({ consumer, type, id }) => `${consumer} never saw ${type} ${id}`)

export const undelivered = (
  { outbox, inbox, letters }: Pick<World, "outbox" | "inbox" | "letters">,
  subscribers: ReadonlyArray<Subscriber>
): ReadonlyArray<Seen & { readonly type: string }> => {
  const seen = new Set([...inbox, ...letters].map(({ consumer, id }) => `${consumer} ${id}`))
  const consumers = Map.groupBy(subscribers, ({ topic, type }) => `${topic} ${type}`)
  return outbox.flatMap((message) =>
    (consumers.get(`${message.topic} ${message.type}`) ?? []).flatMap((subscriber) => {
      const { consumer } = subscriber
      const { id, type } = message
      return !handles(subscriber, message) || seen.has(`${consumer} ${id}`) ? [] : [{ consumer, id, type }]
    })
  )
}

/** Nothing was put aside. */
const letters: Check = ({ letters }) => letters.map(({ consumer, id, reason }) => `${consumer} parked ${id}: ${reason}`)

/** What lies on the topics is what the outboxes hold, all of it, and what a test put there and said so. */
const records: Check = ({ outbox, records }) => {
  const sent = by(outbox, ({ id }) => id)
  const published = new Set(records.map(({ id }) => id))
  return [
    ...records.flatMap(({ id, topic, type, injected }) => {
      const message = sent.get(id)
      return when(
        !injected && (message?.topic !== topic || message.type !== type),
        `${topic} carries a ${type} ${id} that no outbox holds`
      )
    }),
    ...outbox.flatMap(({ id, topic, type }) => when(!published.has(id), `${type} ${id} is not on ${topic}`))
  ]
}

export const checks = {
  terminal,
  outcomes,
  stock,
  balances,
  ledgers,
  movements,
  charged,
  states,
  histories,
  sagas,
  sagaLogs,
  readModel,
  delivered,
  letters,
  records
} as const satisfies Readonly<Record<string, Check>>

/** What is wrong, by the check that says so; empty when nothing is. */
export const violations = (
  world: World,
  expected: Expected
): Readonly<Partial<Record<keyof typeof checks, ReadonlyArray<string>>>> =>
  Object.fromEntries(
    Object.entries(checks).flatMap(([name, check]) => {
      const wrong = check(world, expected)
      return wrong.length === 0 ? [] : [[name, wrong.slice(0, 20)]]
    })
  )
