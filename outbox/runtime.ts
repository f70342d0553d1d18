/**
 * Runs a participant: its lanes, each with a loop and a connection of its own. Closing the scope ends them: passes in
 * flight are finished, offsets committed, the group left. A killed process leaves nothing to repair.
 */
import { Deferred, Effect, Schema, type Scope } from "effect"
import { Broker, type BrokerError } from "./broker/broker.ts"
import type { Caller } from "./calls/caller.ts"
import { callsLane, kindsOf, ring } from "./lanes/calls.ts"
import { makeRequestsLane, type RequestsLane } from "./lanes/requests.ts"
import { makeDeadLetters, usualRedrives, type DeadLetters } from "./lanes/redrive.ts"
import { timersLane } from "./lanes/timers.ts"
import { topicsLane } from "./lanes/topics.ts"
import { contextOf, type ParksTooMuch } from "./lanes/lane.ts"
import type { OutboxMessage } from "./message.ts"
import { idempotencyKeys } from "./pass/inputs.ts"
import type { Participant } from "./participant.ts"
import { calls } from "./store/calls.ts"
import { Store, type StoreUnavailable } from "./store/store.ts"
import type { Tables } from "./table.ts"
import type { Counters } from "./telemetry.ts"

/** A participant's lane ended for good; the process should end, or wait unready for someone to look. */
export class ParticipantStopped extends Schema.TaggedError<ParticipantStopped>()("ParticipantStopped", {
  participant: Schema.String,
  message: Schema.String,
  /** Whether a fresh process may do better: a consumer that crashed may, one that parks everything won't. */
  restart: Schema.Boolean
}) {}

export interface Running {
  /** Decides a request in the requests lane and answers after its commit. */
  readonly submit: RequestsLane["submit"]
  readonly health: () => { readonly ready: boolean; readonly reasons: ReadonlyArray<string> }
  readonly counters: () => Readonly<Counters>
  /** Never succeeds; fails when a lane ended for good. */
  readonly stopped: Effect.Effect<never, ParticipantStopped>
  /** The participant's dead letters: to be listed, redriven and discarded. */
  readonly deadLetters: DeadLetters
}

export interface RunOptions {
  /** Told of each transaction's messages after its commit. */
  readonly committed?: (messages: ReadonlyArray<OutboxMessage>) => void
  /** What carries calls to the outside out: one for each call whose result the participant decides. */
  readonly callers?: ReadonlyArray<Caller>
  /** Makes message ids: UUIDv7 that grow. */
  readonly newId?: () => string
  /** How often a dead letter is redriven in vain before a redrive of all leaves it alone; 5 times without it. */
  readonly mostRedrives?: number
}

export const run = <T extends Tables>(
  definition: Participant<T>,
  options: RunOptions = {}
): Effect.Effect<Running, StoreUnavailable | BrokerError, Broker | Store | Scope.Scope> =>
  Effect.gen(function* () {
    const store = yield* Store
    const broker = yield* Broker
    const context = contextOf(definition, store.window, {
      ...(options.newId && { newId: options.newId }),
      committed: (messages, asked) => {
        options.committed?.(messages)
        ring(kinds, asked)
      }
    })
    const { participant } = context
    const kinds = kindsOf(participant, options.callers ?? [])
    const tables = Object.values(participant.tables)
    const stopped = yield* Deferred.make<never, ParticipantStopped>()
    const reasons: Array<string> = []
    let joining = participant.topics.size > 0
    const stop = (message: string, restart: boolean) =>
      Effect.suspend(() => {
        reasons.push(message)
        return Deferred.fail(stopped, new ParticipantStopped({ participant: participant.name, message, restart }))
      })
    const guard = (lane: Effect.Effect<never, BrokerError | ParksTooMuch>) =>
      lane.pipe(
        Effect.catchTag("ParksTooMuch", (error) =>
          stop(
            `${error.parked} of the last ${error.decided} messages were parked, so it stopped: ${error.lastReason}`,
            false
          )
        ),
        Effect.catchTag("BrokerError", (error) => stop(error.message, true)),
        Effect.catchDefect((defect) =>
          stop(`a lane broke: ${defect instanceof Error ? defect.stack : String(defect)}`, true)
        ),
        Effect.forkScoped
      )

    const redriveLane = yield* store.lane("redrive", tables)
    const requests = yield* makeRequestsLane(context, yield* store.lane("requests", [...tables, idempotencyKeys]))
    yield* guard(requests.run)
    if (participant.timers.size > 0) yield* guard(timersLane(context, yield* store.lane("timers", tables), store))
    if (kinds.size > 0) yield* guard(callsLane(context, yield* store.callsLane("calls", [...tables, calls]), kinds))
    if (participant.topics.size > 0) {
      const lane = yield* store.lane("topics", tables)
      yield* guard(
        Effect.scoped(
          Effect.gen(function* () {
            const topics = [...participant.topics.keys()]
            const subscription = yield* broker.subscribe({ group: participant.name, topics })
            joining = false
            return yield* topicsLane(context, lane, subscription)
          })
        )
      )
    }
    return {
      submit: requests.submit,
      health: () => {
        const all = joining ? [...reasons, "it is joining its consumer group"] : reasons
        return { ready: all.length === 0, reasons: all }
      },
      counters: () => context.counters,
      stopped: Deferred.await(stopped),
      deadLetters: makeDeadLetters(context, redriveLane, store, options.mostRedrives ?? usualRedrives)
    }
  })
