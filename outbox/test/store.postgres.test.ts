/** The Postgres store keeps the promises of a store, and those that only a real database can put to the test. */
import { describe, expect } from "bun:test"
import { Effect, Fiber, Schema, type Scope } from "effect"
import { accounts, Deposit, entries, idOf, Open, PlaceHold, record, ReleaseHold, Report, schema } from "./bank.ts"
import { database, sharedDatabase, type Database } from "./postgres.ts"
import { startProxy, type Fate, type Proxy } from "./proxy.ts"
import {
  eachTransaction,
  meeting,
  replica,
  replicaOf,
  scenario,
  storeSuite,
  type World,
  type Wrap
} from "./store-suite.ts"
import { postgresWorld } from "./worlds.ts"
import { Topic } from "../message.ts"
import { Participant } from "../participant.ts"
import { failureOf, type Bounds } from "../store/connection.ts"
import { slotOf, timeOf } from "../store/inbox.ts"
import type { Opening } from "../store/store.ts"
import { Table, type Tables } from "../table.ts"
import { until } from "../../stack/wait.ts"

const template = { schema }

const worldOf = (db: Database, how: { readonly port?: number; readonly bounds?: Partial<Bounds> } = {}) =>
  postgresWorld(db, "bank", how)

storeSuite(
  "the Postgres store",
  Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
)

const deposit = (account: string, amount: number) => record(Deposit.of({ account, amount }))
const tags = (outcomes: ReadonlyArray<{ readonly _tag: string }>) => outcomes.map((outcome) => outcome._tag)
const lettersOf = (world: World) => world.store.deadLetters("bank", { limit: 1_000 })

/** How much there is of everything; what took effect twice shows. */
const counts = (world: World) =>
  Effect.promise(async () => ({
    balances: (await world.rows(accounts)).map((row) => accounts.decode(row).balance).toSorted((a, b) => a - b),
    entries: (await world.rows(entries)).length,
    outbox: (await world.outbox()).length,
    inbox: (await world.inbox()).length
  }))

const eventually = (what: string, probe: () => boolean | Promise<boolean>) =>
  Effect.promise(() => until(what, 10_000, probe, 5))

/** What the store said of passes that failed. */
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

/** The backends of the topics lane. */
const backendsOf = (db: Database) =>
  db.superuser<Array<{ pid: number; waits: string | null }>>`
    select pid, wait_event_type as waits
    from pg_stat_activity
    where datname = ${db.name} and application_name = 'bank topics'`

const terminateBackends = (db: Database) =>
  db.superuser`
    select pg_terminate_backend(pid)
    from pg_stat_activity
    where datname = ${db.name} and application_name = 'bank topics'`

/** A database behind a proxy: the store under test reaches it that way, everybody else directly. */
const behindProxy = (
  sentence: string,
  body: (world: World, proxy: Proxy, db: Database) => Effect.Effect<void, unknown, Scope.Scope>,
  bounds: Partial<Bounds> = {}
): void =>
  scenario(
    sentence,
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const proxy = yield* Effect.acquireRelease(
        Effect.promise(() => startProxy({ host: "127.0.0.1", port: db.port })),
        (started) => Effect.promise(() => started.close())
      )
      yield* body(yield* worldOf(db, { port: proxy.port, bounds }), proxy, db)
    })
  )

/** The fate of the first piece that holds the text; everything else passes. */
const onceFor = (text: string, fate: Fate): Proxy["fate"] => {
  let used = false
  return (piece) => {
    if (used || !piece.includes(text)) return "forward"
    used = true
    return fate
  }
}

/** The fate of the nth piece from now. */
const onceAfter = (pieces: number, fate: Fate): Proxy["fate"] => {
  let left = pieces
  return () => (left-- === 0 ? fate : "forward")
}

