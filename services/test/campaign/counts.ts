/** What a run shows: what there was of everything, how the system recovered from each class of faults, and why a run shows nothing. */
import { when } from "../checks/check.ts"
import { OrderApprovedEvent } from "../../order/contract.ts"
import type { Planned } from "../orders.ts"
import { AUDITOR, SERVICE_NAMES } from "../../../stack/supervise.ts"
import type { Snapshot } from "./dump.ts"
import type { Event } from "./history.ts"
import { classNames, quietShare, spanOf } from "./schedule.ts"
import type { ClassVerdict, Evidence } from "./verdict.ts"

const leastQuiet = 0.25
/** Of a hundred orders so many are placed while there are faults, or before; the others meet none. */
const leastMet = 15

export const countsOf = (
  { run, history, snapshot, done }: Evidence,
  placed: ReadonlyMap<string, Planned>,
  outOfTurn: number
): Readonly<Record<string, number>> => {
  const { world } = snapshot
  const of = (f: Event["f"], type: Event["type"], status?: number): number =>
    history.filter((event) => event.f === f && event.type === type && event.status === (status ?? event.status)).length
  const total = (counter: string): number =>
    Object.values(run.samples.counters).reduce((sum, counters) => sum + (counters[counter] ?? 0), 0)
  const answers = world.records.filter(({ topic, injected }) => /-(events|choreography)$/.test(topic) && !injected)
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
    "out of turn, from a table or by the auditor": outOfTurn,
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
    "percent of the orders placed before the last fault was over": metShare(run.faultsTo, history),
    "quiet after (ms)": run.quietAfterMs,
    "orders a minute": Math.round((60_000 * placed.size) / Math.max(1, run.loadTo - run.loadFrom)),
    "most memory of a process (MB)": Math.round(Math.max(0, ...Object.values(run.samples.memory)) / 2 ** 20),
    "most connections": run.samples.connections
  }
}

/** Of a hundred orders that were asked for, so many were before. */
const metShare = (faultsTo: number, history: ReadonlyArray<Event>): number => {
  const first = new Map<string, number>()
  for (const { f, key, at } of history) if (f === "place" && !first.has(key)) first.set(key, at)
  const before = [...first.values()].filter((at) => at < faultsTo).length
  return Math.floor((100 * before) / Math.max(1, first.size))
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

export const voidness = (evidence: Evidence, counts: Readonly<Record<string, number>>): ReadonlyArray<string> => {
  const { run, schedule, done, history } = evidence
  if (schedule.length === 0) return []
  const quiet = quietShare(schedule.map(spanOf), 0, run.seconds * 1_000)
  return [
    ...must.flatMap((what) => when((counts[what] ?? 0) === 0, `${what}: none`)),
    ...Object.entries(run.samples.counters).flatMap(([service, counters]) =>
      when((counters["duplicates"] ?? 0) === 0, `${service} dropped no duplicates`)
    ),
    ...when(run.injected.copies < run.injected.records / 10, "less than a tenth of the records was produced again"),
    ...when(run.samples.looks === 0, "money and stock were never looked at"),
    ...when(run.samples.connections === 0, "connections were never counted"),
    ...[...SERVICE_NAMES, AUDITOR.name].flatMap((name) =>
      when(!((run.samples.memory[name] ?? 0) > 0), `the memory of ${name} was never measured`)
    ),
    ...when(
      metShare(run.faultsTo, history) < leastMet,
      `less than ${leastMet} % of the orders were placed before the last fault was over`
    ),
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

export const classesOf = ({ run, schedule, done, snapshot }: Evidence): ReadonlyArray<ClassVerdict> => {
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
