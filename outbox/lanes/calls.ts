/**
 * The calls lane: takes calls that are due, carries them out, and gives their results to a pass. No transaction is open
 * while a call is under way.
 *
 * A call that was taken is ours until its lease is over. A crash before its result is committed, at whatever point, means
 * that it is carried out again, under the same id, once the lease is over; after that it is done. Shutting down aborts
 * what is under way and gives it back at once.
 */
import { Cause, Effect, Exit, FiberSet, Latch, Queue } from "effect"
import { pauseAfter, type Caller } from "../calls/caller.ts"
import type { Outcome } from "../pass/inputs.ts"
import { decodePlain, encodePlain } from "../message.ts"
import type { Participant } from "../participant.ts"
import { runPass } from "../pass/pass.ts"
import { resultInput, settled, withCalls } from "../calls/results.ts"
import type { CallsLane, NewCall, PostponedCall, TakenCall } from "../store/store.ts"
import type { Tables } from "../table.ts"
import { passLimit, untilCommitted, type LaneContext } from "./lane.ts"

/** How often to look for calls that other replicas asked for, that were left behind, or that are to be tried again. */
const lookEvery = "250 millis"
/** How long a call whose result can't be decided is left alone. */
const pauseAfterFaultMs = 60_000
/** How long shutting down may take to give calls back; what is not given back waits for the end of its lease. */
const giveBackWithin = "2 seconds"

/** The calls of one kind. */
interface Kind {
  readonly caller: Caller
  /** Opened when there may be something to take. */
  readonly bell: Latch.Latch
  readonly underWay: Set<TakenCall>
  /** Whether more may be due than there was room for. */
  backlog: boolean
}

export type Kinds = ReadonlyMap<string, Kind>

/** What is certain, or why nothing is. */
type Landing =
  | { readonly _tag: "result"; readonly request: object; readonly result: object; readonly json: string }
  | { readonly _tag: "trouble"; readonly error: string }

interface Landed {
  readonly kind: Kind
  readonly call: TakenCall
  readonly landing: Landing
}

/** Pairs callers with the calls that the participant decides. Throws when one is missing or too many. */
export const kindsOf = (participant: Participant<Tables>, callers: ReadonlyArray<Caller>): Kinds => {
  const kinds = new Map<string, Kind>()
  for (const caller of callers) {
    const { kind } = caller.call
    if (participant.calls.get(kind)?.call.request !== caller.call.request)
      throw new Error(`${participant.name} has a caller for ${kind}, and decides no results of this call`)
    if (kinds.has(kind)) throw new Error(`${participant.name} has two callers for ${kind}`)
    kinds.set(kind, { caller, bell: Latch.makeUnsafe(false), underWay: new Set(), backlog: false })
  }
  const missing = [...participant.calls.keys()].find((kind) => !kinds.has(kind))
  if (missing !== undefined) throw new Error(`${participant.name} has no caller for ${missing}`)
  return kinds
}

/** Tells the lane that a pass of this process asked for calls. */
export const ring = (kinds: Kinds, asked: ReadonlyArray<NewCall>): void => {
  for (const { kind } of asked) kinds.get(kind)?.bell.openUnsafe()
}

export const callsLane = (context: LaneContext, lane: CallsLane, kinds: Kinds): Effect.Effect<never> =>
  Effect.gen(function* () {
    const landed = yield* Queue.unbounded<Landed>()
    yield* Effect.addFinalizer(() => giveBack(lane, kinds))
    const attempts = yield* FiberSet.make()
    const take = Effect.fnUntraced(function* (kind: Kind) {
      for (const call of yield* takeFor(context, lane, kind)) {
        const attempt = Effect.map(landingOf(context, kind.caller, call), (landing) => {
          Queue.offerUnsafe(landed, { kind, call, landing })
        })
        yield* FiberSet.run(attempts, attempt)
      }
      yield* kind.bell.await.pipe(Effect.timeoutOrElse({ duration: lookEvery, orElse: () => Effect.void }))
    })
    const settle = Queue.takeBetween(landed, 1, passLimit.messages).pipe(
      Effect.flatMap((all) => settleAll(context, lane, all))
    )
    const loops = [settle, ...[...kinds.values()].map(take)].map((step) => Effect.forever(step))
    yield* Effect.all(loops, { concurrency: "unbounded", discard: true })
    return yield* Effect.never
  }).pipe(Effect.scoped)

/** As many calls as there is room for. */
const takeFor = Effect.fnUntraced(function* (context: LaneContext, lane: CallsLane, kind: Kind) {
  const { bell, caller, underWay } = kind
  bell.closeUnsafe()
  const room = caller.concurrency - underWay.size
  const { kind: name } = caller.call
  const taken = room > 0 ? yield* untilCommitted(context, lane.take(name, room, caller.leaseMs)) : []
  for (const call of taken) underWay.add(call)
  kind.backlog = taken.length === room
  return taken
})

