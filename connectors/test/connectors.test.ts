import { expect, test } from "bun:test"
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
