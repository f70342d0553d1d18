/**
 * What every store promises, case by case, through the pass that production runs. A store that is to be trusted passes
 * all of it; what only a real database can get wrong is in `store.postgres.test.ts`.
 */
import { describe, expect, test } from "bun:test"
import { Deferred, Effect, Exit, Fiber, References, type Scope } from "effect"
import {
  accounts,
  bank,
  CloseBank,
  Deposit,
  entries,
  Forget,
  holds,
  idDated,
  idOf,
  MoveHold,
  Noted,
  Open,
  OpenAccount,
  pages,
  PlaceHold,
  record,
  ReleaseHold,
  Report,
  type Letter,
  type Switches
} from "./bank.ts"
import type { BrokerRecord } from "../broker/broker.ts"
import { makeInProcess } from "../broker/in-process.ts"
import { Broker } from "../broker/broker.ts"
import { contextOf } from "../lanes/lane.ts"
import { makeRequestsLane } from "../lanes/requests.ts"
import { makeDeadLetters, type LetterOutcome } from "../lanes/redrive.ts"
import { decide, readerOf } from "../lanes/topics.ts"
import { readRecord } from "../lanes/decode.ts"
import type { Outgoing } from "../message.ts"
import { OtherBuild, type Participant } from "../participant.ts"
import { runDue } from "../pass/due.ts"
import { idempotencyKeys } from "../pass/inputs.ts"
import { runPass } from "../pass/pass.ts"
import { run } from "../runtime.ts"
import { timeOf } from "../store/inbox.ts"
import { Store, StoreUnavailable, type StoreLane, type Transaction } from "../store/store.ts"
import type { AnyTable, Tables } from "../table.ts"
import type { Counters } from "../telemetry.ts"
import { until } from "../../stack/wait.ts"

/** A message that the outbox holds. */
export interface Sent {
  readonly id: string
  readonly topic: string
  readonly key: string
  readonly type: string
  readonly payload: unknown
  readonly causation: string | null
  readonly correlation: string
  readonly definition: string | null
}

/** An empty store of one case, and what is needed to look into it from outside. */
export interface World {
  readonly store: Store["Service"]
  /** Whether two transactions can be open at once. */
  readonly sideBySide: boolean
  readonly rows: (table: AnyTable) => Promise<ReadonlyArray<object>>
  /** In the order in which they were appended. */
  readonly outbox: () => Promise<ReadonlyArray<Sent>>
  /** The ids that were claimed, sorted. */
  readonly inbox: () => Promise<ReadonlyArray<string>>
}

export type OpenWorld = Effect.Effect<World, unknown, Scope.Scope>

const caseWithinMs = 30_000

/** A test whose body is an effect. Warnings of the library are what these tests provoke: they are not printed. */
export const scenario = (sentence: string, body: Effect.Effect<void, unknown, Scope.Scope>): void =>
  test(
    sentence,
    () =>
      Effect.runPromise(
        body.pipe(
          Effect.scoped,
          Effect.timeout(caseWithinMs),
          Effect.provideService(References.MinimumLogLevel, "None")
        )
      ),
    // the first case waits for the server
    2 * caseWithinMs
  )

/** What a lane is made to do beside its work. */
export type Wrap = (lane: StoreLane) => StoreLane

const asIs: Wrap = (lane) => lane

/** Wraps the transactions of a lane. */
export const eachTransaction =
  (wrap: (transaction: Transaction) => Partial<Transaction>): Wrap =>
  (lane) => ({
    begin: (opening) => Effect.map(lane.begin(opening), (transaction) => ({ ...transaction, ...wrap(transaction) }))
  })

/** One process of the bank, as far as a store sees it. */
export const replica = (world: World, switches: Switches = {}, wrap: Wrap = asIs) =>
  replicaOf(bank(switches) as unknown as Participant<Tables>, world, wrap)

/** One process of a participant. */
export const replicaOf = Effect.fnUntraced(function* (
  participant: Participant<Tables>,
  world: World,
  wrap: Wrap = asIs
) {
  const lane = wrap(yield* world.store.lane("topics", [...Object.values(participant.tables), idempotencyKeys]))
  const context = contextOf(participant, world.store.window)
  const reader = readerOf(context)
  const environment = { ...context.environment, lane }
  const deadLetters = makeDeadLetters(context, lane, world.store, 2)
  const due = (skip: ReadonlySet<string> = new Set(), limit = 200) => {
    const handler = participant.timers.get("accounts")
    if (handler === undefined) throw new Error("the bank has no timer")
    return runDue(environment, { _tag: "due", table: accounts, handler, limit }, skip)
  }
  return {
    counters: context.counters,
    /** Decides records as the topics lane does: one pass, run until it is committed. */
    take: (...records: ReadonlyArray<BrokerRecord>) => decide(context, lane, reader, records),
    /** Its dead letters, redriven with others twice. */
    deadLetters,
    redrive: (...ids: ReadonlyArray<string>) => deadLetters.redrive(ids),
    /** One try of a pass: what the store says is the caller's. */
    tryOnce: (...records: ReadonlyArray<BrokerRecord>) =>
      runPass(
        environment,
        records.map((each) => readRecord(reader, each)).filter((read) => read._tag !== "skipped")
      ),
    due,
    /** A requests lane on the same connection. */
    requests: Effect.gen(function* () {
      const requests = yield* makeRequestsLane(context, lane)
      yield* Effect.forkScoped(requests.run)
      return requests
    })
  }
})

/** Transactions that wait for each other once, after all of them have loaded. Where only one can be open nobody waits. */
export const meeting = (world: World, parties: number): Wrap => {
  const allHere = Deferred.makeUnsafe<void>()
  let here = 0
  return (lane) =>
    world.sideBySide
      ? {
          begin: (opening) =>
            Effect.tap(lane.begin(opening), () => {
              here++
              if (here >= parties) Deferred.doneUnsafe(allHere, Effect.void)
              return Deferred.await(allHere).pipe(Effect.timeout("5 seconds"), Effect.orDie)
            })
        }
      : lane
}

const unavailable = new StoreUnavailable({ message: "on purpose" })

/** The first commit takes place, and its answer is lost. */
export const firstAnswerLost = (): Wrap => {
  let lost = false
  return eachTransaction((transaction) => ({
    commit: (writes) =>
      transaction.commit(writes).pipe(
        Effect.flatMap(() => {
          if (lost) return Effect.void
          lost = true
          return Effect.fail(unavailable)
        })
      )
  }))
}

export const tables = [holds, accounts, entries, pages] as const

/** All that a store holds, in an order of its own. */
export const everything = (world: World) =>
  Effect.promise(async () => ({
    rows: await Promise.all(tables.map(async (table) => sorted(await world.rows(table)))),
    outbox: sorted(await world.outbox()),
    inbox: await world.inbox(),
    letters: await Effect.runPromise(world.store.deadLetters("bank", { limit: 1_000 }))
  }))

const sorted = <A>(rows: ReadonlyArray<A>): ReadonlyArray<A> =>
  rows.toSorted((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)))

const rowsOf = (world: World, table: AnyTable) => Effect.promise(() => world.rows(table))
const outboxOf = (world: World) => Effect.promise(() => world.outbox())
const inboxOf = (world: World) => Effect.promise(() => world.inbox())
const lettersOf = (world: World) => world.store.deadLetters("bank", { limit: 1_000 })

