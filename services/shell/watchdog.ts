/**
 * Watches over what carries the messages: Connect never starts a failed task again, and says RUNNING while nobody reads a
 * slot; a consumer may live and not read. Connectors are mended, consumer groups only told of, in the log and as metrics: their
 * processes are somebody else's, who starts again what ends, and a lane that hangs on its database tries again by itself.
 */
import { Clock, Duration, Effect, Schedule, type Scope } from "effect"
import { Offsets } from "oncebox"
import { watchConnectors, type ApplyOptions } from "../../connectors/apply.ts"

/** How far a consumer group is in a partition. */
export interface Look {
  readonly at: number
  readonly position: bigint
  readonly lag: bigint
}

export interface Advance {
  readonly lag: bigint
  readonly position: bigint
  /** When it last moved, or had nothing to read. */
  readonly movedAt: number
}

/** What is known of a partition's consumer after another look. */
export const advanced = (before: Advance | undefined, { at, position, lag }: Look): Advance => ({
  lag,
  position,
  movedAt: before === undefined || lag === 0n || position !== before.position ? at : before.movedAt
})

export interface Consumer {
  readonly group: string
  readonly topics: ReadonlyArray<string>
}

/** A consumer group as it was looked at last. */
export interface GroupState {
  /** How many records it has yet to read. */
  readonly lag: number
  /** For how many seconds it has not moved in a partition that has records for it: the longest of all partitions. */
  readonly standing: number
  /** How many consumers are in it. One that hangs may be among them, for its heartbeats go on. */
  readonly members: number
}

export interface Watchdog {
  readonly groups: () => ReadonlyMap<string, GroupState>
  /** How often something was done to a connector, by `connector action`. */
  readonly actions: ReadonlyMap<string, number>
  /** What is wrong now. */
  readonly warnings: () => ReadonlyArray<string>
}

const lookEvery = "5 seconds"

/** What a group looks like by what is known of its partitions. */
const stateOf = (partitions: ReadonlyMap<string, Advance>, members: number, at: number): GroupState => {
  let lag = 0n
  let standing = 0
  for (const one of partitions.values()) {
    lag += one.lag
    standing = Math.max(standing, at - one.movedAt)
  }
  return { lag: Number(lag), standing: standing / 1000, members }
}

const complaint = (group: string, { lag, members, standing }: GroupState): string =>
  `${group} has ${lag} records to read and has not moved for ${Math.round(standing)} s, ` +
  (members === 0 ? "for nobody is in its group" : `with ${members} in its group`)

export interface WatchdogOptions {
  readonly consumers: ReadonlyArray<Consumer>
  /** Where the connectors are; without it they are left alone. */
  readonly connectors?: Pick<ApplyOptions, "connectUrl" | "database"> | undefined
  /** For how long a group may stand in a partition before it is told of. */
  readonly standsFor?: Duration.Input
}

/** Watches for as long as the scope is open. */
export const startWatchdog = ({
  consumers,
  connectors,
  standsFor = "1 minute"
}: WatchdogOptions): Effect.Effect<Watchdog, never, Offsets | Scope.Scope> =>
  Effect.gen(function* () {
    const offsets = yield* Offsets
    const longest = Duration.toSeconds(Duration.fromInputUnsafe(standsFor))
    const all = [...new Set(consumers.flatMap(({ topics }) => topics))]
    const known = new Map<string, ReadonlyMap<string, Advance>>()
    const groups = new Map<string, GroupState>()
    const standing = new Map<string, string>()
    const tell = Effect.fnUntraced(function* (group: string, state: GroupState) {
      if (state.standing > longest) {
        const said = complaint(group, state)
        // once per stand, not once per look
        if (!standing.has(group)) yield* Effect.logWarning(`watchdog: ${said}`)
        standing.set(group, said)
      } else if (standing.delete(group)) yield* Effect.logInfo(`watchdog: ${group} moves again`)
    })
    const look = Effect.gen(function* () {
      const at = yield* Clock.currentTimeMillis
      const extents = yield* offsets.extents(all)
      for (const { group, topics } of consumers) {
        const committed = yield* offsets.committed(group, topics)
        const before = known.get(group)
        const partitions = new Map<string, Advance>()
        for (const [name, { first, end }] of extents) {
          if (!topics.some((topic) => name.startsWith(`${topic}/`))) continue
          const position = committed.get(name) ?? first
          const lag = end > position ? end - position : 0n
          partitions.set(name, advanced(before?.get(name), { at, position, lag }))
        }
        known.set(group, partitions)
        const state = stateOf(partitions, yield* offsets.members(group), at)
        groups.set(group, state)
        yield* tell(group, state)
      }
    }).pipe(Effect.catch((error) => Effect.logWarning(`watchdog: ${error.message}`)))
    yield* look.pipe(Effect.repeat(Schedule.spaced(lookEvery)), Effect.forkScoped)
    const mending = yield* mend(connectors)
    return {
      actions: mending.actions,
      groups: () => groups,
      warnings: () => [...(mending.failure() === "" ? [] : [mending.failure()]), ...standing.values()]
    }
  })

/** Applies the connectors again and again, when it is told where they are. */
const mend = Effect.fnUntraced(function* (connectors: WatchdogOptions["connectors"]) {
  const actions = new Map<string, number>()
  let failure = ""
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
  return { actions, failure: () => failure }
})
