/** The Postgres store keeps the promises about calls to the outside, and those that only a real database can put to the test. */
import { describe, expect } from "bun:test"
import { join } from "node:path"
import { Effect, Redacted } from "effect"
import { record } from "./bank.ts"
import { asker, become, callsSuite, Outside, pay, startTill } from "./calls-suite.ts"
import { sharedDatabase, type Database } from "./postgres.ts"
import { startProxy, type Fate } from "./proxy.ts"
import { scenario } from "./store-suite.ts"
import { points } from "./till-process.ts"
import { Insist, payments, schema, Undo } from "./till.ts"
import { postgresWorld } from "./worlds.ts"
import { calls, takeStatement } from "../store/calls.ts"
import { until } from "../../stack/wait.ts"

const template = { schema }

callsSuite(
  "the Postgres store",
  Effect.flatMap(sharedDatabase(template), (db) => postgresWorld(db, "till"))
)

const eventually = (what: string, probe: () => boolean | Promise<boolean>) =>
  Effect.promise(() => until(what, 20_000, probe, 5))

/** The outside as a server, which a process of its own can ask. */
const serve = (outside: Outside) =>
  Effect.acquireRelease(
    Effect.sync(() =>
      Bun.serve({
        hostname: "127.0.0.1",
        port: 0,
        fetch: async (request) => {
          const { amount } = JSON.parse(await request.text())
          return Response.json(outside.charge(request.headers.get("idempotency-key") ?? "", amount))
        }
      })
    ),
    (server) => Effect.promise(() => server.stop(true))
  )

const spawn = (db: Database, outside: string, point: string) => {
  const { port, database, username, password } = db.service
  const program = join(import.meta.dir, "till-process.ts")
  const parameters = [point, outside, String(port), database, username, Redacted.value(password)]
  return Effect.acquireRelease(
    Effect.sync(() => Bun.spawn([process.execPath, program, ...parameters], { stdout: "ignore", stderr: "ignore" })),
    (child) =>
      Effect.promise(async () => {
        child.kill("SIGKILL")
        await child.exited
      })
  )
}

describe("the Postgres store: a call whose process is killed", () => {
  for (const point of points)
    scenario(
      `${point} takes effect once`,
      Effect.gen(function* () {
        const db = yield* sharedDatabase(template)
        const world = yield* postgresWorld(db, "till")
        const outside = new Outside()
        const server = yield* serve(outside)
        const one = yield* asker(world)
        yield* one.take(pay("o-1"))

        const victim = yield* spawn(db, server.url.href, point)
        yield* Effect.promise(() => victim.exited)
        const asked = outside.asked.length
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* spawn(db, server.url.href, "none")
            yield* one.take(pay("o-2"))
            yield* become(world, { "o-1": "PAID", "o-2": "PAID" })
          })
        )

        expect(victim.signalCode).toBe("SIGKILL")
        expect(asked).toBe(point === points[0] ? 0 : 1)
        expect(outside.asked.filter((key) => key === "charge:o-1").length).toBe(point === points[1] ? 2 : 1)
        expect(outside.charges.size).toBe(2)
        expect((yield* Effect.promise(() => world.outbox())).map(({ key }) => key).toSorted()).toEqual(["o-1", "o-2"])
      })
    )
})

