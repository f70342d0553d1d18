/** The shop as the simulator plays it: all six participants in both styles, clients that order and cancel, a card processor. */
import { Effect } from "effect"
import type { Caller, RowOf, Saga, SagaDefinition, SagaRow } from "oncebox"
import {
  pickBy,
  pickOne,
  type Choices,
  type ClientRequest,
  type Plan,
  type Quiet,
  type Scenario
} from "oncebox/testing"
import type { ProcessorEntry } from "../../../stack/processor.ts"
import { ArchiveOrder, CancelOrder, PlaceOrder, type Order, type ordersHistory } from "../../order/order.ts"
import { definitions } from "../../orchestrator/definitions.ts"
import { orchestrator, orchestratorOf, StartOrder } from "../../orchestrator/orchestrator.ts"
import { Charge, Refund } from "../../payment/card.ts"
import type { Payment } from "../../payment/outcome.ts"
import type { Account, LedgerEntry } from "../../payment/payment.ts"
import type { Product, Reservation } from "../../product/product.ts"
import type { OrderData } from "../../shell/order-context.ts"
import type { Shipment } from "../../shipment/shipment.ts"
import type { User } from "../../user/user.ts"
import { allDefinitions, nextDefinitions } from "../builds/definitions.ts"
import { checks } from "../checks.ts"
import type { World } from "../checks/check.ts"
import type { Planned } from "../orders.ts"
import { participants } from "../participants.ts"

const opened = new Date("2025-12-31T00:00:00.000Z")

/** Few users and products, so that orders meet at the same rows; little money and stock, so that some fail. */
const stocked = (choices: Choices): ReadonlyArray<Product> =>
  ["desk", "lamp", "vase", "anvil"].map((id, n) => ({
    id,
    name: id,
    price: 100 * (n + 1),
    quantity: [100_000, 100_000, 3 + choices.pick(10), 100_000][n] ?? 0,
    status: "ACTIVE",
    version: 1,
    created_at: opened
  }))

const usersOf = (choices: Choices): ReadonlyArray<{ readonly id: string; readonly balance: number }> => [
  { id: "ann", balance: 10_000_000 },
  { id: "bob", balance: 10_000_000 },
  { id: "eve", balance: 300 + 100 * choices.pick(20) }
]

/** What the card processor does: it knows each charge by its key. */
const processorOf = (charges: Map<string, ProcessorEntry>): ReadonlyArray<Caller> => {
  const attempts = { deadline: "10 seconds", concurrency: 32 } as const
  return [
    Charge.caller({
      ...attempts,
      carry: ({ amount, card }, { idempotencyKey }) =>
        Effect.sync(() => {
          if (card === "declined") return { status: "REFUSED", reason: "CARD_DECLINED" } as const
          const known = charges.get(idempotencyKey)
          const id = known?.id ?? `charge${charges.size}`
          if (known === undefined)
            charges.set(idempotencyKey, { id, key: idempotencyKey, card, amount, status: "CHARGED", reason: null })
          return { status: "CHARGED", charge: id } as const
        })
    }),
    Refund.caller({
      ...attempts,
      carry: (_request, { key }) =>
        Effect.sync(() => {
          const charge = charges.get(`${Charge.kind}:${key}`)
          if (charge === undefined) throw new Error(`there is no charge for ${key}`)
          charges.set(charge.key, { ...charge, status: "REFUNDED" })
          return { status: "REFUNDED" }
        })
    })
  ]
}

const carts = [
  [{ productId: "desk", quantity: 1 }],
  [
    { productId: "lamp", quantity: 2 },
    { productId: "desk", quantity: 1 }
  ],
  [{ productId: "vase", quantity: 1 }],
  [
    { productId: "desk", quantity: 1 },
    { productId: "vase", quantity: 2 }
  ],
  [{ productId: "anvil", quantity: 1 }],
  [{ productId: "nothing", quantity: 1 }]
] as const

/** One in twenty carts is too heavy, one holds what nobody has. */
const cartWeights = [8, 6, 1, 3, 1, 1]

const methods = [
  { method: "account" },
  { method: "account" },
  { method: "account" },
  { method: "account" },
  { method: "card", card: "good" },
  { method: "card", card: "good" },
  { method: "card", card: "declined" }
] as const

