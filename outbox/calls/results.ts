/**
 * The result of a call on its way through a pass: decided like a request that nobody waits for, together with the row
 * of the call, which is done from then on. A row that is done already is decided no more, whoever brings a result.
 */
import type { RequestInput } from "../pass/inputs.ts"
import type { AnyHandler, Participant } from "../participant.ts"
import { calls } from "../store/calls.ts"
import type { TakenCall } from "../store/store.ts"
import type { RowOf, Rows, Tables } from "../table.ts"

/** Under this name a pass that decides results has the library's table `calls`. */
const ownName = "oncebox calls"

/** The tables of a pass that decides results. A call's row is locked last: passes that ask for it come that way too. */
export const withCalls = (tables: Tables): Tables => ({ ...tables, [ownName]: calls })

export const resultInput = (
  participant: Participant<Tables>,
  call: TakenCall,
  answer: { readonly request: object; readonly result: object },
  messageId: string
): RequestInput => {
  const entry = participant.calls.get(call.kind)
  if (entry === undefined) throw new Error(`${participant.name} decides no results of ${call.kind}`)
  const { correlation, coordination, definition, traceparent, causation, key, id } = call
  return {
    _tag: "request",
    cause: { id: messageId, key, type: `called ${call.kind}`, correlation, coordination, definition, traceparent },
    causation,
    payload: { key, ...answer },
    handler: settling(entry.handler, id, answer.result),
    idempotencyKey: "",
    fingerprint: ""
  }
}

/** The reply of a result that was decided; another has none. */
export const settled = "settled"

const settling = (handler: AnyHandler, id: string, result: object): AnyHandler => ({
  ordered: false,
  coordination: undefined,
  touches: { ...handler.touches, [ownName]: () => [id] },
  decide: (rows, payload, context) => {
    const row = rowOf(rows, id)
    if (row === undefined || row.done_at !== null) return {}
    const decision = handler.decide(rows, payload, context)
    const done: RowOf<typeof calls> = { ...row, result, due_at: null, done_at: context.now }
    return { ...decision, put: { ...decision.put, [ownName]: [done] }, reply: settled }
  }
})

const rowOf = (rows: Rows<Tables>, id: string): RowOf<typeof calls> | undefined => {
  const row = rows[ownName]?.get(id)
  return row === undefined ? undefined : calls.decode(row)
}
