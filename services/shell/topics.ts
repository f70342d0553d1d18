/** The job that creates the topics: `bun services/shell/topics.ts`. It may be run again at any time: those that are there stay. */
import { Config, Effect, Schema } from "effect"
import { Topics } from "oncebox"
import { topicNames } from "../index.ts"
import { readConfig, setting } from "./config.ts"
import { runJob } from "./job.ts"

const dayMs = 86_400_000
/** Less than the eight days for which inboxes remember: what lies there is known to whoever reads it again. */
const settings = { "retention.ms": String(6 * dayMs), "segment.ms": String(dayMs) }

/**
 * So many replicas of a service share its work. Each partition has its price: records travel in batches of one partition. A topic
 * keeps what it was made with, for with another number the messages of a key would lie on two partitions.
 */
export const usualPartitions = 2
const Partitions = Schema.NumberFromString.check(Schema.isInt(), Schema.isBetween({ minimum: 1, maximum: 1_000 }))

/** Every topic, and beside it the one for copies of its dead letters. */
export const allTopicNames: ReadonlyArray<string> = topicNames.flatMap((name) => [name, `${name}.dead`])

export const topicsOf = (partitions: number) =>
  allTopicNames.map((name) => ({ name, partitions: name.endsWith(".dead") ? 1 : partitions, settings }))

if (import.meta.main) {
  runJob(
    "topics",
    Effect.gen(function* () {
      const { brokers, partitions, replicationFactor } = yield* readConfig(
        Config.all({
          brokers: setting.brokers,
          partitions: Config.schema(Partitions, "PARTITIONS").pipe(Config.withDefault(usualPartitions)),
          replicationFactor: Config.Int("REPLICATION_FACTOR").pipe(Config.withDefault(1))
        })
      )
      const topics = topicsOf(partitions)
      yield* Topics.create({ brokers, clientId: "topics" }, topics, replicationFactor)
      return `${topics.length} topics are ready`
    })
  )
}
