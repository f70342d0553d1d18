/** What becomes of fuzzed records in services that run: whether each is settled, and what is parked. */
import type { BrokerRecord } from "../../../outbox/broker/broker.ts"
import { readRecord, type Reader } from "../../../outbox/lanes/decode.ts"
import { topicNameOf } from "../../../outbox/message.ts"
import { OrderRejectedEvent, RejectOrderCommand } from "../../order/contract.ts"
import { PaymentFailedEvent, PaymentProcessedEvent, RefundPaymentCommand } from "../../payment/contract.ts"
import {
  CancelProductReservationCommand,
  ProductReservationFailedEvent,
  ProductReservedEvent
} from "../../product/contract.ts"
import { fromAccount } from "../../shell/bounds.ts"
import { CancelShipmentCommand, ShipmentCreatedEvent } from "../../shipment/contract.ts"
import { UserDeletedEvent } from "../../user/contract.ts"
import { participants } from "../participants.ts"
import { soundRecord, type Source } from "./records.ts"

/**
 * Messages to the same topic's readers that are decided and come to nothing: a participant that parks most of what it is
 * given stops.
 */
export const harmless = (source: Source, topic: string, share = 4): ReadonlyArray<BrokerRecord> =>
  Array.from({ length: share }, () => {
    const orderId = crypto.randomUUID()
    const about = { orderId, userId: "nobody", items: [{ productId: "nothing", quantity: 1 }], payment: fromAccount }
    const lines = [{ productId: "nothing", quantity: 1, price: 1 }]
    const reason = "FUZZED"
    return [
      RejectOrderCommand.of({ ...about, country: null, definition: "place-order", reason }),
      CancelProductReservationCommand.of({ orderId }),
      RefundPaymentCommand.of({ orderId }),
      CancelShipmentCommand.of({ orderId }),
      OrderRejectedEvent.of({ orderId, reason }),
      ProductReservedEvent.of({ orderId, lines, total: 1 }),
      ProductReservationFailedEvent.of({ orderId, reason, productId: null }),
      PaymentProcessedEvent.of({ orderId, userId: "nobody", amount: 1, balance: null, position: null }),
      PaymentFailedEvent.of({ orderId, reason }),
      ShipmentCreatedEvent.of({ orderId, shipmentId: "nothing" }),
      UserDeletedEvent.of({ userId: orderId })
    ].flatMap(({ contract, payload }) => {
      const style = styles.find((one) => topicNameOf(contract.topic, one) === topic)
      return style === undefined ? [] : [soundRecord(source, contract, payload, style)]
    })
  }).flat()

const styles = ["choreography", "orchestration"] as const

export interface Letter {
  readonly id: string
  readonly reason: string
  readonly detail: string
}

const timeout = () => AbortSignal.timeout(60_000)

/** All dead letters of a service, page by page. */
export const lettersAt = async (adminUrl: string): Promise<ReadonlyArray<Letter>> => {
  const letters: Array<Letter> = []
  for (let cursor: string | null = ""; cursor !== null;) {
    const query = cursor === "" ? "" : `&cursor=${cursor}`
    const response: Response = await fetch(`${adminUrl}/dead-letters?limit=100${query}`, { signal: timeout() })
    // what a service of ours answers; the expectations find out what is in it
    const page = (await response.json()) as { items: ReadonlyArray<Letter>; next: string | null }
    letters.push(...page.items)
    cursor = page.next
  }
  return letters
}

export const discardAll = async (adminUrl: string): Promise<void> => {
  for (let left = 1; left > 0;) {
    const response = await fetch(`${adminUrl}/dead-letters/discard`, {
      method: "POST",
      body: JSON.stringify({ all: true, limit: 1_000, note: "of a fuzz test" }),
      headers: { "content-type": "application/json" },
      signal: timeout()
    })
    left = ((await response.json()) as { left: number }).left
  }
}

/** Letters that a service should not have: what it broke at, and what Postgres would not take. */
export const unexpected = (letters: ReadonlyArray<Letter>): ReadonlyArray<Letter> =>
  letters.filter(({ reason, detail }) =>
    reason === "decision-failed" ? !detail.startsWith("Error: ") : reason === "row-refused"
  )

/** What must have come of records, by participant: ids that are decided or parked, and those of them that nobody can read. */
export const dueOf = (records: ReadonlyArray<BrokerRecord>) =>
  participants.map(({ name, topics, messages }) => {
    const reader: Reader = {
      topics,
      // handlers of this participant's own rows; here nothing is decided
      handlers: messages as unknown as Reader["handlers"]
    }
    const read = records
      .filter(({ topic }) => reader.topics.has(topic))
      .map((record) => readRecord(reader, record))
      .flatMap((input) => (input._tag === "skipped" ? [] : [input]))
    const messageIds = new Set(read.flatMap((input) => (input._tag === "message" ? [input.envelope.id] : [])))
    const poison = new Set(read.flatMap((input) => (input._tag === "unreadable" ? [input.letter.id] : [])))
    // of two records of one id the first counts
    return { name, settled: messageIds.union(poison), parked: poison.difference(messageIds) }
  })