describe("the Postgres store: a connection that is lost", () => {
  behindProxy("takes with it what had not left yet: nothing of it runs on the next connection", (world, proxy) =>
    Effect.gen(function* () {
      const one = yield* replica(world)
      // the driver sends a statement that is new to the connection alone, and holds back those behind it
      proxy.fate = onceFor(`insert into "accounts"`, "cut before")

      yield* one.take(deposit("a", 1))

      expect(one.counters.retries).toBe(1)
      expect(yield* counts(world)).toEqual({ balances: [1], entries: 1, outbox: 1, inbox: 1 })
    })
  )

  behindProxy("at any piece of a pass, on its way or behind it, costs a retry and nothing more", (world, proxy) =>
    Effect.gen(function* () {
      // a pass has 16 pieces on a connection that knows none of its statements, and two on one that knows them all
      const cuts = (["cut before", "cut after"] as const).flatMap((fate) => [
        ...Array.from({ length: 16 }, (_, piece) => ({ known: false, piece, fate })),
        ...Array.from({ length: 2 }, (_, piece) => ({ known: true, piece, fate }))
      ])
      let retries = 0

      for (const { known, piece, fate } of cuts) {
        const one = yield* replica(world)
        if (known) yield* one.take(deposit("known", 1))
        proxy.fate = onceAfter(piece, fate)
        yield* one.take(deposit("a", 1), deposit("b", 1))
        proxy.fate = () => "forward"
        retries += one.counters.retries
      }

      expect(retries).toBeGreaterThan(cuts.length - 4)
      expect(yield* lettersOf(world)).toEqual([])
      expect(yield* counts(world)).toEqual({ balances: [4, 36, 36], entries: 76, outbox: 76, inbox: 76 })
    })
  )

  behindProxy("in the middle of a pass of megabytes costs a retry and nothing more", (world, proxy) =>
    Effect.gen(function* () {
      const one = yield* replica(world)
      const big = Array.from({ length: 3 }, () =>
        record(Deposit.of({ account: "a", amount: 1 }), { value: Buffer.alloc(1_000_000, "x") })
      )
      let bytes = 0
      let cut = false
      proxy.fate = (piece) => {
        bytes += piece.length
        if (cut || bytes < 2_000_000) return "forward"
        cut = true
        return "cut before"
      }

      const outcomes = yield* one.take(deposit("a", 1), ...big, deposit("b", 2))

      expect(tags(outcomes)).toEqual(["done", "parked", "parked", "parked", "done"])
      expect((yield* lettersOf(world)).length).toBe(3)
      expect(one.counters.retries).toBe(1)
      expect(yield* counts(world)).toEqual({ balances: [1, 2], entries: 2, outbox: 5, inbox: 2 })
    })
  )

  behindProxy("with the answer to COMMIT leaves the effects of messages once", (world, proxy) =>
    Effect.gen(function* () {
      const one = yield* replica(world)
      proxy.fate = onceFor("commit\0", "cut after")

      const outcomes = yield* one.take(deposit("a", 1), deposit("a", 2), deposit("b", 4))

      expect(tags(outcomes)).toEqual(["duplicate", "duplicate", "duplicate"])
      expect(yield* counts(world)).toEqual({ balances: [3, 4], entries: 3, outbox: 3, inbox: 3 })
    })
  )

  behindProxy("before COMMIT leaves nothing, and the messages are decided again", (world, proxy) =>
    Effect.gen(function* () {
      const one = yield* replica(world)
      proxy.fate = onceFor("commit\0", "cut before")

      const outcomes = yield* one.take(deposit("a", 1), deposit("a", 2), deposit("b", 4))

      expect(tags(outcomes)).toEqual(["done", "done", "done"])
      expect(yield* counts(world)).toEqual({ balances: [3, 4], entries: 3, outbox: 3, inbox: 3 })
    })
  )

  behindProxy("with the answer to COMMIT leaves a request answered from what was stored", (world, proxy) =>
    Effect.gen(function* () {
      const requests = yield* (yield* replica(world)).requests
      proxy.fate = onceFor("commit\0", "cut after")

      const reply = yield* requests.submit(Open, { account: "a", balance: 5 })

      expect(reply).toEqual({ account: "a", balance: 5 })
      expect(yield* counts(world)).toEqual({ balances: [5], entries: 0, outbox: 1, inbox: 0 })
    })
  )

  const short = { answerMs: 500, transactionMs: 400, idleInTransactionMs: 300, lockMs: 300 }
  const moments = ["before BEGIN", "between load and write", "behind COMMIT"] as const
  for (const moment of moments) {
    behindProxy(
      `without a word ${moment} is given up in time, and the lane goes on`,
      (world, proxy) =>
        Effect.gen(function* () {
          let armed = false
          const stopAt = eachTransaction((transaction) => ({
            commit: (writes) =>
              Effect.suspend(() => {
                if (armed && moment === "between load and write") proxy.stop()
                armed = false
                return transaction.commit(writes)
              })
          }))
          const one = yield* replica(world, {}, stopAt)
          yield* one.take(deposit("a", 1))
          armed = true
          if (moment === "before BEGIN") proxy.stop()
          // what is on its way when everything stops has been forwarded already
          if (moment === "behind COMMIT") {
            let stopped = false
            proxy.fate = (piece) => {
              if (!stopped && piece.includes("commit\0")) setImmediate(() => proxy.stop())
              stopped ||= piece.includes("commit\0")
              return "forward"
            }
          }

          const outcomes = yield* one.take(deposit("a", 2), deposit("b", 4))

          expect(outcomes.length).toBe(2)
          expect(one.counters).toMatchObject({ parked: 0 })
          expect(one.counters.retries).toBeGreaterThan(0)
          expect(yield* counts(world)).toEqual({ balances: [3, 4], entries: 3, outbox: 3, inbox: 3 })
        }),
      short
    )
  }

  behindProxy(
    "without a word does not keep due rows from being found",
    (world, proxy) =>
      Effect.gen(function* () {
        // as many at once as there are connections for them
        const looks = [world.store.nextDue(accounts), world.store.nextDue(accounts)] as const
        yield* Effect.all(looks, { concurrency: "unbounded" })
        proxy.stop()

        const first = yield* Effect.all(looks.map(Effect.flip), { concurrency: "unbounded" })
        const second = yield* world.store.nextDue(accounts)

        expect(first.map(({ message }) => message)).toContain("the database did not answer in time")
        expect(second).toBeNull()
      }),
    short
  )
})

