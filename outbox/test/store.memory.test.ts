/** The memory store keeps the promises of a store. */
import { Effect, Layer } from "effect"
import { accounts } from "./bank.ts"
import { storeSuite, type World } from "./store-suite.ts"
import { emptyDatabase, layerMemory } from "../store/memory.ts"
import { Store } from "../store/store.ts"

storeSuite(
  "the memory store",
  Effect.gen(function* () {
    const database = emptyDatabase()
    database.refuses = (table, row) =>
      table === accounts.name && accounts.decode(row).balance < 0 ? "balance is below zero" : undefined
    const context = yield* Layer.build(layerMemory(database))
    return {
      store: yield* Effect.provideContext(Store, context),
      sideBySide: false,
      rows: async (table) =>
        table.kind === "log"
          ? (database.logs.get(table.name) ?? [])
          : [...(database.tables.get(table.name)?.values() ?? [])],
      outbox: async () => database.outbox.map((message) => ({ ...message, payload: JSON.parse(message.payload) })),
      inbox: async () => [...(database.inbox.get("bank") ?? [])].toSorted()
    } satisfies World
  })
)
