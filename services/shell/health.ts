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

/** The admin app: for the operator of the machine, so it listens on loopback only. */
export const makeAdminApp = (service: string, edge: Edge): Hono =>
  new Hono().get("/metrics", (c) =>
    c.text(metrics(service, edge.running.counters()), 200, {
      "Content-Type": "text/plain; version=0.0.4; charset=utf-8"
    })
  )

/** Counters in Prometheus' text format. */
export const metrics = (service: string, counters: Readonly<Record<string, number>>): string =>
  Object.entries(counters)
    .map(([name, value]) => {
      const metric = `oncebox_${name.replaceAll(/[^A-Za-z0-9_]/g, "_")}_total`
      return `# TYPE ${metric} counter\n${metric}{service="${service}"} ${value}\n`
    })
    .join("")
