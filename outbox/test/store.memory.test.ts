/** The memory store keeps the promises of a store. */
import { accounts } from "./bank.ts"
import { storeSuite } from "./store-suite.ts"
import { memoryWorld } from "./worlds.ts"

storeSuite(
  "the memory store",
  // as the columns of the real table do
  memoryWorld("bank", (table, row) => {
    if (table !== accounts.name) return undefined
    const { balance } = accounts.decode(row)
    return balance < 0 || balance > 2 ** 31 - 1 ? "balance is out of range" : undefined
  })
)
