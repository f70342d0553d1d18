/** Takes a fence out of a participant: one type of message is decided on rows that are not what the table holds. */
import type { Participant, Rows, Tables } from "oncebox"

export const seeing = <T extends Tables>(
  participant: Participant<T>,
  type: string,
  instead: (rows: Rows<Tables>) => Rows<Tables>
): Participant<T> => ({
  ...participant,
  messages: new Map(
    [...participant.messages].map(([contract, handler]) => {
      if (contract.type !== type) return [contract, handler]
      const touches = Object.entries(handler.touches).map(
        ([table, keys]) =>
          [table, (payload, rows, cause) => keys(payload, instead(rows), cause)] satisfies [string, typeof keys]
      )
      const decide: typeof handler.decide = (rows, payload, context) => handler.decide(instead(rows), payload, context)
      return [contract, { ...handler, touches: Object.fromEntries(touches), decide }]
    })
  )
})
