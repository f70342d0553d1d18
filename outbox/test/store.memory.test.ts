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
    // as the columns of the real table do
    database.refuses = (table, row) => {
      if (table !== accounts.name) return undefined
      const { balance } = accounts.decode(row)
      return balance < 0 || balance > 2 ** 31 - 1 ? "balance is out of range" : undefined
    }
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
