/**
 * One run: requests come, messages travel and rows fall due in an order that the choices say, while faults befall the
 * system. Then it heals and everything is delivered, until nothing moves any more, and what must hold is checked.
 */
import { Clock, Context, Effect } from "effect"
import type { BrokerRecord } from "../../broker/broker.ts"
import { recordOf } from "../../delivery/relay.ts"
import type { MessageInput, Outcome } from "../../pass/inputs.ts"
import { pickBy, pickOne, type Choices } from "./choices.ts"
import { Clients } from "./clients.ts"
import { faults, faultWeights, finishDeploying, type FaultName, type Reach } from "./faults.ts"
import { Node, pendingOf, type Fate } from "./node.ts"
import type { Plan, Quiet, Scenario } from "./scenario.ts"
import { Topics, type Reading } from "./topics.ts"
import { Trace } from "./trace.ts"
import { Verdict } from "./verdict.ts"

export interface RunLimits {
  /** How many things happen before the system heals, for each request. */
  readonly stepsPerRequest: number
  /** How many of a hundred things that happen are faults. */
  readonly faultPercent: number
  /** Faults that don't befall this run. */
  readonly without: ReadonlyArray<FaultName>
  readonly trace: boolean
}

export interface RunEnd {
  /** What does not hold; empty when all does. */
  readonly wrong: ReadonlyArray<string>
  readonly digest: string
  /** How often each thing happened. */
  readonly counts: Readonly<Record<string, number>>
  readonly trace: Trace
  /** The run's length in milliseconds of its own time. */
  readonly elapsedMs: number
}

const beginning = Date.UTC(2026, 0, 1)
const mostRounds = 1_000

const fates: ReadonlyArray<readonly [number, Fate]> = [
  [80, "commits"],
  [5, "crashes before its commit"],
  [5, "crashes after its commit"],
  [4, "loses the commit's answer"],
  [6, "is overlapped"]
]
const waits = [10, 100, 1_000, 31_000, 61_000, 310_000] as const

export class Run {
  private now = beginning
  private ids = 0
  /** What ids of this moment begin with. */
  private idsBegin = ""
  private idsBeginAt = 0
  private readonly verdict = new Verdict()
  private readonly topics = new Topics()
  private readonly nodes: ReadonlyArray<Node>
  private readonly plan: Plan
  private readonly clients: Clients
  private readonly readings = new WeakMap<BrokerRecord, MessageInput>()
  private readonly trace: Trace
  private readonly reach: Reach
  /** Partitions whose records are being decided. */
  private inHand: ReadonlyArray<Reading> = []
  private healed = false

  constructor(
    private readonly scenario: Scenario,
    private readonly choices: Choices,
    private readonly limits: RunLimits
  ) {
    this.trace = new Trace(limits.trace, () => this.now - beginning)
    this.plan = scenario.plan(choices)
    // clients that stay away: what a failure doesn't need is left out when it is shrunk
    const requests = this.plan.requests.filter(() => choices.pick(50) > 0)
    this.nodes = this.nodesOf(scenario)
    this.clients = new Clients(requests, this.nodes, choices, this.newId, this.trace, this.verdict)
    this.reach = {
      choices,
      nodes: this.nodes,
      topics: this.topics,
      scenario,
      now: () => this.now,
      newId: this.newId,
      poisoned: new Set(),
      lost: new Set(),
      passedOver: new WeakSet(),
      newestBuild: new Map(),
      note: (node, text) => this.trace.note(node.name, node.name, text)
    }
  }

  play(): RunEnd {
    const { wrong } = this.verdict
    try {
      const steps = this.plan.requests.length * this.limits.stepsPerRequest
      for (let step = 0; step < steps && wrong.length === 0; step++) this.step()
      this.drain()
      if (this.choices.pick(8) === 1) {
        this.repeat()
        this.drain()
      }
      if (wrong.length === 0) this.check()
    } catch (error) {
      wrong.push(error instanceof Error ? (error.stack ?? error.message) : String(error))
    }
    const { trace } = this
    return { wrong, digest: trace.digest, counts: this.verdict.counts(), trace, elapsedMs: this.now - beginning }
  }

  private check(): void {
    const end = this.quiet()
    this.verdict.wrong.push(...this.verdict.undelivered(this.nodes, this.reach), ...this.plan.holds(end))
    for (const [what, times] of Object.entries(this.plan.seen?.(end) ?? {})) this.verdict.count(what, times)
  }

  private readonly newId = (): string => {
    if (this.idsBeginAt !== this.now) {
      const time = this.now.toString(16).padStart(12, "0")
      this.idsBegin = `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-`
      this.idsBeginAt = this.now
    }
    return this.idsBegin + (2 ** 48 + ++this.ids).toString(16).slice(1)
  }

