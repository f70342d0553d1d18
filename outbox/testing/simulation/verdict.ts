/** What a run was found to do: how often each thing happened, and what must not have. */
import type { BrokerRecord } from "../../broker/broker.ts"
import { topicNamesOf, type OutboxMessage } from "../../message.ts"
import type { Outcome } from "../../pass/inputs.ts"
import { lostTo, type Reach } from "./faults.ts"
import type { Node } from "./node.ts"

const header = ({ headers }: BrokerRecord, name: string): string => String(headers[name])

export class Verdict {
  readonly wrong: Array<string> = []
  readonly sent: Array<OutboxMessage> = []
  private readonly counted = new Map<string, number>()
  private readonly decidedIds = new Map<Node, Set<string>>()
  private readonly newest = new Map<Node, Map<string, bigint>>()

  count(what: string, times = 1): void {
    this.counted.set(what, (this.counted.get(what) ?? 0) + times)
  }

  counts(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.counted].toSorted(([a], [b]) => (a < b ? -1 : 1)))
  }

  /** A message is decided once, and in the order of its partition unless it was passed over. */
  decided(node: Node, record: BrokerRecord, { passedOver }: Pick<Reach, "passedOver">): void {
    const ids = this.decidedIds.get(node) ?? new Set<string>()
    this.decidedIds.set(node, ids)
    const id = header(record, "id")
    if (ids.has(id)) this.wrong.push(`${node.name} decided ${header(record, "ce_type")} twice`)
    ids.add(id)
    const partitions = this.newest.get(node) ?? new Map<string, bigint>()
    this.newest.set(node, partitions)
    const partition = `${record.topic} ${record.partition}`
    if (record.offset > (partitions.get(partition) ?? -1n)) partitions.set(partition, record.offset)
    else if (!passedOver.has(record))
      this.wrong.push(`${node.name} decided ${header(record, "ce_type")} out of its turn in ${record.topic}`)
  }

  /** Nothing is parked but what nobody can read, and what must wait for that. */
  outcome(node: Node, record: BrokerRecord, outcome: Outcome, reach: Pick<Reach, "poisoned" | "passedOver">): void {
    this.count(outcome._tag)
    if (outcome._tag !== "parked" || reach.poisoned.has(header(record, "id"))) return
    // decided once it is redriven, when others have overtaken it
    if (outcome.reason === "behind") {
      this.count("behind")
      reach.passedOver.add(record)
      return
    }
    this.wrong.push(`${node.name} parked ${header(record, "ce_type")}: ${outcome.reason}, ${outcome.detail}`)
  }

  /** Every message was decided by everybody who handles its type, unless it is one whose loss they make up for. */
  undelivered(nodes: ReadonlyArray<Node>, { lost }: Pick<Reach, "lost">): ReadonlyArray<string> {
    const kinds = Map.groupBy(this.sent, ({ topic, type }) => `${topic} ${type}`)
    return nodes.flatMap(({ name, build, database }) => {
      const claimed = database.inbox.get(name)
      return [...build.messages].flatMap(([{ topic, type }, handler]) => {
        const sent = [...topicNamesOf(topic, undefined)].flatMap((on) => kinds.get(`${on} ${type}`) ?? [])
        const unseen = sent.filter(({ id, coordination }) => {
          const isOurs = (handler.coordination ?? coordination) === coordination
          return isOurs && claimed?.has(id) !== true && !lost.has(lostTo(name, id))
        })
        return unseen.map(({ id }) => `${name} never saw ${type} ${id}`)
      })
    })
  }
}