/** Numbers below a bound, the same for the same seed. */
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
  const rounds = 50
  const points = ["at begin", "at load", "gone at load", "at commit", "soon after"] as const

  scenario(
    `${rounds} times at any point of a pass, while others work, costs retries: nothing is autocommitted`,
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const world = yield* worldOf(db)
      const below = numbers(20_261_121)
      let armed: (typeof points)[number] | undefined
      const strikes = (point: (typeof points)[number]): boolean => {
        const now = armed === point
        if (now) armed = undefined
        return now
      }
      const struck: Wrap = (lane) => ({
        begin: (opening) =>
          Effect.gen(function* () {
            if (strikes("at begin")) yield* Effect.promise(() => terminateBackends(db))
            const transaction = yield* lane.begin(opening)
            if (strikes("at load")) yield* Effect.promise(() => terminateBackends(db))
            if (strikes("gone at load")) {
              yield* Effect.promise(() => terminateBackends(db))
              yield* eventually("end of the backend", async () => (await backendsOf(db)).length === 0)
            }
            return {
              ...transaction,
              commit: (writes) =>
                Effect.gen(function* () {
                  const wait = strikes("soon after") ? below(6) : strikes("at commit") ? 0 : undefined
                  if (wait !== undefined) {
                    void terminateBackends(db).execute()
                    yield* Effect.promise(() => turns(wait))
                  }
                  yield* transaction.commit(writes)
                })
            }
          })
      })
      const one = yield* replica(world, {}, struck)
      const elsewhere = {
        ...world.store,
        lane: (_: string, own: Parameters<typeof world.store.lane>[1]) => world.store.lane("other", own)
      }
      const other = yield* replica({ ...world, store: elsewhere })
      yield* Effect.forkScoped(Effect.forever(Effect.suspend(() => other.take(deposit("other", 1)))))
      yield* Effect.forkScoped(Effect.forever(world.store.nextDue(accounts)))

      const taken: Array<string> = []

      for (let round = 0; round < rounds; round++) {
        armed = points[below(points.length)]
        const records = Array.from({ length: 4 }, (_, n) => deposit(`mine-${n}`, 1))
        taken.push(...records.map(idOf))
        yield* one.take(...records)
      }

      const rows = (yield* Effect.promise(() => world.rows(accounts))).map((row) => accounts.decode(row))
      const mine = rows.filter(({ id }) => id.startsWith("mine")).map(({ balance }) => balance)
      expect(mine).toEqual([rounds, rounds, rounds, rounds])
      expect(yield* Effect.promise(() => world.inbox())).toEqual(expect.arrayContaining(taken))
      const causes = (yield* Effect.promise(() => world.rows(entries))).map((row) => entries.decode(row).cause)
      expect(new Set(causes).size).toBe(causes.length)
      const sent = (yield* Effect.promise(() => world.outbox())).filter(({ key }) => key.startsWith("mine"))
      expect([sent.length, new Set(sent.map(({ causation }) => causation)).size]).toEqual([4 * rounds, 4 * rounds])
      expect(one.counters.retries).toBeGreaterThan(rounds / 2)
      expect(one.counters.parked).toBe(0)
      expect(other.counters).toMatchObject({ parked: 0, retries: 0 })
      expect(other.counters.messages).toBeGreaterThan(10)
    })
  )
})

