import { expect, setDefaultTimeout, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Redacted, References } from "effect"
import { record } from "./bank.ts"
import { database } from "./postgres.ts"
import { Broker } from "../broker/broker.ts"
import { makeInProcess } from "../broker/in-process.ts"
import { charger, Pay, payment, Settled } from "../examples/charge.ts"
import { run } from "../runtime.ts"
import { emptyDatabase, layerMemory } from "../store/memory.ts"
import { startProcessor } from "../../stack/processor.ts"
import { until } from "../../stack/wait.ts"

setDefaultTimeout(30_000)

const schema = `
  create table invoices (id text primary key, total int not null, paid int not null);
  grant select, insert, update on invoices to bank_service;`

test("an existing service adopts outbox and inbox alone: examples/adopt.ts prints what the README says", () =>
  Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const { service, owner } = yield* database({ schema })
        const { host, port, username, password } = service
        const url = `postgres://${username}:${encodeURIComponent(Redacted.value(password))}@${host}:${port}/${service.database}`

        yield* Effect.promise(async () => {
          const child = Bun.spawn([process.execPath, join(import.meta.dir, "..", "examples", "adopt.ts")], {
            env: { ...process.env, DATABASE_URL: url },
            stdout: "pipe",
            stderr: "pipe",
            timeout: 20_000,
            killSignal: "SIGKILL"
          })
          const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()])

          expect({ code: await child.exited, err }).toEqual({ code: 0, err: "" })
          expect(out.trim().split("\n")).toEqual([
            "two writes: killed between the two writes",
            "A: 100 of 100 paid, 0 messages: nobody will ever hear of it",
            "B: 100 of 100 paid, 1 message in the same transaction",
            "payment for C: booked",
            "the same once more: seen before, nothing to do",
            "C: 40 of 100 paid"
          ])
          expect(await owner`select topic, type, payload from outbox`).toMatchObject([
            { topic: "invoices-events", type: "InvoicePaid", payload: { invoiceId: "B", total: 100 } }
          ])
        })
      })
    )
  ))

test("the README's payment is taken by a card processor once, whatever becomes of its answers", () =>
  Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const processor = yield* Effect.acquireRelease(
          Effect.sync(() => startProcessor()),
          (started) => Effect.promise(() => started.stop())
        )
        yield* Effect.promise(() =>
          fetch(`${processor.url}/control`, { method: "PUT", body: JSON.stringify({ loseAnswers: 1 }) })
        )
        const stored = emptyDatabase()
        const { broker } = makeInProcess({ partitions: 1 })
        const running = yield* run(payment, { callers: [charger(processor.url)] }).pipe(
          Effect.provide(layerMemory(stored)),
          Effect.provideService(Broker, broker),
          Effect.provideService(References.MinimumLogLevel, "None")
        )
        const { topic, key, value, headers } = record(Pay.of({ orderId: "o-1", amount: 10 }))
        const texts = Object.fromEntries(Object.entries(headers).map(([name, text]) => [name, String(text)]))

        yield* broker.publish([{ topic, key: String(key), value: value ?? "", headers: texts }])
        yield* Effect.promise(() => until("its result", 10_000, () => running.counters().calls === 1))

        expect(running.counters()).toMatchObject({ call_attempts: 2, call_failures: 1 })
        expect([...(stored.tables.get("payments")?.values() ?? [])]).toEqual([{ order_id: "o-1", status: "CHARGED" }])
        expect(stored.outbox.map(({ type, payload }) => [type, payload])).toEqual([
          [Settled.type, JSON.stringify({ orderId: "o-1", status: "CHARGED" })]
        ])
        const charges = yield* Effect.promise(async () => (await fetch(`${processor.url}/charges`)).text())
        expect(JSON.parse(charges).items).toHaveLength(1)
      })
    )
  ))

test("the README's code is code of the examples", () => {
  const folder = join(import.meta.dir, "..", "examples")
  const examples = readdirSync(folder).map((file) => readFileSync(join(folder, file), "utf8"))
  const readme = readFileSync(join(import.meta.dir, "..", "..", "README.md"), "utf8")
  const blocks = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, block = ""]) => block.replace(/^import .*\n+/gm, ""))

  const long = blocks.filter((block) => block.split("\n").length > 3)

  expect(long.length).toBe(5)
  for (const block of long) expect(examples.some((example) => example.includes(block))).toBe(true)
})