const idOf = (reply: unknown): string =>
  typeof reply === "object" && reply !== null && "id" in reply ? String(reply.id) : ""

/** One client: it orders, and may cancel, twice, or archive. */
const clientOf = (choices: Choices, n: number): ClientRequest => {
  const body = {
    userId: pickBy(choices, [
      [8, "ann"],
      [8, "bob"],
      [3, "eve"],
      [1, "nobody"]
    ]),
    items: pickBy(
      choices,
      carts.map((cart, n) => [cartWeights[n] ?? 1, cart] as const)
    ),
    payment: pickOne(choices, methods),
    country: pickOne(choices, [null, null, null, null, "NL", "NL", "NL", "XX"] as const),
    coordination: pickOne(choices, ["orchestration", "choreography"] as const),
    definition: pickOne(choices, ["place-order", "pay-first"] as const)
  }
  const [to, request] =
    choices.pick(2) === 0 ? (["order", PlaceOrder] as const) : (["orchestrator", StartOrder] as const)
  return {
    to,
    request,
    coordination: body.coordination,
    definition: body.definition,
    idempotencyKey: `order ${n}`,
    fingerprint: JSON.stringify(body),
    payload: (newId) => ({ ...body, orderId: newId() }),
    answered: (reply) => {
      const orderId = idOf(reply)
      const again = (what: typeof CancelOrder | typeof ArchiveOrder, time: number): ClientRequest => ({
        to: "order",
        request: what,
        idempotencyKey: `${what.type} ${n} ${time}`,
        fingerprint: orderId,
        payload: () => ({ orderId })
      })
      const wanted = choices.pick(12)
      if (wanted === 1) return [again(CancelOrder, 1)]
      if (wanted === 2) return [again(CancelOrder, 1), again(CancelOrder, 2)]
      return wanted === 3 ? [again(ArchiveOrder, 1)] : []
    }
  }
}

/** What of the world must hold here. Outcomes depend on who came first, and nothing else was published than what was sent. */
const { outcomes: _outcomes, delivered: _delivered, letters: _letters, records: _records, ...held } = checks

const planOf =
  (orders: number) =>
  (choices: Choices): Plan => {
    const products = stocked(choices)
    const accounts = usersOf(choices)
    const charges = new Map<string, ProcessorEntry>()
    return {
      given: {
        product: { products },
        shipment: {
          carrier_refusals: [{ product_id: "anvil", reason: "too heavy" }],
          carrier_countries: [{ country: "XX", reason: "nobody goes there" }]
        },
        payment: {
          accounts: accounts.map(({ id, balance }) => ({
            user_id: id,
            opening_balance: balance,
            balance,
            position: 1,
            opened_at: opened,
            closed_at: null
          })),
          ledger: accounts.map(({ id, balance }) => ({
            user_id: id,
            position: 1,
            amount: balance,
            kind: "OPENING",
            order_id: null,
            deposit_id: null,
            balance,
            at: opened
          }))
        },
        user: {
          users: accounts.map(({ id, balance }) => ({
            id,
            name: id,
            email: `${id}@example.org`,
            balance,
            position: 1,
            status: "ACTIVE",
            version: 1,
            created_at: opened
          }))
        }
      },
      requests: Array.from({ length: orders }, (_, n) => clientOf(choices, n)),
      callers: { payment: processorOf(charges) },
      seen,
      holds: (end) => {
        const world = worldOf(end, [...charges.values()])
        const placed = new Map(
          [...end.replies]
            .filter(([key]) => key.startsWith("order "))
            .map(([key, reply]) => [idOf(reply), { key } as Planned])
        )
        const expected = { plan: { products, accounts }, placed, subscribers: [] }
        return [
          ...Object.entries(held).flatMap(([name, check]) =>
            check(world, expected).map((wrong) => `${name}: ${wrong}`)
          ),
          ...told(world, end),
          ...transitions(world),
          ...heard(end),
          ...waiting(end)
        ]
      }
    }
  }

