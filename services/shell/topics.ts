/** The job that creates the topics: `bun services/shell/topics.ts`. It may be run again at any time: those that are there stay. */
import { Config, Effect } from "effect"
import { Topics } from "oncebox"
import { topicNames } from "../index.ts"
import { readConfig, setting } from "./config.ts"
import { runJob } from "./job.ts"

const dayMs = 86_400_000
/** Less than the eight days for which inboxes remember: what lies there is known to whoever reads it again. */
const settings = { "retention.ms": String(6 * dayMs), "segment.ms": String(dayMs) }

/** Every topic, and beside it the one for copies of its dead letters. */
export const topics = topicNames.flatMap((name) => [
  { name, partitions: 6, settings },
  { name: `${name}.dead`, partitions: 1, settings }
])

if (import.meta.main) {
  runJob(
    "topics",
    Effect.gen(function* () {
      const { brokers, replicationFactor } = yield* readConfig(
        Config.all({
          brokers: setting.brokers,
          replicationFactor: Config.Int("REPLICATION_FACTOR").pipe(Config.withDefault(1))
        })
      )
      yield* Topics.create({ brokers, clientId: "topics" }, topics, replicationFactor)
      return `${topics.length} topics are ready`
    })
  )
}
