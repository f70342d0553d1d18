/** The in-process broker keeps the promises of a broker. */
import { brokerSuite, partitions } from "./broker-suite.ts"
import { makeInProcess } from "../broker/in-process.ts"

const { broker } = makeInProcess({ partitions })
let topics = 0

brokerSuite("the in-process broker", () => ({ broker, topic: async () => `topic-${++topics}` }))
