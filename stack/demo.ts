/**
 * `bun run demo`: the six services in one process, five orders that end in five ways, and what happens on the way.
 *
 * Starts from nothing each time and leaves nothing running. Exits 1 when an order ended otherwise than told, or when
 * stock or money do not add up at the end.
 */
import { rmSync } from "node:fs"
import { join } from "node:path"
import { Effect, Fiber } from "effect"
import { startEmbedded, type Embedded } from "./embedded.ts"
import { fixtureProducts, fixtureUsers, loadFixture, refusedProduct, urlOf } from "./fixture.ts"
import { runTool } from "./tool.ts"

interface Scene {
  readonly title: string
  readonly userId: string
  readonly items: ReadonlyArray<{ readonly productId: string; readonly quantity: number }>
  readonly ends: string
}

const scenes: ReadonlyArray<Scene> = [
  { title: "Ada buys a samovar", userId: "1", items: [{ productId: "3", quantity: 1 }], ends: "APPROVED" },
  {
    title: "Ada buys another and a teapot: 70.00 with 50.00 left",
    userId: "1",
    items: [
      { productId: "3", quantity: 1 },
      { productId: "1", quantity: 1 }
    ],
    ends: "INSUFFICIENT_FUNDS"
  },
  {
    title: "Barbara buys six teapots of five",
    userId: "3",
    items: [{ productId: "1", quantity: 6 }],
    ends: "OUT_OF_STOCK"
  },
  {
    title: "Grace buys fireworks, which the carrier does not take",
    userId: "2",
    items: [{ productId: refusedProduct, quantity: 2 }],
    ends: "SHIPMENT_REFUSED"
  },
  {
    title: "Grace buys a kettle, which does not exist under that id",
    userId: "2",
    items: [{ productId: "99", quantity: 1 }],
    ends: "PRODUCT_UNKNOWN"
  }
]

const colour = process.stdout.isTTY
  ? (code: number, text: string) => `\u001b[${code}m${text}\u001b[0m`
  : (_code: number, text: string) => text
const money = (minor: number): string => (minor / 100).toFixed(2)

interface OrderAnswer {
  readonly id: string
  readonly status: string
  readonly reason: string | null
  readonly total: number | null
}

/** Prints every message of the shop as it comes to its topic, with the time since `mark()`. */
const narrate = Effect.fnUntraced(function* (embedded: Embedded) {
  let since = performance.now()
  const topics = ["orders", "products", "payments", "shipments"].flatMap((name) => [
    `${name}-commands`,
    `${name}-events`
  ])
  const subscription = yield* embedded.broker.broker.subscribe({ group: "demo", topics })
  const fiber = yield* subscription.take({ messages: 100, bytes: 1_000_000 }).pipe(
    Effect.flatMap((records) =>
      Effect.sync(() => {
        for (const { topic, headers } of records) {
          const type = String(headers["ce_type"])
          // the fixture's own accounts are no part of the story
          if (type === "AccountOpenedEvent") continue
          const undoing = /Cancel|Refund|Reject|Failed/.test(type)
          const shown = colour(undoing ? 33 : 32, type.padEnd(34))
          console.log(`  ${(performance.now() - since).toFixed(0).padStart(5)} ms  ${shown} ${colour(90, topic)}`)
        }
      })
    ),
    Effect.forever,
    Effect.forkScoped
  )
  return {
    mark: () => void (since = performance.now()),
    stop: Fiber.interrupt(fiber)
  }
})

const play = async (embedded: Embedded, scene: Scene): Promise<OrderAnswer> => {
  const response = await fetch(`${urlOf(embedded, "order")}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json", prefer: "wait=20" },
    body: JSON.stringify({ userId: scene.userId, items: scene.items }),
    signal: AbortSignal.timeout(30_000)
  })
  // Our own service's answer, in the form that its contract promises.
  return (await response.json()) as OrderAnswer
}

/** A service's list, as it shows it. */
const list = async <A>(url: string): Promise<ReadonlyArray<A>> =>
  ((await (await fetch(url, { signal: AbortSignal.timeout(10_000) })).json()) as { readonly items: ReadonlyArray<A> })
    .items

/** What stock and balances must be: only the first order took anything. Balances follow their events, so they are waited for. */
const addsUp = async (embedded: Embedded): Promise<boolean> => {
  let fine = true
  const expectedStock = new Map(fixtureProducts.map(({ id, quantity }) => [id, id === "3" ? quantity - 1 : quantity]))
  const expectedBalance = new Map(fixtureUsers.map(({ id, balance }) => [id, id === "1" ? balance - 5000 : balance]))
  for (const { id, name, quantity } of await list<{ id: string; name: string; quantity: number }>(
    `${urlOf(embedded, "product")}/products`
  )) {
    const right = quantity === expectedStock.get(id)
    fine &&= right
    console.log(`  ${right ? colour(32, "✓") : colour(31, "✗")} ${name.padEnd(10)} ${quantity} in stock`)
  }
  const users = async () => list<{ id: string; name: string; balance: number }>(`${urlOf(embedded, "user")}/users`)
  const deadline = performance.now() + 5_000
  while (performance.now() < deadline && (await users()).some(({ id, balance }) => balance !== expectedBalance.get(id)))
    await Bun.sleep(20)
  for (const { id, name, balance } of await users()) {
    const right = balance === expectedBalance.get(id)
    fine &&= right
    console.log(
      `  ${right ? colour(32, "✓") : colour(31, "✗")} ${name.padEnd(10)} ${money(balance).padStart(6)} on the account`
    )
  }
  return fine
}

const demo = Effect.gen(function* () {
  const started = performance.now()
  const dir = join(import.meta.dirname, "..", ".stack", "demo")
  rmSync(join(dir, "data"), { recursive: true, force: true })
  console.log("Starting Postgres and six services in this process …")
  const embedded = yield* startEmbedded({ dir, ports: "own" })
  yield* Effect.promise(() => loadFixture(embedded))
  const story = yield* narrate(embedded)
  let fine = true
  for (const [index, scene] of scenes.entries()) {
    console.log(`\n${colour(1, `${index + 1}. ${scene.title}`)}`)
    story.mark()
    const order = yield* Effect.promise(() => play(embedded, scene))
    const ended = order.status === "APPROVED" ? "APPROVED" : (order.reason ?? order.status)
    fine &&= ended === scene.ends
    const total = order.total === null ? "" : `, ${money(order.total)}`
    console.log(
      `  → ${colour(order.status === "APPROVED" ? 32 : 33, order.status)}${order.status === "APPROVED" ? total : ` (${order.reason})`}`
    )
    if (index === 0)
      console.log(colour(90, `  first order ${((performance.now() - started) / 1000).toFixed(1)} s after the start`))
  }
  console.log(`\n${colour(1, "Stock and money, after all that")}`)
  fine &&= yield* Effect.promise(() => addsUp(embedded))
  yield* story.stop
  console.log(`
${fine ? "Everything adds up." : "SOMETHING IS WRONG: see above."}

Next: \`bun run dev\` keeps the same system running, and in another terminal:

  curl -s localhost:8002/orders -H 'content-type: application/json' -H 'prefer: wait=5' \\
    -d '{"userId":"3","items":[{"productId":"2","quantity":1}]}'
  curl -s localhost:8003/sagas?limit=1
  curl -s localhost:8000/users/3
`)
  return fine ? 0 : 1
})

runTool(demo)
