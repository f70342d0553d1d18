/**
 * The checker: a pure function of what clients were told, what lies in the databases and on the topics, and what the nemesis
 * did. Beside what the end-to-end tests check it holds the whole run against what clients saw on the way, and says when the
 * run shows nothing because a defence never had to act.
 */
import { violations as violationsOf } from "../checks.ts"
import { repeated, when, type Subscriber } from "../checks/check.ts"
import { OrderApprovedEvent } from "../../order/contract.ts"
import type { Plan, Planned } from "../orders.ts"
import type { Kept, Run, Snapshot } from "./dump.ts"
import type { Event } from "./history.ts"
import { decidedTwice, strayed, unanswered, unfenced } from "./causes.ts"
import { keyOrder } from "./key-order.ts"
import type { Done } from "./nemesis.ts"
import { classNames, quietShare, spanOf, type ClassName, type Fault } from "./schedule.ts"

export interface Evidence {
  readonly run: Run
  readonly plan: Plan
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

/** At most so many of a kind are told. */
const told = 20
const mostSlotLag = 64 * 1024 * 1024
const leastQuiet = 0.25
/** Three attempts of half a minute. */
const givesUpAfterMs = 90_000
const mostMemory = 1024 * 1024 * 1024
/** Of the 200 that Postgres gives. */
const mostConnections = 150

/** Every order that a client knows of, or that its key stands for, and who asked for it. */
export const placedOf = (
  history: ReadonlyArray<Event>,
  keys: ReadonlyArray<Kept>,
  plan: Plan
): ReadonlyMap<string, Planned> => {
  const byKey = new Map(plan.orders.map((planned) => [planned.key, planned]))
  const answered = history.flatMap(({ f, type, key, order }) =>
    f === "place" && type === "ok" && order !== undefined ? [{ key, order }] : []
  )
  return new Map(
    [...answered, ...keys].flatMap(({ key, order }) => {
      const planned = byKey.get(key)
      return planned === undefined ? [] : [[order, planned] as const]
    })
  )
}

export const judge = (evidence: Evidence): Verdict => {
  const { run, plan, subscribers, history, snapshot, replayed, done } = evidence
  const placed = placedOf(history, snapshot.keys, plan)
  const expected = { plan, placed, subscribers, givenUp: givenUp(snapshot) }
  const own = new Set(snapshot.world.outbox.map(({ id }) => id))
  const commits = snapshot.commits.filter(({ id }) => own.has(id))
  const found: Record<string, ReadonlyArray<string>> = {
    ...violationsOf(snapshot.world, expected),
    quiet: run.notQuiet,
    clients: clients(history, snapshot.keys),
    reverted: reverted(history),
    cancels: cancels(history, snapshot),
    keyOrder: keyOrder(snapshot.world.records, snapshot.commits, done, snapshot.republished).wrong,
    decidedOnce: decidedTwice(commits),
    answered: unanswered(commits, snapshot.world.inbox),
    undone: unfenced(commits, snapshot.world),
    sagaSteps: strayed(snapshot.world.sagas, snapshot.world.sagaLog),
    bounded: bounded(run),
    deadLetters: differing(snapshot.lettersDue, snapshot.letters),
    durable: durable(run, snapshot, plan),
    neverNegative: run.samples.negative.filter((id) => id.startsWith(plan.prefix)).map((id) => `${id} was below zero`),
    slots: snapshot.slots.flatMap(({ name, active, lagBytes }) => [
      ...when(!active, `slot ${name} is not read`),
      ...when(lagBytes > mostSlotLag, `slot ${name} holds ${lagBytes} bytes`)
    ]),
    replay: replayed === null ? [] : changedBy(snapshot, replayed),
    ...(replayed === null
      ? {}
      : Object.fromEntries(
          Object.entries(violationsOf(replayed.world, expected)).map(([name, wrong]) => [`${name} (replayed)`, wrong])
        ))
  }
  const violations = Object.fromEntries(
    Object.entries(found).flatMap(([name, wrong]) => (wrong.length === 0 ? [] : [[name, wrong.slice(0, told)]]))
  )
  const counts = countsOf(evidence, placed)
  return { violations, void: voidness(evidence, counts), classes: classesOf(evidence), counts }
}

/** Orders whose saga was on its way for as long as one step may take, with all its attempts. */
export const givenUp = ({ world }: Snapshot): ReadonlySet<string> =>
  new Set(
    world.sagas.flatMap(({ id, started_at, ended_at }) =>
      // they are texts after they were written and read
      ended_at !== null && new Date(ended_at).getTime() - new Date(started_at).getTime() >= givesUpAfterMs ? [id] : []
    )
  )

/** One order for each key, whoever asked how often; equal answers to equal requests; what was answered is there. */
export const clients = (history: ReadonlyArray<Event>, keys: ReadonlyArray<Kept>): ReadonlyArray<string> => {
  const kept = new Map(keys.map(({ key, order }) => [key, order]))
  const answers = Map.groupBy(
    history.filter(({ f, type }) => f === "place" && type === "ok"),
    ({ key }) => key
  )
  return [
    ...[...answers].flatMap(([key, events]) => {
      const [first] = events
      return [
        ...when(new Set(events.map(({ order }) => order)).size > 1, `${key} was answered with several orders`),
        ...when(new Set(events.map(({ digest }) => digest)).size > 1, `${key} was answered with several bodies`),
        ...when(kept.get(key) !== first?.order, `${key} was answered with ${first?.order}, kept is ${kept.get(key)}`),
        ...events.flatMap(({ status }) => when(status !== 202, `${key} was answered with ${status}`))
      ]
    }),
    ...repeated(keys.map(({ key }) => key)).map((key) => `${key} is kept twice`),
    ...repeated(keys.map(({ order }) => order)).map((order) => `order ${order} stands for two keys`),
    ...history.flatMap(({ f, type, key, status, error }) =>
      when(
        f === "place" && type === "fail" && status !== undefined && status < 500,
        `${key} was refused with ${status} ${error}`
      )
    )
  ]
}

const ended = new Set(["APPROVED", "REJECTED"])

/** Who has read that an order has ended reads the same ever after. Orders are read one after the other. */
export const reverted = (history: ReadonlyArray<Event>): ReadonlyArray<string> => {
  const last = new Map<string, string>()
  return history.flatMap(({ f, type, order, state }) => {
    if (f !== "read" || type !== "ok" || order === undefined || state === undefined) return []
    const before = last.get(order)
    if (before === undefined && ended.has(state)) last.set(order, state)
    return when(before !== undefined && before !== state, `order ${order} was ${before}, then ${state}`)
  })
}

/** Whoever was told that an order is cancelled, or that it is too late for that, was told the truth. */
export const cancels = (history: ReadonlyArray<Event>, { world }: Snapshot): ReadonlyArray<string> => {
  const stored = new Map(world.orders.map(({ id, status }) => [id, status]))
  return history.flatMap(({ f, type, status, order }) => {
    if (f !== "cancel" || type !== "ok" || order === undefined) return []
    const due = status === 409 ? "APPROVED" : "REJECTED"
    return when(
      stored.get(order) !== due,
      `order ${order} is ${stored.get(order)}, its cancel was answered with ${status}`
    )
  })
}

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

const countsOf = (
  { run, history, snapshot, done }: Evidence,
  placed: ReadonlyMap<string, Planned>
): Readonly<Record<string, number>> => {
  const { world } = snapshot
  const of = (f: Event["f"], type: Event["type"], status?: number): number =>
    history.filter((event) => event.f === f && event.type === type && event.status === (status ?? event.status)).length
  const total = (counter: string): number =>
    Object.values(run.samples.counters).reduce((sum, counters) => sum + (counters[counter] ?? 0), 0)
  const answers = world.records.filter(({ topic, injected }) => topic.endsWith("-events") && !injected)
  const distinct = new Set(answers.map(({ id }) => id)).size
  const facts = new Set(answers.map(({ key, type }) => `${key} ${type}`)).size
  return {
    orders: placed.size,
    messages: world.outbox.length,
    records: world.records.length + snapshot.repetitions,
    "records that were there before": snapshot.repetitions,
    "records produced again": run.injected.copies,
    "commands asked again": run.injected.again,
    "requests answered": of("place", "ok") + of("cancel", "ok"),
    "requests without an answer": of("place", "info") + of("cancel", "info"),
    "orders read": of("read", "ok"),
    cancelled: of("cancel", "ok", 202),
    "cancelled too late": of("cancel", "ok", 409),
    "duplicates dropped": total("duplicates"),
    "passes run again": total("retries"),
    "answers given again": distinct - facts,
    "published again by the auditor": snapshot.republished.length,
    "out of turn, published again": keyOrder(world.records, snapshot.commits, done, snapshot.republished).excepted,
    "given up after waiting too long": world.orders.filter(({ reason }) => reason?.endsWith("TIMEOUT") === true).length,
    "reservations undone": world.reservations.filter(({ status, lines }) => status === "CANCELLED" && lines.length > 0)
      .length,
    "payments undone": world.payments.filter(({ status }) => status === "REFUNDED").length,
    "shipments undone": world.shipments.filter(({ status, items }) => status === "CANCELLED" && items.length > 0)
      .length,
    tombstones: [
      ...world.reservations.filter(({ status, lines }) => status === "CANCELLED" && lines.length === 0),
      ...world.payments.filter(({ status, user_id }) => status === "CANCELLED" && user_id === null),
      ...world.shipments.filter(({ status, items }) => status === "CANCELLED" && items.length === 0)
    ].length,
    "dead letters": snapshot.letters.length,
    "percent of the time without faults": Math.round(
      100 *
        quietShare(
          done.map(({ startedAt, healedAt }) => ({ from: startedAt, to: healedAt })),
          run.faultsFrom,
          run.faultsTo
        )
    ),
    "quiet after (ms)": run.quietAfterMs,
    "orders a minute": Math.round((60_000 * placed.size) / Math.max(1, run.loadTo - run.loadFrom)),
    "most memory of a process (MB)": Math.round(Math.max(0, ...Object.values(run.samples.memory)) / 2 ** 20),
    "most connections": run.samples.connections
  }
}

/** What must have happened at least once, or the run shows nothing. */
const must = [
  "orders",
  "commands asked again",
  "requests without an answer",
  "orders read",
  "cancelled",
  "cancelled too late",
  "passes run again",
  "answers given again",
  "published again by the auditor",
  "reservations undone",
  "payments undone",
  "shipments undone",
  "tombstones",
  "dead letters"
]

const voidness = (evidence: Evidence, counts: Readonly<Record<string, number>>): ReadonlyArray<string> => {
  const { run, schedule, done } = evidence
  if (schedule.length === 0) return []
  const quiet = quietShare(schedule.map(spanOf), 0, run.seconds * 1_000)
  return [
    ...must.flatMap((what) => when((counts[what] ?? 0) === 0, `${what}: none`)),
    ...Object.entries(run.samples.counters).flatMap(([service, counters]) =>
      when((counters["duplicates"] ?? 0) === 0, `${service} dropped no duplicates`)
    ),
    ...when(run.injected.copies < run.injected.records / 10, "less than a tenth of the records was produced again"),
    ...when(run.samples.looks === 0, "money and stock were never looked at"),
    ...when(quiet < leastQuiet, `only ${Math.round(quiet * 100)} % of the time was to be without faults`),
    ...classesOf(evidence).flatMap(({ class: name, planned, done: carried }) =>
      when(carried < planned, `${name}: ${carried} of ${planned}`)
    ),
    ...done.flatMap(({ id, class: name, target, failure }) =>
      when(failure !== null, `fault ${id}, ${name} of ${target}: ${failure}`)
    )
  ]
}

/** When orders were approved, by the database's clock, which is the nemesis's. */
const approvalsOf = ({ world, commits }: Snapshot): ReadonlyArray<number> => {
  const approvals = new Set(world.outbox.flatMap(({ id, type }) => (type === OrderApprovedEvent.type ? [id] : [])))
  return commits.flatMap(({ id, at }) => (approvals.has(id) ? [at / 1_000] : [])).toSorted((a, b) => a - b)
}

const classesOf = ({ run, schedule, done, snapshot }: Evidence): ReadonlyArray<ClassVerdict> => {
  const approvals = approvalsOf(snapshot)
  return classNames.flatMap((name) => {
    const own = done.filter((fault) => fault.class === name)
    const planned = schedule.filter((fault) => fault.class === name).length
    if (planned === 0) return []
    // after the last order was placed there is nothing that could recover
    const recoveries = own
      .filter(({ healedAt }) => healedAt < run.loadTo)
      .flatMap(({ healedAt }) => {
        const next = approvals.find((at) => at >= healedAt)
        return next === undefined ? [] : [next - healedAt]
      })
      .toSorted((a, b) => a - b)
    const at = (share: number): number =>
      recoveries[Math.min(recoveries.length - 1, Math.floor(recoveries.length * share))] ?? 0
    return [
      {
        class: name,
        planned,
        done: own.filter(({ failure }) => failure === null).length,
        failed: own.filter(({ failure }) => failure !== null).length,
        recovery: recoveries.length === 0 ? null : { p50: at(0.5), p95: at(0.95), max: at(1) }
      }
    ]
  })
}
