/** Stores for the suites, with what is needed to look into them from outside. */
import { Effect, Layer } from "effect"
import type { Database } from "./postgres.ts"
import type { World } from "./store-suite.ts"
import type { Bounds } from "../store/connection.ts"
import { emptyDatabase, layerMemory } from "../store/memory.ts"
import { layerPostgres } from "../store/postgres.ts"
import { Store } from "../store/store.ts"

export const postgresWorld = (
  db: Database,
  name: string,
  how: { readonly port?: number; readonly bounds?: Partial<Bounds> } = {}
) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(layerPostgres({ ...db.service, ...how }, name))
    return {
      store: yield* Effect.provideContext(Store, context),
      sideBySide: true,
      rows: (table) => db.owner.unsafe(`select ${table.columns.join(", ")} from ${table.name}`),
      // within one partition the place of a row tells when it was written
      outbox: () =>
        db.owner`
          select id, topic, key, type, payload, causation, correlation, definition
          from outbox
          order by tableoid, ctid`,
      inbox: async () =>
        (await db.owner<Array<{ id: string }>>`select message_id as id from inbox order by 1`).map(({ id }) => id)
    } satisfies World
  })

/** `refuses` is what the constraints of the real tables do. */
export const memoryWorld = (consumer: string, refuses: ReturnType<typeof emptyDatabase>["refuses"] = () => undefined) =>
  Effect.gen(function* () {
    const database = emptyDatabase()
    database.refuses = refuses
    const context = yield* Layer.build(layerMemory(database))
    return {
      store: yield* Effect.provideContext(Store, context),
      sideBySide: false,
      rows: async (table) =>
        table.kind === "log"
          ? (database.logs.get(table.name) ?? [])
          : [...(database.tables.get(table.name)?.values() ?? [])],
      outbox: async () => database.outbox.map((message) => ({ ...message, payload: JSON.parse(message.payload) })),
      inbox: async () => [...(database.inbox.get(consumer) ?? [])].toSorted()
    } satisfies World
  })
