/** Positions as a Kafka broker tells them, over one connection that is made when it is first needed. */
import { Effect, Layer } from "effect"
import { ConfigResourceTypes, type Admin } from "kafkajs"
import { BrokerError } from "./broker.ts"
import { kafkaOf, type KafkaOptions } from "./kafka.ts"
import { Offsets, partitionName } from "./offsets.ts"

const within = "20 seconds"

export const layerKafkaOffsets = (options: KafkaOptions): Layer.Layer<Offsets> =>
  Layer.effect(
    Offsets,
    Effect.gen(function* () {
      let connecting: Promise<Admin> | undefined
      const connect = async (): Promise<Admin> => {
        const admin = kafkaOf(options).admin()
        await admin.connect()
        return admin
      }
      /** Gives a connection up, unless it was never made; the next question makes another one. */
      const close = (connection: Promise<Admin>) =>
        Effect.tryPromise(async () => {
          if (connecting === connection) connecting = undefined
          await (await connection).disconnect()
        }).pipe(Effect.timeout("5 seconds"), Effect.ignore)
      yield* Effect.addFinalizer(() => (connecting === undefined ? Effect.void : close(connecting)))
      const ask = <A>(doing: string, question: (admin: Admin) => Promise<A>) =>
        Effect.suspend(() => {
          const connection = (connecting ??= connect())
          return Effect.tryPromise({
            try: async () => question(await connection),
            catch: (cause) => new BrokerError({ message: `${doing}: ${String(cause)}`, cause })
          }).pipe(
            Effect.timeoutOrElse({
              duration: within,
              orElse: () => Effect.fail(new BrokerError({ message: `${doing}: no answer in time` }))
            }),
            // a connection that failed once, or that nobody waits for any more, may never do better
            Effect.onError(() => close(connection))
          )
        })
      return Offsets.of({
        extents: (topics) =>
          ask("ends of topics", async (admin) => {
            const each = await Promise.all(
              topics.map(async (topic) =>
                (await admin.fetchTopicOffsets(topic)).map(
                  ({ partition, low, high }) =>
                    [partitionName(topic, partition), { first: BigInt(low), end: BigInt(high) }] as const
                )
              )
            )
            return new Map(each.flat())
          }),
        committed: (group, topics) =>
          ask(`offsets of ${group}`, async (admin) => {
            const each = await admin.fetchOffsets({ groupId: group, topics: [...topics] })
            return new Map(
              each.flatMap(({ topic, partitions }) =>
                partitions
                  .filter(({ offset }) => BigInt(offset) >= 0n)
                  .map(({ partition, offset }) => [partitionName(topic, partition), BigInt(offset)] as const)
              )
            )
          }),
        members: (group) =>
          ask(`members of ${group}`, async (admin) => {
            const { groups } = await admin.describeGroups([group])
            return groups[0]?.members.length ?? 0
          }),
        kept: (topics) =>
          ask("settings of topics", async (admin) => {
            const { resources } = await admin.describeConfigs({
              includeSynonyms: false,
              resources: topics.map((name) => ({
                type: ConfigResourceTypes.TOPIC,
                name,
                configNames: ["retention.ms", "segment.ms"]
              }))
            })
            return new Map(
              resources.flatMap(({ resourceName, configEntries }) => {
                const value = (name: string) =>
                  Number(configEntries.find(({ configName }) => configName === name)?.configValue)
                // a segment goes when the last record in it may
                const kept =
                  value("retention.ms") < 0 ? Number.POSITIVE_INFINITY : value("retention.ms") + value("segment.ms")
                return Number.isNaN(kept) ? [] : [[resourceName, kept] as const]
              })
            )
          })
      })
    })
  )
