/** What the user service's API reads, read from Postgres. */
import { expect, test } from "bun:test"
import { join } from "node:path"
import { Effect } from "effect"
import { database } from "../../../outbox/test/postgres.ts"
import { makeQueries } from "../queries.ts"

const [made, pending] = ["019a0000-0000-7000-8000-000000000001", "019a0000-0000-7000-8000-000000000002"]

test("a deposit is found under its own user only, and is settled once it was answered", async () => {
  const schema = await Bun.file(join(import.meta.dir, "..", "migrations", "0001_user.sql")).text()
  const body = Effect.gen(function* () {
    const db = yield* database({ schema })
    const queries = makeQueries(db.owner)
    yield* Effect.promise(
      () => db.owner`
        insert into deposits (id, user_id, amount, status, created_at, due_at)
        values (${made}, 'ann', 500, 'MADE', now(), null), (${pending}, 'ann', 500, 'PENDING', now(), now())`
    )

    expect(yield* Effect.promise(() => queries.deposit("ann", made))).toMatchObject({ id: made, userId: "ann" })
    expect(yield* Effect.promise(() => queries.deposit("bob", made))).toBeUndefined()
    const settled = yield* Effect.promise(() => queries.settledDeposits([made, pending]))
    expect(settled.map(({ id }) => id)).toEqual([made])
  })

  await Effect.runPromise(Effect.scoped(body))
}, 60_000)
