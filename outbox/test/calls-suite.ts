/**
 * What every store promises about calls to the outside, case by case, through the lane and the pass that production runs.
 * A process dies here by losing its store at a chosen point; one that is really killed is in `calls.postgres.test.ts`.
 */
import { describe, expect } from "bun:test"
import { Effect, Exit, Scope } from "effect"
import { meeting, replicaOf, scenario, type OpenWorld, type World } from "./store-suite.ts"
import {
  Charge,
  Insist,
  InsistNow,
  NotPaid,
  Paid,
  Pay,
  payments,
  Refund,
  till,
  Undo,
  Undone,
  type Switches
} from "./till.ts"
import { record } from "./bank.ts"
import { Broker } from "../broker/broker.ts"
import { makeInProcess } from "../broker/in-process.ts"
import type { Attempt, CallerOptions } from "../calls/caller.ts"
import type { Participant } from "../participant.ts"
import { runDue } from "../pass/due.ts"
import { run } from "../runtime.ts"
import { calls } from "../store/calls.ts"
import { Store, StoreUnavailable, type CallsLane, type Transaction } from "../store/store.ts"
import type { Tables } from "../table.ts"
import { until } from "../../stack/wait.ts"

/** The card processor outside: it knows an idempotency key when it meets it again. */
export class Outside {
  readonly charges = new Map<string, number>()
  readonly refunds = new Set<string>()
  /** What it was asked, in order. */
  readonly asked: Array<string> = []

  charge(key: string, amount: number): ChargeResult {
    this.asked.push(key)
    if (amount > 100) return { status: "REFUSED", reason: "TOO_MUCH" }
    this.charges.set(key, amount)
    return { status: "CHARGED", charge: `c-${key}` }
  }

  refund(key: string) {
    this.asked.push(key)
    this.refunds.add(key)
    return { refunded: true }
  }
}

type ChargeResult =
  { readonly status: "CHARGED"; readonly charge: string } | { readonly status: "REFUSED"; readonly reason: string }
type Options = CallerOptions<{ readonly amount: number }, ChargeResult>
type CarryCharge = Options["carry"]

export interface Process {
  readonly switches?: Switches
  readonly carry?: CarryCharge
  readonly options?: Partial<Options>
  readonly wrap?: (lane: CallsLane) => CallsLane
}

const quick = { deadline: "5 seconds", concurrency: 4, pause: { first: "2 millis", most: "10 millis" } } as const

/** A process of the till that carries calls out. Closing it is shutting down in good order. */
export const startTill = Effect.fnUntraced(function* (world: World, outside: Outside, how: Process = {}) {
  const { broker } = makeInProcess({ partitions: 1 })
  const { wrap = (lane) => lane } = how
  const store = Store.of({
    ...world.store,
    callsLane: (name, tables) => Effect.map(world.store.callsLane(name, tables), wrap)
  })
  const carry: CarryCharge =
    how.carry ?? (({ amount }, { idempotencyKey }) => Promise.resolve(outside.charge(idempotencyKey, amount)))
  const callers = [
    Charge.caller({ carry, ...quick, ...how.options }),
    Refund.caller({
      carry: (_request, { idempotencyKey }) => Effect.sync(() => outside.refund(idempotencyKey)),
      ...quick
    })
  ]
  const scope = yield* Effect.acquireRelease(Scope.make(), (made) => Scope.close(made, Exit.void))
  const running = yield* run(till(how.switches), { callers }).pipe(
    Effect.provideService(Store, store),
    Effect.provideService(Broker, broker),
    Scope.provide(scope)
  )
  return { running, close: Scope.close(scope, Exit.void) }
})

const asTables = (participant: ReturnType<typeof till>) => participant as unknown as Participant<Tables>

/** A process of the till that decides messages and carries nothing out. */
export const asker = (world: World) => replicaOf(asTables(till()), world)

