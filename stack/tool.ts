/** Runs a tool as this process: what it tells is its own, so the library's notes are left out. */
import { Effect, Layer, Logger, References, type Scope } from "effect"
import { runProcess, type ProcessOptions } from "../services/shell/process.ts"

export const runTool = (
  tool: Effect.Effect<number, { readonly message: string }, Scope.Scope>,
  options: ProcessOptions = { stopsWithinMs: 15_000 }
): void => {
  const quiet = Layer.merge(Logger.layer([Logger.consolePretty()]), Layer.succeed(References.MinimumLogLevel, "Warn"))
  runProcess(tool.pipe(Effect.provide(quiet)), options)
}
