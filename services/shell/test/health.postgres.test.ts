/** A service that is asked for nothing but its health finds its database again. */
import { expect, test } from "bun:test"
import { Effect } from "effect"
import { Pool } from "oncebox"
import { database } from "../../../outbox/test/postgres.ts"
import { startProxy, type Proxy } from "../../../outbox/test/proxy.ts"
import { until } from "../../../stack/wait.ts"
import { readiness } from "../health.ts"
import { standIn } from "./stand-ins.ts"

/** A service behind a proxy to its database, and the proxy. */
const behindProxy = (
  most: number,
  body: (proxy: Proxy, ready: () => Promise<boolean>) => Promise<void>
): Promise<void> =>
  Effect.gen(function* () {
    const db = yield* database({ schema: "" })
    const proxy = yield* Effect.acquireRelease(
      Effect.promise(() => startProxy({ host: "127.0.0.1", port: db.port })),
      (started) => Effect.promise(() => started.close())
    )
    const options = { ...db.service, port: proxy.port, bounds: { answerMs: 2_000 } }
    const reads = yield* Effect.acquireRelease(
      Effect.sync(() => new Pool(options, { name: "reads", max: most, readOnly: true })),
      (pool) => Effect.promise(() => pool.close())
    )
    const edge = { ...standIn().edge, reads }
    yield* Effect.promise(() => body(proxy, async () => (await Effect.runPromise(readiness(edge))).length === 0))
  }).pipe(Effect.scoped, Effect.runPromise)

const becomesReady = (ready: () => Promise<boolean>): Promise<void> => until("ready", 10_000, ready)

test(
  "it is ready again after no connection could be made for a while",
  () =>
    behindProxy(1, async (proxy, ready) => {
      proxy.fate = () => "cut before"
      for (let n = 0; n < 9; n++) expect(await ready()).toBe(false)

      proxy.fate = () => "forward"
      await becomesReady(ready)
    }),
  60_000
)

test(
  "it is ready again after connections that answer nothing",
  () =>
    behindProxy(1, async (proxy, ready) => {
      await becomesReady(ready)
      proxy.stop()
      expect(await ready()).toBe(false)

      await becomesReady(ready)
    }),
  60_000
)
