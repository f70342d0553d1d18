/** Founding document 004, the tutorial: payment before stock, choreographed and orchestrated, with an audit trail. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import {
  allTakeBack,
  expectLabelled,
  expectSaid,
  messagesOf,
  payloadOf,
  payloadsOf,
  onOwnTopics,
  undone,
  wasSaid,
  type Chain
} from "./conversation.ts"
import { place, prepare, type Plan, type Planned } from "./orders.ts"
import {
  approvedRows,
  balancesOf,
  get,
  isAt,
  nth,
  rejected,
  rejectedRows,
  rowsOf,
  shop,
  shopping,
  stockOf,
  waitFor
} from "./shopping.ts"
import { frozen, onStack, useStack, type Stack } from "./stack.ts"
import { expectExactlyOnce } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const choreographed = { coordination: "choreography", definition: "pay-first" } as const
const orchestrated = { coordination: "orchestration", definition: "pay-first" } as const

const created = "orders-events OrderCreatedEvent"
const quoted = "products-events OrderQuotedEvent"
const paid = "payments-events PaymentProcessedEvent"
const unpaid = "payments-events PaymentFailedEvent"
const reserved = "products-events ProductReservedEvent"
const outOfStock = "products-events ProductReservationFailedEvent"
const shipped = "shipments-events ShipmentCreatedEvent"
const approved = "orders-events OrderApprovedEvent"
const rejectedEvent = "orders-events OrderRejectedEvent"

/** The same, each asked for by the orchestrator. */
const askedQuote = [created, "products-commands QuoteOrderCommand", quoted]
const askedPay = [...askedQuote, "payments-commands ProcessPaymentCommand"]
const askedReserve = [...askedPay, paid, "products-commands ReserveProductCommand"]
const askedShip = [...askedReserve, reserved, "shipments-commands CreateShipmentCommand"]
const askedApprove = [...askedShip, shipped, "orders-commands ApproveOrderCommand"]

const styles: ReadonlyArray<{
  readonly name: string
  readonly style: typeof choreographed | typeof orchestrated
  readonly flow: Readonly<Record<"well" | "unpaid" | "outOfStock", Chain>>
  /** Of an order that was not paid: who had nothing to take back leaves a row that refuses what may come late. */
  readonly unpaidRows: object
  /** What its messages of a refund say, if there are any. */
  readonly nothingRefunded: ReadonlyArray<object>
  readonly outOfStockRows: object
}> = [
  {
    name: "choreographed, no commands",
    style: choreographed,
    flow: {
      well: onOwnTopics([created, quoted, paid, reserved, shipped, approved]),
      unpaid: onOwnTopics([created, quoted, unpaid, rejectedEvent, allTakeBack]),
      outOfStock: onOwnTopics([created, quoted, paid, outOfStock, rejectedEvent, allTakeBack])
    },
    unpaidRows: {
      reservations: { status: "CANCELLED", reason: null, total: 0 },
      shipments: { status: "CANCELLED", reason: null }
    },
    nothingRefunded: [{ refund: null }],
    outOfStockRows: { shipments: { status: "CANCELLED", reason: null } }
  },
  {
    name: "orchestrated",
    style: orchestrated,
    flow: {
      well: [...askedApprove, approved],
      unpaid: [...askedPay, unpaid, ...undone.create],
      outOfStock: [...askedReserve, outOfStock, ...undone.pay, ...undone.create]
    },
    unpaidRows: {},
    nothingRefunded: [],
    outOfStockRows: {}
  }
]

/** Has somebody else take the last tea after the first order was quoted and before it is paid. */
const overtaken = async (stack: Stack, plan: Plan): Promise<ReadonlyMap<string, Planned>> => {
  const [first, second] = [nth(plan, 0), nth(plan, 1)]
  const placed = new Map<string, Planned>()
  await frozen(stack.service("payment"), async () => {
    const id = await place(stack, first)
    await waitFor("a quote", () => wasSaid(stack, id, "OrderQuotedEvent"))
    const other = await place(stack, second)
    await isAt(stack, other, "RUNNING", "pay")
    placed.set(id, first).set(other, second)
  })
  return placed
}

interface Entry {
  readonly at: string
  readonly step: string
  readonly cause: { readonly type: string; readonly id: string | null }
  readonly asked: { readonly type: string; readonly id: string } | null
}

const logOf = async (stack: Stack, id: string): Promise<ReadonlyArray<Entry>> =>
  (await get(stack, "orchestrator", `/sagas/${id}`))["log"] as ReadonlyArray<Entry>

/** GET /sagas/:id lists each message of the order, asked or answered, by its type and id, in the order of time. */
const expectAudited = async (stack: Stack, id: string): Promise<void> => {
  const log = await logOf(stack, id)
  const listed = log.flatMap(({ cause, asked }) => [cause, ...(asked === null ? [] : [asked])])
  const byId = (a: { readonly id: string | null }, b: typeof a): number => ((a.id ?? "") < (b.id ?? "") ? -1 : 1)
  expect(listed.toSorted(byId)).toEqual(messagesOf(stack, id).map(({ type, id }) => ({ type, id })))
  const times = log.map(({ at }) => at)
  expect(times).toEqual(times.toSorted())
}

