/** Orders that are paid with a card: the services for real, in one process, and a card processor that fails as it is told. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Exit, Scope } from "effect"
import { connect } from "oncebox"
import { startEmbedded, type Embedded, type ServiceName } from "../../../stack/embedded.ts"
import { startProcessor, type Processor, type ProcessorControl, type ProcessorEntry } from "../../../stack/processor.ts"
import { until } from "../../../stack/wait.ts"
import type { OrderView } from "../../order/contract.ts"
import { bodyOf, quietly } from "./stand-ins.ts"

setDefaultTimeout(60_000)
// a processor that is down is told of in the log
quietly()

const dir = mkdtempSync(join(tmpdir(), "oncebox-"))
const scope = Scope.makeUnsafe()
let processor: Processor
let embedded: Embedded

const call = async <A>(method: string, url: string, body?: unknown, prefer = ""): Promise<A> =>
  bodyOf<A>(
    await fetch(url, {
      method,
      headers: { "Content-Type": "application/json", ...(prefer === "" ? {} : { Prefer: prefer }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(40_000)
    })
  )
const at = (service: ServiceName, path: string) => `${embedded.urls.get(service)}${path}`
const control = (change: Partial<ProcessorControl>) => call("PUT", `${processor.url}/control`, change)
const chargesOf = async (orderId: string) =>
  (await call<{ items: ReadonlyArray<ProcessorEntry> }>("GET", `${processor.url}/charges`)).items.filter(
    ({ key }) => key === `charge:${orderId}`
  )

beforeAll(async () => {
  processor = startProcessor()
  const starting = startEmbedded({ dir, ports: "free", cardProcessorUrl: processor.url })
  embedded = await Effect.runPromise(Scope.provide(starting, scope))
  const sql = connect(embedded.owner("shipments"), { name: "test", max: 1 })
  await sql`insert into carrier_refusals values ('fireworks', 'too dangerous')`
  await sql.end({ timeout: 1 })
  await Promise.all([
    call("POST", at("user", "/users"), { id: "ann", name: "Ann", email: "ann@example.org", balance: 10 }),
    ...["kettle", "fireworks"].map((id) =>
      call("POST", at("product", "/products"), { id, name: id, price: 2_000, quantity: 1_000 })
    )
  ])
})

afterAll(async () => {
  await Effect.runPromise(Scope.close(scope, Exit.void))
  await processor.stop()
  rmSync(dir, { recursive: true, force: true })
})

const order = (change: object = {}, prefer = "wait=20") =>
  call<OrderView>(
    "POST",
    at("order", "/orders"),
    {
      userId: "ann",
      items: [{ productId: "kettle", quantity: 1 }],
      payment: { method: "card", card: "card-1" },
      ...change
    },
    prefer
  )
const payment = (id: string) => call<{ status: string; method: string }>("GET", at("payment", `/payments/${id}`))
const ended = async (id: string): Promise<OrderView> => {
  await until(`saga ${id}`, 30_000, async () => {
    const { endedAt } = await call<{ endedAt: string | null }>("GET", at("orchestrator", `/sagas/${id}`))
    return endedAt !== null
  })
  return call<OrderView>("GET", at("order", `/orders/${id}`))
}
const pending = (id: string) => until("the payment", 20_000, async () => (await payment(id)).status === "PENDING")
const balance = async () => (await call<{ balance: number }>("GET", at("user", "/users/ann"))).balance

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
    await call("POST", at("order", `/orders/${id}/cancel`))
    await until("the payment's undoing", 20_000, async () => (await payment(id)).status === "UNDOING")
    expect(await chargesOf(id)).toEqual([])
    await control({ down: false })

    expect(await ended(id)).toMatchObject({ status: "REJECTED", reason: "USER_CANCELLED" })
    expect(await payment(id)).toMatchObject({ status: "REFUNDED" })
    expect(await chargesOf(id)).toMatchObject([{ status: "REFUNDED" }])
  })
}
