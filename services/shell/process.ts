/**
 * Runs a program as this process: until it ends, or until it is told to, by Ctrl-C, SIGTERM or with its terminal. What it holds
 * is released then, and the process ends with the program's exit code. An error is told in one line, and ends it with 1.
 */
import { Cause, Effect, Exit, type Scope } from "effect"

export interface ProcessOptions {
  /** Who says what went wrong, when it is one of many. */
  readonly name?: string
  /** How long releasing may take, before the process ends all the same, with 1. */
  readonly stopsWithinMs?: number
}

export const runProcess = (
  program: Effect.Effect<number, { readonly message: string }, Scope.Scope>,
  { name, stopsWithinMs = 10_000 }: ProcessOptions = {}
): void => {
  const endSoon = (): void => void setTimeout(() => process.exit(1), stopsWithinMs).unref()
  const fiber = Effect.runFork(Effect.scoped(program.pipe(Effect.onExit(() => Effect.sync(endSoon)))))
  const stop = (): void => {
    fiber.interruptUnsafe()
    endSoon()
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, stop)
  fiber.addObserver((exit) => {
    if (Exit.isSuccess(exit)) process.exit(exit.value)
    if (Cause.hasInterruptsOnly(exit.cause)) process.exit(0)
    const [reason] = exit.cause.reasons
    const problem = reason?._tag === "Fail" ? reason.error.message : Cause.pretty(exit.cause)
    console.error(name === undefined ? problem : `${name}: ${problem}`)
    process.exit(1)
  })
}
