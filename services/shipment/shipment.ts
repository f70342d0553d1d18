/** Shipments. An order's shipment is the fence: it answers whatever is asked again. */
import { Schema } from "effect"
import { Participant, Table, type Outgoing, type RowOf, type Rows } from "oncebox"
import { alreadyCancelled, Country, Id, Item, OrderId, Reason } from "../shell/bounds.ts"
import { delayable, delayedCommands } from "../shell/delays.ts"
import { failedOnDemand, failsOnDemand, failureRules } from "../shell/failures.ts"
import { along } from "../shell/order-context.ts"
import {
  CancelShipmentCommand,
  CreateShipmentCommand,
  ShipmentCancelledEvent,
  ShipmentCreatedEvent,
  ShipmentFailedEvent
} from "./contract.ts"

export const shipments = Table.make("shipments", {
  key: "order_id",
  row: {
    order_id: OrderId,
    id: Id,
    status: Schema.Literals(["CREATED", "FAILED", "CANCELLED"]),
    reason: Schema.NullOr(Reason),
    /** None when the shipment was cancelled before it was asked for. */
    items: Schema.Array(Item),
    updated_at: Schema.Date
  }
})
export type Shipment = RowOf<typeof shipments>

/** Products that the carrier does not carry. */
const carrierRefusals = Table.reference("carrier_refusals", {
  key: "product_id",
  row: { product_id: Id, reason: Schema.String }
})

/** Countries that the carrier does not go to. */
const carrierCountries = Table.reference("carrier_countries", {
  key: "country",
  row: { country: Country, reason: Schema.String }
})

// what is put aside comes first: it is locked first when it falls due, too
const tables = {
  delayed_commands: delayedCommands,
  shipments,
  carrier_refusals: carrierRefusals,
  carrier_countries: carrierCountries,
  failure_rules: failureRules
}

const shipping = delayable(tables, "ship", CreateShipmentCommand, {
  touches: {
    shipments: ({ orderId }) => [orderId],
    carrier_refusals: ({ items }) => items.map(({ productId }) => productId),
    carrier_countries: ({ country }) => (country === null ? [] : [country]),
    failure_rules: () => ["ship"]
  },
  decide: (rows, command, { now, newId }) => {
    const { shipments } = rows
    const { orderId, items } = command
    const earlier = shipments.get(orderId)
    if (earlier !== undefined) return { send: [outcomeOf(earlier, command)] }
    const reason = refusalOf(command, rows)
    const shipment: Shipment = {
      order_id: orderId,
      id: newId(),
      status: reason === null ? "CREATED" : "FAILED",
      reason,
      items,
      updated_at: now
    }
    return { put: { shipments: [shipment] }, send: [outcomeOf(shipment, command)] }
  }
})

export const shipment = Participant.make("shipment", tables)
  .on(CreateShipmentCommand, shipping.asked)
  .due("delayed_commands", shipping.due)
  .on(CancelShipmentCommand, {
    touches: { shipments: ({ orderId }) => [orderId] },
    decide: ({ shipments }, { orderId }, { now, newId }) => {
      const send = [ShipmentCancelledEvent.of({ orderId })]
      const earlier = shipments.get(orderId)
      if (earlier === undefined) return { put: { shipments: [tombstone(orderId, newId(), now)] }, send }
      if (earlier.status !== "CREATED") return { send }
      return { put: { shipments: [{ ...earlier, status: "CANCELLED", updated_at: now }] }, send }
    }
  })

/** Why the carrier does not take it; null when it does. */
const refusalOf = ({ orderId, items, country }: Command, rows: Refusals): string | null => {
  if (items.some(({ productId }) => rows.carrier_refusals.get(productId) !== undefined)) return "SHIPMENT_REFUSED"
  if (country !== null && rows.carrier_countries.get(country) !== undefined) return "COUNTRY_REFUSED"
  return failsOnDemand(rows.failure_rules.get("ship"), orderId) ? failedOnDemand : null
}
type Refusals = Rows<{
  readonly carrier_refusals: typeof carrierRefusals
  readonly carrier_countries: typeof carrierCountries
  readonly failure_rules: typeof failureRules
}>

/** Cancelled before it was asked for: the command is refused when it comes. */
const tombstone = (orderId: string, id: string, now: Date): Shipment => ({
  order_id: orderId,
  id,
  status: "CANCELLED",
  reason: null,
  items: [],
  updated_at: now
})

type Command = typeof CreateShipmentCommand.schema.Type

const outcomeOf = ({ order_id: orderId, id, status, reason }: Shipment, command: Command): Outgoing =>
  status === "CREATED"
    ? ShipmentCreatedEvent.of({ orderId, shipmentId: id, ...along(command) })
    : ShipmentFailedEvent.of({ orderId, reason: reason ?? alreadyCancelled })
