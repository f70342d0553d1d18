/**
 * How orders end, as the order service tells on its topics: following that costs the services nothing. An outcome's time
 * is that of its record: it is committed and published by then.
 */
import { Kafka, logLevel } from "kafkajs"
// for its guard against kafkajs' idle timers, which spin and warn of negative timeouts: see outbox/broker/kafka.ts
import "oncebox"
import { ordersEvents } from "../../services/order/contract.ts"
import { within } from "../wait.ts"

export interface Outcome {
  readonly orderId: string
  readonly approved: boolean
  /** By the wall clock. */
  readonly atMs: number
}

const joinsWithinMs = 60_000

export const outcomeTopics: ReadonlyArray<string> = [ordersEvents.name, ordersEvents.choreographyName]

/** Whether this type of event is an outcome, and which. */
export const approvedBy = (type: string): boolean | undefined =>
  type === "OrderApprovedEvent" ? true : type === "OrderRejectedEvent" ? false : undefined

/** Tells of each outcome from now on; ends when the function returned is called. */
export const followOutcomes = async (
  broker: string,
  listener: (outcome: Outcome) => void
): Promise<() => Promise<void>> => {
  const consumer = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING }).consumer({
    groupId: `load-${crypto.randomUUID()}`,
    maxWaitTimeInMs: 250
  })
  const joined = Promise.withResolvers<void>()
  consumer.on(consumer.events.GROUP_JOIN, () => joined.resolve())
  await consumer.connect()
  await consumer.subscribe({ topics: [...outcomeTopics], fromBeginning: false })
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      for (const { key, headers, timestamp } of batch.messages) {
        const approved = approvedBy(String(headers?.["ce_type"]))
        if (approved !== undefined && key !== null)
          listener({ orderId: key.toString(), approved, atMs: Number(timestamp) })
      }
    }
  })
  await within("joining the consumer group", joinsWithinMs, joined.promise)
  return () => consumer.disconnect()
}
