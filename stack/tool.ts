/** Runs a tool as this process: it ends with the tool's exit code, or cleanly on Ctrl-C, on SIGTERM and with its terminal. */
import { Cause, Effect, Exit, Layer, Logger, References, type Scope } from "effect"

/** How long stopping may take. */
const stopWithinMs = 15_000

export const runTool = (tool: Effect.Effect<number, { readonly message: string }, Scope.Scope>): void => {
  const quiet = Layer.merge(Logger.layer([Logger.consolePretty()]), Layer.succeed(References.MinimumLogLevel, "Warn"))
  const fiber = Effect.runFork(Effect.scoped(tool).pipe(Effect.provide(quiet)))
  const stop = (): void => {
    fiber.interruptUnsafe()
    setTimeout(() => process.exit(1), stopWithinMs).unref()
  }
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, stop)
  fiber.addObserver((exit) => {
    if (Exit.isSuccess(exit)) process.exit(exit.value)
    if (Cause.hasInterruptsOnly(exit.cause)) process.exit(0)
    const [reason] = exit.cause.reasons
    console.error(reason?._tag === "Fail" ? reason.error.message : Cause.pretty(exit.cause))
    process.exit(1)
  })
}
