/** The HTTP app that all services share: their routes, health, and errors as problem documents. */
import { Cause, Effect, Exit, Option } from "effect"
import { Hono, type Context } from "hono"
import { bodyLimit } from "hono/body-limit"
import { methodNotAllowed } from "hono/method-not-allowed"
import { secureHeaders } from "hono/secure-headers"
import type { Edge } from "./edge.ts"
import { readiness } from "./health.ts"
import { Problem, problem, render } from "./problem.ts"
import { bodyLimitBytes } from "./request.ts"

/** A route as an effect: it answers, or fails with a problem. It is interrupted when the client goes away. */
export const answer = (route: (c: Context) => Effect.fn.Return<Response, Problem>) => {
  const effect = Effect.fnUntraced(route)
  return async (c: Context): Promise<Response> => {
    const exit = await Effect.runPromiseExit(effect(c), { signal: c.req.raw.signal })
    if (Exit.isSuccess(exit)) return exit.value
    // nobody is there any more to be answered
    if (Cause.hasInterruptsOnly(exit.cause)) return new Response(null, { status: 499 })
    const failure = Cause.findErrorOption(exit.cause)
    if (Option.isSome(failure)) return render(failure.value)
    throw Cause.squash(exit.cause)
  }
}

export const makeApp = (edge: Edge, routes: Hono): Hono => {
  const app = new Hono()
  app.use(secureHeaders())
  app.use(async (c, next) => {
    await next()
    c.res.headers.set("Cache-Control", "no-store")
  })
  app.use(
    methodNotAllowed({
      app,
      onMethodNotAllowed: (_c, methods) => {
        const Allow = methods.join(", ")
        return render(new Problem({ kind: "method-not-allowed", detail: `Allowed are ${Allow}.`, headers: { Allow } }))
      }
    })
  )
  app.use(
    bodyLimit({
      maxSize: bodyLimitBytes,
      onError: () => render(problem("too-large", `A body has ${bodyLimitBytes} bytes at most.`))
    })
  )
  app.get("/health/live", (c) => c.json({ status: "live" }))
  app.get(
    "/health/ready",
    answer(function* (c) {
      const reasons = yield* readiness(edge)
      return reasons.length === 0 ? c.json({ status: "ready" }) : c.json({ status: "unready", reasons }, 503)
    })
  )
  app.route("/", routes)
  app.notFound((c) => render(problem("not-found", `There is no ${c.req.path}.`)))
  app.onError((error, c) => {
    // it went away in the middle of its body: its own doing, and none that is worth a line in the log
    if (c.req.raw.signal.aborted) return new Response(null, { status: 499 })
    Effect.runFork(Effect.logError("a request broke", error))
    return render(problem("internal", "The error was logged."))
  })
  return app
}
