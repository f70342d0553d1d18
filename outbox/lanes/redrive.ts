/**
 * The dead letters of a running participant, for who looks after them: to be listed, decided after all, or discarded.
 *
 * A redrive takes letters in the order in which they were read. Each pass of it takes its letters out of the dead letters,
 * claims their messages and decides them in one transaction, so a crash leaves every letter either decided or where it was.
 */
import { Effect } from "effect"
import { readRecord, type Reader } from "./decode.ts"
import { passLimit, type LaneContext } from "./lane.ts"
import { decideInputs, readerOf } from "./topics.ts"
import type { Input, Outcome } from "../pass/inputs.ts"
import { isUuid } from "../store/inbox.ts"
import type {
  LetterFilter,
  LetterGroup,
  LetterQuery,
  LetterSummary,
  ParkReason,
  Store,
  StoredDeadLetter,
  StoreLane,
  StoreUnavailable
} from "../store/store.ts"

/** What came of a dead letter. */
export interface LetterOutcome {
  readonly id: string
  /**
   * `decided`: its message took effect. `parked`: it is where it was, for the reason given. `discarded`: it will never be
   * decided. `settled`: somebody else decided or discarded it meanwhile. `unknown`: there is none of this id.
   */
  readonly outcome: "decided" | "parked" | "discarded" | "settled" | "unknown"
  readonly reason?: ParkReason
  readonly detail?: string
}

/** What came of dead letters that were chosen by what they have in common. */
export interface BulkOutcome {
  /** What was taken, in the order in which it was read. */
  readonly letters: ReadonlyArray<LetterOutcome>
  /** How many the same request would take next. */
  readonly left: number
  /** How many more have it in common and are left alone: they were redriven too often, or are behind one that was. */
  readonly heldBack: number
}

