/**
 * What a participant counts, all by `participant`:
 *
 * | counter | what |
 * |---|---|
 * | passes | transactions that were committed |
 * | messages | messages decided |
 * | requests | requests answered |
 * | timers | due rows decided |
 * | calls | results of calls decided |
 * | call_attempts | calls carried out, or tried |
 * | call_failures | attempts that came to no result |
 * | duplicates | messages dropped because they had been decided, or are parked |
 * | parked | messages put aside into the dead letters |
 * | skipped | messages of a type that is not handled here |
 * | unknown | messages of a type that their events topic does not know |
 * | retries | passes that the store failed and that were run again |
 */
export const counterNames = [
  "passes",
  "messages",
  "requests",
  "timers",
  "calls",
  "call_attempts",
  "call_failures",
  "duplicates",
  "parked",
  "skipped",
  "unknown",
  "retries"
] as const

export type Counters = { -readonly [K in (typeof counterNames)[number]]: number }

export const noCounts = (): Counters => ({
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
})
