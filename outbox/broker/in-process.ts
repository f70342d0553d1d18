/**
 * The in-process broker: topics, partitions and consumer groups in memory, for one process and for tests.
 * It keeps the port's promises, redelivery and rebalances included; what it holds is gone with the process.
 */
import { Effect, Layer } from "effect"
import { hashOf } from "../hash.ts"
import { Broker, type BrokerRecord, type Outbound, type Subscription, type TakeLimit } from "./broker.ts"
import { Offsets, partitionName } from "./offsets.ts"

interface Member {
  readonly topics: ReadonlySet<string>
  readonly exclusive: boolean
  /** The next offset to take, by partition; only of partitions that are this member's. */
  positions: Map<string, number>
  wake: () => void
}

interface Group {
  readonly committed: Map<string, number>
  members: ReadonlyArray<Member>
}

/** A broker with `partitions` partitions for every topic; topics exist as soon as they are named. */
export const makeInProcess = (options: { readonly partitions: number }) => {
  const logs = new Map<string, Array<BrokerRecord>>()
  const groups = new Map<string, Group>()

  const logOf = (topic: string, partition: number): Array<BrokerRecord> => {
    const name = partitionName(topic, partition)
    const log = logs.get(name) ?? []
    logs.set(name, log)
    return log
  }

  const append = (records: ReadonlyArray<Outbound>): void => {
    for (const { topic, key, value, headers } of records) {
      const partition = hashOf(key) % options.partitions
      const log = logOf(topic, partition)
      const bytes = typeof value === "string" ? Buffer.from(value) : value
      log.push({ topic, partition, offset: BigInt(log.length), key: Buffer.from(key), value: bytes, headers })
    }
    for (const group of groups.values()) for (const member of group.members) member.wake()
  }

  /** Hands the partitions out anew; everyone goes on from what is committed. */
  const rebalance = (group: Group): void => {
    for (const member of group.members) member.positions = new Map()
    const topics = new Set(group.members.flatMap((member) => [...member.topics]))
    for (const topic of topics) {
      const subscribers = group.members.filter((member) => member.topics.has(topic))
      const takers = subscribers.some(({ exclusive }) => exclusive) ? subscribers.slice(0, 1) : subscribers
      for (let partition = 0; partition < options.partitions; partition++) {
        const name = partitionName(topic, partition)
        takers[partition % takers.length]?.positions.set(name, group.committed.get(name) ?? 0)
      }
    }
    for (const member of group.members) member.wake()
  }

  const takeNow = (member: Member, limit: TakeLimit): ReadonlyArray<BrokerRecord> => {
    const taken: Array<BrokerRecord> = []
    let bytes = 0
    for (const [name, position] of member.positions) {
      const log = logs.get(name) ?? []
      let next = position
      for (
        ;
        next < log.length && taken.length < limit.messages && (taken.length === 0 || bytes < limit.bytes);
        next++
      ) {
        const record = log[next]
        if (record === undefined) break
        taken.push(record)
        bytes += record.value?.length ?? 0
      }
      member.positions.set(name, next)
    }
    return taken
  }

  const subscriptionOf = (group: Group, member: Member): Subscription => ({
    take: (limit) =>
      Effect.callback<ReadonlyArray<BrokerRecord>>((resume) => {
        const attempt = (): void => {
          const taken = takeNow(member, limit)
          if (taken.length === 0) return
          member.wake = () => {}
          resume(Effect.succeed(taken))
        }
        member.wake = attempt
        attempt()
        return Effect.sync(() => {
          member.wake = () => {}
        })
      }),
    processed: (records) =>
      Effect.sync(() => {
        for (const { topic, partition, offset } of records) {
          const name = partitionName(topic, partition)
          const position = member.positions.get(name)
          const next = Number(offset) + 1
          // a position before the record: the partition was taken away or rewound since
          if (position === undefined || position < next) continue
          group.committed.set(name, Math.max(next, group.committed.get(name) ?? 0))
        }
      })
  })

  const broker = Broker.of({
    publish: (records) => Effect.sync(() => append(records)),
    subscribe: ({ group: name, topics, exclusive = false }) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          const group = groups.get(name) ?? { committed: new Map<string, number>(), members: [] }
          groups.set(name, group)
          const member: Member = { topics: new Set(topics), exclusive, positions: new Map(), wake: () => {} }
          group.members = [...group.members, member]
          rebalance(group)
          return { group, member }
        }),
        ({ group, member }) =>
          Effect.sync(() => {
            group.members = group.members.filter((other) => other !== member)
            rebalance(group)
          })
      ).pipe(Effect.map(({ group, member }) => subscriptionOf(group, member)))
  })

  const offsets = Offsets.of({
    extents: (topics) =>
      Effect.sync(
        () =>
          new Map(
            topics.flatMap((topic) =>
              Array.from({ length: options.partitions }, (_, partition) => {
                const name = partitionName(topic, partition)
                return [name, { first: 0n, end: BigInt(logs.get(name)?.length ?? 0) }] as const
              })
            )
          )
      ),
    committed: (name, topics) =>
      Effect.sync(() => {
        const committed = [...(groups.get(name)?.committed ?? [])]
        const wanted = committed.filter(([partition]) => topics.some((topic) => partition.startsWith(`${topic}/`)))
        return new Map(wanted.map(([partition, offset]) => [partition, BigInt(offset)]))
      }),
    members: (name) => Effect.sync(() => groups.get(name)?.members.length ?? 0),
    kept: () => Effect.succeed(new Map())
  })

  return {
    broker,
    offsets,
    /** All records of a topic, partition by partition. */
    records: (topic: string): ReadonlyArray<BrokerRecord> =>
      Array.from(
        { length: options.partitions },
        (_, partition) => logs.get(partitionName(topic, partition)) ?? []
      ).flat(),
    /** Sets a group back to the first record of every partition. */
    rewind: (name: string): void => {
      const group = groups.get(name)
      if (group === undefined) return
      group.committed.clear()
      rebalance(group)
    }
  }
}

export const layerInProcess = (options: { readonly partitions: number } = { partitions: 6 }): Layer.Layer<Broker> =>
  Layer.sync(Broker, () => makeInProcess(options).broker)
