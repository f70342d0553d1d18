/**
 * Choreography: participants that go by each other's events, without anybody who asks them. A participant that sees an event
 * decides the command that the event stands for, by the very decision that an orchestrator would have asked for.
 */
import type { AnyContract, Contract } from "./message.ts"
import type { AnyHandler, Participant } from "./participant.ts"
import type { Tables } from "./table.ts"

/** One line of a choreography: what an event stands for. */
export interface Reaction {
  readonly event: AnyContract
  readonly command: AnyContract
  /** The command's payload, or undefined when this event stands for no such command. */
  readonly asks: (event: object) => object | undefined
}

export const Choreography = {
  /** An event, the command that it stands for, and that command's payload; undefined when it stands for none. */
  when: <E extends object, C extends object>(
    event: Contract<E>,
    command: Contract<C>,
    asks: (event: E) => C | undefined
  ): Reaction =>
    // A reaction is only ever given payloads of its own event.
    ({ event, command, asks }) as unknown as Reaction,

  /**
   * The participant, reacting to the events of choreographed messages that stand for commands which it handles. Throws when
   * it handles such an event already.
   */
  join: <T extends Tables>(participant: Participant<T>, reactions: ReadonlyArray<Reaction>): Participant<T> => {
    const own = reactions.filter(({ command }) => participant.messages.has(command))
    return [...Map.groupBy(own, ({ event }) => event)].reduce((joined, [event, lines]) => {
      const find = (payload: object) => finding(participant, lines, payload)
      return joined.on<object>(event as unknown as Contract<object>, {
        coordination: "choreography",
        touches: Object.fromEntries(
          Object.keys(participant.tables).map((table) => [
            table,
            (
              payload: object,
              rows: Parameters<AnyHandler["decide"]>[0],
              cause: Parameters<AnyHandler["decide"]>[2]
            ) => {
              const found = find(payload)
              return found?.handler.touches[table]?.(found.asked, rows, cause) ?? []
            }
          ])
        ) as object,
        decide: (rows, payload, context) => {
          const found = find(payload)
          return found === undefined ? {} : (found.handler.decide(rows, found.asked, context) as object)
        }
      })
    }, participant)
  }
}

/** The command that the event stands for, with its handler. */
const finding = <T extends Tables>(participant: Participant<T>, lines: ReadonlyArray<Reaction>, payload: object) => {
  for (const { command, asks } of lines) {
    const asked = asks(payload)
    const handler = participant.messages.get(command)
    if (asked !== undefined && handler !== undefined) return { asked, handler }
  }
  return undefined
}
