/** Waiting with a deadline: nothing in the stack waits without one. */

/** Asks `probe` again and again until it answers true. A probe that throws is not ready yet; what it threw is told at the deadline. */
export const until = async (
  what: string,
  withinMs: number,
  probe: () => boolean | Promise<boolean>,
  everyMs = 25
): Promise<void> => {
  const deadline = Date.now() + withinMs
  let last: unknown
  for (;;) {
    const left = deadline - Date.now()
    if (left <= 0)
      throw new Error(`${what}: not within ${withinMs / 1000} s${last === undefined ? "" : ` (${text(last)})`}`)
    try {
      if (await within(what, left, Promise.resolve(probe()))) return
      last = undefined
    } catch (cause) {
      if (cause instanceof Hopeless) throw cause
      last = cause
    }
    await Bun.sleep(Math.min(everyMs, Math.max(deadline - Date.now(), 1)))
  }
}

/** Thrown by a probe that knows that waiting longer is no use. */
export class Hopeless extends Error {}

/** The promise's outcome, or an error when it takes longer than `withinMs`. */
export const within = async <A>(what: string, withinMs: number, promise: Promise<A>): Promise<A> => {
  let timer: Timer | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no answer within ${withinMs / 1000} s`)), withinMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** One line about whatever was thrown. */
export const text = (thrown: unknown): string => {
  if (!(thrown instanceof Error)) return String(thrown)
  const inner = thrown instanceof AggregateError ? thrown.errors.map(text).join("; ") : ""
  return thrown.message || inner || thrown.name
}
