/** Both stores keep the promises about dead letters. */
import { Effect } from "effect"
import { accounts, schema } from "./bank.ts"
import { lettersSuite } from "./letters-suite.ts"
import { sharedDatabase } from "./postgres.ts"
import { memoryWorld, postgresWorld } from "./worlds.ts"

lettersSuite(
  "the memory store",
  memoryWorld("bank", (table, row) =>
    table === accounts.name && accounts.decode(row).balance < 0 ? "balance is out of range" : undefined
  )
)

lettersSuite(
  "the Postgres store",
  Effect.flatMap(sharedDatabase({ schema }), (db) => postgresWorld(db, "bank"))
)