  private nodesOf({ participants, laterBuilds = [] }: Scenario): ReadonlyArray<Node> {
    const time = Effect.sync(() => this.now)
    const nanos = Effect.sync(() => BigInt(this.now) * 1_000_000n)
    const clock: Clock.Clock = {
      currentTimeMillisUnsafe: () => this.now,
      currentTimeMillis: time,
      currentTimeNanosUnsafe: () => BigInt(this.now) * 1_000_000n,
      currentTimeNanos: nanos,
      monotonicTimeNanosUnsafe: () => BigInt(this.now) * 1_000_000n,
      monotonicTimeNanos: nanos,
      sleep: () => Effect.die(new Error("a pass slept: in a simulation nobody would wake it"))
    }
    return participants.map((participant) => {
      const builds = [participant, ...laterBuilds.filter(({ name }) => name === participant.name)]
      const subscribed = [...new Set(builds.flatMap(({ topics }) => [...topics.keys()]))]
      const node = new Node(participant, this.plan.callers?.[participant.name] ?? [], this.topics, subscribed, {
        store: this.scenario.store ?? ((lane) => lane),
        readings: this.readings,
        now: () => this.now,
        run: Effect.runSyncExitWith(Context.make(Clock.Clock, clock)),
        newId: this.newId,
        overlap: (overlapped) => this.overlap(overlapped),
        wrote: (writer, table, before, after) => {
          const wrong = this.scenario.watch?.(writer.name, table, before, after)
          if (wrong !== undefined) this.verdict.wrong.push(wrong)
        },
        decided: (decider, record) => this.verdict.decided(decider, record, this.reach),
        sent: (messages) => {
          for (const message of messages) {
            this.verdict.sent.push(message)
            this.trace.digested(`${message.id} ${message.payload}`)
          }
        }
      })
      for (const [table, rows] of Object.entries(this.plan.given[participant.name] ?? {})) node.given(table, rows)
      return node
    })
  }

  private fate(): Fate {
    if (this.healed) return "commits"
    const fate = pickBy(this.choices, fates)
    if (fate !== "commits") this.verdict.count(fate)
    return fate
  }

  private step(): void {
    this.now += 1
    const { choices } = this
    const happening = pickBy(choices, [
      [62, "work"],
      [this.clients.anyWaiting ? 20 : 0, "request"],
      [4, "timers"],
      [8, "calls"],
      [3, "wait"],
      [this.limits.faultPercent, "fault"]
    ])
    if (happening === "request") return this.clients.ask(() => this.fate())
    if (happening === "wait") return void (this.now += pickOne(choices, waits))
    const node = pickOne(choices, this.nodes)
    if (happening === "work") {
      this.publish(node)
      this.deliver(node, this.fate())
    } else if (happening === "timers") this.fire(node, this.fate())
    else if (happening === "calls") this.call(node)
    else {
      const name = pickBy(choices, faultWeights)
      if (!this.limits.without.includes(name) && faults[name](this.reach, node)) this.verdict.count(`fault: ${name}`)
    }
  }

  /** Publishes what the outbox holds; answers whether there was anything. */
  private publish(node: Node): boolean {
    const { outbox } = node.database
    if (this.now < node.stalledUntil || node.published >= outbox.length) return false
    for (; node.published < outbox.length; node.published++) {
      const message = outbox[node.published]
      if (message !== undefined) this.topics.publish(recordOf(message, node.name, new Date(this.now)))
    }
    return true
  }

  /** Has a node decide what it has not yet, all of it or some. */
  private deliver(node: Node, fate: Fate, free: ReadonlyArray<Reading> = node.readings): boolean {
    const batches = this.batchesOf(free)
    const late = node.late.length > 0 && (this.healed || this.choices.pick(20) === 1) ? node.late.splice(0) : []
    const records = [...batches.flatMap(([, batch]) => batch), ...late]
    if (records.length === 0) return false
    const before = this.inHand
    this.inHand = batches.map(([reading]) => reading)
    const outcomes = node.decide(records, fate)
    this.inHand = before
    if (outcomes === undefined) {
      node.late.push(...late)
      return false
    }
    for (const [reading, batch] of batches) {
      reading.position += batch.length
      // offsets are committed now and then: a crash in between brings back what was processed
      if (this.healed || this.choices.pick(2) === 0) reading.committed = reading.position
    }
    for (const [record, outcome] of outcomes) this.note(node, record, outcome)
    return true
  }

