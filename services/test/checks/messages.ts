/** Messages: each was published, and decided by whoever handles it. */
import { by, handles, when, type Check, type Seen, type Subscriber, type World } from "./check.ts"

/** Every message in an outbox was decided, or put aside, by every participant that handles its type. */
export const delivered: Check = (world, { subscribers }) =>
  undelivered(world, subscribers).map(({ consumer, type, id }) => `${consumer} never saw ${type} ${id}`)

const undelivered = (
  { outbox, inbox, letters }: Pick<World, "outbox" | "inbox" | "letters">,
  subscribers: ReadonlyArray<Subscriber>
): ReadonlyArray<Seen & { readonly type: string }> => {
  const seen = new Set([...inbox, ...letters].map(({ consumer, id }) => `${consumer} ${id}`))
  const consumers = Map.groupBy(subscribers, ({ topic, type }) => `${topic} ${type}`)
  return outbox.flatMap((message) =>
    (consumers.get(`${message.topic} ${message.type}`) ?? []).flatMap((subscriber) => {
      const { consumer } = subscriber
      const { id, type } = message
      return !handles(subscriber, message) || seen.has(`${consumer} ${id}`) ? [] : [{ consumer, id, type }]
    })
  )
}

/** Nothing was put aside. */
export const letters: Check = ({ letters }) =>
  letters.map(({ consumer, id, reason }) => `${consumer} parked ${id}: ${reason}`)

/** What lies on the topics is what the outboxes hold, all of it, and what a test put there and said so. */
export const records: Check = ({ outbox, records }) => {
  const sent = by(outbox, ({ id }) => id)
  const published = new Set(records.map(({ id }) => id))
  return [
    ...records.flatMap(({ id, topic, type, injected }) => {
      const message = sent.get(id)
      return when(
        !injected && (message?.topic !== topic || message.type !== type),
        `${topic} carries a ${type} ${id} that no outbox holds`
      )
    }),
    ...outbox.flatMap(({ id, topic, type }) => when(!published.has(id), `${type} ${id} is not on ${topic}`))
  ]
}
