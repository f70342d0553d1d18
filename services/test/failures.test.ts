/** Failures on demand: by rules in the services' own databases, the same ones every time. */
import { describe, expect, test } from "bun:test"
import { decidedAt, decideWith } from "oncebox/testing"
import type { Outgoing, Participant, Tables } from "oncebox"
import {
  PaymentFailedEvent,
  PaymentRefundedEvent,
  ProcessPaymentCommand,
  RefundPaymentCommand
} from "../payment/contract.ts"
import { payment } from "../payment/payment.ts"
import {
  CancelProductReservationCommand,
  ProductReservationCancelledEvent,
  ProductReservationFailedEvent,
  ReserveProductCommand
} from "../product/contract.ts"
import { product } from "../product/product.ts"
import { failsOnDemand } from "../shell/failures.ts"
import {
  CancelShipmentCommand,
  CreateShipmentCommand,
  ShipmentCancelledEvent,
  ShipmentFailedEvent
} from "../shipment/contract.ts"
import { shipment } from "../shipment/shipment.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const reason = "FAILED_ON_DEMAND"
const items = [{ productId: "tea", quantity: 1 }]
const rule = (step: string, change: { above?: number; percent?: number; delay_ms?: number } = {}) => ({
  failure_rules: [{ step, above: null, percent: 0, seed: "s", delay_ms: null, ...change }]
})
const account = {
  user_id: "ann",
  opening_balance: 1_000,
  balance: 1_000,
  position: 1,
  opened_at: decidedAt,
  closed_at: null
}
const tea = {
  id: "tea",
  name: "Tea",
  price: 100,
  quantity: 5,
  status: "ACTIVE",
  version: 1,
  created_at: decidedAt
} as const
const pay = (amount: number) =>
  ProcessPaymentCommand.of({ orderId, userId: "ann", amount, payment: { method: "account" } })

describe("a rule", () => {
  test("declines payments above its amount, and no others", () => {
    const rows = { accounts: [account], ...rule("pay", { above: 500 }) }

    expect(decideWith(payment, rows, pay(501)).send).toEqual([PaymentFailedEvent.of({ orderId, reason })])
    expect(decideWith(payment, rows, pay(500)).send?.[0]?.contract.type).toBe("PaymentProcessedEvent")
  })

  test("fails a service's step, and nothing is taken", () => {
    const reserving = decideWith(
      product,
      { products: [tea], ...rule("reserve", { percent: 100 }) },
      ReserveProductCommand.of({ orderId, items })
    )
    const shipping = decideWith(
      shipment,
      rule("ship", { percent: 100 }),
      CreateShipmentCommand.of({ orderId, userId: "ann", items, country: null })
    )

    expect(reserving.send).toEqual([ProductReservationFailedEvent.of({ orderId, reason, productId: null })])
    expect(reserving.rows.products).toEqual([tea])
    expect(shipping.send).toEqual([ShipmentFailedEvent.of({ orderId, reason })])
  })

  test("of a rate fails about so many of a hundred orders, the same ones for the same seed, others for another", () => {
    const failing = (percent: number, seed: string, step = "pay") =>
      Array.from({ length: 10_000 }, (_, n) => `order ${n}`).filter((id) =>
        failsOnDemand({ step, above: null, percent, seed, delay_ms: null }, id)
      )

    for (const percent of [0, 10, 20, 30, 100]) {
      expect(Math.abs(failing(percent, "a").length - percent * 100)).toBeLessThan(200)
      expect(failing(percent, "a")).toEqual(failing(percent, "a"))
    }
    expect(failing(20, "a")).not.toEqual(failing(20, "b"))
    // or the orders that fail at one step would be those that never get to the next
    const both = new Set(failing(20, "a")).intersection(new Set(failing(20, "a", "reserve")))
    expect(Math.abs(both.size - 400)).toBeLessThan(100)
  })

  test("that is not there fails nothing", () => {
    expect(failsOnDemand(undefined, orderId, 1_000_000)).toBe(false)
  })
})

const delay_ms = 40_000
const refused = { orderId, reason: "ALREADY_CANCELLED" }

interface Late<T extends Tables> {
  readonly participant: Participant<T>
  readonly step: "reserve" | "pay" | "ship"
  readonly rows: Parameters<typeof decideWith<T>>[1]
  readonly command: Outgoing
  readonly undo: Outgoing
  readonly undone: Outgoing
  readonly refusal: Outgoing
}

