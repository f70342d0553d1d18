/** What the shipment service is asked and what it tells. Every message is keyed by the order it is about. */
import { Schema } from "effect"
import { Topic } from "oncebox"
import { Country, Id, Items, OrderId, Reason } from "../shell/bounds.ts"
import { order } from "../shell/order-context.ts"

export const shipmentsCommands = Topic.commands("shipments-commands")
export const shipmentsEvents = Topic.events("shipments-events", { choreographyName: "shipments-choreography" })

export const CreateShipmentCommand = shipmentsCommands.message(
  "CreateShipmentCommand",
  { orderId: OrderId, userId: Id, items: Items, country: Schema.NullOr(Country), order },
  { key: "orderId" }
)

export const ShipmentCreatedEvent = shipmentsEvents.message(
  "ShipmentCreatedEvent",
  { orderId: OrderId, shipmentId: Id, order },
  { key: "orderId" }
)

/** Nothing is shipped. */
export const ShipmentFailedEvent = shipmentsEvents.message(
  "ShipmentFailedEvent",
  { orderId: OrderId, reason: Reason },
  { key: "orderId" }
)

export const CancelShipmentCommand = shipmentsCommands.message(
  "CancelShipmentCommand",
  { orderId: OrderId },
  { key: "orderId" }
)

/** Nothing is shipped any more, or will be. */
export const ShipmentCancelledEvent = shipmentsEvents.message(
  "ShipmentCancelledEvent",
  { orderId: OrderId },
  { key: "orderId" }
)
