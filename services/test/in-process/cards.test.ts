/** Orders that are paid with a card: the services for real, in one process, and a card processor that fails as it is told. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { startProcessor, type ProcessorControl, type ProcessorEntry } from "../../../stack/processor.ts"
import { until } from "../../../stack/wait.ts"
import type { OrderView } from "../../order/contract.ts"
import { bodyOf, quietly } from "../../shell/test/stand-ins.ts"
import { useSystem } from "./system.ts"

setDefaultTimeout(60_000)
// a processor that is down is told of in the log
quietly()

const processor = startProcessor()
const { get, post, send, inDatabase, ended: sagaEnded } = useSystem(processor.url)
afterAll(() => processor.stop())

const ofProcessor = async <A>(method: "GET" | "PUT", path: string, body?: object): Promise<A> =>
  bodyOf<A>(
    await fetch(`${processor.url}${path}`, {
      method,
      headers: { "Content-Type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(10_000)
    })
  )
const control = (change: Partial<ProcessorControl>) => ofProcessor("PUT", "/control", change)
const chargesOf = async (orderId: string) =>
  (await ofProcessor<{ items: ReadonlyArray<ProcessorEntry> }>("GET", "/charges")).items.filter(
    ({ key }) => key === `charge:${orderId}`
  )

beforeAll(async () => {
  await inDatabase("shipments", (sql) => sql`insert into carrier_refusals values ('fireworks', 'too dangerous')`)
  await Promise.all([
    post("user", "/users", { id: "ann", name: "Ann", email: "ann@example.org", balance: 10 }),
    ...["kettle", "fireworks"].map((id) =>
      post("product", "/products", { id, name: id, price: 2_000, quantity: 1_000 })
    )
  ])
})

const order = (change: object = {}, prefer?: string) =>
  post<OrderView>(
    "order",
    "/orders",
    {
      userId: "ann",
      items: [{ productId: "kettle", quantity: 1 }],
      payment: { method: "card", card: "card-1" },
      ...change
    },
    prefer
  )
const payment = (id: string) => get<{ status: string; method: string }>("payment", `/payments/${id}`)
const ended = async (id: string): Promise<OrderView> => {
  await sagaEnded(id)
  return get<OrderView>("order", `/orders/${id}`)
}
const pending = (id: string) => until("the payment", 20_000, async () => (await payment(id)).status === "PENDING")
const balance = async () => (await get<{ balance: number }>("user", "/users/ann")).balance

for (const coordination of ["orchestration", "choreography"] as const) {
  const style = { coordination }

  test(`a card is charged once and the account not at all (${coordination})`, async () => {
    const placed = await order(style)

    expect(placed).toMatchObject({ status: "APPROVED", total: 2_000, payment: { method: "card", card: "card-1" } })
    expect(await payment(placed.id)).toMatchObject({ status: "PROCESSED", method: "card" })
    expect(await chargesOf(placed.id)).toMatchObject([{ status: "CHARGED", amount: 2_000, card: "card-1" }])
    expect(await balance()).toBe(10)
  })

  test(`a declined card rejects the order (${coordination})`, async () => {
    await control({ declineAbove: 100 })
    const placed = await order(style)
    await control({ declineAbove: null })

    expect(placed).toMatchObject({ status: "REJECTED", reason: "CARD_DECLINED" })
    expect(await chargesOf(placed.id)).toMatchObject([{ status: "DECLINED" }])
  })

  test(`an order that fails later gives the charge back (${coordination})`, async () => {
    const { id } = await order({ ...style, items: [{ productId: "fireworks", quantity: 2 }] })

    expect(await ended(id)).toMatchObject({ status: "REJECTED", reason: "SHIPMENT_REFUSED" })
    expect(await payment(id)).toMatchObject({ status: "REFUNDED" })
    expect(await chargesOf(id)).toMatchObject([{ status: "REFUNDED", amount: 4_000 }])
  })

  test(`orders wait for a processor that is down, and are charged once when it is back (${coordination})`, async () => {
    await control({ down: true })
    const placed = await Promise.all([1, 2, 3].map(() => order(style, "")))
    for (const { id } of placed) await pending(id)
    await control({ down: false })

    for (const { id } of placed) {
      expect(await ended(id)).toMatchObject({ status: "APPROVED" })
      expect(await chargesOf(id)).toMatchObject([{ status: "CHARGED" }])
    }
  })

  test(`a charge whose answer is lost is made once (${coordination})`, async () => {
    await control({ loseAnswers: 2 })
    const placed = await order(style)

    expect(placed).toMatchObject({ status: "APPROVED" })
    expect(await chargesOf(placed.id)).toMatchObject([{ status: "CHARGED" }])
  })

  test(`an order that is cancelled while its charge is under way keeps none (${coordination})`, async () => {
    await control({ down: true })
    const { id } = await order(style, "")
    await pending(id)
    await send("POST", "order", `/orders/${id}/cancel`)
    await until("the payment's undoing", 20_000, async () => (await payment(id)).status === "UNDOING")
    expect(await chargesOf(id)).toEqual([])
    await control({ down: false })

    expect(await ended(id)).toMatchObject({ status: "REJECTED", reason: "USER_CANCELLED" })
    expect(await payment(id)).toMatchObject({ status: "REFUNDED" })
    expect(await chargesOf(id)).toMatchObject([{ status: "REFUNDED" }])
  })
}
