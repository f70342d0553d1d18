/** What the campaign's clients want, as a function of a seed: orders of all outcomes, of which some are cancelled. */
import { planOf, random, type Plan, type Planned } from "../orders.ts"

/** One client: its order, and what else it does about it. */
export interface Client {
  readonly order: Planned
  /**
   * Cancels so long after its order was answered, or as soon as it is shipped, which is just before it is approved, or when
   * it has read that it is approved, which is too late.
   */
  readonly cancels: { readonly afterMs: number } | "shipped" | "approved" | null
  /** Doesn't ask again when it is not told what became of its request. */
  readonly givesUp: boolean
}

/** What is to be done, from which all else follows. */
export interface Work {
  /** Users, products and keys begin with it: no other work on the same stack may have it. */
  readonly name: string
  readonly count: number
  readonly seed: number
  /** How many cancel, of a hundred orders that would be approved. */
  readonly cancelledPercent: number
}

export interface Workload {
  readonly plan: Plan
  readonly clients: ReadonlyArray<Client>
}

const tooLatePercent = 10
const shippedPercent = 15
const givesUpPercent = 10
// about as often between 10 and 100 ms as between one second and ten: orders take as long as the machine makes them
const soonestCancelMs = 10
const latestCancelMs = 10_000

export const workloadOf = ({ name, count, seed, cancelledPercent }: Work): Workload => {
  const plan = planOf(name, count, seed)
  const next = random(seed ^ 0x5eed)
  const clients = plan.orders.map((order): Client => {
    const [cancelling, delay, patience] = [
      next() * 100,
      soonestCancelMs * (latestCancelMs / soonestCancelMs) ** next(),
      next() * 100
    ]
    const cancels = order.outcome.status === "APPROVED" && cancelling < cancelledPercent
    return {
      order: cancels ? { ...order, outcome: { status: "RACING" } } : order,
      cancels: cancels ? whenOf(patience, delay) : null,
      givesUp: !cancels && order.posts === 1 && patience < givesUpPercent
    }
  })
  return { plan: { ...plan, orders: clients.map(({ order }) => order) }, clients }
}

const whenOf = (percent: number, delayMs: number): Client["cancels"] => {
  if (percent < tooLatePercent) return "approved"
  return percent < tooLatePercent + shippedPercent ? "shipped" : { afterMs: Math.round(delayMs) }
}
