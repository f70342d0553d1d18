/** Bugs that a campaign is run with to see that it finds them. */
import type { Stack } from "../stack.ts"

export interface Plant {
  /** Which service has the bug; none when it lies in how the engines are run. */
  readonly service?: "order" | "orchestrator" | "payment" | "product"
  /** Its name among the simulator's bugs. */
  readonly simulated?: string
  /** What else there is to do before the orders come. */
  readonly prepare?: (stack: Stack) => Promise<void>
  /** Connectors that lose their offsets go on from now, and nothing makes up for what was before. */
  readonly skips?: true
}

export const plants: Readonly<Record<string, Plant>> = {
  "offsets committed before the pass": { service: "product" },
  "errors are swallowed": { service: "product" },
  "dual write": { service: "product" },
  "no inbox": { service: "orchestrator", simulated: "no inbox" },
  "no fence": { service: "product", simulated: "no fence: a reservation asked twice is made twice" },
  "no tombstone": { service: "product", simulated: "no tombstone: an undo that comes first leaves nothing" },
  "a late reply is accepted": { service: "orchestrator", simulated: "a late reply is accepted" },
  "an ended saga goes on": { service: "orchestrator", simulated: "an ended saga goes on" },
  "the step in flight is not undone": { service: "orchestrator", simulated: "the step in flight is not undone" },
  "cancelling wins over what was approved": {
    service: "order",
    simulated: "cancelling wins over what was approved"
  },
  "a refund asked twice is made twice": {
    service: "payment",
    simulated: "a refund asked twice is made twice",
    // the database has a fence of its own, behind the participant's
    prepare: async (stack) => {
      await stack.database("payments")`drop index ledger_once_per_order`
    }
  },
  "commits that are not on disk": {
    prepare: async (stack) => {
      for (const database of ["orders", "payments", "products", "sagas"] as const)
        await stack.database(database).unsafe(`alter database ${database} set synchronous_commit = off`)
      for (const service of ["order", "payment", "product", "orchestrator"] as const)
        await stack.service(service).restart()
    }
  },
  "connectors skip": { skips: true }
}