export const pay = (order: string, amount = 10) => record(Pay.of({ order, amount }))
const insist = (order: string, amount: number) => record(Insist.of({ order, amount }))
const undo = (order: string) => record(Undo.of({ order }))

const statuses = async (world: World): Promise<Record<string, string>> =>
  Object.fromEntries(
    (await world.rows(payments)).map((row) => {
      const { id, status } = payments.decode(row)
      return [id, status]
    })
  )
const statusesOf = (world: World) => Effect.promise(() => statuses(world))

const callsOf = (world: World) =>
  Effect.promise(async () =>
    (await world.rows(calls)).map((row) => calls.decode(row)).toSorted((a, b) => a.id.localeCompare(b.id))
  )
const callOf = (world: World, id: string) => Effect.map(callsOf(world), (all) => all.find((call) => call.id === id))

const sentOf = (world: World) =>
  Effect.promise(async () => (await world.outbox()).map(({ type, payload }) => [type, payload]))

const eventually = (what: string, probe: () => boolean | Promise<boolean>) =>
  Effect.promise(() => until(what, 10_000, probe, 2))

/** Waits until the orders have these statuses. */
export const become = (world: World, wanted: Readonly<Record<string, string>>) =>
  eventually(JSON.stringify(wanted), async () => Bun.deepEquals(await statuses(world), wanted))

const tags = (outcomes: ReadonlyArray<{ readonly _tag: string }>) => outcomes.map((outcome) => outcome._tag)

const unavailable = new StoreUnavailable({ message: "it is dead" })

/** A lane of a process that dies: from then on nothing that it wants reaches the store. */
const mortal = () => {
  const death = { dead: false, atCommit: false }
  const unlessDead = <A, E>(effect: Effect.Effect<A, E | StoreUnavailable>): Effect.Effect<A, E | StoreUnavailable> =>
    Effect.suspend(() => (death.dead ? Effect.fail(unavailable) : effect))
  const wrap = (lane: CallsLane): CallsLane => ({
    take: (...parameters) => unlessDead(lane.take(...parameters)),
    postpone: (postponed) => unlessDead(lane.postpone(postponed)),
    begin: (opening) =>
      unlessDead(
        Effect.map(lane.begin(opening), (transaction): Transaction => ({
          ...transaction,
          commit: (writes) =>
            Effect.suspend(() => {
              if (!death.atCommit) return transaction.commit(writes)
              death.dead = true
              return Effect.andThen(transaction.commit(writes), Effect.fail(unavailable))
            })
        }))
      )
  })
  return { death, wrap }
}

/** Never answers, and says when it was aborted. */
const hanging =
  (aborted: Array<string>): CarryCharge =>
  (_request, { idempotencyKey, signal }: Attempt) => {
    signal.addEventListener("abort", () => aborted.push(idempotencyKey))
    return new Promise(() => {})
  }

const short = { deadline: "20 millis", lease: "50 millis" } as const
const minute = 60_000
const saga = { correlation: "saga-1", definition: "sell" } as const

