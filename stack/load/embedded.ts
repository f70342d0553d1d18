/**
 * The embedded system as a process of its own: `bun stack/load/embedded.ts <folder>`. Says in one line of JSON where it is, and
 * then each outcome in one. Ends with its stdin.
 */
import { Effect } from "effect"
import { startEmbedded } from "../embedded.ts"
import { runTool } from "../tool.ts"
import { approvedBy, outcomeTopics, type Outcome } from "./outcomes.ts"
import type { EmbeddedAt } from "./system.ts"

const say = (what: EmbeddedAt | Outcome): boolean => process.stdout.write(`${JSON.stringify(what)}\n`)

const main = Effect.gen(function* () {
  const [, , dir = ""] = Bun.argv
  const embedded = yield* startEmbedded({ dir, ports: "free" })
  const subscription = yield* embedded.broker.broker
    .subscribe({ group: "load", topics: outcomeTopics })
    .pipe(Effect.orDie)
  const tell = Effect.gen(function* () {
    const records = yield* subscription.take({ messages: 1_000, bytes: 8_000_000 })
    for (const { key, headers } of records) {
      const approved = approvedBy(String(headers["ce_type"]))
      if (approved !== undefined && key !== null) say({ orderId: String(key), approved, atMs: Date.now() })
    }
    yield* subscription.processed(records)
  }).pipe(Effect.forever, Effect.orDie)
  yield* Effect.forkScoped(tell)
  say({
    urls: Object.fromEntries(embedded.urls),
    adminUrls: Object.fromEntries(embedded.adminUrls),
    postgresPort: embedded.owner("orders").port
  })
  yield* Effect.callback<void>((resume) => {
    process.stdin.on("end", () => resume(Effect.void)).resume()
  })
  return 0
})

runTool(main)