  /** What is taken at once: of all partitions or of one, as of several replicas, all that is there or some. */
  private batchesOf(readings: ReadonlyArray<Reading>): ReadonlyArray<readonly [Reading, ReadonlyArray<BrokerRecord>]> {
    const most = this.healed ? 50 : pickOne(this.choices, [50, 1, 3, 10])
    const pending = readings.filter(({ log, position }) => position < log.length)
    const alone = !this.healed && pending.length > 1 && this.choices.pick(3) === 1
    const taken = alone ? [pickOne(this.choices, pending)] : pending
    return taken.map((reading) => [reading, pendingOf(reading, most)] as const)
  }

  private note(node: Node, record: BrokerRecord, outcome: Outcome): void {
    this.trace.record(node.name, record, outcome._tag === "parked" ? `parked: ${outcome.reason}` : outcome._tag)
    this.verdict.outcome(node, record, outcome, this.reach)
  }

  private fire(node: Node, fate: Fate): boolean {
    const { decided, failed } = node.fire(fate)
    for (const detail of failed) this.verdict.wrong.push(`${node.name}: ${detail}`)
    if (decided > 0) {
      this.verdict.count("due rows", decided)
      this.trace.note(node.name, node.name, `${decided} rows fall due`)
    }
    return decided > 0
  }

  private call(node: Node): void {
    if (!node.calls) return
    const trouble = () => pickOne(this.choices, ["none", "none", "none", "before", "after"] as const)
    const count = node.carryOut(trouble)
    if (count > 0) this.verdict.count("calls carried out", count)
    // results may be held back: what is asked meanwhile comes first, or the process ends
    if (this.choices.pick(3) > 0) node.settle(this.fate())
  }

  /** Something else of the same participant, while a pass of it stands before its commit. */
  private overlap(node: Node): void {
    const kind = this.choices.pick(this.clients.isAsking(node) ? 4 : 3)
    if (kind === 3) this.clients.askAgain()
    else if (kind === 0)
      this.deliver(
        node,
        "commits",
        node.readings.filter((reading) => !this.inHand.includes(reading))
      )
    else if (kind === 1) this.fire(node, "commits")
    else node.settle("commits")
  }

  /** No faults any more: everything is delivered, and time passes until nothing waits. */
  private drain(): void {
    this.healed = true
    this.trace.note("everything", "everything", "heals")
    for (const node of this.nodes) {
      node.stalledUntil = 0
      finishDeploying(this.reach, node)
    }
    for (let round = 0; round < mostRounds; round++) {
      if (this.verdict.wrong.length > 0) return
      this.now += 1
      this.clients.askAll()
      if (this.moves()) continue
      const next = Math.min(...this.nodes.map((node) => node.nextDue()))
      if (next === Number.POSITIVE_INFINITY) return
      this.now = Math.max(this.now, next)
      for (const node of this.nodes) if (this.fire(node, "commits")) this.verdict.count("due rows after healing")
    }
    this.verdict.wrong.push(`it is not quiet after ${mostRounds} rounds without faults`)
  }

  /** Everything comes once more, and some of it is asked for again: nothing may come of it. */
  private repeat(): void {
    this.verdict.count("repetitions")
    this.trace.note("everything", "everything", "comes once more")
    for (const node of this.nodes) {
      for (const reading of node.readings) reading.position = reading.committed = 0
      if (this.limits.without.includes("ask again")) continue
      for (let times = 0; times < 5; times++) faults["ask again"](this.reach, node)
    }
  }

  private moves(): boolean {
    let moved = false
    for (const node of this.nodes) {
      if (this.publish(node)) moved = true
      if (this.deliver(node, "commits")) moved = true
      if (this.redrive(node)) moved = true
      if (!node.calls) continue
      if (node.carryOut(() => "none") + node.settle("commits") > 0) moved = true
    }
    return moved
  }

  /** What nobody can read is discarded, and what waits for it is decided. */
  private redrive(node: Node): boolean {
    const outcomes = node.redrive(({ id }) => this.reach.poisoned.has(id))
    for (const [record, outcome] of outcomes) this.note(node, record, outcome)
    return outcomes.length > 0
  }

  private quiet(): Quiet {
    const of = (participant: string) => {
      const node = this.nodes.find(({ name }) => name === participant)
      if (node === undefined) throw new Error(`there is no participant ${participant}`)
      return node.database
    }
    return {
      rows: (participant, table) => [...(of(participant).tables.get(table)?.values() ?? [])],
      entries: (participant, table) => of(participant).logs.get(table) ?? [],
      sent: this.verdict.sent,
      replies: this.clients.replies
    }
  }
}