/** Who was told that an order is cancelled finds it rejected, and who was told that it was too late finds it as it was told. */
const told = ({ orders }: World, { replies }: Quiet): ReadonlyArray<string> => {
  const status = new Map(orders.map((one) => [one.id, one]))
  return [...replies].flatMap(([key, reply]) => {
    if (!key.startsWith(CancelOrder.type)) return []
    const said = reply as typeof CancelOrder.reply.Type
    if (said._tag === "unknown") return []
    const found = status.get(said.order.id)
    const due = said._tag === "cancelled" ? "REJECTED USER_CANCELLED" : `${said.order.status} ${said.order.reason}`
    const is = `${found?.status} ${found?.reason}`
    return is === due ? [] : [`cancel: ${key} was told ${due}, the order is ${is}`]
  })
}

/**
 * A choreographed saga has heard all that was sent of it and concerns it, in whatever order; but for what came so long before
 * its beginning that it was given up.
 */
const heard = ({ rows, sent }: Quiet): ReadonlyArray<string> => {
  const concerns = new Set([...orchestrator.messages.keys()].map(({ type }) => type))
  const aside = rows("orchestrator", "saga_early") as ReadonlyArray<SagaHandover>
  const early = new Set(aside.map(({ saga_id, type }) => `${saga_id} ${type}`))
  const told = Map.groupBy(sent, ({ correlation }) => correlation)
  return (rows("orchestrator", "sagas") as ReadonlyArray<SagaRow>).flatMap(({ id, coordination, seen }) => {
    if (coordination === "orchestration") return []
    const types = new Set((told.get(id) ?? []).map(({ type }) => type).filter((type) => concerns.has(type)))
    return [...types].flatMap((type) =>
      seen.includes(type) || early.has(`${id} ${type}`) ? [] : [`saga ${id} never heard of ${type}`]
    )
  })
}

/** What one build handed over another one has decided. */
const waiting = ({ rows }: Quiet): ReadonlyArray<string> =>
  (rows("orchestrator", "saga_handovers") as ReadonlyArray<SagaHandover>).flatMap(({ type, saga_id, due_at }) =>
    due_at === null ? [] : [`${type} of saga ${saga_id} was handed over to nobody`]
  )
type SagaHandover = RowOf<(typeof Saga.tables)["saga_handovers"]>

/** An orchestrated saga goes forward step by step, then maybe back step by step, and ends. */
const transitions = ({ sagas, sagaLog }: World): ReadonlyArray<string> => {
  const logs = Map.groupBy(sagaLog as ReadonlyArray<LogEntry>, ({ saga_id }) => saga_id)
  return (sagas as ReadonlyArray<SagaRow>).flatMap(({ id, coordination, definition, version }) => {
    if (coordination === "choreography") return []
    const steps = allDefinitions.find((one) => one.name === definition && one.version === version)?.steps ?? []
    const places = (logs.get(id) ?? []).map(({ state, step }) => {
      const index = steps.findIndex(({ name }) => name === step)
      return { state, place: state === "RUNNING" ? index : 2 * steps.length - index }
    })
    const backward = places.some(({ state, place }, n) => {
      const before = places[n - 1]
      if (before === undefined) return false
      return isEnded(before.state) || (!isEnded(state) && place < before.place)
    })
    return backward ? [`saga ${id} went: ${places.map(({ state, place }) => `${state} ${place}`).join(", ")}`] : []
  })
}
type LogEntry = RowOf<(typeof Saga.tables)["saga_log"]>
const isEnded = (state: string): boolean => ["APPROVED", "REJECTED", "COMPLETED", "COMPENSATED"].includes(state)

const worldOf = ({ rows, entries }: Quiet, charges: ReadonlyArray<ProcessorEntry>): World => ({
  // rows and log entries of tables that the participants themselves decoded
  orders: rows("order", "orders") as ReadonlyArray<Order>,
  history: entries("order", "orders_history") as ReadonlyArray<RowOf<typeof ordersHistory>>,
  products: rows("product", "products") as ReadonlyArray<Product>,
  reservations: rows("product", "reservations") as ReadonlyArray<Reservation>,
  accounts: rows("payment", "accounts") as ReadonlyArray<Account>,
  payments: rows("payment", "payments") as ReadonlyArray<Payment>,
  ledger: entries("payment", "ledger") as ReadonlyArray<LedgerEntry>,
  users: rows("user", "users") as ReadonlyArray<User>,
  shipments: rows("shipment", "shipments") as ReadonlyArray<Shipment>,
  sagas: rows("orchestrator", "sagas") as ReadonlyArray<SagaRow>,
  sagaLog: entries("orchestrator", "saga_log") as ReadonlyArray<LogEntry>,
  outbox: [],
  inbox: [],
  letters: [],
  records: [],
  charges
})

