/**
 * A participant's decisions without a store: given these rows, when that comes, then those rows and messages.
 * As in a pass, a decision reads only rows that it touches, and all that comes and goes must fit tables and contracts.
 */
import { sealCall, type CallResult } from "../calls/call.ts"
import { encodePayload, encodePlain, keyOfPayload, type Outgoing } from "../message.ts"
import type { Decision, Participant } from "../participant.ts"
import { keyOf, WorkingSet, type Puts, type Tables } from "../table.ts"

/** When everything is decided, but for rows that fall due later. */
export const decidedAt = new Date("2026-01-01T00:00:00.000Z")

/**
 * A message, a request, a call's result, such as `Charge.answered(…)`, or the row under a key that falls due, at its time
 * or at a later one.
 */
export type Input =
  Outgoing | { readonly request: { readonly type: string }; readonly payload: object } | CallResult | Due
type Due = { readonly due: string; readonly key: string; readonly at?: Date }

/** The last input's decision, and the rows and log entries that all of them left. */
export type Decided<T extends Tables> = Decision<T> & { readonly rows: Required<Puts<T>> }
type Deciding = Pick<Participant<Tables>, "tables" | "messages" | "requests" | "timers" | "calls">

/** Decides the inputs in order: each sees what the earlier ones left. */
export const decideWith = <T extends Tables>(by: Participant<T>, given: Puts<T>, ...inputs: ReadonlyArray<Input>) => {
  let ids = 0
  const newId = () => `00000000-0000-7000-8000-${String(++ids).padStart(12, "0")}`
  const none = Object.fromEntries(Object.keys(by.tables).map((name) => [name, []]))
  const start: Decided<Tables> = { rows: { ...none, ...given } }
  const decided = inputs.reduce(({ rows }, input) => decideOne(by, rows, input, newId), start)
  // every row was decoded by the participant's own tables
  return decided as unknown as Decided<T>
}

const decideOne = (by: Deciding, stored: Puts<Tables>, input: Input, newId: () => string): Decided<Tables> => {
  const { handler, payload, now, ...cause } = arrivalOf(by, stored, input)
  if (handler === undefined || payload === undefined) throw new Error(`nothing is decided for ${cause.type}`)
  const context = { ...cause, id: newId(), traceparent: null, now, newId }
  const working = new WorkingSet(by.tables)
  const view = working.view()
  for (const [name, table] of Object.entries(by.tables)) {
    const keys = new Set(handler.touches[name]?.(payload, view, context))
    if (cause.type === `due ${name}`) keys.add(cause.key)
    working.add(table, [...keys], stored[name]?.filter((row) => keys.has(keyOf(table, row))) ?? [])
  }
  const decision = handler.decide(view, payload, context)
  working.apply(decision.put ?? {})
  decision.send?.forEach(encodePayload)
  decision.call?.forEach((asked) => sealCall(asked, { ...context, causation: null }, by.calls))
  const rows = Object.entries(by.tables).map(([name, table]) => {
    const put = decision.put?.[name] ?? []
    const replaced = new Set(table.kind === "rows" ? put.map((row) => keyOf(table, row)) : [])
    return [name, [...(stored[name] ?? []).filter((row) => !replaced.has(keyOf(table, row))), ...put]]
  })
  return { ...decision, rows: Object.fromEntries(rows) }
}

const arrivalOf = (by: Deciding, stored: Puts<Tables>, input: Input) => {
  const cause = { key: "", correlation: null, coordination: "orchestration", definition: null, now: decidedAt } as const
  if ("due" in input) {
    const { due, key } = input
    const payload = stored[due]?.find((row) => by.tables[due] !== undefined && keyOf(by.tables[due], row) === key)
    const dueAt =
      payload !== undefined && "due_at" in payload && payload.due_at instanceof Date ? payload.due_at : decidedAt
    const now = input.at ?? (dueAt > decidedAt ? dueAt : decidedAt)
    return { ...cause, type: `due ${due}`, key, handler: by.timers.get(due), payload, now }
  }
  if ("request" in input) {
    const { request, payload } = input
    return { ...cause, type: request.type, handler: by.requests.get(request.type)?.handler, payload }
  }
  if ("called" in input) {
    const { called, payload, correlation, coordination, definition } = input
    encodePlain(called.kind, called.request, payload.request)
    encodePlain(called.kind, called.result, payload.result)
    const handler = by.calls.get(called.kind)?.handler
    const type = `called ${called.kind}`
    return { ...cause, type, key: payload.key, correlation, coordination, definition, handler, payload }
  }
  encodePayload(input)
  const { contract, payload, coordination = "orchestration", definition = null } = input
  const key = keyOfPayload(contract, payload)
  const handler = by.messages.get(contract)
  const correlation = input.correlation ?? key
  return { ...cause, type: contract.type, key, correlation, coordination, definition, handler, payload }
}
