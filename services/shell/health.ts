/** Whether a service can do its work, and what it counted. */
import { Effect } from "effect"
import { Hono } from "hono"
import type { Edge } from "./edge.ts"

const databaseWithin = "1 second"

/** Why the service is not ready; empty when it is. */
export const readiness = Effect.fnUntraced(function* (edge: Edge): Effect.fn.Return<ReadonlyArray<string>> {
  if (edge.closing.isOpen()) return ["it is shutting down"]
  const database = yield* Effect.tryPromise(async () => edge.reads.sql`select 1`).pipe(
    Effect.timeout(databaseWithin),
    Effect.match({ onSuccess: () => [], onFailure: () => [`the database did not answer within ${databaseWithin}`] })
  )
  return [...edge.running.health().reasons, ...database]
})

/** What a service measures when it is asked, by name, such as `sagas_stuck`; it fails when it can't tell. */
export type Gauges = Effect.Effect<Readonly<Record<string, number>>, unknown>

/**
 * The admin app: for the operator of the machine, so it listens on loopback only. Gauges that can't be told are left out:
 * the counters are wanted most when the database is in trouble.
 */
export const makeAdminApp = (service: string, edge: Edge, gauges: Gauges = Effect.succeed({})): Hono =>
  new Hono().get("/metrics", async (c) => {
    const measured = await Effect.runPromise(Effect.orElseSucceed(gauges, () => ({})))
    return c.text(metrics(service, edge.running.counters(), measured), 200, {
      "Content-Type": "text/plain; version=0.0.4; charset=utf-8"
    })
  })

/** Counters and gauges in Prometheus' text format. */
const metrics = (
  service: string,
  counters: Readonly<Record<string, number>>,
  gauges: Readonly<Record<string, number>>
): string =>
  [
    ...Object.entries(counters).map(([name, value]) => line(service, `${name}_total`, "counter", value)),
    ...Object.entries(gauges).map(([name, value]) => line(service, name, "gauge", value))
  ].join("")

const line = (service: string, name: string, type: "counter" | "gauge", value: number): string => {
  const metric = `oncebox_${name.replaceAll(/[^A-Za-z0-9_]/g, "_")}`
  return `# TYPE ${metric} ${type}\n${metric}{service="${service}"} ${value}\n`
}
