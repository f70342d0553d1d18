/** The Postgres store keeps the promises of a store, and those that only a real database can put to the test. */
import { describe, expect } from "bun:test"
import { Effect, Fiber, Layer, type Scope } from "effect"
import { accounts, bank, Deposit, entries, Open, PlaceHold, record, ReleaseHold, Report, schema } from "./bank.ts"
import { database, sharedDatabase, type Database } from "./postgres.ts"
import { startProxy, type Fate, type Proxy } from "./proxy.ts"
import {
  eachTransaction,
  everything,
  meeting,
  replica,
  scenario,
  storeSuite,
  type World,
  type Wrap
} from "./store-suite.ts"
import { layerPostgres } from "../store/postgres.ts"
import { Store } from "../store/store.ts"
import { until } from "../../stack/wait.ts"

const template = { schema }

const worldOf = (db: Database, port = db.port) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(layerPostgres({ ...db.service, port }, "bank"))
    return {
      store: yield* Effect.provideContext(Store, context),
      sideBySide: true,
      rows: (table) => db.owner.unsafe(`select ${table.columns.join(", ")} from ${table.name}`),
      // within one partition the place of a row tells when it was written
      outbox: () =>
        db.owner`
          select id, topic, key, type, payload, causation, correlation
          from outbox
          order by tableoid, ctid`,
      inbox: async () =>
        (await db.owner<Array<{ id: string }>>`select message_id as id from inbox order by 1`).map(({ id }) => id)
    } satisfies World
  })

storeSuite("the Postgres store", Effect.flatMap(sharedDatabase(template), worldOf))

const proxyTo = (db: Database): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => startProxy({ host: "127.0.0.1", port: db.port })),
    (proxy) => Effect.promise(() => proxy.close())
  )

/** A database behind a proxy: the store under test reaches it that way, everybody else directly. */
const behindProxy = (
  sentence: string,
  body: (world: World, proxy: Proxy, db: Database) => Effect.Effect<void, unknown, Scope.Scope>
): void =>
  scenario(
    sentence,
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const proxy = yield* proxyTo(db)
      yield* body(yield* worldOf(db, proxy.port), proxy, db)
    })
  )

/** Decides over the first piece that holds the text; everything else passes. */
const once = (text: string, fate: Fate): Proxy["fate"] => {
  let used = false
  return (piece) => {
    if (used || !piece.includes(text)) return "forward"
    used = true
    return fate
  }
}

const deposit = (account: string, amount: number) => record(Deposit.of({ account, amount }))

const counts = (world: World) =>
  Effect.promise(async () => ({
    accounts: (await world.rows(accounts)).map((row) => accounts.decode(row).balance).toSorted((a, b) => a - b),
    entries: (await world.rows(entries)).length,
    outbox: (await world.outbox()).length,
    inbox: (await world.inbox()).length
  }))

describe("the Postgres store: a connection that is lost", () => {
  behindProxy("takes with it what has not left yet: nothing of it runs on the next connection", (world, proxy) =>
    Effect.gen(function* () {
      const one = yield* replica(world)
      // the driver sends an unknown statement alone and holds back those after it until it was described
      proxy.fate = once(`insert into "accounts"`, "cut before")

      yield* one.take(deposit("a", 1))

      expect(one.counters.retries).toBe(1)
      expect(yield* counts(world)).toEqual({ accounts: [1], entries: 1, outbox: 1, inbox: 1 })
    })
  )
})

/** What the store said to passes that were run again. */
const overhear = (heard: Array<string>): Wrap => {
  const listen = <A, E extends { readonly message: string }>(effect: Effect.Effect<A, E>) =>
    Effect.tapError(effect, (error) => Effect.sync(() => heard.push(error.message)))
  return (lane) => ({
    begin: (opening) =>
      Effect.map(listen(lane.begin(opening)), (transaction) => ({
        ...transaction,
        load: (loads) => listen(transaction.load(loads)),
        commit: (writes) => listen(transaction.commit(writes))
      }))
  })
}

const eventually = (what: string, probe: () => boolean | Promise<boolean>) =>
  Effect.promise(() => until(what, 10_000, probe, 5))

/** The backends of a lane. */
const backendsOf = (db: Database, name: string) =>
  db.superuser<Array<{ pid: number; wait: string | null }>>`
    select pid, wait_event_type as wait
    from pg_stat_activity
    where datname = ${db.name} and application_name = ${name}`

