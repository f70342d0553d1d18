/** What befalls a simulated system, one thing at a time. */
import type { BrokerRecord } from "../../broker/broker.ts"
import { recordOf } from "../../delivery/relay.ts"
import { pickOne, type Choices } from "./choices.ts"
import { pendingOf, type Node } from "./node.ts"
import type { AnyParticipant, Scenario } from "./scenario.ts"
import type { Reading, Topics } from "./topics.ts"

/** What a fault may reach. */
export interface Reach {
  readonly choices: Choices
  readonly nodes: ReadonlyArray<Node>
  readonly topics: Topics
  readonly scenario: Scenario
  readonly now: () => number
  readonly newId: () => string
  /** Ids of records that nobody can read, which are to be parked. */
  readonly poisoned: Set<string>
  /** Messages that were lost for good on their way to a participant. */
  readonly lost: Set<string>
  /** Records that a participant does not get in their turn. */
  readonly passedOver: WeakSet<BrokerRecord>
  /** How far deploying has come, by participant. */
  readonly newestBuild: Map<string, number>
  readonly note: (node: Node, text: string) => void
}

export const lostTo = (node: string, id: string): string => `${node} ${id}`

const header = ({ headers }: BrokerRecord, name: string): string => String(headers[name] ?? "")

const someReading = ({ choices }: Reach, node: Node, wanted: (reading: Reading) => boolean): Reading | undefined => {
  const found = node.readings.filter(wanted)
  return found.length === 0 ? undefined : pickOne(choices, found)
}

/** A record that lies on some topic. */
const someRecord = ({ choices, topics }: Reach): BrokerRecord | undefined => {
  const records = topics.all()
  return records.length === 0 ? undefined : pickOne(choices, records)
}

const copyOf = (record: BrokerRecord, id: string, value: Uint8Array | null) => ({
  topic: record.topic,
  key: Buffer.from(record.key ?? "").toString(),
  value: value ?? "",
  headers: { ...(record.headers as Readonly<Record<string, string>>), id, ce_id: id }
})

const buildsOf = (
  { scenario: { participants, laterBuilds = [] } }: Reach,
  { name }: Node
): ReadonlyArray<AnyParticipant> => [...participants, ...laterBuilds].filter((build) => build.name === name)

/** The newest build that came so far takes over for good. */
export const finishDeploying = (reach: Reach, node: Node): void => {
  const newest = buildsOf(reach, node)[reach.newestBuild.get(node.name) ?? 0]
  if (newest !== undefined && newest !== node.build) node.deploy(newest)
}

type Fault = (reach: Reach, node: Node) => boolean

/** Takes a record out of what a node reads, as if it had not been on the topic. */
const passOver = (reach: Reach, node: Node): BrokerRecord | undefined => {
  // only where nothing is in hand that a crash would bring back with it
  const reading = someReading(
    reach,
    node,
    ({ log, position, committed }) => position === committed && position < log.length
  )
  const [record] = reading === undefined ? [] : pendingOf(reading, 1)
  if (reading === undefined || record === undefined) return undefined
  reading.position++
  reading.committed++
  return record
}

