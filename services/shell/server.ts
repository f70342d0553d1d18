/** Listens on a port for as long as the scope is open. Closing it refuses new requests and lets running ones finish. */
import { Effect, Latch, Schema, type Scope } from "effect"

/** The port can't be listened on. */
export class CannotListen extends Schema.TaggedError<CannotListen>()("CannotListen", { message: Schema.String }) {}

// longer than a request may wait for an outcome, or Bun would close its connection
const idleTimeoutSeconds = 60
// the app refuses bodies of more than 64 kB and says so; this keeps what it does not read from piling up
const maxRequestBodySize = 1_048_576
const finishWithin = "5 seconds"

export const listen = (options: {
  readonly hostname: string
  readonly port: number
  readonly fetch: (request: Request) => Response | Promise<Response>
  /** Opened before running requests are waited for, so that those which wait for something give up. */
  readonly closing: Latch.Latch
}): Effect.Effect<{ readonly port: number }, CannotListen, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () =>
        Bun.serve({
          hostname: options.hostname,
          port: options.port,
          idleTimeout: idleTimeoutSeconds,
          maxRequestBodySize,
          fetch: options.fetch
        }),
      catch: (cause) =>
        new CannotListen({ message: `can't listen on ${options.hostname}:${options.port}: ${String(cause)}` })
    }),
    (server) =>
      Latch.open(options.closing).pipe(
        Effect.andThen(Effect.promise(() => server.stop())),
        Effect.timeoutOrElse({ duration: finishWithin, orElse: () => Effect.promise(() => server.stop(true)) })
      )
  ).pipe(Effect.map((server) => ({ port: server.port ?? options.port })))