for (const [n, { name, style, flow, unpaidRows, nothingRefunded, outOfStockRows }] of styles.entries()) {
  describe(`document 004, ${name}`, () => {
    onStack("success flow: OrderCreated → PaymentCompleted → StockReserved → Ship Order", async (stack) => {
      const plan = shopping(`d004well${n}`, {
        products: { tea: [700, 5] },
        users: { ann: 10_000 },
        orders: [{ user: "ann", items: { tea: 5 }, ...style }]
      })
      await prepare(stack, plan)

      const { placed, ids } = await shop(stack, plan)
      const [id = ""] = ids
      await expectExactlyOnce(stack, plan, placed)

      expectSaid(stack, id, flow.well)
      expect(await rowsOf(stack, id)).toEqual(approvedRows(3_500, style))
      expect(await stockOf(stack, plan)).toEqual({ tea: 0 })
      expect(await balancesOf(stack, plan)).toEqual({ ann: 6_500 })
      expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ status: "APPROVED", total: 3_500, ...style })
    })

    onStack("if payment fails: PaymentFailed → order cancelled, and nothing is refunded", async (stack) => {
      const plan = shopping(`d004money${n}`, {
        products: { tea: [700, 5] },
        users: { ann: 699 },
        orders: [{ user: "ann", items: { tea: 1 }, ...style, outcome: rejected("INSUFFICIENT_FUNDS") }]
      })
      await prepare(stack, plan)

      const { placed, ids } = await shop(stack, plan)
      const [id = ""] = ids
      await expectExactlyOnce(stack, plan, placed)

      expectSaid(stack, id, flow.unpaid)
      expect(payloadsOf(stack, id, "PaymentRefundedEvent")).toMatchObject(nothingRefunded)
      const payments = { status: "FAILED", reason: "INSUFFICIENT_FUNDS", amount: 700 }
      expect(await rowsOf(stack, id)).toEqual(
        rejectedRows("INSUFFICIENT_FUNDS", { payments, ledger: [], ...unpaidRows }, style)
      )
      expect(await stockOf(stack, plan)).toEqual({ tea: 5 })
      expect(await balancesOf(stack, plan)).toEqual({ ann: 699 })
      const order = { status: "REJECTED", reason: "INSUFFICIENT_FUNDS" }
      expect(await get(stack, "order", `/orders/${id}`)).toMatchObject(order)
      await expectAudited(stack, id)
    })

    onStack("if stock fails: StockFailed → order cancelled, and what was paid is refunded", async (stack) => {
      const plan = shopping(`d004stock${n}`, {
        products: { tea: [700, 5] },
        users: { ann: 10_000, bob: 10_000 },
        orders: [
          { user: "ann", items: { tea: 2 }, ...style, outcome: rejected("OUT_OF_STOCK") },
          { user: "bob", items: { tea: 4 } }
        ]
      })
      await prepare(stack, plan)

      const placed = await overtaken(stack, plan)
      const [id = "", other = ""] = placed.keys()
      await expectExactlyOnce(stack, plan, placed)

      expectSaid(stack, id, flow.outOfStock)
      expect(payloadOf(stack, id, "PaymentRefundedEvent")).toMatchObject({
        refund: { userId: `d004stock${n}_ann`, amount: 1_400, balance: 10_000 }
      })
      expect(await rowsOf(stack, id)).toEqual(
        rejectedRows(
          "OUT_OF_STOCK",
          {
            reservations: { status: "FAILED", reason: "OUT_OF_STOCK", total: 0 },
            payments: { status: "REFUNDED", reason: null, amount: 1_400 },
            ledger: [-1_400, 1_400],
            ...outOfStockRows
          },
          style
        )
      )
      expect(await rowsOf(stack, other)).toEqual(approvedRows(2_800))
      expect(await stockOf(stack, plan)).toEqual({ tea: 1 })
      expect(await balancesOf(stack, plan)).toEqual({ ann: 10_000, bob: 7_200 })
      expect(await get(stack, "order", `/orders/${id}`)).toMatchObject({ status: "REJECTED", reason: "OUT_OF_STOCK" })

      // audit trail
      await expectAudited(stack, id)
      await expectAudited(stack, other)

      // one is of this style, the other orchestrated by place-order
      await expectLabelled(stack, id)
      await expectLabelled(stack, other)
      const { items } = await get(stack, "order", `/orders/${id}/history`)
      expect(items).toMatchObject([
        { status: "CREATED", reason: null, at: expect.any(String) },
        { status: "REJECTED", reason: "OUT_OF_STOCK", at: expect.any(String) }
      ])
    })

    onStack(
      "stuck flows: while the payment service hangs, the saga says what it waits for and since",
      async (stack) => {
        const plan = shopping(`d004stuck${n}`, {
          products: { tea: [700, 5] },
          users: { ann: 10_000 },
          orders: [{ user: "ann", items: { tea: 1 }, ...style }]
        })
        await prepare(stack, plan)
        const from = new Date().toISOString()

        let id = ""
        await frozen(stack.service("payment"), async () => {
          id = await place(stack, nth(plan, 0))
          await isAt(stack, id, "RUNNING", "pay")
          const messages = ["PaymentProcessedEvent", "PaymentFailedEvent"]
          const saga = await get(stack, "orchestrator", `/sagas/${id}`)
          expect(saga).toMatchObject({
            state: "RUNNING",
            ...style,
            done: ["create", "quote"],
            waitingFor: { step: "pay", messages },
            waitingSince: (await logOf(stack, id)).find(({ step }) => step === "pay")?.at,
            remaining: ["reserve", "ship", "approve"],
            endedAt: null
          })
          expect(String(saga["waitingSince"]) > from).toBe(true)
          expect(String(saga["waitingSince"]) < new Date().toISOString()).toBe(true)
        })
        await expectExactlyOnce(stack, plan, new Map([[id, nth(plan, 0)]]))

        expect(await rowsOf(stack, id)).toEqual(approvedRows(700, style))
        const done = ["create", "quote", "pay", "reserve", "ship", "approve"]
        expect(await get(stack, "orchestrator", `/sagas/${id}`)).toMatchObject({
          state: "COMPLETED",
          done,
          waitingFor: null,
          waitingSince: null,
          remaining: []
        })
      }
    )
  })
}