/** Runs the suite; `open` makes an empty store for each case. */
export const callsSuite = (name: string, open: OpenWorld): void => {
  const inWorld = (sentence: string, body: (world: World) => Effect.Effect<void, unknown, Scope.Scope>): void =>
    scenario(sentence, Effect.flatMap(open, body))

  describe(`${name}: a call is asked for`, () => {
    inWorld("in the pass that writes its row, with what it is asked by", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const asking = record({ ...Pay.of({ order: "o-1", amount: 10 }), ...saga })

        yield* one.take(asking)

        expect(yield* statusesOf(world)).toEqual({ "o-1": "PENDING" })
        expect(yield* callsOf(world)).toEqual([
          expect.objectContaining({
            id: "charge:o-1",
            kind: "charge",
            key: "o-1",
            request: { amount: 10 },
            result: null,
            attempt: 0,
            done_at: null,
            ...saga,
            causation: String(asking.headers["id"])
          })
        ])
      })
    )

    inWorld("or not at all: a pass that fails leaves no call", (world) =>
      Effect.gen(function* () {
        const failing = yield* replicaOf(asTables(till()), world, (lane) => ({
          begin: (opening) =>
            Effect.map(lane.begin(opening), (transaction) => ({
              ...transaction,
              commit: () => Effect.fail(unavailable)
            }))
        }))

        const outcome = yield* Effect.exit(failing.tryOnce(pay("o-1")))

        expect(Exit.isFailure(outcome)).toBe(true)
        expect(yield* callsOf(world)).toEqual([])
      })
    )

    inWorld("by a row that fell due", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        yield* one.take(record(Pay.of({ order: "o-1", amount: 10, dueInMs: -1 })))
        const participant = asTables(till())
        const lane = yield* world.store.lane("timers", [payments])
        const handler = participant.timers.get("payments")
        if (handler === undefined) throw new Error("the till has no timer")
        const environment = {
          consumer: "till",
          tables: participant.tables,
          window: world.store.window,
          calls: participant.calls,
          newId: () => Bun.randomUUIDv7(),
          committed: () => {},
          lane
        }

        yield* runDue(environment, { _tag: "due", table: payments, handler, limit: 10 }, new Set())

        expect(yield* statusesOf(world)).toEqual({ "o-1": "PENDING" })
        expect(yield* callOf(world, "charge:o-1")).toMatchObject({
          causation: null,
          correlation: null,
          definition: null
        })
      })
    )

    inWorld("once, however often and in however many passes", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)

        const outcomes = yield* one.take(insist("o-1", 10), insist("o-1", 10), insist("o-2", 10))
        const again = yield* one.take(insist("o-1", 10))

        expect(tags([...outcomes, ...again])).toEqual(["done", "done", "done", "done"])
        expect((yield* callsOf(world)).map(({ id }) => id)).toEqual(["charge:o-1", "charge:o-2"])
      })
    )

    inWorld("once by two replicas at the same time", (world) =>
      Effect.gen(function* () {
        const meet = meeting(world, 2)
        const one = yield* replicaOf(asTables(till()), world, meet)
        const other = yield* replicaOf(asTables(till()), world, meet)

        const outcomes = yield* Effect.all([one.take(insist("o-1", 10)), other.take(insist("o-1", 10))], {
          concurrency: "unbounded"
        })

        expect(tags(outcomes.flat())).toEqual(["done", "done"])
        expect((yield* callsOf(world)).length).toBe(1)
      })
    )

    inWorld("not again when it is done", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        yield* one.take(pay("o-1"))
        const { close } = yield* startTill(world, outside)
        yield* become(world, { "o-1": "PAID" })
        yield* close
        const before = yield* callsOf(world)

        const outcomes = yield* one.take(insist("o-1", 10))

        expect(tags(outcomes)).toEqual(["done"])
        expect(yield* callsOf(world)).toEqual(before)
      })
    )

    inWorld(
      "for something else under its key is refused: the message is parked alone, the call stays as it was",
      (world) =>
        Effect.gen(function* () {
          const one = yield* asker(world)

          const inOnePass = yield* one.take(insist("o-1", 10), insist("o-1", 11), insist("o-2", 10))
          const later = yield* one.take(insist("o-3", 10), insist("o-1", 12), insist("o-4", 10))

          expect(tags([...inOnePass, ...later])).toEqual(["done", "parked", "done", "done", "parked", "done"])
          expect((yield* callsOf(world)).map(({ key, request }) => [key, request])).toEqual(
            ["o-1", "o-2", "o-3", "o-4"].map((key) => [key, { amount: 10 }])
          )
          const letters = yield* world.store.deadLetters("till", { limit: 10 })
          for (const { detail } of letters) expect(detail).toContain("was asked for with another request before")
        })
    )

    inWorld("for something else by a request fails the request", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const requests = yield* one.requests
        yield* requests.submit(InsistNow, { order: "o-1", amount: 10 })

        const failed = yield* Effect.flip(requests.submit(InsistNow, { order: "o-1", amount: 11 }))

        expect(failed._tag).toBe("RequestFailed")
        expect((yield* callsOf(world)).map(({ request }) => request)).toEqual([{ amount: 10 }])
      })
    )

    inWorld("under a key that no header can carry parks the message", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)

        const outcomes = yield* one.take(insist("ö", 10), insist("x".repeat(300), 10), insist("o-1", 10))

        expect(tags(outcomes)).toEqual(["parked", "parked", "done"])
      })
    )
  })

  describe(`${name}: a call is carried out`, () => {
    inWorld("and its result decided once, by a message like any", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        const asking = record({ ...Pay.of({ order: "o-1", amount: 10 }), ...saga })
        yield* one.take(asking)

        const { running } = yield* startTill(world, outside)
        yield* become(world, { "o-1": "PAID" })

        expect(outside.asked).toEqual(["charge:o-1"])
        expect(yield* Effect.promise(() => world.outbox())).toEqual([
          expect.objectContaining({
            type: "Paid",
            payload: { order: "o-1", charge: "c-charge:o-1" },
            ...saga,
            causation: String(asking.headers["id"])
          })
        ])
        expect(yield* callOf(world, "charge:o-1")).toMatchObject({
          result: { status: "CHARGED", charge: "c-charge:o-1" },
          due_at: null,
          done_at: expect.any(Date)
        })
        expect(running.counters()).toMatchObject({ calls: 1, call_attempts: 1, call_failures: 0, duplicates: 0 })
      })
    )

    inWorld("and refused for good: that is a result", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        yield* one.take(pay("o-1", 1_000))

        yield* startTill(world, outside)
        yield* become(world, { "o-1": "REFUSED" })

        expect(outside.asked.length).toBe(1)
        expect(yield* sentOf(world)).toEqual([[NotPaid.type, { order: "o-1", reason: "TOO_MUCH" }]])
      })
    )

    inWorld("again and again while it comes to no result, and the others meanwhile", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        let down = true
        const { running } = yield* startTill(world, outside, {
          options: { concurrency: 1 },
          carry: async ({ amount }, { key, idempotencyKey }) => {
            if (key === "o-1" && down) throw new Error("the line is dead")
            // what the contract does not know is no result either
            if (key === "o-2" && down) return JSON.parse('{"status":"MAYBE"}')
            return outside.charge(idempotencyKey, amount)
          }
        })

        yield* one.take(pay("o-1"), pay("o-2"), pay("o-3"))
        yield* become(world, { "o-1": "PENDING", "o-2": "PENDING", "o-3": "PAID" })
        yield* eventually("five failures", () => running.counters().call_failures >= 5)
        const failing = yield* callOf(world, "charge:o-1")
        const strange = yield* callOf(world, "charge:o-2")
        down = false
        yield* become(world, { "o-1": "PAID", "o-2": "PAID", "o-3": "PAID" })

        expect(failing?.last_error).toContain("the line is dead")
        expect(strange?.last_error).toContain("breaks its contract")
        expect((yield* sentOf(world)).length).toBe(3)
      })
    )

    inWorld("until its deadline: then it is aborted and tried again", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        const aborted: Array<string> = []
        const hang = hanging(aborted)
        yield* one.take(pay("o-1"))

        yield* startTill(world, outside, {
          options: { deadline: "20 millis" },
          carry: (request, attempt) =>
            attempt.attempt < 3 ? hang(request, attempt) : Promise.resolve(outside.charge(attempt.key, request.amount))
        })
        yield* become(world, { "o-1": "PAID" })

        expect(aborted).toEqual(["charge:o-1", "charge:o-1"])
        expect((yield* callOf(world, "charge:o-1"))?.last_error).toBe("no result within 20 ms")
      })
    )

    inWorld("with no more at once than it may, and by one replica only", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        const orders = Array.from({ length: 60 }, (_, n) => `o-${n}`)
        const concurrency = 3
        let most = 0
        let asked = 0
        const last = Promise.withResolvers<void>()
        const started = performance.now()
        const replica = () => {
          let underWay = 0
          let full = Promise.withResolvers<void>()
          // answered when all places are taken, or when no more will come
          const carry: CarryCharge = async ({ amount }, { idempotencyKey }) => {
            most = Math.max(most, ++underWay)
            if (++asked === orders.length) last.resolve()
            const { promise, resolve } = full
            if (underWay === concurrency) {
              full = Promise.withResolvers()
              resolve()
            }
            await Promise.race([promise, last.promise])
            underWay--
            return outside.charge(idempotencyKey, amount)
          }
          return startTill(world, outside, { carry, options: { concurrency } })
        }
        yield* one.take(...orders.map((order) => pay(order)))

        yield* replica()
        yield* replica()
        yield* become(world, Object.fromEntries(orders.map((order) => [order, "PAID"])))

        expect(most).toBe(concurrency)
        // a place that gets free is taken at once: not four times a second
        expect(performance.now() - started).toBeLessThan(2_000)
        expect(outside.asked.toSorted()).toEqual(orders.map((order) => `charge:${order}`).toSorted())
      })
    )

    inWorld("at once when the process itself asked for it", (world) =>
      Effect.gen(function* () {
        const outside = new Outside()
        const { running } = yield* startTill(world, outside)
        const started = performance.now()

        for (let n = 1; n <= 10; n++) {
          yield* running.submit(InsistNow, { order: `o-${n}`, amount: 10 })
          yield* eventually(`${n} calls`, () => running.counters().calls >= n)
        }

        // it looks by itself four times a second
        expect(performance.now() - started).toBeLessThan(1_250)
      })
    )

    inWorld("while an undo comes: it is undone once the result is known", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        let answer = () => {}
        const open = new Promise<void>((resolve) => (answer = resolve))
        yield* one.take(pay("o-1"), pay("o-2", 1_000))
        yield* startTill(world, outside, {
          carry: async ({ amount }, { idempotencyKey }) => {
            await open
            return outside.charge(idempotencyKey, amount)
          }
        })

        yield* one.take(undo("o-1"), undo("o-2"))
        const meanwhile = yield* statusesOf(world)
        answer()
        yield* become(world, { "o-1": "UNDONE", "o-2": "UNDONE" })

        expect(meanwhile).toEqual({ "o-1": "UNDOING", "o-2": "UNDOING" })
        expect([...outside.refunds]).toEqual(["refund:o-1"])
        expect((yield* sentOf(world)).map(([type]) => type)).toEqual([Undone.type, Undone.type])
      })
    )
  })

  describe(`${name}: a call whose process dies`, () => {
    /** Lets the first process get to its point and die, and a second one do the rest. */
    const afterDeath = Effect.fnUntraced(function* (world: World, first: Process, dead: () => boolean) {
      const one = yield* asker(world)
      const outside = new Outside()
      yield* one.take(pay("o-1"))
      const victim = yield* startTill(world, outside, { ...first, options: short })
      yield* eventually("its death", dead)
      yield* victim.close
      return { one, outside }
    })

    inWorld("before it was carried out is carried out when the lease is over", (world) =>
      Effect.gen(function* () {
        const { death, wrap } = mortal()
        const { outside } = yield* afterDeath(
          world,
          {
            wrap,
            carry: () => {
              death.dead = true
              return new Promise(() => {})
            }
          },
          () => death.dead
        )
        const left = yield* statusesOf(world)

        yield* startTill(world, outside)
        yield* become(world, { "o-1": "PAID" })

        expect(left).toEqual({ "o-1": "PENDING" })
        expect(outside.asked).toEqual(["charge:o-1"])
      })
    )

    inWorld("after it took effect, before the result is stored, is carried out again under the same key", (world) =>
      Effect.gen(function* () {
        const { death, wrap } = mortal()
        const outside = new Outside()
        yield* afterDeath(
          world,
          {
            wrap,
            carry: async ({ amount }, { idempotencyKey }) => {
              death.dead = true
              return outside.charge(idempotencyKey, amount)
            }
          },
          () => death.dead
        )

        yield* startTill(world, outside)
        yield* become(world, { "o-1": "PAID" })

        expect(outside.asked).toEqual(["charge:o-1", "charge:o-1"])
        expect([...outside.charges]).toEqual([["charge:o-1", 10]])
        expect((yield* sentOf(world)).map(([type]) => type)).toEqual([Paid.type])
      })
    )

    inWorld("after the result is stored is done", (world) =>
      Effect.gen(function* () {
        const { death, wrap } = mortal()
        death.atCommit = true
        const { one, outside } = yield* afterDeath(world, { wrap }, () => death.dead)
        const before = yield* callsOf(world)

        const { running } = yield* startTill(world, outside)
        yield* one.take(pay("o-2"))
        yield* become(world, { "o-1": "PAID", "o-2": "PAID" })

        expect(outside.asked).toEqual(["charge:o-1", "charge:o-2"])
        expect(yield* callOf(world, "charge:o-1")).toEqual(before[0])
        expect(running.counters()).toMatchObject({ calls: 1, duplicates: 0 })
      })
    )
  })

  describe(`${name}: a call that was taken`, () => {
    const lanes = (world: World, ...orders: ReadonlyArray<string>) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        yield* one.take(...orders.map((order) => pay(order)))
        const lane = yield* world.store.callsLane("calls", [payments, calls])
        const other = yield* world.store.callsLane("calls", [payments, calls])
        return { lane, other }
      })

    inWorld("is nobody else's before its lease is over", (world) =>
      Effect.gen(function* () {
        const { lane, other } = yield* lanes(world, "o-1", "o-2")

        const first = yield* lane.take("charge", 1, minute)
        const second = yield* other.take("charge", 10, 1)
        const none = yield* other.take("refund", 10, minute)
        yield* eventually("end of the lease", () =>
          Effect.runPromise(Effect.map(other.take("charge", 10, minute), (third) => third.length > 0))
        )

        expect([first.length, second.length, none.length]).toEqual([1, 1, 0])
        expect(second[0]?.id).not.toBe(first[0]?.id)
        expect((yield* callsOf(world)).map(({ attempt }) => attempt).toSorted()).toEqual([1, 2])
      })
    )

    inWorld("can't be given back by who lost it", (world) =>
      Effect.gen(function* () {
        const { lane, other } = yield* lanes(world, "o-1")
        const [lost] = yield* lane.take("charge", 1, -1)
        const [mine] = yield* other.take("charge", 1, minute)
        if (lost === undefined || mine === undefined) throw new Error("nothing was taken")
        const back = { id: lost.id, afterMs: -1, error: "late", result: null }

        yield* lane.postpone([{ ...back, attempt: lost.attempt }])
        const still = yield* callOf(world, lost.id)
        yield* other.postpone([{ ...back, attempt: mine.attempt, error: "in time" }])
        const given = yield* callOf(world, lost.id)

        expect(mine.id).toBe(lost.id)
        expect(still?.last_error).toBeNull()
        expect(given?.last_error).toBe("in time")
        expect(given?.due_at?.getTime()).toBeLessThan(still?.due_at?.getTime() ?? 0)
      })
    )

    inWorld("can't be given back once it is done", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        yield* one.take(pay("o-1"))
        const { close } = yield* startTill(world, new Outside())
        yield* become(world, { "o-1": "PAID" })
        yield* close
        const before = yield* callsOf(world)

        const lane = yield* world.store.callsLane("calls", [payments, calls])
        yield* lane.postpone([{ id: "charge:o-1", attempt: 1, afterMs: -1, error: "late", result: null }])

        expect(yield* callsOf(world)).toEqual(before)
        expect(yield* lane.take("charge", 10, minute)).toEqual([])
      })
    )

    inWorld("and carried out by two, because one was taken for dead, is decided once", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        let answer = () => {}
        const open = new Promise<void>((resolve) => (answer = resolve))
        yield* one.take(pay("o-1"))
        const slow = yield* startTill(world, outside, {
          options: { lease: "-5 seconds" },
          carry: async ({ amount }, { idempotencyKey, attempt }) => {
            if (attempt === 1) await open
            return outside.charge(idempotencyKey, amount)
          }
        })

        yield* become(world, { "o-1": "PAID" })
        answer()
        yield* eventually("the late result", () => slow.running.counters().duplicates >= 1)

        expect(slow.running.counters()).toMatchObject({ calls: 1 })
        expect((yield* sentOf(world)).length).toBe(1)
      })
    )

    inWorld("is aborted and given back at once by a process that shuts down", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        const aborted: Array<string> = []
        const { running, close } = yield* startTill(world, outside, {
          carry: hanging(aborted),
          options: { deadline: "10 minutes" }
        })
        yield* one.take(pay("o-1"), pay("o-2"))
        yield* eventually("two calls under way", () => running.counters().call_attempts === 2)

        yield* close
        yield* startTill(world, outside)
        yield* become(world, { "o-1": "PAID", "o-2": "PAID" })

        expect(aborted.toSorted()).toEqual(["charge:o-1", "charge:o-2"])
      })
    )
  })

  describe(`${name}: a result`, () => {
    inWorld("whose decision throws is kept and decided later, without another call, and holds up no other", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        yield* one.take(pay("o-1"), pay("bad"), pay("o-2"))
        const broken = yield* startTill(world, outside, {
          switches: {
            decide: (order) => {
              if (order === "bad") throw new TypeError("not thought of")
            }
          }
        })
        yield* become(world, { "o-1": "PAID", bad: "PENDING", "o-2": "PAID" })
        yield* eventually("the stored result", async () =>
          (await world.rows(calls)).every((row) => calls.decode(row).result !== null)
        )
        yield* broken.close
        const kept = yield* callOf(world, "charge:bad")

        const lane = yield* world.store.callsLane("calls", [payments, calls])
        yield* lane.postpone([{ id: "charge:bad", attempt: 1, afterMs: -1, error: null, result: null }])
        const fixed = yield* startTill(world, outside)
        yield* become(world, { "o-1": "PAID", bad: "PAID", "o-2": "PAID" })

        expect(kept).toMatchObject({ done_at: null, result: { status: "CHARGED", charge: "c-charge:bad" } })
        expect(kept?.last_error).toContain("TypeError: not thought of")
        expect((kept?.due_at?.getTime() ?? 0) - Date.now()).toBeGreaterThan(minute / 2)
        expect(outside.asked.filter((key) => key === "charge:bad").length).toBe(1)
        expect(fixed.running.counters()).toMatchObject({ calls: 1, call_attempts: 0 })
      })
    )

    inWorld("whose commit gets no answer is decided once", (world) =>
      Effect.gen(function* () {
        const one = yield* asker(world)
        const outside = new Outside()
        let lost = false
        yield* one.take(pay("o-1"))

        const { running } = yield* startTill(world, outside, {
          wrap: (lane) => ({
            ...lane,
            begin: (opening) =>
              Effect.map(lane.begin(opening), (transaction) => ({
                ...transaction,
                commit: (writes) =>
                  Effect.flatMap(transaction.commit(writes), () => {
                    if (lost) return Effect.void
                    lost = true
                    return Effect.fail(unavailable)
                  })
              }))
          })
        })
        yield* eventually("the second try", () => running.counters().duplicates === 1)

        expect(yield* statusesOf(world)).toEqual({ "o-1": "PAID" })
        expect((yield* sentOf(world)).length).toBe(1)
        expect(outside.asked.length).toBe(1)
      })
    )
  })
}
