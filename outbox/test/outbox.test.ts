/** The outbox and the inbox alone, inside transactions that a service of its own begins with its own `postgres` client. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { Effect, Exit, Redacted, Schema, Scope } from "effect"
import fc from "fast-check"
import postgres from "postgres"
import { until } from "../../stack/wait.ts"
import { maxPayloadLength, Topic } from "../message.ts"
import { Inbox, Outbox, OutsideWindow } from "../store/outbox.ts"
import { database, type Database } from "./postgres.ts"

const events = Topic.events("invoices-events")
const InvoicePaid = events.message(
  "InvoicePaid",
  { invoiceId: Schema.String, amount: Schema.Int, memo: Schema.optionalKey(Schema.String) },
  { key: "invoiceId", schemaVersion: 2 }
)

const schema = `
  create table invoices (id text primary key, status text not null);
  grant select, insert, update on invoices to bank_service;`

const scope = Effect.runSync(Scope.make())
let base: Database
let sql: postgres.Sql
const clients: Array<postgres.Sql> = []

/** A client as some service has it. */
const client = <Types extends Record<string, postgres.PostgresType> = {}>(options: postgres.Options<Types> = {}) => {
  const { host, port, database, username, password } = base.service
  const own = postgres({ host, port, database, username, password: Redacted.value(password), max: 4, ...options })
  clients.push(own as unknown as postgres.Sql)
  return own
}

beforeAll(async () => {
  base = await Effect.runPromise(database({ schema }).pipe(Effect.provideService(Scope.Scope, scope)))
  sql = client({ max: 30 })
}, 60_000)
afterAll(async () => {
  await Promise.all(clients.map((own) => own.end({ timeout: 2 })))
  await Effect.runPromise(Scope.close(scope, Exit.void))
})

let invoices = 0
const newInvoice = (): string => `invoice-${++invoices}`
const paid = (invoiceId: string) => InvoicePaid.of({ invoiceId, amount: 100 })
const messagesOf = (invoiceId: string) => base.owner`
  select id, topic, key, type, payload, correlation, causation, coordination, definition, traceparent, schema_version
  from outbox
  where key = ${invoiceId}`
const failure = (run: Promise<unknown>): Promise<unknown> =>
  run.then(
    () => new Error("it did not fail"),
    (error: unknown) => error
  )
class ChangedItsMind extends Error {}

