/** What the simulator holds against a run, each by itself: a planted bug is often found by several checks at once. */
import { expect, test } from "bun:test"
import { Schema } from "effect"
import { Topic, Participant, Table } from "oncebox"
import type { BrokerRecord } from "../broker/broker.ts"
import type { OutboxMessage } from "../message.ts"
import type { Node } from "../testing/simulation/node.ts"
import { Trace } from "../testing/simulation/trace.ts"
import { Verdict } from "../testing/simulation/verdict.ts"

const Told = Topic.events("news").message("Told", { id: Schema.String }, { key: "id" })
const things = Table.make("things", { key: "id", row: { id: Schema.String } })
const listener = Participant.make("listener", { things }).on(Told, { decide: () => ({}) })

/** As much of a node as a verdict looks at. */
const nodeOf = (build: Pick<Node["build"], "messages">, seen: ReadonlyArray<string> = []) =>
  ({ name: "listener", build, database: { inbox: new Map([["listener", new Set(seen)]]) } }) as unknown as Node
const node = nodeOf(listener as unknown as Node["build"])

const recordAt = (offset: bigint, id: string): BrokerRecord => ({
  topic: "news",
  partition: 0,
  offset,
  key: null,
  value: null,
  headers: { id, ce_type: "Told" }
})
const nothing = { passedOver: new WeakSet<BrokerRecord>(), poisoned: new Set<string>(), lost: new Set<string>() }

test("a message that is decided twice is told", () => {
  const verdict = new Verdict()
  verdict.decided(node, recordAt(0n, "a"), nothing)
  verdict.decided(node, recordAt(1n, "b"), nothing)
  expect(verdict.wrong).toEqual([])
  verdict.decided(node, recordAt(2n, "a"), nothing)
  expect(verdict.wrong).toEqual(["listener decided Told twice"])
})

test("a message out of its turn is told, unless it was passed over", () => {
  const verdict = new Verdict()
  const late = recordAt(3n, "late")
  verdict.decided(node, recordAt(5n, "a"), nothing)
  verdict.decided(node, late, { passedOver: new WeakSet([late]) })
  expect(verdict.wrong).toEqual([])
  verdict.decided(node, recordAt(4n, "b"), nothing)
  expect(verdict.wrong).toEqual(["listener decided Told out of its turn in news"])
})

test("a message that is parked is told, unless nobody can read it or it waits for one that is", () => {
  const verdict = new Verdict()
  const reach = { ...nothing, poisoned: new Set(["poison"]), passedOver: new WeakSet<BrokerRecord>() }
  const parked = (reason: "behind" | "decision-failed") => ({ _tag: "parked", reason, detail: "so" }) as const
  const behind = recordAt(1n, "behind")
  verdict.outcome(node, recordAt(0n, "poison"), parked("decision-failed"), reach)
  verdict.outcome(node, behind, parked("behind"), reach)
  expect(verdict.wrong).toEqual([])
  expect(reach.passedOver.has(behind)).toBe(true)
  verdict.outcome(node, recordAt(2n, "a"), parked("decision-failed"), reach)
  expect(verdict.wrong).toEqual(["listener parked Told: decision-failed, so"])
})

test("a message that somebody who handles it never saw is told, unless its loss is made up for", () => {
  const verdict = new Verdict()
  const sent = (id: string, type = "Told") => ({ id, type, topic: "news", coordination: "orchestration" })
  verdict.sent.push(...([sent("a"), sent("b"), sent("c", "Other")] as Array<OutboxMessage>))
  const saw = (...seen: ReadonlyArray<string>) => nodeOf(listener as unknown as Node["build"], seen)
  expect(verdict.undelivered([saw("a", "b")], nothing)).toEqual([])
  expect(verdict.undelivered([saw("a")], nothing)).toEqual(["listener never saw Told b"])
  expect(verdict.undelivered([saw("a")], { lost: new Set(["listener b"]) })).toEqual([])
})

test("what is handled in one style only need not be seen in the other", () => {
  const choreographed = Participant.make("listener", { things }).on(Told, {
    coordination: "choreography",
    decide: () => ({})
  })
  const verdict = new Verdict()
  verdict.sent.push({ id: "a", type: "Told", topic: "news", coordination: "orchestration" } as OutboxMessage)
  expect(verdict.undelivered([nodeOf(choreographed as unknown as Node["build"])], nothing)).toEqual([])
})

test("what is told on a topic of its own style must be seen by those who handle that style", () => {
  const Heard = Topic.events("talk", { choreographyName: "gossip" }).message(
    "Heard",
    { id: Schema.String },
    { key: "id" }
  )
  const of = (style?: "orchestration" | "choreography") =>
    nodeOf(
      Participant.make("listener", { things }).on(Heard, {
        ...(style && { coordination: style }),
        decide: () => ({})
      }) as unknown as Node["build"]
    )
  const verdict = new Verdict()
  verdict.sent.push({ id: "a", type: "Heard", topic: "talk", coordination: "orchestration" } as OutboxMessage)
  verdict.sent.push({ id: "b", type: "Heard", topic: "gossip", coordination: "choreography" } as OutboxMessage)
  expect(verdict.undelivered([of()], nothing)).toEqual(["listener never saw Heard a", "listener never saw Heard b"])
  expect(verdict.undelivered([of("orchestration")], nothing)).toEqual(["listener never saw Heard a"])
  expect(verdict.undelivered([of("choreography")], nothing)).toEqual(["listener never saw Heard b"])
  // one that lies on the wrong topic is never seen
  verdict.sent.push({ id: "c", type: "Heard", topic: "talk", coordination: "choreography" } as OutboxMessage)
  expect(verdict.undelivered([of("choreography")], nothing)).toContain("listener never saw Heard c")
})

test("a trace's digest tells what was noted, and in which order", () => {
  const digestOf = (...texts: ReadonlyArray<string>) => {
    const trace = new Trace(false, () => 0)
    for (const text of texts) trace.note("a", "b", text)
    return trace.digest
  }
  expect(digestOf("one", "two")).toBe(digestOf("one", "two"))
  expect(new Set([digestOf(), digestOf("one"), digestOf("one", "two"), digestOf("two", "one")]).size).toBe(4)
})