describe("the Postgres store: trouble that is nobody's fault", () => {
  interface Trouble {
    /** Undoes it. */
    readonly heal: () => Promise<unknown>
    /** What happens once the pass is under way. */
    readonly meanwhile?: () => Promise<unknown>
  }
  /** Makes trouble for a pass until it was heard of, heals it, and sees that nothing was parked or done twice. */
  const troubled = (
    sentence: string,
    code: string,
    make: (db: Database) => Promise<Trouble>,
    bounds: Partial<Bounds> = {}
  ): void =>
    scenario(
      `${sentence} is waited for (${code})`,
      Effect.gen(function* () {
        const db = yield* database(template)
        const world = yield* worldOf(db, { bounds })
        const heard: Array<string> = []
        const one = yield* replica(world, {}, overhear(heard))
        yield* one.take(deposit("a", 1))
        const trouble = yield* Effect.promise(() => make(db))

        const taking = yield* Effect.forkChild(one.take(deposit("a", 2), deposit("b", 4)))
        yield* Effect.promise(async () => trouble.meanwhile?.())
        yield* eventually(`a failure with ${code}`, () => heard.some((message) => message.startsWith(`${code}:`)))
        yield* Effect.promise(() => trouble.heal())
        const outcomes = yield* Fiber.join(taking)

        expect(tags(outcomes)).toEqual(["done", "done"])
        expect(one.counters.parked).toBe(0)
        expect(one.counters.retries).toBeGreaterThan(0)
        expect(yield* lettersOf(world)).toEqual([])
        expect(yield* counts(world)).toEqual({ balances: [3, 4], entries: 3, outbox: 3, inbox: 3 })
      })
    )

  /** A transaction of somebody else, open until it is let go. */
  const elsewhere = async (db: Database, ...statements: ReadonlyArray<string>) => {
    const connection = await db.superuser.reserve()
    for (const statement of ["begin", ...statements]) await connection.unsafe(statement)
    return {
      connection,
      letGo: async () => {
        await connection`rollback`
        connection.release()
      }
    }
  }

  troubled("a column that was dropped", "42703", async (db) => {
    await db.owner`alter table accounts drop column due_at`
    return { heal: () => db.owner`alter table accounts add column due_at timestamptz` }
  })

  troubled("a table that was dropped", "42P01", async (db) => {
    await db.owner`alter table entries rename to entries_of_old`
    return { heal: () => db.owner`alter table entries_of_old rename to entries` }
  })

  troubled("a right that was taken away", "42501", async (db) => {
    await db.owner`revoke insert on outbox from bank_service`
    return { heal: () => db.owner`grant insert on outbox to bank_service` }
  })

  troubled(
    "a table that is locked for longer than lock_timeout",
    "55P03",
    async (db) => {
      const { letGo } = await elsewhere(db, "lock table accounts in access exclusive mode")
      return { heal: letGo }
    },
    { lockMs: 100 }
  )

  troubled("a statement that is cancelled", "57014", async (db) => {
    const { letGo } = await elsewhere(db, "select from accounts where id = 'a' for update")
    return {
      heal: letGo,
      meanwhile: () =>
        until("a pass that waits", 10_000, async () => {
          const [waiting] = (await backendsOf(db)).filter(({ waits }) => waits === "Lock")
          if (waiting === undefined) return false
          await db.superuser`select pg_cancel_backend(${waiting.pid})`
          return true
        })
    }
  })

  troubled("a database that is read-only", "25006", async (db) => {
    await db.superuser.unsafe(`alter database ${db.name} set default_transaction_read_only = on`)
    await terminateBackends(db)
    return {
      heal: async () => {
        await db.superuser.unsafe(`alter database ${db.name} reset default_transaction_read_only`)
        await terminateBackends(db)
      }
    }
  })

  troubled("a role that may not connect any more", "28000", async (db) => {
    await db.superuser.unsafe("alter role bank_service nologin")
    await terminateBackends(db)
    return { heal: () => db.superuser.unsafe("alter role bank_service login") }
  })

  // what can't be had from a healthy server comes from a trigger
  for (const [sentence, code] of [
    ["a disk that is full", "53100"],
    ["a serialization failure", "40001"],
    ["a server that shuts down", "57P01"]
  ] as const) {
    troubled(sentence, code, async (db) => {
      await db.owner.unsafe(`
        create function fail() returns trigger language plpgsql as
        $$ begin raise exception using errcode = '${code}'; end $$;
        create trigger failing before insert or update on accounts execute function fail()`)
      return { heal: () => db.owner`drop trigger failing on accounts` }
    })
  }

  scenario(
    "a deadlock that somebody else provokes is waited for (40P01)",
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const world = yield* worldOf(db)
      const heard: Array<string> = []
      const one = yield* replica(world, {}, overhear(heard))
      yield* one.take(deposit("a", 10), record(PlaceHold.of({ hold: "h", account: "a", amount: 3 })))
      // it has the account and comes for the hold once the pass has that and waits for the account
      const { connection, letGo } = yield* Effect.promise(() =>
        elsewhere(db, "set local deadlock_timeout = '10s'", "select from accounts where id = 'a' for update")
      )
      let comes: Promise<unknown> | undefined
      const meet = eachTransaction((transaction) => ({
        load: (loads) => {
          if (comes !== undefined) return transaction.load(loads)
          comes = connection.unsafe("select from holds where id = 'h' for update").execute()
          return eventually("the other that waits", async () => {
            const [waits] = await db.owner`select pid from pg_locks where not granted`
            return waits !== undefined
          }).pipe(Effect.andThen(transaction.load(loads)))
        }
      }))
      const passing = yield* replica(world, {}, (lane) => overhear(heard)(meet(lane)))

      const taking = yield* Effect.forkChild(passing.take(record(ReleaseHold.of({ hold: "h" }))))
      yield* eventually("a deadlock", () => heard.some((message) => message.startsWith("40P01:")))
      yield* Effect.promise(async () => {
        await comes
        await letGo()
      })
      const outcomes = yield* Fiber.join(taking)

      expect(tags(outcomes)).toEqual(["done"])
      expect(passing.counters.parked).toBe(0)
      expect(yield* counts(world)).toEqual({ balances: [10], entries: 1, outbox: 1, inbox: 3 })
    })
  )

  for (const table of ["inbox", "outbox"] as const) {
    scenario(
      `a partition of the ${table} that is missing at midnight is made, and nothing is parked (23514)`,
      Effect.gen(function* () {
        const db = yield* database(template)
        const world = yield* worldOf(db)
        const heard: Array<string> = []
        const one = yield* replica(world, {}, overhear(heard))
        yield* one.take(deposit("a", 1))
        const slot = slotOf(Date.now(), world.store.window)
        yield* Effect.promise(() => db.owner.unsafe(`drop table ${table}_${slot}`))

        const outcomes = yield* one.take(deposit("a", 2), deposit("b", 4))

        expect(tags(outcomes)).toEqual(["done", "done"])
        expect(heard.map((message) => message.split(":")[0])).toEqual(["23514"])
        expect(yield* lettersOf(world)).toEqual([])
        expect(yield* counts(world)).toMatchObject({ balances: [3, 4], entries: 3 })
      })
    )
  }

  scenario(
    "a column that was widened in mid-run goes unnoticed",
    Effect.gen(function* () {
      const db = yield* database(template)
      const world = yield* worldOf(db)
      const one = yield* replica(world)
      yield* one.take(deposit("a", 1))
      yield* one.take(deposit("a", 2))
      yield* Effect.promise(() => db.owner`alter table accounts alter column balance type bigint`)

      const outcomes = yield* one.take(deposit("a", 4))

      expect(tags(outcomes)).toEqual(["done"])
      expect(yield* counts(world)).toEqual({ balances: [7], entries: 3, outbox: 3, inbox: 3 })
    })
  )

  scenario(
    "a table or a column that is not there keeps a lane from being opened, and is named",
    Effect.gen(function* () {
      const db = yield* database(template)
      const world = yield* worldOf(db)
      const row = { id: Schema.String, colour: Schema.String }

      const noTable = yield* Effect.flip(world.store.lane("x", [Table.make("nowhere", { key: "id", row })]))
      const noColumn = yield* Effect.flip(world.store.lane("x", [Table.make("accounts", { key: "id", row })]))

      expect(noTable.message).toContain("nowhere")
      expect(noColumn.message).toContain("colour")
    })
  )
})