/** Numbers below `bound` that are the same for the same seed. */
const numbers = (seed: number) => {
  let state = seed
  return (bound: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
}

const turns = async (count: number): Promise<void> => {
  for (let n = 0; n < count; n++) await new Promise<void>((resolve) => setImmediate(resolve))
}

describe("the Postgres store: a backend that is terminated", () => {
  scenario(
    "at any point of a pass, while others work, costs a retry and nothing more: nothing is autocommitted",
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const world = yield* worldOf(db)
      const rounds = 50
      const below = numbers(20_261_121)
      const terminate = async () => {
        const killed = await db.superuser`
          select pg_terminate_backend(pid)
          from pg_stat_activity
          where datname = ${db.name} and application_name = 'bank topics'`
        return killed.length
      }
      let armed: "at begin" | "at load" | "gone at load" | "at commit" | "later" | undefined
      const strike = (at: typeof armed) => armed === at && ((armed = undefined), true)
      const hit: Wrap = (lane) => ({
        begin: (opening) =>
          Effect.gen(function* () {
            if (strike("at begin")) yield* Effect.promise(terminate)
            const transaction = yield* lane.begin(opening)
            if (strike("at load")) yield* Effect.promise(terminate)
            if (strike("gone at load")) {
              yield* Effect.promise(terminate)
              yield* eventually("end of the backend", async () => (await backendsOf(db, "bank topics")).length === 0)
            }
            return {
              ...transaction,
              commit: (writes) =>
                Effect.gen(function* () {
                  const late = strike("later") ? below(6) : undefined
                  if (strike("at commit") || late !== undefined) {
                    void terminate()
                    yield* Effect.promise(() => turns(late ?? 0))
                  }
                  yield* transaction.commit(writes)
                })
            }
          })
      })
      // others work on other connections meanwhile
      const other = yield* replica({
        ...world,
        store: { ...world.store, lane: (_, own) => world.store.lane("other", own) }
      })
      yield* Effect.forkScoped(Effect.forever(Effect.suspend(() => other.take(deposit("other", 1)))))
      yield* Effect.forkScoped(Effect.forever(world.store.nextDue(accounts)))
      const points = ["at begin", "at load", "gone at load", "at commit", "later"] as const

      let one = yield* replica(world, {}, hit)
      for (let round = 0; round < rounds; round++) {
        armed = points[below(points.length)]
        yield* one.take(...Array.from({ length: 4 }, (_, n) => deposit(`account-${n}`, 1)))
      }

      const found = (yield* Effect.promise(() => world.rows(accounts))).map((row) => accounts.decode(row))
      const mine = found.filter(({ id }) => id.startsWith("account-")).map(({ balance }) => balance)
      expect(mine).toEqual([rounds, rounds, rounds, rounds])
      const [twice] = yield* Effect.promise(
        () => db.owner<Array<{ count: number }>>`
          select count(*)
          from (select cause from entries group by cause having count(*) > 1) as doubled`
      )
      expect(twice?.count).toBe(0)
      const sent = (yield* Effect.promise(() => world.outbox())).filter(({ key }) => key.startsWith("account-"))
      expect(sent.length).toBe(4 * rounds)
      expect(new Set(sent.map(({ causation }) => causation)).size).toBe(4 * rounds)
      expect(one.counters.retries).toBeGreaterThan(rounds / 2)
      expect(one.counters.parked).toBe(0)
      expect(other.counters.messages).toBeGreaterThan(10)
    })
  )
})

describe("the Postgres store: a lane", () => {
  scenario(
    "that is asked for several passes at once runs them one after the other",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), worldOf)
      const one = yield* replica(world, {
        decide: (_type, m) => {
          if ("amount" in m && m.amount === 13) throw new Error("unlucky")
        }
      })

      yield* Effect.all(
        Array.from({ length: 20 }, (_, n) => one.take(deposit("a", 1), deposit("a", n % 3 === 0 ? 13 : 1))),
        { concurrency: "unbounded" }
      )

      expect(yield* counts(world)).toEqual({ accounts: [33], entries: 33, outbox: 40, inbox: 33 })
      expect(one.counters).toMatchObject({ messages: 33, parked: 7, retries: 0 })
    })
  )
})
