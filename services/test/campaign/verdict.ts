/**
 * The checker: a pure function of what clients were told, what lies in the databases and on the topics, and what the nemesis
 * did. Beside what the end-to-end tests check it holds the whole run against what clients saw on the way, and says when the
 * run shows nothing because a defence never had to act.
 */
import { violations as violationsOf } from "../checks.ts"
import { when, type Subscriber } from "../checks/check.ts"
import type { Plan } from "../orders.ts"
import { decidedTwice, strayed, unanswered, unfenced } from "./causes.ts"
import { cancels, clients, placedOf, reverted, served } from "./clients.ts"
import { classesOf, countsOf, voidness } from "./counts.ts"
import type { Run, Slot, Snapshot } from "./dump.ts"
import { givenUp, tooMany } from "./given-up.ts"
import type { Event } from "./history.ts"
import { keyOrder } from "./key-order.ts"
import type { Done } from "./nemesis.ts"
import type { ClassName, Fault } from "./schedule.ts"

export interface Evidence {
  readonly run: Run
  readonly plan: Plan
  /** The keys of clients that ask until they are answered. */
  readonly patient: ReadonlySet<string>
  readonly subscribers: ReadonlyArray<Subscriber>
  readonly schedule: ReadonlyArray<Fault>
  readonly done: ReadonlyArray<Done>
  readonly history: ReadonlyArray<Event>
  readonly snapshot: Snapshot
  /** After every topic was read from its first record once more; null when that was left out. */
  readonly replayed: Snapshot | null
}

export interface ClassVerdict {
  readonly class: ClassName
  readonly planned: number
  readonly done: number
  readonly failed: number
  /** From the healing to the next order that is approved, in milliseconds. */
  readonly recovery: { readonly p50: number; readonly p95: number; readonly max: number } | null
}

export interface Verdict {
  readonly violations: Readonly<Record<string, ReadonlyArray<string>>>
  /** Why the run shows nothing; empty when it counts. */
  readonly void: ReadonlyArray<string>
  readonly classes: ReadonlyArray<ClassVerdict>
  readonly counts: Readonly<Record<string, number>>
}

/** A payment is none of this any more when all is quiet. */
const underWay: ReadonlySet<string> = new Set(["PENDING", "UNDOING", "REFUNDING"])
/** At most so many of a kind are told. */
const told = 20
/** A segment of the log; after 2,000 orders the slots were 0.6 to 4 MB behind (2026-11-21). */
const mostSlotLag = 16 * 1024 * 1024
/** With 2,000 orders the largest process took 220 MB (2026-11-21). */
const mostMemory = 512 * 1024 * 1024
/** Of the 200 that Postgres gives; with 2,000 orders and processes that were killed there were 85 (2026-11-21). */
const mostConnections = 120

export const judge = (evidence: Evidence): Verdict => {
  const { run, plan, patient, subscribers, history, snapshot, replayed, done } = evidence
  const placed = placedOf(history, snapshot.keys, plan)
  const given = givenUp(snapshot.world)
  const expected = { plan, placed, subscribers, givenUp: given }
  const own = new Set(snapshot.world.outbox.map(({ id }) => id))
  const commits = snapshot.commits.filter(({ id }) => own.has(id))
  const { commits: all, written, republished } = snapshot
  const order = keyOrder({ records: snapshot.world.records, commits: all, written, done, republished })
  const found: Record<string, ReadonlyArray<string>> = {
    ...violationsOf(snapshot.world, expected),
    quiet: run.notQuiet,
    clients: clients(history, snapshot.keys),
    served: run.loadCut ? [] : served(history, patient),
    givenUp: tooMany(given.size, placed.size),
    reverted: reverted(history),
    cancels: cancels(history, snapshot),
    keyOrder: order.wrong,
    decidedOnce: decidedTwice(commits),
    answered: unanswered(commits, snapshot.world.inbox),
    undone: unfenced(commits, snapshot.world),
    sagaSteps: strayed(snapshot.world.sagas, snapshot.world.sagaLog),
    payments: snapshot.world.payments.flatMap(({ order_id, status }) =>
      when(underWay.has(status), `payment ${order_id} is ${status}`)
    ),
    bounded: bounded(run),
    deadLetters: differing(snapshot.lettersDue, snapshot.letters),
    durable: durable(run, snapshot, plan),
    neverNegative: run.samples.negative.filter((id) => id.startsWith(plan.prefix)).map((id) => `${id} was below zero`),
    slots: lagging(snapshot.slots),
    ...(replayed === null ? {} : replay(snapshot, replayed, () => violationsOf(replayed.world, expected)))
  }
  const violations = Object.fromEntries(
    Object.entries(found).flatMap(([name, wrong]) => (wrong.length === 0 ? [] : [[name, wrong.slice(0, told)]]))
  )
  const counts = countsOf(evidence, placed, order.excepted)
  return { violations, void: voidness(evidence, counts), classes: classesOf(evidence), counts }
}

/** What is wrong after the replay, beside that it changed anything. */
const replay = (
  before: Snapshot,
  after: Snapshot,
  checked: () => Readonly<Record<string, ReadonlyArray<string>>>
): Readonly<Record<string, ReadonlyArray<string>>> => {
  const found = {
    ...checked(),
    slots: lagging(after.slots),
    deadLetters: differing(after.lettersDue, after.letters)
  }
  return {
    replay: changedBy(before, after),
    ...Object.fromEntries(Object.entries(found).map(([name, wrong]) => [`${name} (replayed)`, wrong]))
  }
}

const lagging = (slots: ReadonlyArray<Slot>): ReadonlyArray<string> =>
  slots.flatMap(({ name, active, lagBytes }) => [
    ...when(!active, `slot ${name} is not read`),
    ...when(lagBytes > mostSlotLag, `slot ${name} holds ${lagBytes} bytes`)
  ])

/** What is missing in one and what is there too much, each once. */
export const differing = (due: ReadonlyArray<string>, found: ReadonlyArray<string>): ReadonlyArray<string> => {
  const [wanted, present] = [new Set(due), new Set(found)]
  return [
    ...[...wanted].flatMap((one) => when(!present.has(one), `${one} is poison and was not parked`)),
    ...[...present].flatMap((one) => when(!wanted.has(one), `${one} was parked and is no poison`))
  ]
}

/** What was in the ledger at some time is there at the end. */
const durable = ({ samples }: Run, { world }: Snapshot, { prefix }: Plan): ReadonlyArray<string> => {
  const there = new Set(world.ledger.map(({ user_id, position }) => `${user_id}/${position}`))
  return samples.ledger.flatMap((entry) =>
    when(entry.startsWith(prefix) && !there.has(entry), `${entry} of the ledger is gone`)
  )
}

/** No process grows without end, and none takes all connections. */
const bounded = ({ samples }: Run): ReadonlyArray<string> => [
  ...Object.entries(samples.memory).flatMap(([name, bytes]) =>
    when(bytes > mostMemory, `${name} took ${bytes} bytes of memory`)
  ),
  ...when(samples.connections > mostConnections, `Postgres had ${samples.connections} connections`)
]

const changedBy = (before: Snapshot, after: Snapshot): ReadonlyArray<string> =>
  Object.entries(before.state).flatMap(([table, digest]) =>
    when(after.state[table] !== digest, `${table} was ${digest} before the replay and is ${after.state[table]}`)
  )
