/** Whether a service can do its work. */
import { Effect, Fiber } from "effect"
import type { Edge } from "./edge.ts"

/** How long the database may take to answer what is asked only to tell how things are. */
export const databaseWithin = "1 second"

/** Why the service is not ready; empty when it is. */
export const readiness = Effect.fnUntraced(function* (edge: Edge): Effect.fn.Return<ReadonlyArray<string>> {
  if (edge.closing.isOpen()) return ["it is shutting down"]
  // asked to its own end, however long this waits: only then does the pool learn of connections that are lost or hang
  const asked = yield* Effect.forkDetach(edge.reads.use((sql) => sql`select 1`))
  const database = yield* Fiber.join(asked).pipe(
    Effect.timeout(databaseWithin),
    Effect.match({ onSuccess: () => [], onFailure: () => [`the database did not answer within ${databaseWithin}`] })
  )
  return [...edge.running.health().reasons, ...database]
})
