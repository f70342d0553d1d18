/** What a fault is carried out with. */
import type { Sql } from "oncebox"
import type { Fault } from "./schedule.ts"
import type { Site } from "./site.ts"

/** How long it may take, with its healing. */
export const healsWithinMs = 150_000

/** What the nemesis is let loose on. */
export interface Target extends Site {
  /** The planted bug: connectors that lose their offsets go on from now, and nothing makes up for what was before. */
  readonly skips: boolean
}

/** What a fault needs. `healed` is called when the nemesis has done its part. */
export interface Act extends Target {
  readonly superuser: Sql
  readonly fault: Fault
  /** Of connectors, when the faults began. */
  readonly offsets: ReadonlyMap<string, ReadonlyArray<unknown>>
  readonly healed: () => void
  readonly next: () => number
}

/** Does it, heals it, and returns when the target is ready again. */
export type Carry = (act: Act) => Promise<void>
