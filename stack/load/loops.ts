/** Closed and open loop: when orders are placed, and how long each takes to its end. */
import { text, within } from "../wait.ts"
import type { Outcome } from "./outcomes.ts"
import type { Shop } from "./shop.ts"

export interface Tally {
  /** From the scheduled arrival to the outcome, in ms, as they came. */
  readonly latencies: Array<number>
  approved: number
  rejected: number
  /** Approved though it should have been rejected, or the other way round. */
  wrong: number
  failed: number
  /** How far behind the schedule an order was placed, at most, in ms. */
  late: number
}

/** Orders placed for `seconds`: `inFlight` at any time, or `rate` a second on average. Ends when all of them have ended. */
export interface Load {
  readonly inFlight?: number | undefined
  readonly rate?: number | undefined
}

const endsWithinMs = 120_000
const shownErrors = 3

/** Wall-clock ms with the fraction that Date.now() leaves out. */
const nowMs = (): number => performance.timeOrigin + performance.now()

export class Loops {
  /** Outcomes that were told of before the answer that gives the order's id was read. */
  private readonly early = new Map<string, Outcome>()
  private readonly waiting = new Map<string, (outcome: Outcome) => void>()

  constructor(private readonly shop: Shop) {}

  /** To be called with each outcome, in any order. */
  readonly ended = (outcome: Outcome): void => {
    const waits = this.waiting.get(outcome.orderId)
    if (waits === undefined) this.early.set(outcome.orderId, outcome)
    else {
      this.waiting.delete(outcome.orderId)
      waits(outcome)
    }
  }

  async run({ inFlight, rate }: Load, seconds: number): Promise<Tally> {
    const tally: Tally = { latencies: [], approved: 0, rejected: 0, wrong: 0, failed: 0, late: 0 }
    const until = nowMs() + seconds * 1_000
    await (rate === undefined ? this.closed(tally, inFlight ?? 1, until) : this.open(tally, rate, until))
    return tally
  }

  private async closed(tally: Tally, inFlight: number, until: number): Promise<void> {
    const client = async (): Promise<void> => {
      while (nowMs() < until) await this.place(tally, nowMs())
    }
    await Promise.all(Array.from({ length: inFlight }, client))
  }

  /** Poisson arrivals. An order that is placed late counts from when it was due, so that a stall can't hide. */
  private async open(tally: Tally, rate: number, until: number): Promise<void> {
    const open = new Set<Promise<void>>()
    let due = nowMs()
    while (due < until) {
      const wait = due - nowMs()
      if (wait > 0) await Bun.sleep(wait)
      tally.late = Math.max(tally.late, nowMs() - due)
      const placed = this.place(tally, due)
      open.add(placed)
      void placed.finally(() => open.delete(placed))
      due += (-Math.log(1 - this.shop.random()) / rate) * 1_000
    }
    await Promise.all(open)
  }

  private async place(tally: Tally, scheduledMs: number): Promise<void> {
    const order = this.shop.plan()
    try {
      const { approved, atMs } = await this.outcomeOf(await this.shop.place(order))
      tally.latencies.push(atMs - scheduledMs)
      if (approved) this.shop.approved(order)
      if (approved !== order.approved) tally.wrong++
      if (approved) tally.approved++
      else tally.rejected++
    } catch (error) {
      tally.failed++
      if (tally.failed <= shownErrors) console.error(text(error))
    }
  }

  private outcomeOf(orderId: string): Promise<Outcome> {
    const early = this.early.get(orderId)
    if (early !== undefined) {
      this.early.delete(orderId)
      return Promise.resolve(early)
    }
    const { promise, resolve } = Promise.withResolvers<Outcome>()
    this.waiting.set(orderId, resolve)
    return within(`the end of order ${orderId}`, endsWithinMs, promise)
  }
}
