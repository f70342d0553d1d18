/** A one-shot job as this process: it says in one line how it ended, and exits with 0 or 1. */
import { Cause, Effect, Exit } from "effect"

const within = "5 minutes"

export const runJob = (name: string, job: Effect.Effect<string, { readonly message: string }>): void => {
  Effect.runPromiseExit(job.pipe(Effect.timeout(within))).then((exit) => {
    if (Exit.isSuccess(exit)) console.log(`${name}: ${exit.value}`)
    else {
      const [reason] = exit.cause.reasons
      console.error(`${name}: ${reason?._tag === "Fail" ? messageOf(reason.error) : Cause.pretty(exit.cause)}`)
    }
    process.exit(Exit.isSuccess(exit) ? 0 : 1)
  })
}

const messageOf = (error: { readonly message: string; readonly cause?: unknown }): string =>
  error.cause instanceof Error ? error.cause.message : error.message
