import { expect, test } from "bun:test"
import { services } from "../../index.ts"
import { allTopicNames, topicsOf } from "../topics.ts"

test("every topic that a service reads is created, and one for its dead letters", () => {
  const topics = topicsOf(3)
  const names = topics.map(({ name }) => name)
  const read = services.flatMap((service) => service.topics)

  expect(new Set(names).size).toBe(names.length)
  expect(read.length).toBeGreaterThan(0)
  expect(names).toEqual(expect.arrayContaining(read.flatMap((name) => [name, `${name}.dead`])))
  for (const { name, partitions } of topics) expect(partitions).toBe(name.endsWith(".dead") ? 1 : 3)
})

test("the topics are those of the contracts", () => {
  const names = allTopicNames.filter((name) => !name.endsWith(".dead"))

  const three = (of: string): ReadonlyArray<string> => [`${of}-choreography`, `${of}-commands`, `${of}-events`]
  expect(names.sort()).toEqual([...["orders", "payments", "products", "shipments"].flatMap(three), "users-events"])
})
