/** The Postgres store keeps the promises of a store, and those that only a real database can put to the test. */
import { Effect, Layer } from "effect"
import { schema } from "./bank.ts"
import { database, type Database } from "./postgres.ts"
import { storeSuite, type World } from "./store-suite.ts"
import { layerPostgres } from "../store/postgres.ts"
import { Store } from "../store/store.ts"

const template = { schema }

const worldOf = (db: Database) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(layerPostgres(db.service, "bank"))
    return {
      store: yield* Effect.provideContext(Store, context),
      sideBySide: true,
      rows: (table) => db.owner.unsafe(`select ${table.columns.join(", ")} from ${table.name}`),
      // within one partition the place of a row tells when it was written
      outbox: () =>
        db.owner`
          select id, topic, key, type, payload, causation, correlation
          from outbox
          order by tableoid, ctid`,
      inbox: async () =>
        (await db.owner<Array<{ id: string }>>`select message_id as id from inbox order by 1`).map(({ id }) => id)
    } satisfies World
  })

storeSuite("the Postgres store", Effect.flatMap(database(template), worldOf))