export interface DeadLetters {
  /** Letters without their records, in the order in which they were read. */
  readonly list: (query: LetterQuery) => Effect.Effect<ReadonlyArray<LetterSummary>, StoreUnavailable>
  /** The parked ones by reason, each with how many of them a redrive of all takes. */
  readonly groups: (filter?: LetterFilter) => Effect.Effect<ReadonlyArray<LetterGroup>, StoreUnavailable>
  /** One letter with its record, parked or discarded. */
  readonly find: (id: string) => Effect.Effect<StoredDeadLetter | undefined, StoreUnavailable>
  /** Decides these letters' messages, however often that was tried before. One outcome for each id. */
  readonly redrive: (ids: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<LetterOutcome>, StoreUnavailable>
  /** Decides the messages of the first letters that match, but for those that were redriven in vain too often. */
  readonly redriveAll: (
    filter: LetterFilter,
    options: {
      readonly limit: number
      /** Also those that were redriven too often. */
      readonly force?: boolean
    }
  ) => Effect.Effect<BulkOutcome, StoreUnavailable>
  /** Settles that these letters' messages are never decided, however often they are delivered. The letters are kept. */
  readonly discard: (
    ids: ReadonlyArray<string>,
    note?: string
  ) => Effect.Effect<ReadonlyArray<LetterOutcome>, StoreUnavailable>
  /** Discards the first letters that match. */
  readonly discardAll: (
    filter: LetterFilter,
    options: { readonly limit: number; readonly note?: string | undefined }
  ) => Effect.Effect<BulkOutcome, StoreUnavailable>
}

/** How often a letter is redriven in vain, unless a run says otherwise, before a redrive of all leaves it alone. */
export const usualRedrives = 5

/** More than any count of redrives. */
const everyTime = 2_147_483_647

const unknown = (ids: ReadonlyArray<string>): ReadonlyArray<LetterOutcome> =>
  ids.map((id) => ({ id, outcome: "unknown" }))

export const makeDeadLetters = (
  context: LaneContext,
  lane: StoreLane,
  store: Store["Service"],
  mostRedrives: number
): DeadLetters => {
  const consumer = context.participant.name
  const reader = readerOf(context)

  const redriveOf = Effect.fnUntraced(function* (
    letters: ReadonlyArray<LetterSummary>
  ): Effect.fn.Return<ReadonlyArray<LetterOutcome>, StoreUnavailable> {
    const outcomes: Array<LetterOutcome> = []
    for (const ids of batchesOf(letters)) {
      const parked = (yield* store.deadLetters(consumer, { ids, limit: ids.length })).filter(
        ({ discardedAt }) => discardedAt === null
      )
      const decided = yield* decideInputs(
        context,
        lane,
        parked.map((letter) => inputOf(reader, letter))
      )
      const byId = new Map(parked.map(({ id }, index) => [id, outcomeOf(id, decided[index])]))
      outcomes.push(...ids.map((id): LetterOutcome => byId.get(id) ?? { id, outcome: "settled" }))
    }
    if (outcomes.length > 0) yield* Effect.logInfo(`${consumer}: dead letters were redriven: ${counted(outcomes)}`)
    return outcomes
  })

  const discardOf = Effect.fnUntraced(function* (
    letters: ReadonlyArray<LetterSummary>,
    note: string | undefined
  ): Effect.fn.Return<ReadonlyArray<LetterOutcome>, StoreUnavailable> {
    const ids = letters.filter(({ discardedAt }) => discardedAt === null).map(({ id }) => id)
    const discarded = new Set(ids.length === 0 ? [] : yield* store.discardLetters(consumer, ids, note ?? null))
    if (discarded.size > 0) {
      const why = note === undefined ? "without a note" : JSON.stringify(note)
      yield* Effect.logInfo(`${consumer}: dead letters were discarded, ${why}: ${[...discarded].join(" ")}`)
    }
    return letters.map(({ id, discardedAt }): LetterOutcome => ({
      id,
      outcome: discardedAt !== null || discarded.has(id) ? "discarded" : "settled"
    }))
  })

  /** Has the letters of these ids dealt with, and tells of the ids that there is no letter of. */
  const each = Effect.fnUntraced(function* (
    ids: ReadonlyArray<string>,
    deal: (letters: ReadonlyArray<LetterSummary>) => Effect.Effect<ReadonlyArray<LetterOutcome>, StoreUnavailable>
  ): Effect.fn.Return<ReadonlyArray<LetterOutcome>, StoreUnavailable> {
    const uuids = ids.filter(isUuid)
    const letters = uuids.length === 0 ? [] : yield* store.listLetters(consumer, { ids: uuids, limit: uuids.length })
    const known = new Set(letters.map(({ id }) => id))
    return [...(yield* deal(letters)), ...unknown(ids.filter((id) => !known.has(id)))]
  })

  return {
    list: (query) => store.listLetters(consumer, query),
    groups: (filter = {}) => store.groupLetters(consumer, { ...filter, redrivenLessThan: mostRedrives }),
    find: (id) =>
      isUuid(id)
        ? Effect.map(store.deadLetters(consumer, { ids: [id], limit: 1 }), ([letter]) => letter)
        : Effect.succeed(undefined),
    redrive: (ids) =>
      each(ids, (letters) =>
        Effect.map(redriveOf(letters.filter(({ discardedAt }) => discardedAt === null)), (outcomes) => [
          ...outcomes,
          ...letters.flatMap(({ id, discardedAt }): ReadonlyArray<LetterOutcome> =>
            discardedAt === null ? [] : [{ id, outcome: "discarded" }]
          )
        ])
      ),
    redriveAll: Effect.fnUntraced(function* (filter, { limit, force = false }) {
      const redrivenLessThan = force ? everyTime : mostRedrives
      const letters = yield* redriveOf(
        yield* store.listLetters(consumer, { ...filter, state: "parked", redrivenLessThan, limit })
      )
      const groups = yield* store.groupLetters(consumer, { ...filter, redrivenLessThan })
      const left = sum(groups.map(({ redrivable }) => redrivable))
      return { letters, left, heldBack: sum(groups.map(({ count }) => count)) - left }
    }),
    discard: (ids, note) => each(ids, (letters) => discardOf(letters, note)),
    discardAll: Effect.fnUntraced(function* (filter, { limit, note }) {
      const letters = yield* discardOf(yield* store.listLetters(consumer, { ...filter, state: "parked", limit }), note)
      const groups = yield* store.groupLetters(consumer, filter)
      return { letters, left: sum(groups.map(({ count }) => count)), heldBack: 0 }
    })
  }
}

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, one) => total + one, 0)

/** Ids of letters that one pass may take, in their order. */
const batchesOf = (letters: ReadonlyArray<LetterSummary>): ReadonlyArray<ReadonlyArray<string>> => {
  const batches: Array<Array<string>> = []
  let room = { messages: 0, bytes: 0 }
  for (const { id, bytes } of letters) {
    if (room.messages === 0 || room.bytes < bytes) {
      batches.push([])
      room = passLimit
    }
    batches.at(-1)?.push(id)
    room = { messages: room.messages - 1, bytes: room.bytes - bytes }
  }
  return batches
}

/** A letter as the pass takes it. What is not handled here any more stays parked, and says so. */
const inputOf = (reader: Reader, letter: StoredDeadLetter): Input => {
  const read = readRecord(reader, letter.record, true)
  if (read._tag === "message") return read
  const { id, type, key, record } = letter
  if (read._tag === "unreadable") return { ...read, letter: { ...read.letter, id } }
  const detail = `${type ?? "a message without a type"} of ${record.topic} is not handled here`
  return { _tag: "unreadable", redrive: true, letter: { id, type, key, reason: "unknown-type", detail, record } }
}

const outcomeOf = (id: string, outcome: Outcome | undefined): LetterOutcome => {
  if (outcome?._tag === "done") return { id, outcome: "decided" }
  if (outcome?._tag === "parked") return { id, outcome: "parked", reason: outcome.reason, detail: outcome.detail }
  return { id, outcome: "settled" }
}

/** `2 decided, 1 parked` */
const counted = (outcomes: ReadonlyArray<LetterOutcome>): string =>
  [...Map.groupBy(outcomes, ({ outcome }) => outcome)].map(([name, { length }]) => `${length} ${name}`).join(", ")