/** What no moment may see: a negative quantity, an outcome that changes. */
const watch: Scenario["watch"] = (_participant, table, before, after) => {
  if (table === "products" && (after as Product).quantity < 0)
    return `there are ${(after as Product).quantity} of a product`
  if (table === "accounts" && (after as Account).balance < 0) return `an account has ${(after as Account).balance}`
  if (before === undefined) return undefined
  if (table === "orders") {
    const [was, is] = [before as Order, after as Order]
    return isEnded(was.status) && was.status !== is.status
      ? `order ${is.id} was ${was.status} and is ${is.status}`
      : undefined
  }
  if (table === "sagas") {
    const [was, is] = [before as SagaRow, after as SagaRow]
    if (was.version !== is.version) return `saga ${is.id} began on v${was.version} and is on v${is.version}`
    return isEnded(was.state) && was.state !== is.state
      ? `saga ${is.id} was ${was.state} and is ${is.state}`
      : undefined
  }
  return undefined
}

/** The next versions, less patient. */
const impatient = (definition: SagaDefinition<OrderData>): SagaDefinition<OrderData> => ({
  ...definition,
  deadlineMs: definition.deadlineMs / 2,
  steps: definition.steps.map((step) => ({ ...step, deadlineMs: step.deadlineMs / 2, attempts: 2 }))
})
const impatientDefinitions = {
  "place-order": impatient(nextDefinitions["place-order"]),
  "pay-first": impatient(nextDefinitions["pay-first"])
}
const orchestrators = [
  // one that has both versions and starts the old one: it may be left out
  orchestratorOf(definitions, Object.values(impatientDefinitions)),
  orchestratorOf(impatientDefinitions, Object.values(definitions))
]

/** What must be met now and then: outcomes in both styles and definitions, and each way in which something was taken back. */
const seen = ({ rows }: Quiet): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  const count = (what: string, times = 1): void => void (counts[what] = (counts[what] ?? 0) + times)
  for (const one of rows("order", "orders") as ReadonlyArray<Order>) {
    count(`orders ${one.status}, ${one.coordination} ${one.definition}`)
    if (one.reason !== null) count(`orders rejected: ${one.reason}`)
  }
  for (const { status, lines } of rows("product", "reservations") as ReadonlyArray<Reservation>)
    count(`reservations ${status}${status === "CANCELLED" && lines.length === 0 ? " before they were asked for" : ""}`)
  for (const { status, method, user_id } of rows("payment", "payments") as ReadonlyArray<Payment>)
    count(`payments ${status}, ${user_id === null ? "before they were asked for" : method}`)
  for (const { status, items } of rows("shipment", "shipments") as ReadonlyArray<Shipment>)
    count(`shipments ${status}${status === "CANCELLED" && items.length === 0 ? " before they were asked for" : ""}`)
  for (const { definition, version } of rows("orchestrator", "sagas") as ReadonlyArray<SagaRow>)
    count(`sagas of ${definition} v${version}`)
  count("messages handed over to another build", rows("orchestrator", "saga_handovers").length)
  count("messages before their saga", rows("orchestrator", "saga_early").length)
  return counts
}

/** The shop with so many orders in a run. */
export const shop = (orders: number): Scenario => ({
  // each is only ever given rows of its own tables
  participants: participants as unknown as Scenario["participants"],
  laterBuilds: orchestrators as unknown as NonNullable<Scenario["laterBuilds"]>,
  leavesOutBuilds: true,
  plan: planOf(orders),
  watch,
  // an orchestrated saga asks again; what the read model misses nobody asks for
  heals: ({ headers }, participant) => headers["coordination"] === "orchestration" && participant !== "user"
})
