/** What clients asked and were told, held against what there is. */
import { repeated, when } from "../checks/check.ts"
import type { Plan, Planned } from "../orders.ts"
import type { Kept, Snapshot } from "./dump.ts"
import type { Event } from "./history.ts"

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

/** Who asks until he is answered was answered: about an order that he placed, and about one that he cancelled. */
export const served = (history: ReadonlyArray<Event>, patient: ReadonlySet<string>): ReadonlyArray<string> => {
  const asked = new Set<string>()
  const told = new Set<string>()
  for (const { f, type, key, status } of history) {
    if (f === "read" || (f === "place" && !patient.has(key))) continue
    asked.add(`${f} ${key}`)
    // refused for good is an answer, too, and judged as one
    if (type === "ok" || (type === "fail" && status !== undefined && status !== 404 && status < 500))
      told.add(`${f} ${key}`)
  }
  return [...asked].flatMap((what) => when(!told.has(what), `nobody ever answered: ${what}`))
}
