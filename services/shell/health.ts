/** Whether a service can do its work. */
import { Effect } from "effect"
import type { Edge } from "./edge.ts"

/** How long the database may take to answer what is asked only to tell how things are. */
export const databaseWithin = "1 second"

/** Why the service is not ready; empty when it is. */
export const readiness = Effect.fnUntraced(function* (edge: Edge): Effect.fn.Return<ReadonlyArray<string>> {
  if (edge.closing.isOpen()) return ["it is shutting down"]
  const database = yield* Effect.tryPromise(async () => edge.reads.sql`select 1`).pipe(
    Effect.timeout(databaseWithin),
    Effect.match({ onSuccess: () => [], onFailure: () => [`the database did not answer within ${databaseWithin}`] })
  )
  return [...edge.running.health().reasons, ...database]
})
