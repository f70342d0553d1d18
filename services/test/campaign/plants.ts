/**
 * Bugs that a campaign is played with to see that it finds them, and for each of them what is to befall the system: few orders,
 * much that comes again, and the faults that the bug can't bear. The sound system bears all of it, which is played as well.
 */
import { until } from "../../../stack/wait.ts"
import type { Stack } from "../stack.ts"
import type { ClassName, Fault } from "./schedule.ts"
import { asSuperuser } from "./superuser.ts"

export interface Plant {
  /** Which service has the bug; none when it lies in how the engines are run. */
  readonly service?: "order" | "orchestrator" | "payment" | "product"
  /** Its name among the simulator's bugs. */
  readonly simulated?: string
  /** What else there is to do before the orders come; it answers what undoes it. */
  readonly prepare?: (stack: Stack) => Promise<() => Promise<void>>
  /** Connectors that lose their offsets go on from now, and nothing makes up for what was before. */
  readonly skips?: true
  readonly faults: ReadonlyArray<Fault>
}

type Unnumbered = Omit<Fault, "id">
const fault = (name: ClassName, target: string, atMs: number, lastsMs = 0, seed = 0): Unnumbered => ({
  class: name,
  target,
  atMs,
  lastsMs,
  seed
})
const inTurn = (...faults: ReadonlyArray<Unnumbered>): ReadonlyArray<Fault> =>
  faults.toSorted((a, b) => a.atMs - b.atMs).map((one, n) => ({ ...one, id: n + 1 }))

// seeds of which the nemesis cuts before the server has heard what was said, and pauses a connector: see nemesis.ts
const cutsBefore = 1
const pauses = 7

const cuts = Array.from({ length: 24 }, (_, n) => fault("cut link", "product-postgres", 1_000 + n * 450, 0, cutsBefore))
// what was read waits for the database when its service dies
const killsAtWork = [3_000, 8_000].flatMap((atMs) => [
  fault("black hole", "product-postgres", atMs, 3_000),
  fault("kill service", "product", atMs + 2_000, 300)
])
// orders are cancelled meanwhile: others hear of it before they hear of the payment
const lateNews = fault("connector over REST", "payments", 2_000, 8_000, pauses)
// sagas that wait for longer hear more that is late
const slowPayments = [2_000, 8_000].map((atMs) => fault("black hole", "payment-postgres", atMs, 4_000))
const crashes = [5_000, 10_000].map((atMs) => fault("kill postgres", "postgres", atMs, 200))

const databases = ["users", "products", "orders", "sagas", "payments", "shipments"] as const
// they keep what they began with; one that waits for the disk would have all that was written before it there, too
const endSessions = `
  select pg_terminate_backend(pid)
  from pg_stat_activity
  where backend_type = 'client backend' and usename not in ('oncebox_owner', current_user)`

export const plants: Readonly<Record<string, Plant>> = {
  "offsets committed before the pass": { service: "product", faults: inTurn(...killsAtWork) },
  "errors are swallowed": { service: "product", faults: inTurn(...cuts) },
  "dual write": { service: "product", faults: inTurn(...cuts) },
  "no inbox": { service: "product", simulated: "no inbox", faults: [] },
  "no fence": { service: "product", simulated: "no fence: a reservation asked twice is made twice", faults: [] },
  "no tombstone": {
    service: "product",
    simulated: "no tombstone: an undo that comes first leaves nothing",
    faults: inTurn(lateNews)
  },
  "a late reply is accepted": {
    service: "orchestrator",
    simulated: "a late reply is accepted",
    faults: inTurn(...slowPayments)
  },
  "an ended saga goes on": { service: "orchestrator", simulated: "an ended saga goes on", faults: [] },
  "the step in flight is not undone": {
    service: "orchestrator",
    simulated: "the step in flight is not undone",
    faults: []
  },
  "cancelling wins over what was approved": {
    service: "order",
    simulated: "cancelling wins over what was approved",
    // the database knows that what has its prices is approved
    prepare: async (stack) => {
      await stack.database("orders")`alter table orders drop constraint orders_priced_when_approved`
      return () => Promise.resolve()
    },
    faults: []
  },
  "a refund asked twice is made twice": {
    service: "payment",
    simulated: "a refund asked twice is made twice",
    // the database has a fence of its own, behind the participant's
    prepare: async (stack) => {
      await stack.database("payments")`drop index ledger_once_per_order`
      return () => Promise.resolve()
    },
    faults: []
  },
  "commits that are not on disk": {
    prepare: async (stack) => {
      const superuser = asSuperuser(stack)
      const run = async (...statements: ReadonlyArray<string>): Promise<void> => {
        for (const statement of statements)
          // its connection may have ended with Postgres
          await until(statement, 30_000, async () => {
            await superuser.unsafe(statement)
            return true
          })
      }
      // a second may pass before a commit is on disk
      await run(
        "alter system set wal_writer_delay = '1s'",
        "alter system set wal_writer_flush_after = '64MB'",
        "select pg_reload_conf()",
        ...databases.map((name) => `alter database ${name} set synchronous_commit = off`),
        endSessions
      )
      return async () => {
        await run(
          "alter system reset wal_writer_delay",
          "alter system reset wal_writer_flush_after",
          "select pg_reload_conf()",
          ...databases.map((name) => `alter database ${name} reset synchronous_commit`),
          endSessions
        )
        await superuser.end({ timeout: 1 })
      }
    },
    faults: inTurn(...crashes)
  },
  "connectors skip": {
    skips: true,
    faults: inTurn(
      fault("connector offsets", "products", 3_000),
      fault("connector offsets", "orders", 6_000),
      fault("connector offsets", "payments", 9_000)
    )
  }
}

/** What all of them are played with, for the system without a bug. */
export const allFaults: ReadonlyArray<Fault> = inTurn(
  ...killsAtWork,
  ...cuts,
  lateNews,
  ...slowPayments.slice(1),
  ...crashes.slice(1),
  fault("connector offsets", "orders", 6_000)
)