const balances = (world: World) =>
  Effect.map(rowsOf(world, accounts), (rows) =>
    Object.fromEntries(
      rows.map((row) => {
        const { id, balance } = accounts.decode(row)
        return [id, balance]
      })
    )
  )

const deposit = (account: string, amount: number, letter?: Letter) => record(Deposit.of({ account, amount }), letter)
const openAccount = (account: string, balance: number, dueInMs: number | null = null) =>
  record(OpenAccount.of({ account, balance, dueInMs }))
const note = (page: string, text: string) => record(Noted.of({ page, text }))
const tags = (outcomes: ReadonlyArray<{ readonly _tag: string }>) => outcomes.map((outcome) => outcome._tag)
const idsOf = (letters: ReadonlyArray<{ readonly id: string }>) => letters.map(({ id }) => id)
const fates = (outcomes: ReadonlyArray<LetterOutcome>) => outcomes.map(({ outcome }) => outcome)
const amountOf = (payload: object): unknown => ("amount" in payload ? payload.amount : undefined)
const textOf = (payload: object): unknown => ("text" in payload ? payload.text : undefined)

const day = 86_400_000
const greatestInt = 2 ** 31 - 1

/** Runs the suite; `open` makes an empty store for each case. */
export const storeSuite = (name: string, open: OpenWorld): void => {
  const inWorld = (sentence: string, body: (world: World) => Effect.Effect<void, unknown, Scope.Scope>): void =>
    scenario(sentence, Effect.flatMap(open, body))

  describe(`${name}: a pass`, () => {
    inWorld("commits its rows, claims and messages once and together", (world) =>
      Effect.gen(function* () {
        const seen: Array<unknown> = []
        let begun = 0
        const watch = eachTransaction((transaction) => {
          begun++
          return {
            commit: (writes) =>
              Effect.gen(function* () {
                const before = yield* everything(world)
                seen.push([before.rows.flat(), before.inbox, before.outbox])
                yield* transaction.commit(writes)
              })
          }
        })
        const one = yield* replica(world, {}, watch)
        const records = [openAccount("a", 1), ...Array.from({ length: 9 }, (_, n) => deposit("a", n))]

        const outcomes = yield* one.take(...records)

        expect(tags(outcomes)).toEqual(Array.from({ length: 10 }, () => "done"))
        expect([begun, seen]).toEqual([1, [[[], [], []]]])
        expect(yield* balances(world)).toEqual({ a: 37 })
        expect(yield* inboxOf(world)).toEqual(records.map(idOf).toSorted())
        expect((yield* rowsOf(world, entries)).length).toBe(9)
        expect((yield* outboxOf(world)).map(({ payload }) => payload)).toEqual(
          Array.from({ length: 9 }, (_, n) => ({ account: "a", amount: n, balance: 1 + (n * (n + 1)) / 2 }))
        )
      })
    )

    inWorld("sends messages that know their cause, their saga and their key", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const saga = { correlation: "saga-1", definition: "save-up" }
        const cause = record({ ...Deposit.of({ account: "a", amount: 5 }), ...saga })

        yield* one.take(cause, deposit("b", 5))

        const [sent, other] = yield* outboxOf(world)
        expect(other).toMatchObject({ key: "b", correlation: "b", definition: null })
        expect(sent).toMatchObject({
          topic: "bank-events",
          key: "a",
          type: "Deposited",
          causation: idOf(cause),
          ...saga
        })
      })
    )

    inWorld("that fails leaves nothing, and can be run again", (world) =>
      Effect.gen(function* () {
        let failures = 2
        const failing = eachTransaction((transaction) => ({
          commit: (writes) => (failures-- > 0 ? Effect.fail(unavailable) : transaction.commit(writes))
        }))
        const one = yield* replica(world, {}, failing)
        const before = yield* everything(world)
        const records = [openAccount("a", 1), deposit("a", 2)]

        const first = yield* Effect.exit(one.tryOnce(...records))
        const between = yield* everything(world)
        const outcomes = yield* one.take(...records)

        expect(first._tag).toBe("Failure")
        expect(between).toEqual(before)
        expect(tags(outcomes)).toEqual(["done", "done"])
        expect(yield* balances(world)).toEqual({ a: 3 })
        expect(one.counters).toMatchObject({ retries: 1, messages: 2, parked: 0 })
      })
    )

    inWorld("drops what was decided before, and changes nothing by it", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const records = [openAccount("a", 1), deposit("a", 2), deposit("b", 3)]
        yield* one.take(...records)
        const before = yield* everything(world)

        const outcomes = yield* one.take(...records, ...records.toReversed())

        expect(tags(outcomes)).toEqual(Array.from({ length: 6 }, () => "duplicate"))
        expect(one.counters.duplicates).toBe(6)
        expect(yield* everything(world)).toEqual(before)
      })
    )

    inWorld("drops what another replica decided before", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const other = yield* replica(world)
        const records = [deposit("a", 2), deposit("b", 3)]
        yield* one.take(...records)

        const outcomes = yield* other.take(...records)

        expect(tags(outcomes)).toEqual(["duplicate", "duplicate"])
        expect(yield* balances(world)).toEqual({ a: 2, b: 3 })
      })
    )

    inWorld("decides an id that it holds three times once, and counts two duplicates", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const id = Bun.randomUUIDv7()

        const outcomes = yield* one.take(
          deposit("a", 1, { id }),
          deposit("b", 10),
          deposit("a", 1, { id }),
          deposit("a", 1, { id })
        )

        expect(tags(outcomes)).toEqual(["done", "done", "duplicate", "duplicate"])
        expect(one.counters).toMatchObject({ messages: 2, duplicates: 2 })
        expect(yield* balances(world)).toEqual({ a: 1, b: 10 })
        expect((yield* rowsOf(world, entries)).length).toBe(2)
      })
    )

    inWorld("parks an id that it holds three times and can't decide once", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, {
          decide: (_type, m) => {
            if (amountOf(m) === 13) throw new Error("unlucky")
          }
        })
        const id = Bun.randomUUIDv7()
        const bad = () => deposit("a", 13, { id })

        const outcomes = yield* one.take(bad(), deposit("b", 10), bad(), bad())

        expect(tags(outcomes)).toEqual(["parked", "done", "duplicate", "duplicate"])
        expect((yield* lettersOf(world)).map((letter) => letter.id)).toEqual([id])
        expect((yield* outboxOf(world)).filter(({ type }) => type === "DeadLetter").length).toBe(1)
      })
    )

    inWorld("parks an unreadable record that it holds three times once", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const bad = deposit("a", 1, { value: Buffer.from("{") })

        const outcomes = yield* one.take(bad, deposit("b", 10), bad, bad)

        expect(tags(outcomes)).toEqual(["parked", "done", "duplicate", "duplicate"])
        expect((yield* lettersOf(world)).length).toBe(1)
        expect((yield* outboxOf(world)).filter(({ type }) => type === "DeadLetter").length).toBe(1)
      })
    )

    inWorld("parks a message whose decision throws alone, with its stack, and commits the others in order", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, {
          decide: (_type, m) => {
            if (amountOf(m) === 13) throw new TypeError("thirteen is unlucky")
          }
        })
        const bad = deposit("a", 13)

        const outcomes = yield* one.take(deposit("a", 1), bad, deposit("a", 2), deposit("b", 4))

        expect(tags(outcomes)).toEqual(["done", "parked", "done", "done"])
        expect(yield* balances(world)).toEqual({ a: 3, b: 4 })
        expect(yield* lettersOf(world)).toEqual([
          expect.objectContaining({ id: idOf(bad), type: "Deposit", key: "a", reason: "decision-failed" })
        ])
        const [letter] = yield* lettersOf(world)
        expect(letter?.detail).toContain("TypeError: thirteen is unlucky")
        expect(letter?.detail).toContain("bank.ts")
        expect(yield* inboxOf(world)).not.toContain(idOf(bad))
        const sent = yield* outboxOf(world)
        expect(sent.filter(({ type }) => type === "Deposited").map(({ payload }) => payload)).toEqual([
          { account: "a", amount: 1, balance: 1 },
          { account: "a", amount: 2, balance: 3 },
          { account: "b", amount: 4, balance: 4 }
        ])
        expect(sent.filter(({ topic }) => topic === "bank-commands.dead").length).toBe(1)
      })
    )

    inWorld("undoes all that a message put when a part of it can't be", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        // its hold is sound, the balance that it leaves is not
        const bad = record(PlaceHold.of({ hold: "h", account: "a", amount: -Number.MAX_SAFE_INTEGER }))

        const outcomes = yield* one.take(
          openAccount("a", 1),
          bad,
          record(ReleaseHold.of({ hold: "h" })),
          deposit("a", 2)
        )

        expect(tags(outcomes)).toEqual(["done", "parked", "done", "done"])
        expect(yield* balances(world)).toEqual({ a: 3 })
        expect(yield* rowsOf(world, holds)).toEqual([])
      })
    )

    inWorld("parks a message whose touches throw alone", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, {
          touch: (_type, m) => {
            if (amountOf(m) === 13) throw new Error("no such key")
          }
        })

        const outcomes = yield* one.take(deposit("a", 1), deposit("a", 13), deposit("a", 2))

        expect(tags(outcomes)).toEqual(["done", "parked", "done"])
        expect(yield* balances(world)).toEqual({ a: 3 })
      })
    )

    inWorld("parks a row that its table's constraint refuses alone, and keeps the order of the others", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const bad = deposit("a", -10)

        const outcomes = yield* one.take(
          openAccount("a", 1),
          deposit("a", 2),
          bad,
          deposit("a", 4),
          deposit("b", 8),
          deposit("a", -7)
        )

        expect(tags(outcomes)).toEqual(["done", "done", "parked", "done", "done", "done"])
        expect(yield* balances(world)).toEqual({ a: 0, b: 8 })
        expect(yield* lettersOf(world)).toEqual([expect.objectContaining({ id: idOf(bad), reason: "row-refused" })])
        expect(yield* inboxOf(world)).not.toContain(idOf(bad))
        expect(
          (yield* outboxOf(world)).filter(({ type }) => type === "Deposited").map(({ payload }) => payload)
        ).toEqual([
          { account: "a", amount: 2, balance: 3 },
          { account: "a", amount: 4, balance: 7 },
          { account: "b", amount: 8, balance: 8 },
          { account: "a", amount: -7, balance: 0 }
        ])
      })
    )

    inWorld("and another that meet an absent row at once insert it once, and park nothing", (world) =>
      Effect.gen(function* () {
        const meet = meeting(world, 2)
        const one = yield* replica(world, {}, meet)
        const other = yield* replica(world, {}, meet)

        const outcomes = yield* Effect.all([one.tryOnce(deposit("a", 1)), other.tryOnce(deposit("a", 2))], {
          concurrency: "unbounded"
        })

        expect(outcomes.map(tags)).toEqual([["done"], ["done"]])
        expect(yield* balances(world)).toEqual({ a: 3 })
        expect((yield* rowsOf(world, entries)).length).toBe(2)
        expect(yield* lettersOf(world)).toEqual([])
      })
    )

    inWorld("whose COMMIT may have happened is run again with the same ids, and takes effect once", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, {}, firstAnswerLost())
        const records = [deposit("a", 1), deposit("a", 2), deposit("b", 4)]

        const outcomes = yield* one.take(...records)

        expect(tags(outcomes)).toEqual(["duplicate", "duplicate", "duplicate"])
        expect(yield* balances(world)).toEqual({ a: 3, b: 4 })
        expect((yield* rowsOf(world, entries)).length).toBe(3)
        expect((yield* outboxOf(world)).length).toBe(3)
        expect(yield* lettersOf(world)).toEqual([])
      })
    )

    inWorld("of two replicas with overlapping batches in opposite order takes effect once", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const other = yield* replica(world)
        const rounds = Array.from({ length: 12 }, (_, round) =>
          Array.from({ length: 40 }, (_, n) => deposit(`${round}-${n % 7}`, 1))
        )

        for (const records of rounds) {
          // neither sees a deadlock, which would be a failure here
          yield* Effect.all([one.tryOnce(...records.slice(0, 30)), other.tryOnce(...records.slice(10).toReversed())], {
            concurrency: "unbounded"
          })
        }

        const total = Object.values(yield* balances(world)).reduce((sum, balance) => sum + balance, 0)
        expect([total, (yield* rowsOf(world, entries)).length]).toEqual([480, 480])
        expect((yield* inboxOf(world)).length).toBe(480)
      })
    )

    inWorld("loads tables in their declared order: rows of one may name the keys of a later one", (world) =>
      Effect.gen(function* () {
        const loaded: Array<ReadonlyArray<string>> = []
        const names = (loads: ReadonlyArray<{ readonly table: AnyTable; readonly keys: ReadonlyArray<string> }>) =>
          loads.map(({ table, keys }) => `${table.name} ${keys.toSorted().join(" ")}`)
        const watch: Wrap = (lane) => ({
          begin: (opening) => {
            loaded.push(names(opening.loads))
            return Effect.map(lane.begin(opening), (transaction) => ({
              ...transaction,
              load: (loads) => {
                loaded.push(names(loads))
                return transaction.load(loads)
              }
            }))
          }
        })
        const one = yield* replica(world, {}, watch)
        yield* one.take(openAccount("a", 10), openAccount("b", 10))
        yield* one.take(
          record(PlaceHold.of({ hold: "h1", account: "a", amount: 3 })),
          record(PlaceHold.of({ hold: "h2", account: "b", amount: 4 }))
        )
        loaded.length = 0

        const outcomes = yield* one.take(
          record(ReleaseHold.of({ hold: "h1" })),
          record(ReleaseHold.of({ hold: "h2" })),
          deposit("c", 1)
        )

        expect(tags(outcomes)).toEqual(["done", "done", "done"])
        // each table once, the second when the first has come
        expect(loaded).toEqual([["holds h1 h2"], ["accounts a b c"]])
        expect(yield* balances(world)).toEqual({ a: 10, b: 10, c: 1 })
      })
    )

    inWorld("is cut before a message that needs a row which only an earlier one gave a reason to load", (world) =>
      Effect.gen(function* () {
        let committed = 0
        const watch = eachTransaction((transaction) => ({
          commit: (writes) => Effect.tap(transaction.commit(writes), () => Effect.sync(() => committed++))
        }))
        const one = yield* replica(world, {}, watch)
        yield* one.take(
          openAccount("a", 10),
          openAccount("b", 10),
          record(PlaceHold.of({ hold: "h", account: "a", amount: 3 }))
        )
        committed = 0

        const outcomes = yield* one.take(
          record(MoveHold.of({ hold: "h", account: "b" })),
          record(ReleaseHold.of({ hold: "h" })),
          record(ReleaseHold.of({ hold: "h" }))
        )

        expect(tags(outcomes)).toEqual(["done", "done", "done"])
        expect(committed).toBe(2)
        expect(yield* balances(world)).toEqual({ a: 7, b: 13 })
        expect(yield* lettersOf(world)).toEqual([])
      })
    )

    inWorld("skips a known type that nobody here handles, without a claim", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const before = yield* everything(world)

        const outcomes = yield* one.take(record(CloseBank.of({ day: "monday" })))

        expect(outcomes).toEqual([])
        expect(one.counters).toMatchObject({ skipped: 1, unknown: 0, parked: 0, passes: 0 })
        expect(yield* everything(world)).toEqual(before)
      })
    )

    inWorld("skips and counts an unknown type on an events topic, and parks it on a commands topic", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const event = record(Noted.of({ page: "p", text: "x" }), { headers: { ce_type: "Burned" } })
        const command = record(Deposit.of({ account: "a", amount: 1 }), { headers: { ce_type: "Burn" } })

        const outcomes = yield* one.take(event, command, deposit("a", 2))

        expect(tags(outcomes)).toEqual(["parked", "done"])
        expect(one.counters).toMatchObject({ unknown: 1, skipped: 0, parked: 1, messages: 1 })
        expect(yield* lettersOf(world)).toEqual([
          expect.objectContaining({ id: idOf(command), type: "Burn", reason: "unknown-type" })
        ])
        expect((yield* inboxOf(world)).length).toBe(1)
      })
    )
  })

  describe(`${name}: ids`, () => {
    const edges = (world: World, now: number) => {
      const { slotMs, slots } = world.store.window
      const slot = Math.floor(now / slotMs)
      return { oldest: (slot - slots) * slotMs, newest: (slot + 2) * slotMs - 1 }
    }

    inWorld("inside the window are claimed up to both of its edges", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const { oldest, newest } = edges(world, Date.now())

        const outcomes = yield* one.take(
          deposit("a", 1, { id: idDated(oldest) }),
          deposit("a", 2, { id: idDated(newest) })
        )

        expect(tags(outcomes)).toEqual(["done", "done"])
        expect((yield* inboxOf(world)).map((id) => timeOf(id))).toEqual([oldest, newest])
      })
    )

    inWorld("outside the window are parked and never claimed as new, too old and too new alike", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const { oldest, newest } = edges(world, Date.now())
        const old = deposit("a", 1, { id: idDated(oldest - 1) })
        const early = deposit("a", 2, { id: idDated(newest + 1) })

        const outcomes = yield* one.take(old, deposit("a", 4), early)

        expect(tags(outcomes)).toEqual(["parked", "done", "parked"])
        expect((yield* lettersOf(world)).map(({ id, reason }) => [id, reason])).toEqual([
          [idOf(old), "outside-window"],
          [idOf(early), "outside-window"]
        ])
        expect(yield* balances(world)).toEqual({ a: 4 })
        expect((yield* inboxOf(world)).length).toBe(1)
      })
    )

    inWorld("without a date are deduplicated like any other", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const foreign = deposit("a", 1, { id: crypto.randomUUID() })

        const outcomes = [...(yield* one.take(foreign, foreign)), ...(yield* one.take(foreign))]

        expect(tags(outcomes)).toEqual(["done", "duplicate", "duplicate"])
        expect(yield* balances(world)).toEqual({ a: 1 })
      })
    )
  })

  describe(`${name}: dead letters`, () => {
    /** A bank that can be repaired. */
    const broken = () => {
      const switches = {
        repaired: false,
        reason: "broken",
        decide: (_type: string, m: object) => {
          if (!switches.repaired && (amountOf(m) === 13 || textOf(m) === "bad")) throw new Error(switches.reason)
        }
      }
      return switches
    }

    const parkable: ReadonlyArray<readonly [reason: string, make: () => BrokerRecord]> = [
      ["a decision that throws", () => deposit("a", 13)],
      ["a row that is refused", () => deposit("a", -1)],
      ["a value that is cut", () => deposit("a", 1, { value: Buffer.from('{"account":"a"') })],
      ["no id", () => deposit("a", 1, { headers: { id: undefined } })],
      ["an unknown type", () => deposit("a", 1, { headers: { ce_type: "Burn" } })],
      ["an id outside the window", () => deposit("a", 1, { id: idDated(Date.now() - 400 * day) })]
    ]
    for (const [reason, make] of parkable) {
      inWorld(`of ${reason} are not changed by a redelivery`, (world) =>
        Effect.gen(function* () {
          const one = yield* replica(world, broken())
          const bad = make()
          yield* one.take(deposit("b", 1), bad)
          const before = yield* everything(world)

          const outcomes = [...(yield* one.take(bad)), ...(yield* one.take(bad, bad))]

          expect(before.letters.length).toBe(1)
          expect(tags(outcomes)).toEqual(["duplicate", "duplicate", "duplicate"])
          expect(one.counters).toMatchObject({ parked: 1, duplicates: 3 })
          expect(yield* everything(world)).toEqual(before)
        })
      )
    }

    inWorld("of touches that throw are not changed by a redelivery, nor is a decided message parked by one", (world) =>
      Effect.gen(function* () {
        let failing = true
        const one = yield* replica(world, {
          touch: () => {
            if (failing) throw new Error("no key")
          }
        })
        const parked = deposit("a", 1)
        const decided = deposit("a", 2)
        yield* one.take(parked)
        failing = false
        yield* one.take(decided)
        failing = true
        const before = yield* everything(world)

        const outcomes = yield* one.take(parked, decided)

        expect(tags(outcomes)).toEqual(["duplicate", "duplicate"])
        expect(yield* everything(world)).toEqual(before)
      })
    )

    inWorld("are not decided by a redelivery, even when they could be by now", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const bad = deposit("a", 13)
        yield* one.take(bad)
        switches.repaired = true
        const before = yield* everything(world)

        const outcomes = yield* one.take(bad)

        expect(tags(outcomes)).toEqual(["duplicate"])
        expect(yield* everything(world)).toEqual(before)
      })
    )

    inWorld("are decided by a redrive exactly once", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const bad = deposit("a", 13)
        yield* one.take(deposit("a", 1), bad)
        switches.repaired = true

        const first = yield* one.redrive(idOf(bad))
        const second = yield* one.redrive(idOf(bad))
        const redelivered = yield* one.take(bad)

        expect([fates(first), fates(second), tags(redelivered)]).toEqual([["decided"], ["unknown"], ["duplicate"]])
        expect(yield* balances(world)).toEqual({ a: 14 })
        expect(yield* lettersOf(world)).toEqual([])
        expect(yield* inboxOf(world)).toContain(idOf(bad))
      })
    )

    inWorld("that are still bad park again under the same id, with the new reason", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const bad = deposit("a", 13)
        const other = deposit("b", -1)
        yield* one.take(bad, other)
        switches.reason = "broken in another way"

        const outcomes = yield* one.redrive(idOf(bad), idOf(other))

        expect(fates(outcomes)).toEqual(["parked", "parked"])
        const letters = yield* lettersOf(world)
        expect(letters.map(({ id }) => id)).toEqual([idOf(bad), idOf(other)])
        expect(letters[0]?.detail).toContain("broken in another way")
        expect(yield* inboxOf(world)).toEqual([])
        expect(yield* balances(world)).toEqual({})
      })
    )

    inWorld("that are still unreadable keep the id that they were given", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        // headers that a database may give back in another order
        const bad = deposit("a", 1, {
          headers: { id: undefined, "zz-first": "1", a: "2", "m-m": [Buffer.from("3"), Buffer.from("4")] }
        })
        yield* one.take(bad)
        const [before] = yield* lettersOf(world)

        const outcomes = yield* one.redrive(before?.id ?? "")
        const redelivered = yield* one.take(bad)

        expect([fates(outcomes), tags(redelivered)]).toEqual([["parked"], ["duplicate"]])
        expect((yield* lettersOf(world)).map(({ id }) => id)).toEqual([before?.id ?? ""])
      })
    )

    inWorld("that two replicas redrive at once are decided once", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const other = yield* replica(world, switches)
        const bad = Array.from({ length: 5 }, () => deposit("a", 13))
        yield* one.take(...bad)
        switches.repaired = true

        const outcomes = yield* Effect.all([one.redrive(...bad.map(idOf)), other.redrive(...bad.map(idOf))], {
          concurrency: "unbounded"
        })

        expect(fates(outcomes.flat()).filter((fate) => fate === "decided").length).toBe(5)
        expect(yield* balances(world)).toEqual({ a: 65 })
        expect(yield* lettersOf(world)).toEqual([])
      })
    )

    inWorld("that one replica redrives twice at once are decided once", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const { broker } = makeInProcess({ partitions: 1 })
        const running = yield* run(bank(switches)).pipe(
          Effect.provideService(Store, world.store),
          Effect.provideService(Broker, broker)
        )
        const bad = Array.from({ length: 5 }, (_, n) => record(Deposit.of({ account: `a${n}`, amount: 13 })))
        const one = yield* replica(world, switches)
        yield* one.take(...bad)
        switches.repaired = true

        const { redrive } = running.deadLetters
        yield* Effect.all([redrive(bad.map(idOf)), redrive(bad.map(idOf).toReversed())], { concurrency: "unbounded" })

        expect(yield* balances(world)).toEqual({ a0: 13, a1: 13, a2: 13, a3: 13, a4: 13 })
        expect((yield* rowsOf(world, entries)).length).toBe(5)
        expect(yield* lettersOf(world)).toEqual([])
      })
    )

    inWorld("of a key hold back its later messages where the order carries state, and only there", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const [first, bad, second, third] = [note("p", "1"), note("p", "bad"), note("p", "2"), note("p", "3")]
        const elsewhere = [note("q", "1"), deposit("p", 1), deposit("a", 13), deposit("a", 1)]

        const outcomes = [...(yield* one.take(first, bad, second, ...elsewhere)), ...(yield* one.take(third))]
        const parked = yield* lettersOf(world)
        switches.repaired = true
        const redriven = yield* one.redrive(...parked.map(({ id }) => id))

        expect(tags(outcomes)).toEqual(["done", "parked", "parked", "done", "done", "parked", "done", "parked"])
        expect(parked.filter(({ type }) => type === "Noted").map(({ id, reason }) => [id, reason])).toEqual([
          [idOf(bad), "decision-failed"],
          [idOf(second), "behind"],
          [idOf(third), "behind"]
        ])
        expect(fates(redriven)).toEqual(["decided", "decided", "decided", "decided"])
        expect(yield* rowsOf(world, pages)).toContainEqual({ id: "p", text: "1bad23" })
        expect(yield* rowsOf(world, pages)).toContainEqual({ id: "q", text: "1" })
        expect(yield* balances(world)).toEqual({ p: 1, a: 14 })
        expect(tags(yield* one.take(note("p", "4")))).toEqual(["done"])
      })
    )

    inWorld("are copied to the topic's .dead, at most 64 kB of them, and kept whole", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const value = Buffer.alloc(1_048_576, "é\n")
        const key = Buffer.alloc(1_000_000, "k")
        const long = deposit("a", 1, { value, key })
        const small = deposit("a", 1, { value: Buffer.from("{") })

        const outcomes = yield* one.take(long, small)

        expect(tags(outcomes)).toEqual(["parked", "parked"])
        const copies = yield* outboxOf(world)
        expect(copies.map(({ topic, type, causation }) => [topic, type, causation])).toEqual([
          ["bank-commands.dead", "DeadLetter", idOf(long)],
          ["bank-commands.dead", "DeadLetter", idOf(small)]
        ])
        for (const copy of copies) {
          expect(Buffer.byteLength(JSON.stringify(copy.payload))).toBeLessThanOrEqual(65_536)
          expect(Buffer.byteLength(copy.key)).toBeLessThanOrEqual(1_024)
          expect(Buffer.byteLength(copy.correlation)).toBeLessThanOrEqual(1_024)
        }
        expect(copies[1]?.payload).toMatchObject({ consumer: "bank", messageId: idOf(small), valueBytes: 1 })
        const letters = yield* lettersOf(world)
        expect(letters.map(({ record }) => Buffer.compare(record.value ?? Buffer.alloc(0), value) === 0)).toEqual([
          true,
          false
        ])
        expect(Buffer.compare(letters[0]?.record.key ?? Buffer.alloc(0), key)).toBe(0)
      })
    )

    inWorld("may tell of their failure in any characters", (world) =>
      Effect.gen(function* () {
        const odd = [
          "\u0000",
          "\ud800",
          `${"x".repeat(3_999)}\u{1f600}`,
          `${"x".repeat(15_999)}\u{1f600}`,
          "\u001b".repeat(5_000)
        ]
        const one = yield* replica(world, {
          decide: (_type, m) => {
            const failure = new Error("odd")
            failure.stack = odd[Number(amountOf(m))] ?? "none"
            throw failure
          }
        })

        const outcomes = yield* one.take(...odd.map((_, n) => deposit("a", n)))

        expect(tags(outcomes)).toEqual(odd.map(() => "parked"))
        expect((yield* lettersOf(world)).length).toBe(odd.length)
        for (const { payload } of yield* outboxOf(world)) {
          expect(Buffer.byteLength(JSON.stringify(payload))).toBeLessThanOrEqual(65_536)
        }
      })
    )
  })

  describe(`${name}: an unreadable record`, () => {
    const bytes = (...values: ReadonlyArray<number>) => Buffer.from(values)
    const header = (name: string, value: string | Uint8Array | ReadonlyArray<Uint8Array> | undefined): Letter => ({
      headers: { [name]: value }
    })
    const json = (text: string): Letter => ({ value: Buffer.from(text) })
    const sorts: ReadonlyArray<readonly [sort: string, letter: Letter]> = [
      ["cut JSON", json('{"account":"a","amo')],
      ["a wrong schema", json('{"account":"a","amount":"many"}')],
      ["a missing field", json('{"account":"a"}')],
      ["JSON that is no object", json("7")],
      ["JSON that is 100,000 deep", json("[".repeat(100_000))],
      ["an empty value", json("")],
      ["no value", { value: null }],
      ["a value of 1 MB", json(JSON.stringify({ account: "a", amount: 1, memo: "m".repeat(1_048_576) }))],
      ["a value that is not UTF-8", { value: bytes(0x7b, 0xff, 0xfe, 0x7d) }],
      ["U+0000 in its value", json('{"account":"a\\u0000b","amount":1}')],
      ["U+0000 as a byte of its value", json('{"account":"a\u0000b","amount":1}')],
      ["half of a surrogate pair in its value", json('{"account":"a\\ud800b","amount":1}')],
      ["a number beyond all bounds", json('{"account":"a","amount":1e999}')],
      ["__proto__ instead of its fields", json('{"__proto__":{"account":"a","amount":1}}')],
      ["no key", { key: null }],
      ["a key that is not UTF-8", { key: bytes(0xc3, 0x28) }],
      ["a key with U+0000", { key: Buffer.from("a\u0000b") }],
      ["a key of 1 MB", { key: Buffer.from(crypto.getRandomValues(new Uint8Array(65_536)).toHex().repeat(8)) }],
      ["no id", header("id", undefined)],
      ["an id that is no UUID", header("id", "42")],
      ["an id in upper case", header("id", Bun.randomUUIDv7().toUpperCase())],
      ["an id with U+0000", header("id", `${Bun.randomUUIDv7().slice(0, 35)}\u0000`)],
      ["an id of 1 MB", header("id", "0".repeat(1_048_576))],
      ["two ids", header("id", [Buffer.from(Bun.randomUUIDv7()), Buffer.from(Bun.randomUUIDv7())])],
      ["no type", header("ce_type", undefined)],
      ["two types", header("ce_type", [Buffer.from("Deposit"), Buffer.from("Deposit")])],
      ["a type with a line break", header("ce_type", "Deposit\r\nX: y")],
      ["no correlation", header("correlation", undefined)],
      ["a correlation with U+0000", header("correlation", "a\u0000")],
      ["an unknown coordination", header("coordination", "anarchy")],
      ["a definition with a line break", header("definition", "save\nup")],
      ["a definition of 257 characters", header("definition", "d".repeat(257))],
      ["two definitions", header("definition", [Buffer.from("save-up"), Buffer.from("save-up")])],
      ["a header that is null", { headers: { traceparent: null }, value: null }],
      ["headers of 1 MB and no value", { ...header("junk", Buffer.alloc(1_048_576, 0xff)), value: null }],
      [
        "odd header names and no value",
        {
          headers: Object.fromEntries([
            ["__proto__", "x"],
            ["constructor", "y"],
            ["", "z"],
            ["n\u0000l", "0"]
          ]),
          value: null
        }
      ]
    ]
    for (const [sort, letter] of sorts) {
      inWorld(`with ${sort} is parked as it is, and the rest of its batch goes on`, (world) =>
        Effect.gen(function* () {
          const one = yield* replica(world)
          const bad = deposit("a", 1, letter)

          const outcomes = yield* one.take(deposit("b", 1), bad, deposit("b", 2))

          expect(tags(outcomes)).toEqual(["done", "parked", "done"])
          expect(yield* balances(world)).toEqual({ b: 3 })
          const [parked, ...more] = yield* lettersOf(world)
          expect(more).toEqual([])
          expect(parked?.reason).toBe("unreadable")
          expect(Buffer.from(parked?.record.value ?? "null").equals(Buffer.from(bad.value ?? "null"))).toBe(true)
          expect(Buffer.from(parked?.record.key ?? "null").equals(Buffer.from(bad.key ?? "null"))).toBe(true)
          expect(tags(yield* one.take(bad))).toEqual(["duplicate"])
          expect(fates(yield* one.redrive(parked?.id ?? ""))).toEqual(["parked"])
          expect(idsOf(yield* lettersOf(world))).toEqual([parked?.id ?? ""])
        })
      )
    }

    inWorld("of every sort at once does not keep a batch from its end", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const batch = sorts.flatMap(([, letter]) => [deposit("b", 1), deposit("a", 1, letter)])

        const outcomes = yield* one.take(...batch)

        expect(tags(outcomes)).toEqual(sorts.flatMap(() => ["done", "parked"]))
        expect(yield* balances(world)).toEqual({ b: sorts.length })
      })
    )

    inWorld("is told from a readable one whose text merely looks odd", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const odd = (memo: string) => record(Deposit.of({ account: "a", amount: 1, memo }))
        const escaped = deposit("a", 1, json('{"account":"a","amount":1,"memo":"\\ud83d\\ude00 \\\\u0000"}'))
        const proto = deposit("a", 1, json('{"account":"a","amount":1,"__proto__":{"amount":9},"more":[]}'))

        const outcomes = yield* one.take(odd("\\u0000"), odd("\u{1f600}'\"\\"), escaped, proto)

        expect(tags(outcomes)).toEqual(["done", "done", "done", "done"])
        expect(yield* balances(world)).toEqual({ a: 4 })
      })
    )
  })

  describe(`${name}: timers`, () => {
    inWorld("give a due row to one of two replicas, once", (world) =>
      Effect.gen(function* () {
        const meet = meeting(world, 2)
        const one = yield* replica(world)
        const [first, second] = [yield* replica(world, {}, meet), yield* replica(world, {}, meet)]
        yield* one.take(
          ...Array.from({ length: 20 }, (_, n) => openAccount(`due-${n}`, 0, -1_000)),
          openAccount("later", 0, 3_600_000),
          openAccount("never", 0)
        )

        const results = yield* Effect.all([first.due(new Set(), 12), second.due(new Set(), 12)], {
          concurrency: "unbounded"
        })

        const decided = results.map((result) => result.decided)
        expect(decided.toSorted((a, b) => a - b)).toEqual([8, 12])
        const after = yield* balances(world)
        expect(Object.keys(after).length).toBe(22)
        expect([after["later"], after["never"]]).toEqual([0, 0])
        expect(Object.entries(after).filter(([id, balance]) => id.startsWith("due") && balance === 1).length).toBe(20)
        expect((yield* rowsOf(world, entries)).length).toBe(20)
        expect(yield* one.due()).toEqual({ decided: 0, failed: [], left: [] })
      })
    )

    inWorld("leave a row due whose decision throws, and decide the others", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, {
          decide: (type, row) => {
            if (type === "due" && "id" in row && row.id === "b") throw new Error("no")
          }
        })
        yield* one.take(openAccount("a", 0, -3_000), openAccount("b", 0, -2_000), openAccount("c", 0, -1_000))

        const first = yield* one.due()
        const second = yield* one.due(new Set(["b"]))

        expect(first.decided).toBe(2)
        expect(first.failed).toEqual([{ key: "b", detail: expect.stringContaining("Error: no") }])
        expect(second).toEqual({ decided: 0, failed: [], left: [] })
        expect(yield* balances(world)).toEqual({ a: 1, b: 0, c: 1 })
      })
    )

    inWorld("leave a row due that another build must decide, to a replica of that build", (world) =>
      Effect.gen(function* () {
        const old = yield* replica(world, {
          decide: (type, row) => {
            if (type === "due" && "id" in row && row.id === "b") throw new OtherBuild("b is new")
          }
        })
        const next = yield* replica(world)
        yield* old.take(openAccount("a", 0, -3_000), openAccount("b", 0, -2_000), openAccount("c", 0, -1_000))

        expect(yield* old.due()).toEqual({
          decided: 2,
          failed: [],
          left: [{ key: "b", detail: "b is new" }]
        })
        expect(yield* next.due()).toEqual({ decided: 1, failed: [], left: [] })
        expect(yield* balances(world)).toEqual({ a: 1, b: 1, c: 1 })
      })
    )

    inWorld("take as many rows as they may beside those that are passed over", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        yield* one.take(openAccount("a", 0, -4_000), openAccount("b'\"", 0, -3_000), openAccount("c", 0, -2_000))

        const { decided } = yield* one.due(new Set(["a", "b'\""]), 1)

        expect(decided).toBe(1)
        expect(yield* balances(world)).toEqual({ a: 0, "b'\"": 0, c: 1 })
      })
    )

    inWorld("undo all that a decision put when a part of it can't be", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, { interest: (account) => (account === "b" ? 0.5 : 1) })
        yield* one.take(openAccount("a", 0, -3_000), openAccount("b", 0, -2_000), openAccount("c", 0, -1_000))

        const { decided, failed } = yield* one.due()

        expect([decided, failed.map(({ key }) => key)]).toEqual([2, ["b"]])
        expect(yield* balances(world)).toEqual({ a: 1, b: 0, c: 1 })
      })
    )

    inWorld("find the next row that falls due", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const none = yield* world.store.nextDue(accounts)
        yield* one.take(openAccount("a", 0, 50_000), openAccount("b", 0, 20_000), openAccount("c", 0))

        const next = yield* world.store.nextDue(accounts)

        expect(none).toBeNull()
        expect(Math.abs((next?.getTime() ?? 0) - Date.now() - 20_000)).toBeLessThan(5_000)
      })
    )
  })

  describe(`${name}: requests`, () => {
    const ask = (account: string, balance: number) => ({ account, balance })

    inWorld("are answered after their commit, those that came together by one pass", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const requests = yield* one.requests

        const replies = yield* Effect.all(
          Array.from({ length: 20 }, (_, n) => requests.submit(Open, ask(`a${n}`, n))),
          { concurrency: "unbounded" }
        )

        expect(replies).toEqual(Array.from({ length: 20 }, (_, n) => ask(`a${n}`, n)))
        expect(one.counters.requests).toBe(20)
        expect(one.counters.passes).toBeLessThan(5)
        expect(Object.keys(yield* balances(world)).length).toBe(20)
      })
    )

    inWorld("say which saga they are about, and their messages say it too", (world) =>
      Effect.gen(function* () {
        const requests = yield* (yield* replica(world)).requests

        yield* requests.submit(Open, ask("a", 5), { definition: "save-up" })
        yield* requests.submit(Open, ask("b", 5))

        expect((yield* outboxOf(world)).map(({ key, definition }) => [key, definition])).toEqual([
          ["a", "save-up"],
          ["b", null]
        ])
      })
    )

    inWorld("that name a saga which no header can hold are refused, and change nothing", (world) =>
      Effect.gen(function* () {
        const requests = yield* (yield* replica(world)).requests

        const refused = yield* Effect.flip(requests.submit(Open, ask("a", 5), { definition: "é" }))

        expect(refused._tag).toBe("RequestFailed")
        expect(yield* balances(world)).toEqual({})
      })
    )

    inWorld("of one key and body get the stored answer, and take effect once", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const requests = yield* one.requests
        const first = yield* requests.submit(Open, ask("a", 5), { idempotencyKey: "k" })
        yield* one.take(deposit("a", 100))

        const again = yield* requests.submit(Open, ask("a", 5), { idempotencyKey: "k" })

        expect([first, again]).toEqual([ask("a", 5), ask("a", 5)])
        expect((yield* outboxOf(world)).length).toBe(2)
      })
    )

    inWorld("of one key and another body are refused, and change nothing", (world) =>
      Effect.gen(function* () {
        const requests = yield* (yield* replica(world)).requests
        yield* requests.submit(Open, ask("a", 5), { idempotencyKey: "k" })
        const before = yield* everything(world)

        const refused = yield* Effect.flip(requests.submit(Open, ask("b", 5), { idempotencyKey: "k" }))

        expect(refused._tag).toBe("KeyReused")
        expect(yield* everything(world)).toEqual(before)
      })
    )

    inWorld("of one key in one batch are decided once: the same is answered, the other refused", (world) =>
      Effect.gen(function* () {
        const requests = yield* (yield* replica(world)).requests
        const keyed = { idempotencyKey: "k" }

        const results = yield* Effect.all(
          [
            Effect.exit(requests.submit(Open, ask("a", 5), keyed)),
            Effect.exit(requests.submit(Open, ask("a", 5), keyed)),
            Effect.exit(requests.submit(Open, ask("b", 6), keyed))
          ],
          { concurrency: "unbounded" }
        )

        expect(tags(results)).toEqual(["Success", "Success", "Failure"])
        expect(JSON.stringify(results[2])).toContain("KeyReused")
        expect(yield* balances(world)).toEqual({ a: 5 })
      })
    )

    inWorld("of one key at two replicas at once are decided once, and answered alike", (world) =>
      Effect.gen(function* () {
        const meet = meeting(world, 2)
        const one = yield* (yield* replica(world, {}, meet)).requests
        const other = yield* (yield* replica(world, {}, meet)).requests
        // each replica made up an id of its own before it submitted
        const keyed = { idempotencyKey: "k", fingerprint: "the client's own words" }

        const [first, second] = yield* Effect.all(
          [one.submit(Open, ask("a", 5), keyed), other.submit(Open, ask("b", 5), keyed)],
          { concurrency: "unbounded" }
        )

        expect(first).toEqual(second)
        expect(yield* balances(world)).toEqual({ [first.account]: 5 })
        expect((yield* outboxOf(world)).length).toBe(1)
      })
    )

    inWorld("whose COMMIT may have happened are answered from what was stored", (world) =>
      Effect.gen(function* () {
        const requests = yield* (yield* replica(world, {}, firstAnswerLost())).requests

        const reply = yield* requests.submit(Open, ask("a", 5))

        expect(reply).toEqual(ask("a", 5))
        expect((yield* outboxOf(world)).length).toBe(1)
      })
    )

    inWorld("may be answered with nothing, twice the same", (world) =>
      Effect.gen(function* () {
        const requests = yield* (yield* replica(world)).requests

        const first = yield* requests.submit(Forget, { account: "a" }, { idempotencyKey: "k" })
        const second = yield* requests.submit(Forget, { account: "a" }, { idempotencyKey: "k" })

        expect([first, second]).toEqual([null, null])
      })
    )

    inWorld("beyond what the queue holds are refused at once, and the others are answered", (world) =>
      Effect.gen(function* () {
        const open = Deferred.makeUnsafe<void>()
        const held: Wrap = (lane) => ({
          begin: (opening) => {
            begun = true
            return Effect.andThen(Deferred.await(open), lane.begin(opening))
          }
        })
        let begun = false
        const requests = yield* (yield* replica(world, {}, held)).requests
        const bound = 10_000
        const first = yield* Effect.forkChild(requests.submit(Open, ask("first", 1)))
        yield* Effect.promise(() => until("a pass", 5_000, () => begun, 1))
        const waiting = yield* Effect.forEach(Array.from({ length: bound }), (_, n) =>
          Effect.forkChild(requests.submit(Open, ask(`a${n}`, 1)))
        )
        yield* Effect.yieldNow

        const refused = yield* Effect.flip(requests.submit(Open, ask("last", 1)))
        yield* Effect.forEach(waiting.slice(1), Fiber.interrupt)
        yield* Deferred.done(open, Exit.void)

        expect(refused._tag).toBe("QueueFull")
        expect(yield* Fiber.join(first)).toEqual(ask("first", 1))
      })
    )

    inWorld("that are at fault fail alone, write nothing and may be asked again", (world) =>
      Effect.gen(function* () {
        let repaired = false
        const one = yield* replica(world, {
          decide: (_type, m) => {
            if (!repaired && "account" in m && m.account === "bad") throw new Error("no")
          }
        })
        const requests = yield* one.requests
        const keyed = { idempotencyKey: "k" }

        const results = yield* Effect.all(
          [
            Effect.exit(requests.submit(Open, ask("a", 1))),
            Effect.exit(requests.submit(Open, ask("bad", 1), keyed)),
            Effect.exit(requests.submit(Open, ask("b", -1))),
            Effect.exit(requests.submit(Open, ask("c", 1)))
          ],
          { concurrency: "unbounded" }
        )
        repaired = true
        const again = yield* requests.submit(Open, ask("bad", 1), keyed)

        expect(tags(results)).toEqual(["Success", "Failure", "Failure", "Success"])
        expect(again).toEqual(ask("bad", 1))
        expect(yield* balances(world)).toEqual({ a: 1, bad: 1, c: 1 })
        expect(yield* lettersOf(world)).toEqual([])
      })
    )
  })

  describe(`${name}: a participant`, () => {
    const running = (world: World, switches: Switches) =>
      Effect.gen(function* () {
        const { broker } = makeInProcess({ partitions: 3 })
        const participant = yield* run(bank(switches)).pipe(
          Effect.provideService(Store, world.store),
          Effect.provideService(Broker, broker)
        )
        const publish = (messages: ReadonlyArray<Outgoing>) =>
          broker.publish(
            messages.map((message) => {
              const { topic, key, value, headers } = record(message)
              return {
                topic,
                key: String(key),
                value: value ?? "",
                headers: Object.fromEntries(Object.entries(headers).map(([name, text]) => [name, String(text)]))
              }
            })
          )
        const counted = (name: keyof Counters, at: number) =>
          Effect.promise(() => until(`${at} ${name}`, 10_000, () => participant.counters()[name] >= at, 2))
        return { participant, publish, counted }
      })

    const poison = (count: number) =>
      Array.from({ length: count }, (_, n) => Deposit.of({ account: `p${n}`, amount: 13 }))
    const unlucky: Switches = {
      decide: (_type, m) => {
        if (amountOf(m) === 13) throw new Error("unlucky")
      }
    }

    inWorld("that parks most of what it is given stops, and is not ready", (world) =>
      Effect.gen(function* () {
        const { participant, publish, counted } = yield* running(world, unlucky)

        yield* publish(poison(12))
        yield* counted("parked", 12)
        const atTwelve = participant.health().ready
        yield* publish(poison(12))
        const stopped = yield* Effect.flip(participant.stopped)

        expect(atTwelve).toBe(true)
        expect(stopped).toMatchObject({ participant: "bank", restart: false })
        expect(stopped.message).toContain("unlucky")
        expect(participant.health().ready).toBe(false)
        expect(participant.counters().parked).toBe(24)
      })
    )

    inWorld("that parks a few goes on, however alone they come", (world) =>
      Effect.gen(function* () {
        const { participant, publish, counted } = yield* running(world, unlucky)

        for (const n of [1, 2, 3, 4, 5]) {
          yield* publish(poison(1))
          yield* counted("parked", n)
        }
        yield* publish([Deposit.of({ account: "a", amount: 1 })])
        yield* counted("messages", 1)

        expect(participant.health()).toEqual({ ready: true, reasons: [] })
        expect(yield* balances(world)).toEqual({ a: 1 })
      })
    )

    inWorld("is not stopped by poison that comes again and again", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const bad = Array.from({ length: 30 }, (_, n) => deposit(`b${n}`, 1, { value: Buffer.from("{") }))
        yield* one.take(...bad)

        const outcomes = yield* one.take(...bad)

        expect(tags(outcomes)).toEqual(bad.map(() => "duplicate"))
      })
    )

    inWorld("passes over a due row that it left to another build, which then decides it", (world) =>
      Effect.gen(function* () {
        let looks = 0
        const { publish, counted } = yield* running(world, {
          decide: (type, row) => {
            if (type !== "due" || !("id" in row) || row.id !== "b") return
            looks++
            throw new OtherBuild("b is new")
          }
        })
        const due = (account: string) => OpenAccount.of({ account, balance: 0, dueInMs: -1_000 })

        yield* publish([due("b"), due("a")])
        yield* counted("timers", 1)
        yield* publish([due("c")])
        yield* counted("timers", 2)
        const next = yield* (yield* replica(world)).due()

        expect(looks).toBe(1)
        expect(next.decided).toBe(1)
        expect(yield* balances(world)).toEqual({ a: 1, b: 1, c: 1 })
      })
    )

    inWorld("lets a due row that is refused not hold up the others", (world) =>
      Effect.gen(function* () {
        const { participant, publish, counted } = yield* running(world, {})
        const due = (account: string, balance: number, dueInMs: number) => OpenAccount.of({ account, balance, dueInMs })

        // one more does not fit into the column
        yield* publish([due("a", 0, -3_000), due("b", greatestInt, -2_000), due("c", 0, -1_000)])
        yield* counted("timers", 2)

        expect(yield* balances(world)).toEqual({ a: 1, b: greatestInt, c: 1 })
        expect(participant.health().ready).toBe(true)
      })
    )

    inWorld("lets what is due be decided by its own loop", (world) =>
      Effect.gen(function* () {
        const { publish, counted } = yield* running(world, {})

        yield* publish([OpenAccount.of({ account: "a", balance: 1, dueInMs: -1 })])
        yield* counted("timers", 1)

        expect(yield* balances(world)).toEqual({ a: 2 })
      })
    )

    inWorld("sends a message that is too long for a topic nowhere", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)

        const outcomes = yield* one.take(
          deposit("a", 1),
          record(Report.of({ account: "a", figures: 200_000 })),
          deposit("a", 2)
        )

        expect(tags(outcomes)).toEqual(["done", "parked", "done"])
        expect((yield* lettersOf(world))[0]?.detail).toContain("more than the 262144")
      })
    )
  })
}