describe("appending to the outbox", () => {
  test("commits the messages with the change they tell of", async () => {
    const invoice = newInvoice()

    const ids = await sql.begin(async (transaction) => {
      await transaction`insert into invoices (id, status) values (${invoice}, 'PAID')`
      return Outbox.append(transaction, [paid(invoice)])
    })

    expect(await messagesOf(invoice)).toEqual([
      {
        id: ids[0] ?? "",
        topic: "invoices-events",
        key: invoice,
        type: "InvoicePaid",
        payload: { invoiceId: invoice, amount: 100 },
        correlation: invoice,
        causation: null,
        coordination: "orchestration",
        definition: null,
        traceparent: null,
        schema_version: 2
      }
    ] as never)
  })

  test("leaves neither message nor change when the transaction rolls back", async () => {
    const invoice = newInvoice()

    const error = await failure(
      sql.begin(async (transaction) => {
        await transaction`insert into invoices (id, status) values (${invoice}, 'PAID')`
        await Outbox.append(transaction, [paid(invoice)])
        throw new ChangedItsMind()
      })
    )

    expect(error).toBeInstanceOf(ChangedItsMind)
    expect(await messagesOf(invoice)).toHaveLength(0)
    expect(await base.owner`select id from invoices where id = ${invoice}`).toHaveLength(0)
  })

  test("inside a savepoint goes with the savepoint", async () => {
    const [kept, dropped] = [newInvoice(), newInvoice()]

    await sql.begin(async (transaction) => {
      await Outbox.append(transaction, [paid(kept)])
      await failure(
        transaction.savepoint(async (inner) => {
          await Outbox.append(inner, [paid(dropped)])
          throw new ChangedItsMind()
        })
      )
    })

    expect(await messagesOf(kept)).toHaveLength(1)
    expect(await messagesOf(dropped)).toHaveLength(0)
  })

  test("answers the ids in order: the ones it was given, and growing UUIDv7 for the others", async () => {
    const given = Bun.randomUUIDv7()
    const many = Array.from({ length: 50 }, newInvoice)

    const ids = await sql.begin((transaction) =>
      Outbox.append(transaction, [
        InvoicePaid.of(
          { invoiceId: "given", amount: 1 },
          { id: given, correlation: "c1", coordination: "choreography", definition: "d1" }
        ),
        ...many.map(paid)
      ])
    )

    expect(ids[0]).toBe(given)
    expect(ids.slice(1)).toEqual(ids.slice(1).sort())
    expect(await messagesOf("given")).toMatchObject([
      { id: given, correlation: "c1", coordination: "choreography", definition: "d1" }
    ])
    expect(await base.owner`select id from outbox where id in ${base.owner(ids)}`).toHaveLength(51)
  })

  test("of nothing asks the database nothing", async () => {
    expect(await sql.begin((transaction) => Outbox.append(transaction, []))).toEqual([])
  })

  test.each([
    ["breaks its contract", () => InvoicePaid.of({ invoiceId: "broken", amount: 0.5 }), "breaks its contract"],
    ["holds what Postgres can't store", () => InvoicePaid.of({ invoiceId: "a\u0000", amount: 1 }), "holds U+0000"],
    [
      "is longer than readers take",
      () => InvoicePaid.of({ invoiceId: "long", amount: 1, memo: "x".repeat(maxPayloadLength) }),
      "more than the 262144 a message may have"
    ]
  ])("a payload that %s rolls the transaction back", async (_name, bad, message) => {
    const invoice = newInvoice()

    const error = await failure(
      sql.begin(async (transaction) => {
        await transaction`insert into invoices (id, status) values (${invoice}, 'PAID')`
        await Outbox.append(transaction, [paid(invoice), bad()])
      })
    )

    expect(String(error)).toContain(message)
    expect(await messagesOf(invoice)).toHaveLength(0)
    expect(await base.owner`select id from invoices where id = ${invoice}`).toHaveLength(0)
  })

  test("whatever a contract lets pass, Postgres stores and gives back", async () => {
    const texts = fc.sample(
      fc
        .array(fc.oneof(fc.constantFrom(0x22, 0x5c, 0x75, 0x30, 0x0a), fc.integer({ min: 1, max: 0xffff })), {
          minLength: 1
        })
        .map((codes) => String.fromCharCode(...codes).toWellFormed()),
      { seed: 20260301, numRuns: 500 }
    )

    const ids = await sql.begin((transaction) =>
      Outbox.append(
        transaction,
        texts.map((memo) => InvoicePaid.of({ invoiceId: "any", amount: 1, memo }))
      )
    )

    const stored = await base.owner<Array<{ id: string; memo: string }>>`
      select id, payload ->> 'memo' as memo from outbox where key = 'any'`
    const memos = new Map(stored.map(({ id, memo }) => [id, memo]))
    expect(ids.map((id) => memos.get(id) ?? "")).toEqual(texts)
  })

  test.each(["update outbox set key = key", "delete from outbox", "truncate outbox"])(
    "can't be taken back by the service: %s",
    async (statement) => {
      const error = await failure(sql.unsafe(statement))

      expect(String(error)).toContain("permission denied for table outbox")
    }
  )

  test("outside a transaction does not type-check: the check of this file's types is the test", () => {
    const neverCalled = async () => {
      // @ts-expect-error: a pool is no transaction
      await Outbox.append(sql, [])
      // @ts-expect-error: a reserved connection is no transaction
      await Outbox.append(await sql.reserve(), [])
      // @ts-expect-error: the library's own pools are none either
      await Outbox.append(base.asService, [])
      // @ts-expect-error: neither can a pool claim
      await Inbox.claim(sql, "billing", [])
      // @ts-expect-error: a payload is its contract's
      await sql.begin((transaction) => Outbox.append(transaction, [InvoicePaid.of({ invoiceId: "a" })]))
    }

    expect(neverCalled).toBeFunction()
  })
})