/** What differs in nothing but when it was decided, and ids that were made for it, looks the same. */
const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value ?? [], (key, inner: unknown) => {
      if (key === "updated_at" || key === "at") return "some time"
      return typeof inner === "string" && inner.startsWith("00000000-0000-7") ? "some id" : inner
    })
  )
const said = (messages: ReadonlyArray<Outgoing> = []) =>
  plain(messages.map(({ contract, payload }) => [contract.type, payload]))

/** What is left in tables of a service's own: all but what was put aside, and the rules. */
const own = ({ rows }: { readonly rows: object }) =>
  plain(Object.entries(rows).filter(([table]) => table !== "delayed_commands" && table !== "failure_rules"))

const late = <T extends Tables>(what: string, { participant, step, command, ...known }: Late<T>) =>
  describe(`a delay of ${what}`, () => {
    const due = { due: "delayed_commands", key: orderId }
    // each participant here has rules; its own tables are given by the test
    const rows = { ...known.rows, ...rule(step, { delay_ms }) } as Late<T>["rows"]
    const atOnce = decideWith(participant, known.rows, command)

    test("leaves everything as it is until it is over; then the command is decided as ever", () => {
      const asked = decideWith(participant, rows, command)
      const over = decideWith(participant, rows, command, due)

      expect([said(asked.send), plain(asked.call)]).toEqual([[], []])
      expect(own(asked)).toEqual(own(decideWith(participant, rows)))
      expect(asked.rows["delayed_commands"]?.map((row) => "due_at" in row && row.due_at)).toEqual([
        new Date(decidedAt.getTime() + delay_ms)
      ])
      expect(said(over.send)).toEqual(said(atOnce.send))
      expect(over.call).toHaveLength(atOnce.call?.length ?? 0)
      expect(own(over)).toEqual(own(atOnce))
      expect(over.rows["delayed_commands"]).toMatchObject([{ due_at: null }])
    })

    test("is not longer, shorter or twice for who asks again; once it is over, the answer comes at once", () => {
      const once = decideWith(participant, rows, command)
      const twice = decideWith(participant, rows, command, command)
      const after = decideWith(participant, rows, command, command, due, command)

      expect(twice).toEqual({ rows: once.rows })
      expect(said(after.send)).toEqual(said(atOnce.send))
      expect(own(after)).toEqual(own(atOnce))
    })

    test("ends with a refusal when the step was undone meanwhile", () => {
      const undoing = decideWith(participant, rows, command, known.undo)
      const over = decideWith(participant, rows, command, known.undo, due)

      expect(said(undoing.send)).toEqual(said([known.undone]))
      expect(said(over.send)).toEqual(said([known.refusal]))
      expect(own(over)).toEqual(own(undoing))
    })

    for (const coordination of ["orchestration", "choreography"] as const) {
      test(`is answered in the style in which it was asked, ${coordination}`, () => {
        const { send = [], call = [] } = decideWith(participant, rows, { ...command, coordination }, due)

        expect([...send, ...call]).toMatchObject([{ coordination }])
      })
    }
  })

late("a reservation", {
  participant: product,
  step: "reserve",
  rows: { products: [tea] },
  command: ReserveProductCommand.of({ orderId, items }),
  undo: CancelProductReservationCommand.of({ orderId }),
  undone: ProductReservationCancelledEvent.of({ orderId }),
  refusal: ProductReservationFailedEvent.of({ ...refused, productId: null })
})
for (const method of [{ method: "account" }, { method: "card", card: "card-1" }] as const)
  late(`a payment by ${method.method}`, {
    participant: payment,
    step: "pay",
    rows: { accounts: [account] },
    command: ProcessPaymentCommand.of({ orderId, userId: "ann", amount: 900, payment: method }),
    undo: RefundPaymentCommand.of({ orderId }),
    undone: PaymentRefundedEvent.of({ orderId, refund: null }),
    refusal: PaymentFailedEvent.of(refused)
  })
late("a shipment", {
  participant: shipment,
  step: "ship",
  rows: {},
  command: CreateShipmentCommand.of({ orderId, userId: "ann", items, country: null }),
  undo: CancelShipmentCommand.of({ orderId }),
  undone: ShipmentCancelledEvent.of({ orderId }),
  refusal: ShipmentFailedEvent.of(refused)
})

test("what fails on demand can do so late", () => {
  const rows = { accounts: [account], ...rule("pay", { above: 500, delay_ms }) }

  const { send } = decideWith(payment, rows, pay(501), { due: "delayed_commands", key: orderId })

  expect(said(send)).toEqual(said([PaymentFailedEvent.of({ orderId, reason })]))
})
