import { expect, test } from "bun:test"
import type { Outgoing } from "oncebox"
import { decideWith, type Input } from "oncebox/testing"
import {
  CancelShipmentCommand,
  CreateShipmentCommand,
  ShipmentCancelledEvent,
  ShipmentCreatedEvent,
  ShipmentFailedEvent
} from "../contract.ts"
import { shipment, type Shipment } from "../shipment.ts"

const orderId = "00000000-0000-4000-8000-000000000001"
const carrier = { carrier_refusals: [{ product_id: "piano", reason: "too heavy" }] }

const ship = (...productIds: ReadonlyArray<string>) =>
  CreateShipmentCommand.of({
    orderId,
    userId: "ann",
    items: productIds.map((productId) => ({ productId, quantity: 1 })),
    country: null
  })
const cancel = CancelShipmentCommand.of({ orderId })

const failed = (reason: string) => ShipmentFailedEvent.of({ orderId, reason })
const cancelled = ShipmentCancelledEvent.of({ orderId })

const cases: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Outgoing, Shipment["status"]]> = [
  [
    "one product that the carrier refuses fails the shipment",
    [ship("cup", "piano")],
    failed("SHIPMENT_REFUSED"),
    "FAILED"
  ],
  ["a refused shipment is refused again", [ship("piano"), ship("piano")], failed("SHIPMENT_REFUSED"), "FAILED"],
  ["a shipment is cancelled", [ship("cup"), cancel], cancelled, "CANCELLED"],
  ["cancelled twice, it says so again", [ship("cup"), cancel, cancel], cancelled, "CANCELLED"],
  [
    "after the cancel the command is refused",
    [ship("cup"), cancel, ship("cup")],
    failed("ALREADY_CANCELLED"),
    "CANCELLED"
  ],
  ["a cancel that comes first finds nothing to do", [cancel], cancelled, "CANCELLED"],
  ["a cancel that comes first refuses the command", [cancel, ship("cup")], failed("ALREADY_CANCELLED"), "CANCELLED"],
  ["it goes on refusing after another cancel", [cancel, cancel, ship("cup")], failed("ALREADY_CANCELLED"), "CANCELLED"],
  ["what failed is cancelled without effect", [ship("piano"), cancel], cancelled, "FAILED"],
  [
    "what failed and was cancelled fails as before",
    [ship("piano"), cancel, ship("piano")],
    failed("SHIPMENT_REFUSED"),
    "FAILED"
  ]
]

test("a country that the carrier does not go to fails the shipment, others and none do not", () => {
  const given = { carrier_countries: [{ country: "AQ", reason: "no road" }] }
  const to = (country: string) =>
    CreateShipmentCommand.of({ orderId, userId: "ann", items: [{ productId: "cup", quantity: 1 }], country })

  expect(decideWith(shipment, given, to("AQ")).send).toEqual([failed("COUNTRY_REFUSED")])
  for (const input of [to("NL"), ship("cup")])
    expect(decideWith(shipment, given, input).rows.shipments[0]?.status).toBe("CREATED")
})

test.each(cases)("%s", (_name, inputs, answer, status) => {
  const { send, rows } = decideWith(shipment, carrier, ...inputs)

  expect(send).toEqual([answer])
  expect(rows.shipments.map((row) => row.status)).toEqual([status])
})

test("a shipment is created, and asked for again it is the same one", () => {
  const first = decideWith(shipment, carrier, ship("cup"))
  const again = decideWith(shipment, carrier, ship("cup"), ship("teapot"))

  const [row] = first.rows.shipments
  expect(first.send).toEqual([ShipmentCreatedEvent.of({ orderId, shipmentId: row?.id ?? "none" })])
  expect(row).toMatchObject({ status: "CREATED", items: [{ productId: "cup", quantity: 1 }] })
  expect(again.send).toEqual(first.send)
  expect(again.put).toBeUndefined()
})

const repeated: ReadonlyArray<readonly [string, ReadonlyArray<Input>, Input]> = [
  ["a refused shipment", [ship("piano")], ship("piano")],
  ["a cancel", [ship("cup"), cancel], cancel],
  ["a cancel of a failed one", [ship("piano")], cancel],
  ["a cancel that came first", [cancel], cancel],
  ["a shipment after its cancel", [cancel], ship("cup")]
]

test.each(repeated)("%s, asked again, writes no row", (_name, before, again) => {
  const { put } = decideWith(shipment, carrier, ...before, again)

  expect(put).toBeUndefined()
})