describe("the Postgres store: a transaction", () => {
  const opening: Opening = {
    consumer: "bank",
    claims: [],
    unpark: [],
    parking: [],
    parkedKeys: [],
    due: undefined,
    loads: []
  }

  scenario(
    "that was aborted is not taken for committed, though its COMMIT raises no error",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const lane = yield* world.store.lane("lane", [accounts])
      const transaction = yield* lane.begin({ ...opening, claims: [{ id: Bun.randomUUIDv7(), bucket: 0 }] })

      const load = yield* Effect.exit(transaction.load([{ table: accounts, keys: ["\u0000"] }]))
      const commit = yield* Effect.flip(transaction.commit({ changes: [], outbox: [], calls: [], parked: [] }))

      expect(load._tag).toBe("Failure")
      expect([commit._tag, commit.message]).toEqual(["StoreUnavailable", "COMMIT was answered with ROLLBACK"])
      expect(yield* counts(world)).toMatchObject({ inbox: 0 })
    })
  )

  scenario(
    "waits for its turn when a lane is asked for several at once",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const one = yield* replica(world, {
        decide: (_type, m) => {
          if ("amount" in m && m.amount === 13) throw new Error("unlucky")
        }
      })

      yield* Effect.all(
        Array.from({ length: 20 }, (_, n) => one.take(deposit("a", 1), deposit("a", n % 3 === 0 ? 13 : 1))),
        { concurrency: "unbounded" }
      )

      expect(yield* counts(world)).toEqual({ balances: [33], entries: 33, outbox: 40, inbox: 33 })
      expect(one.counters).toMatchObject({ messages: 33, parked: 7, retries: 0 })
    })
  )

  scenario(
    "claims ids in their order, so that two replicas given them in opposite orders never wait for each other",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const lanes = [yield* world.store.lane("one", []), yield* world.store.lane("other", [])]
      const count = 4_000

      for (const _ of [1, 2, 3]) {
        const ids = Array.from({ length: count }, () => Bun.randomUUIDv7())
        const claimed = yield* Effect.all(
          [ids, ids.toReversed()].map((ordered, n) =>
            Effect.gen(function* () {
              const lane = lanes[n]
              if (lane === undefined) return 0
              const bucket = slotOf(Date.now(), world.store.window)
              const transaction = yield* lane.begin({ ...opening, claims: ordered.map((id) => ({ id, bucket })) })
              yield* transaction.commit({ changes: [], outbox: [], calls: [], parked: [] })
              return transaction.claimed.size
            })
          ),
          { concurrency: "unbounded" }
        )

        expect(claimed.toSorted((a, b) => a - b)).toEqual([0, count])
      }
    })
  )

  scenario(
    "does not park what another replica decided in the meantime",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const sound = yield* replica(world)
      const message = deposit("a", 1)
      const late = eachTransaction((transaction) => ({
        commit: (writes) =>
          (writes.parked.length > 0 ? sound.take(message) : Effect.void).pipe(
            Effect.andThen(transaction.commit(writes))
          )
      }))
      const broken = yield* replica(
        world,
        {
          decide: () => {
            throw new Error("an older version")
          }
        },
        late
      )

      yield* broken.take(message)

      expect(yield* lettersOf(world)).toEqual([])
      expect(yield* counts(world)).toMatchObject({ balances: [1], entries: 1, inbox: 1 })
    })
  )

  scenario(
    "inserts and locks rows in the order of their keys, so that two replicas never wait for each other",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const heard: Array<string> = []
      const keys = Array.from({ length: 1_000 }, (_, n) => n)
      const rounds = 3
      const both = Effect.fnUntraced(function* (round: number, wrap: Wrap) {
        const one = yield* replica(world, {}, (lane) => overhear(heard)(wrap(lane)))
        const other = yield* replica(world, {}, (lane) => overhear(heard)(wrap(lane)))
        yield* Effect.all(
          [
            one.take(...keys.map((n) => deposit(`${round}-${n}`, 1))),
            other.take(...keys.toReversed().map((n) => deposit(`${round}-${n}`, 1)))
          ],
          { concurrency: "unbounded" }
        )
      })

      for (let round = 0; round < rounds; round++) {
        // all rows are absent for both, and then there for both
        yield* both(round, meeting(world, 2))
        yield* both(round, (lane) => lane)
      }

      expect(heard.filter((message) => message.startsWith("40P01"))).toEqual([])
      const { balances, entries } = yield* counts(world)
      expect(entries).toBe(rounds * 4 * keys.length)
      expect(new Set(balances)).toEqual(new Set([4]))
    })
  )

  scenario(
    "of two requests of one key that are at odds over another row waits for the first, and gets its answer",
    Effect.gen(function* () {
      const db = yield* database({ schema: `${schema} create unique index on accounts (balance);` })
      const world = yield* worldOf(db)
      const meet = meeting(world, 2)
      const one = yield* (yield* replica(world, {}, meet)).requests
      const other = yield* (yield* replica(world, {}, meet)).requests
      const keyed = { idempotencyKey: "k", fingerprint: "the client's own words" }

      const [first, second] = yield* Effect.all(
        [
          one.submit(Open, { account: "a", balance: 5 }, keyed),
          other.submit(Open, { account: "b", balance: 5 }, keyed)
        ],
        { concurrency: "unbounded" }
      )

      expect(first).toEqual(second)
      expect(yield* counts(world)).toEqual({ balances: [5], entries: 0, outbox: 1, inbox: 0 })
    })
  )

  scenario(
    "that would append a message above outbox_payload_size is refused, and only its message is parked",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const one = yield* replica(world)
      // short as text, long as Postgres stores it: a number of one digit takes twelve bytes
      const long = record(Report.of({ account: "a", figures: 131_000 }))

      const outcomes = yield* one.take(deposit("a", 1), long, deposit("a", 2))

      expect(tags(outcomes)).toEqual(["done", "parked", "done"])
      expect(yield* lettersOf(world)).toEqual([
        expect.objectContaining({ reason: "row-refused", detail: expect.stringContaining("outbox_payload_size") })
      ])
      expect(yield* counts(world)).toEqual({ balances: [3], entries: 2, outbox: 3, inbox: 2 })
    })
  )

  scenario(
    "that names a key which Postgres spells in another way is refused, and only its message is parked",
    Effect.gen(function* () {
      const parcels = Table.make("parcels", { key: "id", row: { id: Schema.String, weight: Schema.Int } })
      const Weigh = Topic.commands("parcels-commands").message(
        "Weigh",
        { parcel: Schema.String, weight: Schema.Int },
        { key: "parcel" }
      )
      const post = Participant.make("bank", { parcels }).on(Weigh, {
        touches: { parcels: (m) => [m.parcel] },
        decide: (_, m) => ({ put: { parcels: [{ id: m.parcel, weight: m.weight }] } })
      })
      const db = yield* database({
        schema: `${schema}
          create table parcels (id uuid primary key, weight int not null);
          grant select, insert, update on parcels to bank_service;`
      })
      const world = yield* worldOf(db)
      const one = yield* replicaOf(post as unknown as Participant<Tables>, world)
      const id = crypto.randomUUID()
      yield* one.take(record(Weigh.of({ parcel: id, weight: 1 })))

      const outcomes = yield* one.take(
        record(Weigh.of({ parcel: id, weight: 2 })),
        record(Weigh.of({ parcel: id.toUpperCase(), weight: 3 })),
        record(Weigh.of({ parcel: "no uuid", weight: 4 })),
        record(Weigh.of({ parcel: id, weight: 5 }))
      )

      expect(tags(outcomes)).toEqual(["done", "parked", "parked", "done"])
      expect([...(yield* Effect.promise(() => world.rows(parcels)))]).toEqual([{ id, weight: 5 }])
      const [spelled, malformed] = yield* lettersOf(world)
      expect(spelled?.detail).toContain("no row was found by it")
      expect(malformed?.detail).toContain("invalid input syntax for type uuid")
    })
  )
})