describe("claiming in the inbox", () => {
  const claim = (ids: ReadonlyArray<string>, consumer = "billing", by = sql) =>
    by.begin((transaction) => Inbox.claim(transaction, consumer, ids))
  const newIds = (count: number): Array<string> => Array.from({ length: count }, () => Bun.randomUUIDv7())

  test("answers an id once, however often and in whatever batch it comes", async () => {
    const [a = "", b = "", c = ""] = newIds(3)

    const first = await claim([b, a, b])
    const second = await claim([a, c, a])
    const third = await claim([a, b, c])

    expect([...first].sort()).toEqual([a, b])
    expect([...second]).toEqual([c])
    expect([...third]).toEqual([])
  })

  test("is each consumer's own", async () => {
    const [id = ""] = newIds(1)

    expect([...(await claim([id], "billing"))]).toEqual([id])
    expect([...(await claim([id], "reporting"))]).toEqual([id])
    expect([...(await claim([id], "billing"))]).toEqual([])
  })

  test("of nothing answers nothing", async () => {
    expect([...(await claim([]))]).toEqual([])
  })

  test("takes ids that carry no time, once each", async () => {
    const foreign = crypto.randomUUID()

    expect([...(await claim([foreign]))]).toEqual([foreign])
    expect([...(await claim([foreign]))]).toEqual([])
  })

  test("is undone when the transaction rolls back: the redelivered message is worked on", async () => {
    const [id = ""] = newIds(1)

    const error = await failure(
      sql.begin(async (transaction) => {
        expect([...(await Inbox.claim(transaction, "billing", [id]))]).toEqual([id])
        throw new ChangedItsMind()
      })
    )

    expect(error).toBeInstanceOf(ChangedItsMind)
    expect([...(await claim([id]))]).toEqual([id])
  })

  /**
   * A transaction claims an id and stays open; others begin to claim and wait for it; then it ends as told. Answers what
   * the others got.
   */
  const race = async (id: string, end: "commit" | "rollback", others: ReadonlyArray<ReadonlyArray<string>>) => {
    const claimed = Promise.withResolvers<void>()
    const mayEnd = Promise.withResolvers<void>()
    const first = failure(
      sql.begin(async (transaction) => {
        await Inbox.claim(transaction, "racing", [id])
        claimed.resolve()
        await mayEnd.promise
        if (end === "rollback") throw new ChangedItsMind()
      })
    )
    await claimed.promise
    const waiting = Promise.all(others.map((ids) => claim(ids, "racing")))
    await until("the others wait", 5_000, async () => {
      const waiters = await base.superuser`
        select from pg_stat_activity
        where datname = ${base.name} and wait_event_type = 'Lock' and query like '%insert into inbox%'`
      return waiters.length === others.length
    })
    mayEnd.resolve()
    await first
    return (await waiting).map((mine) => [...mine])
  }

  test("waits for another transaction's claim, and gets nothing when that commits", async () => {
    const [id = ""] = newIds(1)

    expect(await race(id, "commit", [[id]])).toEqual([[]])
    expect([...(await claim([id], "racing"))]).toEqual([])
  })

  test("waits for another transaction's claim, and gets it when that rolls back", async () => {
    const [id = ""] = newIds(1)

    expect(await race(id, "rollback", [[id]])).toEqual([[id]])
    expect([...(await claim([id], "racing"))]).toEqual([])
  })

  test("never deadlocks with another claim: ids are claimed in their own order, not in that of the batch", async () => {
    const [a = "", middle = "", z = ""] = newIds(3)

    const got = await race(middle, "commit", [
      [a, middle, z],
      [z, middle, a]
    ])

    expect(got.flat().sort()).toEqual([a, z])
  })

  test("gives each id to one of twenty that claim the same ids at the same time", async () => {
    const ids = newIds(100)
    const orders = Array.from({ length: 20 }, (_, turn) => [...ids.slice(turn * 5), ...ids.slice(0, turn * 5)])

    const won = await Promise.all(orders.map((order) => claim(order, "crowd")))

    expect(won.flatMap((mine) => [...mine]).sort()).toEqual([...ids].sort())
  })

  test("has a partition for every id that it may claim, at both ends of the window", async () => {
    const [settings] = await base.owner<Array<{ slot_ms: number; inbox_slots: number; now: number }>>`
      select slot_ms, inbox_slots, floor(extract(epoch from now()) * 1000)::bigint as now from oncebox_settings`
    const { slot_ms: slotMs, inbox_slots: slots, now } = settings ?? { slot_ms: 0, inbox_slots: 0, now: 0 }
    const ids = Array.from({ length: slots + 2 }, (_, n) => Bun.randomUUIDv7("hex", now + (n - slots) * slotMs))

    const claimed = await claim(ids, "window")

    expect(ids).toHaveLength(10)
    expect([...claimed].sort()).toEqual([...ids].sort())
  })

  test.each([
    ["too old for its claim to be kept", -9],
    ["dated after the next slot", 2]
  ])("an id that is %s is refused, and the others of its transaction stay unclaimed", async (_name, days) => {
    const [good = ""] = newIds(1)
    const bad = Bun.randomUUIDv7("hex", Date.now() + days * 86_400_000)

    const error = await failure(claim([good, bad]))

    expect(error).toBeInstanceOf(OutsideWindow)
    expect(String(error)).toContain(`id ${bad} is dated outside the window`)
    expect([...(await claim([good]))]).toEqual([good])
  })

  test.each(["", "message-1", Bun.randomUUIDv7().toUpperCase(), "00000000-0000-0000-0000-000000000000"])(
    "what is no lower-case UUID is refused: %p",
    async (id) => {
      expect(String(await failure(claim([id])))).toContain(`${JSON.stringify(id)} is not a UUID in its lower-case form`)
    }
  )
})

