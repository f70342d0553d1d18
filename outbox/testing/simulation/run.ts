/**
 * One run: requests come, messages travel and rows fall due in an order that the choices say, while faults befall the
 * system. Then it heals and everything is delivered, until nothing moves any more, and what must hold is checked.
 */
import { Effect, type Clock } from "effect"
import type { BrokerRecord } from "../../broker/broker.ts"
import { recordOf } from "../../delivery/relay.ts"
import { requestInput } from "../../lanes/requests.ts"
import type { OutboxMessage } from "../../message.ts"
import type { MessageInput, Outcome, RequestInput } from "../../pass/inputs.ts"
import { pickBy, pickOne, type Choices } from "./choices.ts"
import { faults, faultWeights, lostTo, type FaultName, type Reach } from "./faults.ts"
import { Node, pendingOf, type Fate } from "./node.ts"
import type { ClientRequest, Plan, Quiet, Scenario } from "./scenario.ts"
import { Topics, type Reading } from "./topics.ts"
import { Trace } from "./trace.ts"

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
const mostRounds = 5_000

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
  private readonly wrong: Array<string> = []
  private readonly counted = new Map<string, number>()
  private readonly topics = new Topics()
  private readonly nodes: ReadonlyArray<Node>
  private readonly plan: Plan
  private requests: Array<ClientRequest>
  private readonly replies = new Map<string, unknown>()
  private readonly sent: Array<OutboxMessage> = []
  private readonly readings = new WeakMap<BrokerRecord, MessageInput>()
  private readonly decided = new Set<string>()
  private readonly newest = new Map<string, bigint>()
  private readonly trace: Trace
  private readonly reach: Reach
  /** Partitions whose records are being decided. */
  private inHand: ReadonlyArray<Reading> = []
  /** The requests that are being decided. */
  private sending: ReadonlyArray<ClientRequest> = []
  private healed = false

  constructor(
    private readonly scenario: Scenario,
    private readonly choices: Choices,
    private readonly limits: RunLimits
  ) {
    this.trace = new Trace(limits.trace, () => this.now - beginning)
    this.plan = scenario.plan(choices)
    // a client that stays away: what a failure doesn't need is left out when it is shrunk
    this.requests = this.plan.requests.filter(() => choices.pick(50) > 0)
    this.nodes = this.nodesOf(scenario)
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
    try {
      const steps = this.plan.requests.length * this.limits.stepsPerRequest
      for (let step = 0; step < steps && this.wrong.length === 0; step++) this.step()
      this.drain()
      if (this.choices.pick(4) === 1) {
        this.repeat()
        this.drain()
      }
      if (this.wrong.length === 0) this.check()
      if (this.wrong.length === 0)
        for (const [what, times] of Object.entries(this.plan.seen?.(this.quiet()) ?? {})) this.count(what, times)
    } catch (error) {
      this.wrong.push(error instanceof Error ? (error.stack ?? error.message) : String(error))
    }
    const counts = Object.fromEntries([...this.counted].toSorted(([a], [b]) => (a < b ? -1 : 1)))
    return { wrong: this.wrong, digest: this.trace.digest, counts, trace: this.trace, elapsedMs: this.now - beginning }
  }

  private readonly newId = (): string => {
    const time = this.now.toString(16).padStart(12, "0")
    return `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-${(++this.ids).toString(16).padStart(12, "0")}`
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
      const subscribed = [...new Set(builds.flatMap(({ topics }) => topics.map(({ name }) => name)))]
      const node = new Node(participant, this.plan.callers?.[participant.name] ?? [], this.topics, subscribed, {
        store: this.scenario.store ?? ((lane) => lane),
        readings: this.readings,
        clock,
        newId: this.newId,
        overlap: (overlapped) => this.overlap(overlapped),
        wrote: (writer, table, before, after) => {
          const wrong = this.scenario.watch?.(writer.name, table, before, after)
          if (wrong !== undefined) this.wrong.push(wrong)
        },
        decided: (decider, record) => this.noteOrder(decider, record),
        sent: (messages) => {
          for (const message of messages) {
            this.sent.push(message)
            this.trace.digested(`${message.id} ${message.payload}`)
          }
        }
      })
      for (const [table, rows] of Object.entries(this.plan.given[participant.name] ?? {})) node.given(table, rows)
      return node
    })
  }

  private count(what: string, times = 1): void {
    this.counted.set(what, (this.counted.get(what) ?? 0) + times)
  }

  private fate(): Fate {
    if (this.healed) return "commits"
    const fate = pickBy(this.choices, fates)
    if (fate !== "commits") this.count(fate)
    return fate
  }

  private step(): void {
    this.now += 1
    const { choices } = this
    const happening = pickBy(choices, [
      [62, "work"],
      [this.requests.length > 0 ? 20 : 0, "request"],
      [4, "timers"],
      [8, "calls"],
      [3, "wait"],
      [this.limits.faultPercent, "fault"]
    ])
    if (happening === "request") return this.request()
    if (happening === "wait") return void (this.now += pickOne(choices, waits))
    const node = pickOne(choices, this.nodes)
    if (happening === "work") {
      this.publish(node)
      this.deliver(node, this.fate())
    } else if (happening === "timers") this.fire(node, this.fate())
    else if (happening === "calls") this.call(node)
    else {
      const name = pickBy(choices, faultWeights)
      if (!this.limits.without.includes(name) && faults[name](this.reach, node)) this.count(`fault: ${name}`)
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
    this.count(outcome._tag)
    this.trace.record(node.name, record, outcome._tag === "parked" ? `parked: ${outcome.reason}` : outcome._tag)
    if (outcome._tag !== "parked") return
    if (!this.reach.poisoned.has(String(record.headers["id"])))
      this.wrong.push(`${node.name} parked ${String(record.headers["ce_type"])}: ${outcome.reason}, ${outcome.detail}`)
  }

  /** A message is decided once, and in the order of its partition unless it was passed over. */
  private noteOrder(node: Node, record: BrokerRecord): void {
    const decided = `${node.name} ${String(record.headers["id"])}`
    if (this.decided.has(decided)) this.wrong.push(`${node.name} decided ${String(record.headers["ce_type"])} twice`)
    this.decided.add(decided)
    const partition = `${node.name} ${record.topic} ${record.partition}`
    const newest = this.newest.get(partition) ?? -1n
    if (record.offset > newest) this.newest.set(partition, record.offset)
    else if (!this.reach.passedOver.has(record))
      this.wrong.push(`${node.name} decided ${String(record.headers["ce_type"])} out of its turn in ${record.topic}`)
  }

  private fire(node: Node, fate: Fate): boolean {
    const { decided, failed } = node.fire(fate)
    for (const detail of failed) this.wrong.push(`${node.name}: ${detail}`)
    if (decided > 0) {
      this.count("due rows", decided)
      this.trace.note(node.name, node.name, `${decided} rows fall due`)
    }
    return decided > 0
  }

  private call(node: Node): void {
    if (!node.calls) return
    const trouble = () => pickOne(this.choices, ["none", "none", "none", "before", "after"] as const)
    const count = node.carryOut(trouble)
    if (count > 0) this.count("calls carried out", count)
    // results may be held back: what is asked meanwhile comes first, or the process ends
    if (this.choices.pick(3) > 0) node.settle(this.fate())
  }

  /** Something else of the same participant, while a pass of it stands before its commit. */
  private overlap(node: Node): void {
    const kind = this.choices.pick(this.sending[0]?.to === node.name ? 4 : 3)
    // to another replica of it, by clients in doubt
    if (kind === 3) this.send(this.sending, "commits")
    else if (kind === 0)
      this.deliver(
        node,
        "commits",
        node.readings.filter((reading) => !this.inHand.includes(reading))
      )
    else if (kind === 1) this.fire(node, "commits")
    else node.settle("commits")
  }

  /** Some clients of one participant ask, in one pass. */
  private request(): void {
    const { to } = this.requests[this.choices.pick(this.requests.length)] ?? {}
    const most = this.healed ? this.requests.length : 1 + this.choices.pick(4)
    const asking = this.requests.filter((request) => request.to === to).slice(0, most)
    this.requests = this.requests.filter((request) => !asking.includes(request))
    this.send(asking, this.fate())
    // clients that are in doubt ask again
    if (this.choices.pick(5) === 1) this.send(asking, this.fate())
    for (const request of asking) {
      const { idempotencyKey: key, answered } = request
      if (!this.replies.has(key)) this.requests.push(request)
      else this.requests.push(...(answered?.(this.replies.get(key), this.choices) ?? []))
    }
  }

  private send(asking: ReadonlyArray<ClientRequest>, fate: Fate): void {
    const node = this.nodes.find(({ name }) => name === asking[0]?.to)
    if (node === undefined) throw new Error(`there is no participant ${asking[0]?.to}`)
    const before = this.sending
    this.sending = asking
    const outcomes = node.request(
      asking.map((request) => this.inputOf(node, request)),
      fate
    )
    this.sending = before
    asking.forEach((request, index) => this.answered(request, outcomes?.[index]))
  }

  private inputOf({ build }: Node, asked: ClientRequest): RequestInput {
    const { request, payload, idempotencyKey, fingerprint, coordination, definition } = asked
    const entry = build.requests.get(request.type)
    if (entry === undefined) throw new Error(`${build.name} answers no ${request.type}`)
    return requestInput(entry, payload(this.newId), this.newId(), {
      idempotencyKey,
      fingerprint,
      ...(coordination === undefined ? {} : { coordination }),
      ...(definition === undefined ? {} : { definition })
    })
  }

  private answered({ to, request, idempotencyKey: key }: ClientRequest, outcome: Outcome | undefined): void {
    const said = outcome === undefined ? " (not answered)" : ""
    this.trace.note("client", to, `${request.type} ${key}${said}`, `${JSON.stringify(outcome)} `)
    if (outcome === undefined) return
    this.count("requests")
    if (outcome._tag !== "done") return void this.wrong.push(`${to} answered ${key} with ${outcome._tag}`)
    const reply = JSON.stringify(outcome.reply)
    if (this.replies.has(key) && JSON.stringify(this.replies.get(key)) !== reply)
      this.wrong.push(`${to} answered ${key} in two ways: ${reply}`)
    this.replies.set(key, outcome.reply)
  }

  /** No faults any more: everything is delivered, and time passes until nothing waits. */
  private drain(): void {
    this.healed = true
    this.trace.note("everything", "everything", "heals")
    for (const node of this.nodes) node.stalledUntil = 0
    for (let round = 0; round < mostRounds; round++) {
      if (this.wrong.length > 0) return
      this.now += 1
      while (this.requests.length > 0) this.request()
      if (this.moves()) continue
      const next = Math.min(...this.nodes.map((node) => node.nextDue()))
      if (next === Number.POSITIVE_INFINITY) return
      this.now = Math.max(this.now, next)
      for (const node of this.nodes) if (this.fire(node, "commits")) this.count("due rows after healing")
    }
    this.wrong.push(`it is not quiet after ${mostRounds} rounds without faults`)
  }

  /** Everything comes once more, and some of it is asked for again: nothing may come of it. */
  private repeat(): void {
    this.count("repetitions")
    this.trace.note("everything", "everything", "comes once more")
    for (const node of this.nodes) {
      for (const reading of node.readings) reading.position = reading.committed = 0
      for (let times = 0; times < 5; times++) faults["ask again"](this.reach, node)
    }
  }

  private moves(): boolean {
    let moved = false
    for (const node of this.nodes) {
      if (this.publish(node)) moved = true
      if (this.deliver(node, "commits")) moved = true
      if (!node.calls) continue
      if (node.carryOut(() => "none") + node.settle("commits") > 0) moved = true
    }
    return moved
  }

  private check(): void {
    this.wrong.push(...this.undelivered(), ...this.plan.holds(this.quiet()))
  }

  /** Every message was decided by everybody who handles its type, unless it is one whose loss they make up for. */
  private undelivered(): ReadonlyArray<string> {
    return this.nodes.flatMap(({ name, build, database }) => {
      const claimed = database.inbox.get(name)
      const handlers = new Map(
        [...build.messages].map(([{ topic, type }, handler]) => [`${topic.name} ${type}`, handler])
      )
      return this.sent.flatMap(({ id, type, topic, coordination }) => {
        const handler = handlers.get(`${topic} ${type}`)
        const isOurs = handler !== undefined && (handler.coordination ?? coordination) === coordination
        const isSeen = !isOurs || claimed?.has(id) === true || this.reach.lost.has(lostTo(name, id))
        return isSeen ? [] : [`${name} never saw ${type} ${id}`]
      })
    })
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
      sent: this.sent,
      replies: this.replies
    }
  }
}