describe("the Postgres store: its tables", () => {
  scenario(
    "can be appended to by the service and not be taken back from",
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const world = yield* worldOf(db)
      yield* (yield* replica(world)).take(deposit("a", 1))
      const slot = slotOf(Date.now(), world.store.window)
      const refused = [
        "update outbox set topic = 'elsewhere'",
        "delete from outbox",
        "truncate outbox",
        `delete from outbox_${slot}`,
        `drop table outbox_${slot}`,
        "alter table outbox drop column payload",
        "update inbox set consumer = 'nobody'",
        "delete from inbox",
        "truncate inbox",
        `delete from inbox_${slot}`,
        "delete from idempotency_keys",
        "update idempotency_keys set reply = null",
        "delete from calls",
        "truncate calls",
        "truncate dead_letters",
        "update oncebox_settings set slot_ms = 1000",
        "drop publication outbox"
      ]

      const answers = yield* Effect.promise(() =>
        Promise.allSettled(refused.map((statement) => db.asService.unsafe(statement).execute()))
      )

      expect(answers.map((answer) => (answer.status === "rejected" ? failureOf(answer.reason).code : "done"))).toEqual(
        refused.map(() => "42501")
      )
      expect(yield* counts(world)).toEqual({ balances: [1], entries: 1, outbox: 1, inbox: 1 })
    })
  )

  scenario(
    "in slots of a second stand ready before their time, and each claim lies in the slot of its id",
    Effect.gen(function* () {
      const db = yield* database({ schema, slotMs: 1_000, inboxSlots: 5 })
      const world = yield* worldOf(db)
      const one = yield* replica(world)
      const current = () => slotOf(Date.now(), world.store.window)
      const first = current()

      while (current() < first + 4) yield* one.take(deposit("a", 1))

      expect(world.store.window).toEqual({ slotMs: 1_000, slots: 5 })
      expect(one.counters).toMatchObject({ parked: 0, retries: 0, duplicates: 0 })
      const claims = yield* Effect.promise(
        () => db.owner<Array<{ id: string; slot: string }>>`
          select message_id as id, tableoid::regclass::text as slot from inbox`
      )
      expect(claims.length).toBe(one.counters.messages)
      expect(claims.filter(({ id, slot }) => slot !== `inbox_${slotOf(timeOf(id) ?? 0, world.store.window)}`)).toEqual(
        []
      )
      expect(new Set(claims.map(({ slot }) => slot)).size).toBeGreaterThanOrEqual(4)
      const partitions = yield* Effect.promise(
        () =>
          db.owner<Array<{ name: string }>>`select relname as name from pg_class where relispartition and relkind = 'r'`
      )
      for (const table of ["outbox", "inbox"]) {
        expect(partitions.map(({ name }) => name)).toContain(`${table}_${current() + 2}`)
      }
    })
  )
})
