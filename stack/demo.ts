/**
 * `bun run demo [--tour <name>]`: the six services in one process, a few orders, and what happens on the way. Several tours are
 * played one after the other, each with goods and people of its own.
 *
 * Starts from nothing each time and leaves nothing running. Exits 1 when an order ended otherwise than told, or when
 * stock or money do not add up at the end.
 */
import { rmSync } from "node:fs"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { Effect, Fiber } from "effect"
import { argumentsOf } from "./arguments.ts"
import { cardProcessor, startEmbedded, type Embedded } from "./embedded.ts"
import { fixtureProducts, fixtureUsers, loadFixture, urlOf } from "./fixture.ts"
import { sideBySide } from "./side-by-side.ts"
import { runTool } from "./tool.ts"
import { priceOf, tours, type Scene, type Tour } from "./tours.ts"
import { until } from "./wait.ts"

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
  let silent = false
  const told = new Set<string>()
  const topics = ["orders", "products", "payments", "shipments"].flatMap((name) => [
    `${name}-commands`,
    `${name}-events`,
    `${name}-choreography`
  ])
  const subscription = yield* embedded.broker.broker.subscribe({ group: "demo", topics })
  const fiber = yield* subscription.take({ messages: 100, bytes: 1_000_000 }).pipe(
    Effect.flatMap((records) =>
      Effect.sync(() => {
        for (const { topic, headers } of records) {
          const type = String(headers["ce_type"])
          // the fixture's own accounts are no part of the story
          if (silent || type === "AccountOpenedEvent") continue
          const id = String(headers["id"])
          const again = told.has(id)
          told.add(id)
          const undoing = /Cancel|Refund|Reject|Failed/.test(type)
          const shown = colour(undoing ? 33 : 32, type.padEnd(34))
          console.log(
            `  ${(performance.now() - since).toFixed(0).padStart(5)} ms  ${shown} ${colour(90, again ? `${topic}, again` : topic)}`
          )
        }
      })
    ),
    Effect.forever,
    Effect.forkScoped
  )
  return {
    mark: () => void (since = performance.now()),
    /** Whether it keeps to itself what comes from now on. */
    silence: (is: boolean) => void (silent = is),
    stop: Fiber.interrupt(fiber)
  }
})
type Story = Effect.Success<ReturnType<typeof narrate>>

