/**
 * The topics lane: takes what arrived on all partitions, runs it as one pass, and marks it as processed after the
 * commit, never before. While a pass is in flight the next batch gathers.
 */
import { Effect } from "effect"
import { readRecord, type Reader } from "./decode.ts"
import { ParkGate, passLimit, untilCommitted, type LaneContext, type ParksTooMuch } from "./lane.ts"
import type { Input, Outcome } from "../pass/inputs.ts"
import { runPass } from "../pass/pass.ts"
import type { BrokerError, BrokerRecord, Subscription } from "../broker/broker.ts"
import type { StoreLane } from "../store/store.ts"

export const readerOf = ({ participant }: LaneContext): Reader => ({
  topics: participant.topics,
  handlers: participant.messages
})

/** Runs until the subscription fails or too much is parked. */
export const topicsLane = (
  context: LaneContext,
  lane: StoreLane,
  subscription: Subscription
): Effect.Effect<never, BrokerError | ParksTooMuch> => {
  const reader = readerOf(context)
  const gate = new ParkGate()
  return Effect.gen(function* () {
    const records = yield* subscription.take(passLimit)
    const outcomes = yield* decide(context, lane, reader, records)
    yield* subscription.processed(records)
    const stop = gate.note(outcomes)
    if (stop !== undefined) return yield* stop
  }).pipe(Effect.forever)
}

/** Decides records in one pass, in their order. One outcome for each that is ours to decide. */
export const decide = Effect.fnUntraced(function* (
  context: LaneContext,
  lane: StoreLane,
  reader: Reader,
  records: ReadonlyArray<BrokerRecord>
) {
  const { counters } = context
  const inputs: Array<Input> = []
  for (const record of records) {
    const read = readRecord(reader, record)
    if (read._tag !== "skipped") inputs.push(read)
    else if (read.known) counters.skipped++
    else counters.unknown++
  }
  return yield* decideInputs(context, lane, inputs)
})

/** Decides what was read in one pass. One outcome for each. */
export const decideInputs = Effect.fnUntraced(function* (
  context: LaneContext,
  lane: StoreLane,
  inputs: ReadonlyArray<Input>
): Effect.fn.Return<ReadonlyArray<Outcome>> {
  const { counters } = context
  if (inputs.length === 0) return []
  const outcomes = yield* untilCommitted(context, runPass({ ...context.environment, lane }, inputs))
  counters.passes++
  for (const outcome of outcomes) counters[counterOf[outcome._tag]]++
  return outcomes
})

const counterOf = {
  done: "messages",
  duplicate: "duplicates",
  parked: "parked",
  failed: "parked",
  "key-reused": "parked"
} as const satisfies Record<Outcome["_tag"], string>
