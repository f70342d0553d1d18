/** Messages of the shop as records, as many as are wanted, each about an order of its own. */
import type { Outgoing } from "oncebox"
import type { BrokerRecord } from "../../outbox/broker/broker.ts"
import { recordOf } from "../../outbox/delivery/relay.ts"
import { seal } from "../../outbox/message.ts"
import { OrderCreatedEvent } from "../../services/order/contract.ts"
import { ProductReservedEvent, ReserveProductCommand } from "../../services/product/contract.ts"
import type { Product } from "../../services/product/product.ts"

export const products: ReadonlyArray<Product> = Array.from({ length: 50 }, (_, n) => ({
  id: `bench-${n}`,
  name: `bench-${n}`,
  price: 1_000,
  quantity: 1_000_000_000,
  status: "ACTIVE",
  version: 1,
  created_at: new Date(0)
}))

const itemOf = (n: number) => ({ productId: `bench-${n % products.length}`, quantity: 1 })

export const reserve = (orderId: string, n: number): Outgoing =>
  ReserveProductCommand.of({ orderId, items: [itemOf(n)] })

export const reserved = (orderId: string, n: number): Outgoing =>
  ProductReservedEvent.of({ orderId, lines: [{ ...itemOf(n), price: 1_000 }], total: 1_000 })

export const created = (orderId: string, n: number): Outgoing =>
  OrderCreatedEvent.of({
    orderId,
    userId: `bench-${n}`,
    items: [itemOf(n)],
    payment: { method: "account" },
    country: null,
    definition: "place-order"
  })

/** `outgoing` of each order, as Debezium would have published it. */
export const recordsOf = (
  orderIds: ReadonlyArray<string>,
  outgoing: (orderId: string, n: number) => Outgoing
): ReadonlyArray<BrokerRecord> =>
  orderIds.map((orderId, n) => {
    const origin = {
      correlation: orderId,
      causation: Bun.randomUUIDv7(),
      coordination: "orchestration",
      definition: "place-order",
      traceparent: null
    } as const
    const { topic, key, value, headers } = recordOf(
      seal(outgoing(orderId, n), origin, () => Bun.randomUUIDv7()),
      "/oncebox/bench",
      new Date()
    )
    return {
      topic,
      partition: 0,
      offset: BigInt(n),
      key: Buffer.from(key),
      value: Buffer.from(value),
      headers: Object.fromEntries(Object.entries(headers).map(([name, text]) => [name, Buffer.from(String(text))]))
    }
  })

/** So many ids of orders that nobody has heard of. */
export const newOrders = (count: number): ReadonlyArray<string> =>
  Array.from({ length: count }, () => Bun.randomUUIDv7())