/** Places an order. With a wait the answer is its end, if it comes in time. */
const place = async (embedded: Embedded, scene: Scene, prefix: string, waitSeconds: number): Promise<OrderAnswer> => {
  const { coordination, definition, payment, country } = scene
  const userId = prefix + scene.userId
  const items = scene.items.map(({ productId, quantity }) => ({ productId: prefix + productId, quantity }))
  const response = await fetch(`${urlOf(embedded, "order")}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(waitSeconds === 0 ? {} : { prefer: `wait=${waitSeconds}` }) },
    body: JSON.stringify({ userId, items, coordination, definition, payment, country }),
    signal: AbortSignal.timeout(30_000)
  })
  // Our own service's answer, in the form that its contract promises.
  return (await response.json()) as OrderAnswer
}

const read = async <A>(url: string): Promise<A> =>
  // As above.
  (await (await fetch(url, { signal: AbortSignal.timeout(10_000) })).json()) as A

/** Whether the order came to its end; says so. */
const tell = ({ status, reason, total }: OrderAnswer, scene: Scene): boolean => {
  const approved = status === "APPROVED"
  const price = approved && total !== null ? `, ${money(total)}` : ""
  console.log(`  → ${colour(approved ? 32 : 33, status)}${approved ? price : ` (${reason})`}`)
  return (approved ? "APPROVED" : (reason ?? status)) === scene.ends
}

/** Everything that the orders set off has happened: all sagas have ended. */
const settled = (embedded: Embedded, orders: ReadonlyArray<OrderAnswer>): Promise<void> =>
  until("the sagas' ends", 30_000, async () => {
    const sagas = await Promise.all(
      orders.map(({ id }) => read<{ endedAt: string | null }>(`${urlOf(embedded, "orchestrator")}/sagas/${id}`))
    )
    return sagas.every(({ endedAt }) => endedAt !== null)
  })

/** Stock and balances are what the approved orders left. Balances follow their events, so they are waited for. */
const addsUp = async (embedded: Embedded, scenes: ReadonlyArray<Scene>, prefix: string): Promise<boolean> => {
  const approved = scenes.filter(({ ends }) => ends === "APPROVED")
  const sold = (id: string): number =>
    approved
      .flatMap(({ items }) => items)
      .reduce((sum, { productId, quantity }) => (productId === id ? sum + quantity : sum), 0)
  const spent = (id: string): number =>
    approved.reduce(
      (sum, scene) => (scene.userId === id && scene.payment === undefined ? sum + priceOf(scene) : sum),
      0
    )
  let fine = true
  const line = (right: boolean, text: string): void => {
    fine &&= right
    console.log(`  ${right ? colour(32, "✓") : colour(31, "✗")} ${text}`)
  }
  for (const { id, name, quantity: before } of fixtureProducts) {
    const { quantity } = await read<{ quantity: number }>(`${urlOf(embedded, "product")}/products/${prefix}${id}`)
    line(quantity === before - sold(id), `${name.padEnd(10)} ${quantity} in stock`)
  }
  for (const { id, name, balance: before } of fixtureUsers) {
    const balanceOf = async () =>
      (await read<{ balance: number }>(`${urlOf(embedded, "user")}/users/${prefix}${id}`)).balance
    const due = before - spent(id)
    const right = await until("the balance", 5_000, async () => (await balanceOf()) === due).then(
      () => true,
      () => false
    )
    line(right, `${name.padEnd(10)} ${money(await balanceOf()).padStart(6)} on the account`)
  }
  return fine
}

/** The orders one after the other, each to its end. */
const inTurn = Effect.fnUntraced(function* (
  embedded: Embedded,
  scenes: ReadonlyArray<Scene>,
  prefix: string,
  story: Story
) {
  const orders: Array<OrderAnswer> = []
  let fine = true
  for (const [index, scene] of scenes.entries()) {
    console.log(`\n${colour(1, `${index + 1}. ${scene.title}`)}`)
    story.mark()
    const order = yield* Effect.promise(() => place(embedded, scene, prefix, 20))
    orders.push(order)
    yield* Effect.promise(() => settled(embedded, [order]))
    fine = tell(order, scene) && fine
  }
  return { orders, fine }
})

/** The orders while the payment service is down; they end when it is back. */
const throughOutage = Effect.fnUntraced(function* (
  embedded: Embedded,
  scenes: ReadonlyArray<Scene>,
  prefix: string,
  story: Story
) {
  console.log(`\n${colour(1, "The payment service is stopped, and orders are placed")}`)
  yield* embedded.stop("payment")
  story.mark()
  const placed: Array<OrderAnswer> = []
  for (const scene of scenes) placed.push(yield* Effect.promise(() => place(embedded, scene, prefix, 0)))
  const sagaOf = (id: string) =>
    read<{ waitingFor: { step: string; messages: ReadonlyArray<string> } | null }>(
      `${urlOf(embedded, "orchestrator")}/sagas/${id}`
    )
  yield* Effect.promise(() =>
    until("the orders at their payment", 20_000, async () => {
      const sagas = await Promise.all(placed.map(({ id }) => sagaOf(id)))
      return sagas.every(({ waitingFor }) => waitingFor?.step === "pay")
    })
  )
  for (const { id } of placed) {
    const { waitingFor } = yield* Effect.promise(() => sagaOf(id))
    console.log(`  order ${id} waits for ${waitingFor?.messages.join(" or ")}`)
  }
  console.log(`\n${colour(1, "The payment service is started again")}`)
  story.mark()
  yield* embedded.start("payment").pipe(Effect.orDie)
  yield* Effect.promise(() => settled(embedded, placed))
  let fine = true
  const orders: Array<OrderAnswer> = []
  for (const [index, { id }] of placed.entries()) {
    const order = yield* Effect.promise(() => read<OrderAnswer>(`${urlOf(embedded, "order")}/orders/${id}`))
    const scene = scenes[index]
    if (scene === undefined) continue
    orders.push(order)
    console.log(`\n${scene.title}`)
    fine = tell(order, scene) && fine
  }
  return { orders, fine }
})

const usage = `bun run demo [--tour <name>]

${Object.entries(tours)
  .map(([name, { about }]) => `  ${name.padEnd(10)} ${about}`)
  .join("\n")}`

/** Plays a tour with the goods and the people of that prefix. Answers whether all ended as told, and adds up. */
const play = Effect.fnUntraced(function* (embedded: Embedded, tour: Tour, prefix: string, story: Story) {
  yield* Effect.promise(() => loadFixture(embedded, prefix))
  console.log(colour(1, `Now: ${tour.about}.`))
  story.silence(tour.sideBySide === true)
  if (tour.sideBySide === true) return yield* Effect.promise(() => sideBySide(embedded))
  const perform = tour.outage === true ? throughOutage : inTurn
  const { orders, fine: ended } = yield* perform(embedded, tour.scenes, prefix, story)
  yield* Effect.promise(() => settled(embedded, orders))
  console.log(`\n${colour(1, "Stock and money, after all that")}`)
  const fine = yield* Effect.promise(() => addsUp(embedded, tour.scenes, prefix))
  if (tour.deliveries !== undefined) {
    const dropped = [...embedded.running].map(([name, { counters }]) => `${name} ${counters().duplicates ?? 0}`).sort()
    console.log(`\nDuplicates that the inboxes dropped: ${dropped.join(", ")}`)
  }
  return fine && ended
})

const next = `
Next: \`bun run dev\` keeps the same system running, and in another terminal:

  curl -s localhost:8002/orders -H 'content-type: application/json' -H 'prefer: wait=5' \\
    -d '{"userId":"3","items":[{"productId":"2","quantity":1}]}'
  curl -s localhost:8003/sagas?limit=1
  curl -s localhost:8000/users/3
`

const demo = Effect.gen(function* () {
  const { tour: names = ["all"] } = argumentsOf(usage, () =>
    parseArgs({ options: { tour: { type: "string", multiple: true }, help: { type: "boolean", short: "h" } } })
  ).values
  const known = new Map<string, Tour>(Object.entries(tours))
  const unknown = names.find((name) => !known.has(name))
  if (unknown !== undefined) {
    console.error(`there is no tour ${unknown}; there are ${[...known.keys()].join(", ")}`)
    return 2
  }
  const started = performance.now()
  const dir = join(import.meta.dirname, "..", ".stack", "demo")
  rmSync(join(dir, "data"), { recursive: true, force: true })
  console.log("Starting Postgres and six services in this process …")
  const cardProcessorUrl = yield* cardProcessor
  let deliveries = 1
  const embedded = yield* startEmbedded({ dir, ports: "own", cardProcessorUrl, deliveries: () => deliveries })
  console.log(`${((performance.now() - started) / 1000).toFixed(1)} s later they are up.`)
  const story = yield* narrate(embedded)
  let allFine = true
  for (const [index, name] of names.entries()) {
    const tour = known.get(name)
    if (tour === undefined) continue
    deliveries = tour.deliveries ?? 1
    const fine = yield* play(embedded, tour, index === 0 ? "" : `${name}-`, story)
    console.log(`\n${fine ? "Everything adds up." : "SOMETHING IS WRONG: see above."}`)
    allFine &&= fine
  }
  yield* story.stop
  console.log(next)
  return allFine ? 0 : 1
})

runTool(demo)