describe("a service's own client may", () => {
  const roundTrip = async (transaction: Parameters<typeof Outbox.append>[0]) => {
    const invoice = newInvoice()
    const [id = ""] = await Outbox.append(transaction, [paid(invoice)])
    return {
      id,
      invoice,
      first: await Inbox.claim(transaction, "own", [id]),
      second: await Inbox.claim(transaction, "own", [id])
    }
  }
  const asText = {
    to: 1184,
    from: [1082, 1114, 1184],
    serialize: (text: string) => text,
    parse: (text: string) => text
  }

  test.each([
    ["have no options at all", () => client().begin(roundTrip)],
    ["name columns in camel case", () => client({ transform: postgres.camel }).begin(roundTrip)],
    ["name columns in Pascal case", () => client({ transform: postgres.pascal }).begin(roundTrip)],
    ["read bigint as BigInt", () => client({ types: { bigint: postgres.BigInt } }).begin(roundTrip)],
    ["read times as text", () => client({ types: { date: asText } }).begin(roundTrip)],
    ["prepare nothing, as behind a pooler", () => client({ prepare: false }).begin(roundTrip)],
    ["ask for serializable transactions", () => client().begin("isolation level serializable", roundTrip)]
  ])("%s", async (_name, run) => {
    const { id, invoice, first, second } = await run()

    expect([...first]).toEqual([id])
    expect([...second]).toEqual([])
    expect(await messagesOf(invoice)).toMatchObject([{ id }])
  })
})
