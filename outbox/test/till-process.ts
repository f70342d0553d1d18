/**
 * The till as a process of its own, which kills itself at the point that its first argument names, without a word to
 * anybody; see `calls.postgres.test.ts`.
 */
import { Effect, Layer, Redacted } from "effect"
import { Charge, Paid, Refund, till } from "./till.ts"
import { layerInProcess } from "../broker/in-process.ts"
import { run } from "../runtime.ts"
import { layerPostgres } from "../store/postgres.ts"

export const points = ["before the call", "after it took effect", "after its result was committed"] as const

const die = (): void => void process.kill(process.pid, "SIGKILL")

if (import.meta.main) {
  const [point, outside = "", port, database = "", username = "", password = ""] = process.argv.slice(2)
  const charge = Charge.caller({
    carry: async ({ amount }, { idempotencyKey, signal }) => {
      if (point === points[0]) die()
      const response = await fetch(outside, {
        method: "POST",
        headers: { "idempotency-key": idempotencyKey },
        body: JSON.stringify({ amount }),
        signal
      })
      const result = JSON.parse(await response.text())
      if (point === points[1]) die()
      return result
    },
    deadline: "1 second",
    lease: "-900 millis",
    concurrency: 1
  })
  const refund = Refund.caller({ carry: async () => ({ refunded: true }), deadline: "1 second", concurrency: 1 })
  const connection = { host: "127.0.0.1", port: Number(port), database, username, password: Redacted.make(password) }
  const program = run(till(), {
    callers: [charge, refund],
    committed: (messages) => {
      if (point === points[2] && messages.some(({ type }) => type === Paid.type)) die()
    }
  }).pipe(
    Effect.andThen(Effect.never),
    Effect.scoped,
    Effect.provide(Layer.merge(layerPostgres(connection, "till"), layerInProcess({ partitions: 1 })))
  )
  await Effect.runPromise(program)
}
