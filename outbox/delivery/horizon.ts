/**
 * How far the audit of a database may go: `created_at` is the start of a transaction, so rows may still appear below a time
 * while a transaction is open that began before it. A time is final once every transaction that was open then has ended.
 */
export interface Horizon {
  /** Whatever began before it has ended. */
  readonly final: number
  /** The next candidate, and which transactions it waits for. */
  readonly next: number
  readonly open: ReadonlySet<string>
}

export const noHorizon: Horizon = { final: 0, next: 0, open: new Set() }

/** Goes on from a look at the database: its time, and which transactions were open after that. */
export const lookedAt = (horizon: Horizon, now: number, open: ReadonlySet<string>): Horizon => {
  const left = new Set([...horizon.open].filter((transaction) => open.has(transaction)))
  if (left.size > 0) return { ...horizon, open: left }
  // nothing that began before `now` is left when nothing was open
  return open.size === 0 ? { final: now, next: now, open } : { final: horizon.next, next: now, open }
}
