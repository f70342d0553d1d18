import { expect, test } from "bun:test"
import { join } from "node:path"
import { Effect, Redacted } from "effect"
import { database } from "./postgres.ts"

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