/** One attempt at a call. A result that is known from an earlier one only waits to be decided. */
const landingOf = Effect.fnUntraced(function* (
  { counters }: LaneContext,
  caller: Caller,
  call: TakenCall
): Effect.fn.Return<Landing> {
  const exit = yield* Effect.exit(
    Effect.gen(function* () {
      const request = decodePlain(`the request of ${call.id}`, caller.call.request, call.request)
      return resultOf(caller, call, call.result ?? (yield* carryOut(caller, call, request, counters)))
    })
  )
  return Exit.isSuccess(exit)
    ? { _tag: "result", ...exit.value }
    : { _tag: "trouble", error: textOf(Cause.squash(exit.cause)) }
})

/** What was asked and what is certain, as they will be read back when it has to be decided again. */
export const resultOf = (
  { call: { request, result } }: Caller,
  call: TakenCall,
  answer: object
): Pick<Extract<Landing, { _tag: "result" }>, "request" | "result" | "json"> => {
  const json = encodePlain(`the result of ${call.id}`, result, answer)
  return {
    request: decodePlain(`the request of ${call.id}`, request, call.request),
    result: decodePlain(call.id, result, JSON.parse(json)),
    json
  }
}

const carryOut = (caller: Caller, call: TakenCall, request: object, counters: LaneContext["counters"]) =>
  Effect.suspend(() => {
    counters.call_attempts++
    const aborting = new AbortController()
    const { id, key, attempt } = call
    const carried = caller.carry(request, { key, idempotencyKey: id, attempt, signal: aborting.signal })
    const answer: Effect.Effect<object, unknown> = Effect.isEffect(carried)
      ? carried
      : Effect.tryPromise({ try: () => carried, catch: (error) => error })
    return answer.pipe(Effect.onInterrupt(() => Effect.sync(() => aborting.abort())))
  }).pipe(
    Effect.timeoutOrElse({
      duration: caller.deadlineMs,
      orElse: () => Effect.fail(`no result within ${caller.deadlineMs} ms`)
    })
  )

/** Decides what is certain in one pass, and gives the rest back. */
const settleAll = Effect.fnUntraced(function* (context: LaneContext, lane: CallsLane, all: ReadonlyArray<Landed>) {
  const postponed = all.flatMap(({ kind, call, landing }) =>
    landing._tag === "trouble" ? [afterTrouble(kind.caller, call, landing.error)] : []
  )
  context.counters.call_failures += postponed.length
  const [first] = postponed
  if (first !== undefined)
    yield* Effect.logWarning(
      `${context.participant.name}: ${postponed.length} calls came to no result, such as ${first.id}: ${first.error}`
    )
  for (const [call, json, detail] of yield* decideResults(context, lane, all)) {
    postponed.push({ id: call.id, attempt: call.attempt, afterMs: pauseAfterFaultMs, error: detail, result: json })
    yield* Effect.logError(
      `${context.participant.name}: the result of ${call.id} can't be decided, tried again in a minute: ${detail}`
    )
  }
  if (postponed.length > 0) yield* untilCommitted(context, lane.postpone(postponed))
  for (const { kind, call } of all) {
    kind.underWay.delete(call)
    if (kind.backlog) kind.bell.openUnsafe()
  }
})

const afterTrouble = (caller: Caller, { id, attempt }: TakenCall, error: string): PostponedCall => ({
  id,
  attempt,
  afterMs: pauseAfter(caller, id, attempt),
  error,
  result: null
})

type Undecided = readonly [call: TakenCall, json: string, detail: string]

/** Answers those results whose decision is at fault: nothing was written for them. */
const decideResults = Effect.fnUntraced(function* (
  context: LaneContext,
  lane: CallsLane,
  all: ReadonlyArray<Landed>
): Effect.fn.Return<ReadonlyArray<Undecided>> {
  const { counters, participant, environment } = context
  const results = all.flatMap(({ call, landing }) => (landing._tag === "result" ? [{ call, landing }] : []))
  if (results.length === 0) return []
  const inputs = results.map(({ call, landing: { request, result } }) =>
    resultInput(participant, call, { request, result }, environment.newId())
  )
  const pass = runPass({ ...environment, tables: withCalls(participant.tables), lane }, inputs)
  const outcomes: ReadonlyArray<Outcome> = yield* untilCommitted(context, pass)
  counters.passes++
  return results.flatMap(({ call, landing }, index): ReadonlyArray<Undecided> => {
    const outcome = outcomes[index]
    if (outcome?._tag === "failed") return [[call, landing.json, outcome.message]]
    if (outcome?._tag === "done" && outcome.reply === settled) counters.calls++
    else counters.duplicates++
    return []
  })
})

/** Runs when no attempt is under way any more. */
const giveBack = (lane: CallsLane, kinds: Kinds): Effect.Effect<void> => {
  const left = [...kinds.values()].flatMap(({ underWay }) => [...underWay])
  if (left.length === 0) return Effect.void
  const given = left.map(({ id, attempt }) => ({ id, attempt, afterMs: 0, error: null, result: null }))
  return lane.postpone(given).pipe(Effect.interruptible, Effect.timeout(giveBackWithin), Effect.ignore)
}

const textOf = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error))