describe("the Postgres store: a call", () => {
  scenario(
    "is under way without a transaction",
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const world = yield* postgresWorld(db, "till")
      const outside = new Outside()
      const one = yield* asker(world)
      let answer = () => {}
      const open = new Promise<void>((resolve) => (answer = resolve))
      const { running } = yield* startTill(world, outside, {
        carry: async ({ amount }, { idempotencyKey }) => {
          await open
          return outside.charge(idempotencyKey, amount)
        }
      })
      yield* one.take(pay("o-1"))
      yield* eventually("the call", () => running.counters().call_attempts === 1)

      const backends = yield* Effect.promise(
        () => db.superuser<Array<{ state: string; locks: number }>>`
          select state, (select count(*)::int from pg_locks l where l.pid = a.pid and l.locktype = 'transactionid') as locks
          from pg_stat_activity a
          where datname = ${db.name} and application_name = 'till calls' and xact_start is not null`
      )
      answer()
      yield* become(world, { "o-1": "PAID" })

      expect([...backends]).toEqual([])
    })
  )

  scenario(
    "is done once wherever its lane's connection is cut",
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const proxy = yield* Effect.acquireRelease(
        Effect.promise(() => startProxy({ host: "127.0.0.1", port: db.port })),
        (started) => Effect.promise(() => started.close())
      )
      const direct = yield* postgresWorld(db, "direct")
      const one = yield* asker(direct)
      const outside = new Outside()
      const cuts = (["cut before", "cut after"] as const).flatMap((fate) =>
        ["due as materialized", `"amount", "status"`, `from "calls"`, `update "calls"`, "commit\0", "last_error"].map(
          (text) => [text, fate] as const
        )
      )
      let used = 0
      const wanted: Record<string, string> = {}

      for (const [text, fate] of cuts) {
        const order = `o-${text}-${fate}`.replaceAll(/[^a-z0-9-]/g, "")
        yield* Effect.scoped(
          Effect.gen(function* () {
            const world = yield* postgresWorld(db, "till", { port: proxy.port })
            // before the lane has a connection: what it has sent once it sends by name
            let cut = false
            proxy.fate = (piece): Fate => {
              if (cut || !piece.includes(text)) return "forward"
              cut = true
              used++
              return fate
            }
            yield* startTill(world, outside, {
              // the first attempt fails, so that giving back is cut too
              carry: async ({ amount }, { idempotencyKey, attempt }) => {
                if (attempt === 1) throw new Error("on purpose")
                return outside.charge(idempotencyKey, amount)
              },
              options: { deadline: "1 second", lease: "-900 millis" }
            })
            yield* one.take(pay(order))
            wanted[order] = "PAID"
            yield* become(direct, wanted)
            proxy.fate = () => "forward"
          })
        )
      }

      expect(used).toBe(cuts.length)
      expect((yield* Effect.promise(() => direct.outbox())).length).toBe(cuts.length)
      expect(outside.charges.size).toBe(cuts.length)
    })
  )

  scenario(
    "that is asked for again and undone while it is carried out makes nobody wait for a deadlock",
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      const world = yield* postgresWorld(db, "till")
      const outside = new Outside()
      const [one, other] = [yield* asker(world), yield* asker(world)]
      const { running } = yield* startTill(world, outside, { options: { concurrency: 16 } })
      const orders = Array.from({ length: 200 }, (_, n) => `o-${n}`)
      const groups = Array.from({ length: 20 }, (_, n) => orders.slice(n * 10, n * 10 + 10))

      yield* Effect.all(
        [
          Effect.forEach(groups, (group) => one.take(...group.map((order) => pay(order)))),
          Effect.forEach(groups, (group) =>
            other.take(
              ...group.flatMap((order) => [record(Insist.of({ order, amount: 10 })), record(Undo.of({ order }))])
            )
          )
        ],
        { concurrency: "unbounded" }
      )
      yield* eventually("the end of it", async () =>
        (await world.rows(payments)).every((row) => /PAID|UNDONE/.test(payments.decode(row).status))
      )
      yield* eventually("no call left", async () =>
        (await world.rows(calls)).every((row) => calls.decode(row).done_at !== null)
      )

      expect([one.counters.retries, other.counters.retries, running.counters().retries]).toEqual([0, 0, 0])
      const statuses = (yield* Effect.promise(() => world.rows(payments))).map((row) => payments.decode(row))
      const kept = [...outside.charges.keys()].filter((key) => !outside.refunds.has(key.replace("charge", "refund")))
      for (const { id, status } of statuses) if (status === "PAID") expect(kept).toContain(`charge:${id}`)
    })
  )

  scenario(
    "that is due is found by its index, however many are done",
    Effect.gen(function* () {
      const db = yield* sharedDatabase(template)
      yield* Effect.promise(
        () => db.owner`
          insert into calls (id, kind, key, request, result, due_at, done_at, coordination)
          select 'charge:' || n, 'charge', n, '{}', '{}', null, now(), 'orchestration' from generate_series(1, 5000) n`
      )

      const plan = yield* Effect.promise(async () =>
        db.owner.begin(async (transaction) => {
          await transaction`set local enable_seqscan = off`
          await transaction.unsafe(`prepare take as ${takeStatement}`)
          return transaction.unsafe("explain execute take('charge', 10, 1000)")
        })
      )

      const text = plan.map((row) => String(Object.values(row)[0])).join("\n")
      expect(text).toContain("calls_due")
      expect(text).not.toContain("Seq Scan")
    })
  )
})
