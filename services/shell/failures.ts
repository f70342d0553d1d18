/**
 * Failures on demand, for demonstrations and tests: rules are rows of a service's own database, which the service may only
 * read. There is no route to them; whoever owns the database writes them. Without a rule nothing fails on demand.
 */
import { Schema } from "effect"
import { hashOf, Table, type RowOf } from "oncebox"
import { Amount } from "./bounds.ts"

const longestDelayMs = 3_600_000

export const failureRules = Table.reference("failure_rules", {
  key: "step",
  row: {
    /** The step of the saga that fails: reserve, pay or ship. */
    step: Schema.String,
    /** Orders that cost more than this fail; none when null. */
    above: Schema.NullOr(Amount),
    /** So many of a hundred orders fail: always the same ones for the same seed, and others at another step. */
    percent: Schema.Int,
    seed: Schema.String,
    /** The step is decided, and answered, that much after it is asked for; null is at once. */
    delay_ms: Schema.NullOr(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: longestDelayMs })))
  }
})
type FailureRule = RowOf<typeof failureRules>

export const failedOnDemand = "FAILED_ON_DEMAND"

/** Whether the rule has this order fail. */
export const failsOnDemand = (rule: FailureRule | undefined, orderId: string, amount = 0): boolean =>
  rule !== undefined &&
  ((rule.above !== null && amount > rule.above) || hashOf(`${rule.seed} ${rule.step} ${orderId}`) % 100 < rule.percent)
