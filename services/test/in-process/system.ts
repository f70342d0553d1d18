/**
 * The whole system in one process: real Postgres, real HTTP, the in-process broker and a relay for each outbox. One for
 * each test file that asks for it.
 */
import { afterAll, beforeAll } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Exit, Scope } from "effect"
import { connect, type Sql } from "oncebox"
import { startEmbedded, type Embedded, type ServiceName } from "../../../stack/embedded.ts"
import { until } from "../../../stack/wait.ts"
import { bodyOf } from "../../shell/test/stand-ins.ts"
import type { Database } from "../stack.ts"

const answersWithinMs = 40_000
const endsWithinMs = 30_000

/** A saga as the orchestrator shows it. */
export interface SagaView {
  readonly state: string
  readonly definition: string
  readonly coordination: string
  readonly endedAt: string | null
}

interface Sent {
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** Has a system for the tests of this file, with a card processor when there is one. */
export const useSystem = (cardProcessorUrl?: string) => {
  const dir = mkdtempSync(join(tmpdir(), "oncebox-"))
  const scope = Scope.makeUnsafe()
  let started: Embedded | undefined
  beforeAll(async () => {
    const options = { dir, ports: "free", ...(cardProcessorUrl === undefined ? {} : { cardProcessorUrl }) } as const
    started = await Effect.runPromise(Scope.provide(startEmbedded(options), scope))
  })
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(dir, { recursive: true, force: true })
  })
  const up = (): Embedded => {
    if (started === undefined) throw new Error("the system is not up yet")
    return started
  }
  /** As it will be there once the tests run. */
  const embedded: Pick<Embedded, "urls" | "adminUrls" | "owner" | "broker" | "stop" | "start"> = {
    get urls() {
      return up().urls
    },
    get adminUrls() {
      return up().adminUrls
    },
    owner: (database) => up().owner(database),
    get broker() {
      return up().broker
    },
    stop: (service) => up().stop(service),
    start: (service) => up().start(service)
  }

  const send = (method: string, service: ServiceName, path: string, { body, headers = {} }: Sent = {}) =>
    fetch(`${embedded.urls.get(service)}${path}`, {
      method,
      headers: { "Content-Type": "application/json", ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(answersWithinMs)
    })
  const get = async <A>(service: ServiceName, path: string): Promise<A> => bodyOf<A>(await send("GET", service, path))
  return {
    dir,
    embedded,
    send,
    get,

    /** Posts, and prefers to wait for the outcome unless told otherwise. */
    post: async <A>(service: ServiceName, path: string, body: unknown, prefer = "wait=20"): Promise<A> =>
      bodyOf<A>(await send("POST", service, path, { body, headers: prefer === "" ? {} : { Prefer: prefer } })),

    /** Runs statements in a database, as its owner. */
    inDatabase: async <A>(database: Database, run: (sql: Sql) => PromiseLike<A>): Promise<A> => {
      const sql = connect(embedded.owner(database), { name: "test", max: 1 })
      try {
        return await run(sql)
      } finally {
        await sql.end({ timeout: 1 })
      }
    },

    /** The order's saga, once it has ended. */
    ended: async (id: string): Promise<SagaView> => {
      let saga: SagaView | undefined
      await until(`saga ${id}`, endsWithinMs, async () => {
        saga = await get<SagaView>("orchestrator", `/sagas/${id}`)
        return (saga.endedAt ?? null) !== null
      })
      if (saga === undefined) throw new Error(`there is no saga ${id}`)
      return saga
    }
  }
}
