import { expect, test } from "bun:test"
import { recordOf } from "../../outbox/delivery/relay.ts"
import { connectorConfig, connectorNames } from "../apply.ts"

test("there is one connector per service database", () => {
  expect(connectorNames()).toEqual(["orders", "payments", "products", "sagas", "shipments", "users"])
})

test("connectors differ in their database's name and in nothing else", () => {
  const general = (name: string) => JSON.stringify(connectorConfig(name)).replaceAll(name, "<database>")
  for (const name of connectorNames()) expect(general(name)).toBe(general("sagas"))
})

test("no connector holds a secret", () => {
  for (const name of connectorNames())
    expect(connectorConfig(name)["database.password"]).toBe("${env:REPLICATION_PASSWORD}")
})

test("a connector makes the headers that the relay makes", () => {
  const message = {
    id: Bun.randomUUIDv7(),
    topic: "things",
    key: "k",
    type: "Made",
    payload: "{}",
    correlation: "c",
    causation: "m",
    coordination: "orchestration",
    definition: "d",
    traceparent: "t",
    schemaVersion: 1
  } as const
  const relayed = Object.keys(recordOf(message, "/oncebox/sagas", new Date(0)).headers)

  const config = connectorConfig("sagas")
  const placed = String(config["transforms.outbox.table.fields.additional.placement"])
    .split(",")
    .map((field) => field.split(":"))
  const inserted = Object.entries(config).filter(([name]) => /^transforms\.\w+\.header$/.test(name))

  // the router itself adds the id
  const headers = ["id", ...placed.map(([column, , name]) => name ?? column), ...inserted.map(([, name]) => name)]
  expect(headers.map(String).sort()).toEqual(relayed.sort())
})
