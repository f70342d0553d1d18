/** What the lanes of a participant share: how a pass is kept at until it is committed, and when to stop altogether. */
import { Effect, Schedule, Schema } from "effect"
import type { Outcome, PassEnvironment } from "../pass/inputs.ts"
import type { Participant } from "../participant.ts"
import type { InboxWindow } from "../store/inbox.ts"
import type { StoreError } from "../store/store.ts"
import type { Tables } from "../table.ts"
import { noCounts, type Counters } from "../telemetry.ts"

export interface LaneContext {
  readonly participant: Participant<Tables>
  readonly environment: Omit<PassEnvironment, "lane">
  readonly counters: Counters
}

/** The context of a participant's lanes; nobody is told of commits, and ids are UUIDv7 that grow, unless it is said otherwise. */
export const contextOf = <T extends Tables>(
  definition: Participant<T>,
  window: InboxWindow,
  others: Partial<Pick<PassEnvironment, "newId" | "committed">> = {}
): LaneContext => {
  // Lanes treat all participants alike; handlers are only given rows of their own tables.
  const participant = definition as unknown as Participant<Tables>
  return {
    participant,
    counters: noCounts(),
    environment: {
      consumer: participant.name,
      tables: participant.tables,
      window,
      calls: participant.calls,
      newId: () => Bun.randomUUIDv7(),
      committed: () => {},
      ...others
    }
  }
}

/** The bound of one pass. */
export const passLimit = { messages: 500, bytes: 4_194_304 }

const backoff = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("3 seconds")]).pipe(Schedule.jittered)

/** Runs a pass until it is committed, for as long as the store is in trouble: nobody's message is at fault for that. */
export const untilCommitted = <A>(context: LaneContext, pass: Effect.Effect<A, StoreError>): Effect.Effect<A> =>
  pass.pipe(
    Effect.tapError((error) => {
      context.counters.retries++
      return Effect.logWarning(`${context.participant.name}: a pass failed and is run again: ${error.message}`)
    }),
    Effect.retry(backoff),
    Effect.orDie
  )

/** The participant parks most of what it is given: a deploy gone wrong rather than poison. It stopped and is not ready. */
export class ParksTooMuch extends Schema.TaggedError<ParksTooMuch>()("ParksTooMuch", {
  parked: Schema.Int,
  decided: Schema.Int,
  lastReason: Schema.String
}) {}

/** The fewest messages from which to conclude that the participant, not its messages, is wrong. */
const enoughToJudge = 20

/**
 * Looks at the newest passes, at least two and at least 20 messages of them: when more than half were parked, the
 * participant must stop. A single poisoned message, or a handful of them, never gets there.
 */
export class ParkGate {
  private readonly passes: Array<{ readonly parked: number; readonly decided: number }> = []

  note(outcomes: ReadonlyArray<Outcome>): ParksTooMuch | undefined {
    const parked = outcomes.filter((outcome) => outcome._tag === "parked" && outcome.reason !== "behind")
    const decided = outcomes.filter((outcome) => outcome._tag === "done").length + parked.length
    if (decided === 0) return undefined
    this.passes.push({ parked: parked.length, decided })
    while (this.passes.length > 2 && sum(this.passes.slice(1), "decided") >= enoughToJudge) this.passes.shift()
    const total = sum(this.passes, "decided")
    const bad = sum(this.passes, "parked")
    if (this.passes.length < 2 || total < enoughToJudge || bad * 2 <= total) return undefined
    const last = parked.at(-1)
    return new ParksTooMuch({ parked: bad, decided: total, lastReason: last?._tag === "parked" ? last.detail : "" })
  }
}

const sum = (passes: ReadonlyArray<{ parked: number; decided: number }>, what: "parked" | "decided"): number =>
  passes.reduce((total, pass) => total + pass[what], 0)