/** Each answers whether there was anything to do. */
export const faults = {
  /** The process ends, and begins again from its group's offsets. */
  crash: (reach, node) => {
    node.crash()
    reach.note(node, "crashes")
    return true
  },
  /** The outbox's newest messages are published again. */
  replay: (reach, node) => {
    const back = Math.min(node.published, reach.choices.pick(30))
    node.published -= back
    if (back > 0) reach.note(node, `publishes ${back} messages again`)
    return back > 0
  },
  /** Nothing of the outbox is published for a while. */
  stall: (reach, node) => {
    node.stalledUntil = reach.now() + pickOne(reach.choices, [1_000, 60_000, 600_000])
    reach.note(node, "publishes nothing for a while")
    return true
  },
  /** Any message of the outbox is published again, as by a relay that did not see it on its topic. */
  republish: (reach, node) => {
    const sent = node.database.outbox.slice(0, node.published)
    if (sent.length === 0) return false
    const message = pickOne(reach.choices, sent)
    reach.topics.publish(recordOf(message, node.name, new Date(reach.now())))
    reach.note(node, `publishes ${message.type} again`)
    return true
  },
  /** The group's offset in a partition is set back. */
  rewind: (reach, node) => {
    const reading = someReading(reach, node, ({ position }) => position > 0)
    if (reading === undefined) return false
    reading.position = reach.choices.pick(reading.position)
    reading.committed = Math.min(reading.position, reading.committed)
    reach.note(node, "is set back")
    return true
  },
  /** Partitions are handed out anew: everybody goes on from what is committed. */
  rebalance: (reach, node) => {
    for (const reading of node.readings) reading.position = reading.committed
    reach.note(node, "is rebalanced")
    return true
  },
  /** A command comes once more, under an id of its own. */
  "ask again": (reach, node) => {
    const topics = [...node.build.topics].filter(([, { kind }]) => kind === "commands")
    const records = topics.flatMap(([name]) => reach.topics.partitions(name).flat())
    const record = records.length === 0 ? undefined : pickOne(reach.choices, records)
    if (record === undefined || reach.poisoned.has(header(record, "id"))) return false
    reach.topics.publish(copyOf(record, reach.newId(), record.value))
    reach.note(node, `is asked again: ${header(record, "ce_type")}`)
    return true
  },
  /** A record comes late: others of its key overtake it. */
  late: (reach, node) => {
    const record = passOver(reach, node)
    if (record === undefined) return false
    node.late.push(record)
    reach.passedOver.add(record)
    reach.note(node, `does not get ${header(record, "ce_type")} yet`)
    return true
  },
  /** A record never comes, and the participants make up for it by themselves. */
  lose: (reach, node) => {
    const reading = someReading(reach, node, ({ log, position, committed }) => {
      const record = log[position]
      return position === committed && record !== undefined && reach.scenario.heals?.(record, node.name) === true
    })
    const record = reading?.log[reading.position]
    if (reading === undefined || record === undefined) return false
    reading.position++
    reading.committed++
    reach.lost.add(lostTo(node.name, header(record, "id")))
    reach.passedOver.add(record)
    reach.note(node, `never gets ${header(record, "ce_type")}`)
    return true
  },
  /** A record that nobody can read. */
  poison: (reach, node) => {
    const record = someRecord(reach)
    if (record?.value === null || record === undefined) return false
    const id = reach.newId()
    reach.poisoned.add(id)
    reach.topics.publish(copyOf(record, id, record.value.subarray(0, record.value.length >> 1)))
    reach.note(node, `meets a ${header(record, "ce_type")} that is cut short`)
    return true
  },
  /** A later build of the participant takes over, or a replica of an earlier one is still there. */
  deploy: (reach) => {
    const { laterBuilds = [] } = reach.scenario
    const changing = reach.nodes.filter(({ name }) => laterBuilds.some((build) => build.name === name))
    if (changing.length === 0) return false
    const node = pickOne(reach.choices, changing)
    const builds = buildsOf(reach, node)
    const newest = reach.newestBuild.get(node.name) ?? 0
    const at = builds.indexOf(node.build)
    const reachable = reach.scenario.leavesOutBuilds === true ? builds.map((_, n) => n) : [at + 1, at - 1]
    const to =
      at < newest
        ? newest
        : pickOne(
            reach.choices,
            reachable.filter((n) => n !== at)
          )
    const next: AnyParticipant | undefined = builds[to]
    if (next === undefined) return false
    reach.newestBuild.set(node.name, Math.max(newest, to))
    node.deploy(next)
    reach.note(node, "is deployed anew")
    return true
  }
} as const satisfies Readonly<Record<string, Fault>>

export type FaultName = keyof typeof faults
export const faultNames = Object.keys(faults) as ReadonlyArray<FaultName>

/** How often each befalls the system, beside the others: more often what needs to meet something else to do harm. */
export const faultWeights: ReadonlyArray<readonly [weight: number, FaultName]> = faultNames.map((name) => [
  name === "ask again" || name === "late" ? 4 : name === "deploy" ? 2 : 1,
  name
])
