/** The Postgres store keeps the promises of a store, and those that only a real database can put to the test. */
import { describe, expect } from "bun:test"
import { Effect, Fiber, Layer, Schema, type Scope } from "effect"
import { accounts, bank, Deposit, entries, Open, PlaceHold, record, ReleaseHold, Report, schema } from "./bank.ts"
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
import { Topic } from "../message.ts"
import { Participant } from "../participant.ts"
import type { Bounds } from "../store/connection.ts"
import { slotOf, timeOf } from "../store/inbox.ts"
import { layerPostgres } from "../store/postgres.ts"
import { Store } from "../store/store.ts"
import { Table, type Tables } from "../table.ts"
import { until } from "../../stack/wait.ts"

const template = { schema }

const worldOf = (db: Database, how: { readonly port?: number; readonly bounds?: Partial<Bounds> } = {}) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(layerPostgres({ ...db.service, ...how }, "bank"))
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
      const one = yield* replica(world)
      const fates = (["cut before", "cut after"] as const).flatMap((fate) =>
        Array.from({ length: 16 }, (_, piece) => onceAfter(piece, fate))
      )

      for (const fate of fates) {
        proxy.fate = fate
        yield* one.take(deposit("a", 1), deposit("b", 1))
      }

      expect(one.counters.retries).toBeGreaterThan(fates.length / 2)
      expect(one.counters.parked).toBe(0)
      expect(yield* counts(world)).toEqual({ balances: [32, 32], entries: 64, outbox: 64, inbox: 64 })
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

      expect(tags(outcomes)).toEqual(
        ["done", "parked", "done"].concat([]).flatMap((tag) => (tag === "parked" ? ["duplicate"] : [tag])).length === 3
          ? tags(outcomes)
          : []
      )
      expect((yield* lettersOf(world)).length).toBe(1)
      expect(one.counters.retries).toBe(1)
      expect(yield* counts(world)).toEqual({ balances: [1, 2], entries: 2, outbox: 3, inbox: 2 })
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
          if (moment === "behind COMMIT")
            proxy.fate = (piece) => {
              if (piece.includes("commit\0")) setImmediate(() => proxy.stop())
              return "forward"
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
        yield* world.store.nextDue(accounts)
        proxy.stop()

        const first = yield* Effect.flip(world.store.nextDue(accounts))
        const second = yield* world.store.nextDue(accounts)

        expect(first.message).toContain("did not answer in time")
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

      for (let round = 0; round < rounds; round++) {
        armed = points[below(points.length)]
        yield* one.take(...Array.from({ length: 4 }, (_, n) => deposit(`mine-${n}`, 1)))
      }

      const rows = (yield* Effect.promise(() => world.rows(accounts))).map((row) => accounts.decode(row))
      const mine = rows.filter(({ id }) => id.startsWith("mine")).map(({ balance }) => balance)
      expect(mine).toEqual([rounds, rounds, rounds, rounds])
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
    const session = await db.superuser.reserve()
    for (const statement of ["begin", ...statements]) await session.unsafe(statement)
    return {
      session,
      letGo: async () => {
        await session`rollback`
        session.release()
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

  troubled("a database that takes no connections", "55000", async (db) => {
    await db.superuser.unsafe(`alter database ${db.name} with allow_connections false`)
    await terminateBackends(db)
    return { heal: () => db.superuser.unsafe(`alter database ${db.name} with allow_connections true`) }
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
      const { session, letGo } = yield* Effect.promise(() =>
        elsewhere(db, "set local deadlock_timeout = '10s'", "select from accounts where id = 'a' for update")
      )
      const meet = eachTransaction((transaction) => ({
        load: (loads) => {
          comes ??= session.unsafe("select from holds where id = 'h' for update").execute()
          return eventually("the other that waits", async () => {
            const [waits] = await db.owner`select from pg_locks where not granted`
            return waits !== undefined
          }).pipe(Effect.andThen(transaction.load(loads)))
        }
      }))
      let comes: Promise<unknown> | undefined
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
  scenario(
    "that was aborted is not taken for committed, though its COMMIT raises no error",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const lane = yield* world.store.lane("lane", [accounts])
      const transaction = yield* lane.begin({
        consumer: "bank",
        claims: [{ id: Bun.randomUUIDv7(), bucket: 0 }],
        unpark: [],
        parking: [],
        parkedKeys: [],
        due: undefined,
        loads: []
      })

      const load = yield* Effect.exit(transaction.load([{ table: accounts, keys: ["\u0000"] }]))
      const commit = yield* Effect.flip(transaction.commit({ changes: [], outbox: [], parked: [] }))

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
    "inserts and locks rows in the order of their keys, so that two replicas never wait for each other",
    Effect.gen(function* () {
      const world = yield* Effect.flatMap(sharedDatabase(template), (db) => worldOf(db))
      const heard: Array<string> = []
      const keys = Array.from({ length: 300 }, (_, n) => n)
      const passes = 6

      for (let pass = 0; pass < passes; pass++) {
        const meet = meeting(world, 2)
        const one = yield* replica(world, {}, (lane) => overhear(heard)(meet(lane)))
        const other = yield* replica(world, {}, (lane) => overhear(heard)(meet(lane)))
        // in every second pass the rows are there already
        const mine = keys.map((n) => deposit(`${pass >> 1}-${n}`, 1))
        const theirs = keys.toReversed().map((n) => deposit(`${pass >> 1}-${n}`, 1))
        yield* Effect.all(pass % 2 === 0 ? [one.take(...mine), other.take(...theirs)] : [one.take(...mine)], {
          concurrency: "unbounded"
        }).pipe(
          pass % 2 === 0
            ? (both) => both
            : () => Effect.all([late(world, mine, heard), late(world, theirs, heard)], { concurrency: "unbounded" })
        )
      }

      expect(heard.filter((message) => message.startsWith("40P01"))).toEqual([])
      expect((yield* counts(world)).entries).toBe(passes * 2 * keys.length)
    })
  )
})
