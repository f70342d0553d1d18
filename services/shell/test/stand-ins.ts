/** A service's edge without a database or a participant: what is submitted is answered by the test. */
import { afterAll, beforeAll, spyOn } from "bun:test"
import { Effect, Exit, Latch, Scope, Semaphore } from "effect"
import type { Hono } from "hono"
import { StoreUnavailable, type RequestError, type Running, type Sql, type SubmitOptions } from "oncebox"
import type { Edge } from "../edge.ts"
import { makeApp } from "../http.ts"

export interface Submitted {
  readonly type: string
  readonly payload: object
  readonly options: SubmitOptions | undefined
}

export interface StandIn {
  readonly edge: Edge
  /** What the routes submitted so far. */
  readonly submitted: ReadonlyArray<Submitted>
}

export const standIn = (
  reply: (submitted: Submitted) => Effect.Effect<object, RequestError> = () => Effect.die("nothing is submitted here"),
  options: { readonly reasons?: ReadonlyArray<string>; readonly select?: () => Promise<unknown> } = {}
): StandIn => {
  const submitted: Array<Submitted> = []
  const submit = (request: { readonly type: string }, payload: object, given?: SubmitOptions) => {
    const one = { type: request.type, payload, options: given }
    submitted.push(one)
    return reply(one)
  }
  const reasons = options.reasons ?? []
  const running: Edge["running"] = {
    // The stand-in answers every request type with what the test says is its reply.
    submit: submit as unknown as Running["submit"],
    health: () => ({ ready: reasons.length === 0, reasons }),
    counters: () => ({ ...zeroes, passes: 3, duplicates: 1 }),
    deadLetters: noDeadLetters
  }
  // Only health asks it anything here: routes read through queries of the test.
  const sql = (options.select ?? (() => Promise.resolve([{}]))) as unknown as Sql
  const use: Edge["reads"]["use"] = (run) =>
    Effect.tryPromise({ try: async () => run(sql), catch: (cause) => new StoreUnavailable({ message: String(cause) }) })
  const orders: Edge["orders"] = { choreography: true, coordination: "orchestration", definition: "place-order" }
  const readers = Semaphore.makeUnsafe(10)
  return { edge: { reads: { sql, use }, readers, running, orders, closing: Latch.makeUnsafe(false) }, submitted }
}

const unasked = () => Effect.die("nobody looks at dead letters here")
const noDeadLetters: Edge["running"]["deadLetters"] = {
  groups: () => Effect.succeed([]),
  list: unasked,
  find: unasked,
  redrive: unasked,
  redriveAll: unasked,
  discard: unasked,
  discardAll: unasked
}

const zeroes = {
  passes: 0,
  messages: 0,
  requests: 0,
  timers: 0,
  calls: 0,
  call_attempts: 0,
  call_failures: 0,
  duplicates: 0,
  parked: 0,
  skipped: 0,
  unknown: 0,
  retries: 0
}

/** Keeps the log of errors that a file's tests provoke out of the output. */
export const quietly = (): void => {
  let silenced: { mockRestore: () => void } | undefined
  beforeAll(() => void (silenced = spyOn(console, "log").mockImplementation(() => {})))
  afterAll(() => silenced?.mockRestore())
}

/** The whole app over some routes, for one test. */
export const withApp = async (
  edge: Edge,
  routes: Effect.Effect<Hono, never, Scope.Scope>,
  body: (app: Hono) => Promise<void>
): Promise<void> => {
  const scope = Scope.makeUnsafe()
  try {
    await body(makeApp(edge, await Effect.runPromise(Scope.provide(routes, scope))))
  } finally {
    await Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

/** What a service answers to one request whose decision, should it come to one, replies with this. */
export const answerTo = async (
  routes: (edge: Edge) => Effect.Effect<Hono, never, Scope.Scope>,
  path: string,
  init: RequestInit,
  reply: object
) => {
  const { edge, submitted } = standIn(() => Effect.succeed(reply))
  let answer = new Response()
  await withApp(edge, routes(edge), async (app) => void (answer = await app.request(path, init)))
  const { status, headers } = answer
  return { status, etag: headers.get("ETag"), location: headers.get("Location"), text: await answer.text(), submitted }
}

export const json = (
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
  method: "POST" | "PUT" = "POST"
): RequestInit => ({
  method,
  body: typeof body === "string" ? body : JSON.stringify(body),
  headers: { "Content-Type": "application/json", ...headers }
})

/** A response's body, as the test believes it to be: its expectations find out. */
export const bodyOf = async <A = Readonly<Record<string, unknown>>>(response: Response): Promise<A> =>
  (await response.json()) as A
