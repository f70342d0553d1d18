/**
 * Watches over what carries the messages: Connect never starts a failed task again, and says RUNNING while nobody reads a
 * slot; a consumer may live and not read. Connectors are mended, consumer groups only told of: their services have deadlines
 * and restarts of their own.
 */
import { Clock, Effect, Schedule, type Scope } from "effect"
import { Offsets } from "oncebox"
import { watchConnectors, type ApplyOptions } from "../../connectors/apply.ts"

/** How far a consumer group is. */
export interface Look {
  readonly at: number
  /** The sum of its offsets. */
  readonly position: bigint
  readonly lag: bigint
}

export interface Advance {
  readonly lag: bigint
  readonly position: bigint
  /** When it last moved, or had nothing to read. */
  readonly movedAt: number
}

/** What is known of a group after another look. */
export const advanced = (before: Advance | undefined, { at, position, lag }: Look): Advance => ({
  lag,
  position,
  movedAt: before === undefined || lag === 0n || position !== before.position ? at : before.movedAt
})

export interface Consumer {
  readonly group: string
  readonly topics: ReadonlyArray<string>
}

export interface Watchdog {
  /** Lags, and for how many seconds a group that lags has not moved. */
  readonly groups: () => ReadonlyMap<string, { readonly lag: number; readonly standing: number }>
  /** How often something was done to a connector, by `connector action`. */
  readonly actions: ReadonlyMap<string, number>
  /** What is wrong now. */
  readonly warnings: () => ReadonlyArray<string>
}

const lookEvery = "5 seconds"
const standsAfterMs = 60_000

/** Watches for as long as the scope is open; connectors only when it is told where they are. */
export const startWatchdog = (
  consumers: ReadonlyArray<Consumer>,
  connectors: Pick<ApplyOptions, "connectUrl" | "database"> | undefined
): Effect.Effect<Watchdog, never, Offsets | Scope.Scope> =>
  Effect.gen(function* () {
    const offsets = yield* Offsets
    const all = [...new Set(consumers.flatMap(({ topics }) => topics))]
    const known = new Map<string, Advance>()
    const actions = new Map<string, number>()
    let looked = 0
    let failure = ""
    const look = Effect.gen(function* () {
      const at = yield* Clock.currentTimeMillis
      const extents = yield* offsets.extents(all)
      for (const { group, topics } of consumers) {
        const committed = yield* offsets.committed(group, topics)
        let position = 0n
        let lag = 0n
        for (const [name, { first, end }] of extents) {
          if (!topics.some((topic) => name.startsWith(`${topic}/`))) continue
          const next = committed.get(name) ?? first
          position += next
          if (end > next) lag += end - next
        }
        known.set(group, advanced(known.get(group), { at, position, lag }))
      }
      looked = at
    }).pipe(Effect.catch((error) => Effect.logWarning(`watchdog: ${error.message}`)))
    yield* look.pipe(Effect.repeat(Schedule.spaced(lookEvery)), Effect.forkScoped)
    if (connectors !== undefined) {
      const stop = yield* Effect.acquireRelease(
        Effect.sync(() => new AbortController()),
        (controller) => Effect.sync(() => controller.abort())
      )
      const options: ApplyOptions = {
        ...connectors,
        log: (line) => console.log(line),
        acted: (connector, action) => {
          const name = `${connector} ${action}`
          actions.set(name, (actions.get(name) ?? 0) + 1)
        },
        failed: (said) => {
          failure = said
        }
      }
      yield* Effect.promise(() => watchConnectors(options, stop.signal)).pipe(Effect.forkScoped)
    }
    const standing = ({ movedAt, lag }: Advance): number => (lag === 0n ? 0 : looked - movedAt)
    return {
      actions,
      groups: () =>
        new Map([...known].map(([group, one]) => [group, { lag: Number(one.lag), standing: standing(one) / 1000 }])),
      warnings: () => [
        ...(failure === "" ? [] : [failure]),
        ...[...known]
          .filter(([, one]) => standing(one) > standsAfterMs)
          .map(([group, { lag }]) => `${group} has ${lag} records to read and does not move`)
      ]
    }
  })
