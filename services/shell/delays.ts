/**
 * Answers that come late on demand. While a rule has a delay, its step's command is put aside, as a row in the transaction
 * that claims it, and decided when the row falls due. To everybody else the command came that much later: an undo that is
 * decided meanwhile leaves its tombstone, which refuses the command; a command that is asked again meanwhile changes nothing.
 */
import { Schema } from "effect"
import {
  Coordination,
  Table,
  type Cause,
  type Context,
  type Contract,
  type Handler,
  type RowOf,
  type Rows
} from "oncebox"
import { OrderId } from "./bounds.ts"
import type { failureRules } from "./failures.ts"

/** What a service put aside of its one step that can be late. */
export const delayedCommands = Table.make("delayed_commands", {
  key: "order_id",
  row: {
    order_id: OrderId,
    /** The command's. */
    payload: Schema.Unknown,
    coordination: Coordination,
    definition: Schema.NullOr(Schema.String),
    /** When it is decided; null once it was, and then whoever asks again is answered at once. */
    due_at: Schema.NullOr(Schema.Date)
  }
})
type DelayedCommand = RowOf<typeof delayedCommands>

// types and not interfaces, which have no index signature
type DelayTables = {
  readonly delayed_commands: typeof delayedCommands
  readonly failure_rules: typeof failureRules
}

/** What a participant does on a command that its step's rule can make late, and on a row of what was put aside. */
export interface Delayable<T extends DelayTables, P> {
  readonly asked: Handler<T, P, void>
  readonly due: Handler<T, DelayedCommand, void>
}

export const delayable = <T extends DelayTables, P extends { readonly orderId: string }>(
  tables: T,
  step: string,
  command: Contract<P>,
  handler: Handler<T, P, void>
): Delayable<T, P> => {
  const commandOf = Schema.decodeUnknownSync(command.schema)
  // the participant's other tables are its handler's business: here they are handed on
  const { touches = {}, decide } = handler as unknown as Handler<DelayTables, P, void>
  const touched: Readonly<Record<string, Touch<P>>> = touches
  const delayed: Delayable<DelayTables, P> = {
    asked: {
      touches: { ...touches, delayed_commands: ({ orderId }) => [orderId], failure_rules: () => [step] },
      decide: (rows, payload, context) => {
        const earlier = rows.delayed_commands.get(payload.orderId)
        const delayMs = rows.failure_rules.get(step)?.delay_ms ?? null
        if (earlier === undefined && delayMs !== null)
          return { put: { delayed_commands: [putAside(payload, delayMs, context)] } }
        return isWaiting(earlier) ? {} : decide(rows, payload, context)
      }
    },
    due: {
      touches: Object.fromEntries(
        Object.keys(tables).map((table): [string, Touch<DelayedCommand>] => [
          table,
          ({ payload }, rows, cause) => touched[table]?.(commandOf(payload), rows, cause) ?? []
        ])
      ),
      decide: (rows, row, context) => {
        const { payload, coordination, definition } = row
        const style = { coordination, definition }
        const { put, send, call } = decide(rows, commandOf(payload), { ...context, ...style })
        return {
          put: { ...put, delayed_commands: [{ ...row, due_at: null }] },
          send: (send ?? []).map((message) => ({ ...message, ...style })),
          call: (call ?? []).map((asked) => ({ ...asked, ...style }))
        }
      }
    }
  }
  return delayed as unknown as Delayable<T, P>
}

type Touch<P> = (payload: P, rows: Rows<DelayTables>, cause: Cause) => Iterable<string>

const isWaiting = (row: DelayedCommand | undefined): boolean => row !== undefined && row.due_at !== null

const putAside = (
  payload: { readonly orderId: string },
  delayMs: number,
  { coordination, definition, now }: Context
): DelayedCommand => ({
  order_id: payload.orderId,
  payload,
  coordination,
  definition,
  due_at: new Date(now.getTime() + delayMs)
})
