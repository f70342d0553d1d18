/** The memory store keeps the promises about calls to the outside; and calls go to a system that is really outside. */
import { expect } from "bun:test"
import { Effect } from "effect"
import { asker, become, callsSuite, Outside, pay, startTill, type Process } from "./calls-suite.ts"
import { scenario } from "./store-suite.ts"
import { memoryWorld } from "./worlds.ts"
import { startProcessor, type ProcessorEntry } from "../../stack/processor.ts"
import { until } from "../../stack/wait.ts"

callsSuite("the memory store", memoryWorld("till"))

/** What is certain is a result; everything else is thrown, and tried again under the same key. */
const chargeAt =
  (url: string): NonNullable<Process["carry"]> =>
  async ({ amount }, { idempotencyKey, signal }) => {
    const response = await fetch(`${url}/charges`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": idempotencyKey },
      body: JSON.stringify({ amount, card: "card-1" }),
      signal
    })
    const { id, reason } = JSON.parse(await response.text())
    if (response.status === 201) return { status: "CHARGED", charge: id }
    if (response.status === 402) return { status: "REFUSED", reason }
    throw new Error(`the card processor answered ${response.status} ${reason}`)
  }

scenario(
  "a card processor that is down, slow, declines and loses answers charges each card once",
  Effect.gen(function* () {
    const processor = yield* Effect.acquireRelease(
      Effect.sync(() => startProcessor()),
      (started) => Effect.promise(() => started.stop())
    )
    const control = (change: object) =>
      Effect.promise(() =>
        fetch(`${processor.url}/control`, {
          method: "PUT",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(change)
        })
      )
    const world = yield* memoryWorld("till")
    const one = yield* asker(world)
    yield* control({ loseAnswers: 5, declineAbove: 50 })
    const { running } = yield* startTill(world, new Outside(), {
      carry: chargeAt(processor.url),
      options: { deadline: "200 millis" }
    })

    const failures = (count: number) =>
      Effect.promise(() => until(`${count} failures`, 20_000, () => running.counters().call_failures >= count, 1))

    yield* one.take(pay("o-1", 10), pay("o-2", 20), pay("o-3", 51))
    yield* become(world, { "o-1": "PAID", "o-2": "PAID", "o-3": "REFUSED" })
    yield* control({ delayMs: 1_000 })
    yield* one.take(pay("o-4", 40))
    yield* failures(6)
    yield* control({ down: true, delayMs: 0 })
    yield* one.take(pay("o-5", 50))
    yield* failures(7)
    yield* control({ down: false })
    yield* become(world, { "o-1": "PAID", "o-2": "PAID", "o-3": "REFUSED", "o-4": "PAID", "o-5": "PAID" })

    const answer = yield* Effect.promise(async () => (await fetch(`${processor.url}/charges`)).text())
    const charges: ReadonlyArray<ProcessorEntry> = JSON.parse(answer).items
    expect(charges.toSorted((a, b) => a.key.localeCompare(b.key))).toEqual([
      expect.objectContaining({ key: "charge:o-1", amount: 10, status: "CHARGED" }),
      expect.objectContaining({ key: "charge:o-2", amount: 20, status: "CHARGED" }),
      expect.objectContaining({ key: "charge:o-3", amount: 51, status: "DECLINED" }),
      expect.objectContaining({ key: "charge:o-4", amount: 40, status: "CHARGED" }),
      expect.objectContaining({ key: "charge:o-5", amount: 50, status: "CHARGED" })
    ])
    expect(running.counters().call_failures).toBeGreaterThanOrEqual(7)
  })
)
