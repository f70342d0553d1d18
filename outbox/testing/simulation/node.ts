/**
 * One participant of a simulation: its database, where its group stands on each partition, and the production pass, with
 * whatever befalls it.
 */
import { Cause, Effect, Exit } from "effect"
import type { BrokerRecord } from "../../broker/broker.ts"
import type { Caller } from "../../calls/caller.ts"
import { pauseAfter } from "../../calls/caller.ts"
import { resultInput, withCalls } from "../../calls/results.ts"
import { readRecord, type Reader } from "../../lanes/decode.ts"
import { resultOf } from "../../lanes/calls.ts"
import type { OutboxMessage } from "../../message.ts"
import type { AnyHandler } from "../../participant.ts"
import type { MessageInput, Outcome, PassEnvironment, RequestInput, UnreadableInput } from "../../pass/inputs.ts"
import { runDue } from "../../pass/due.ts"
import { runPass } from "../../pass/pass.ts"
import { takeAndPostpone } from "../../store/memory-calls.ts"
import { callsOf, emptyDatabase } from "../../store/memory.ts"
import {
  StoreUnavailable,
  type StoredDeadLetter,
  type StoreError,
  type TakenCall,
  type Writes
} from "../../store/store.ts"
import { keyOf } from "../../table.ts"
import type { AnyParticipant, Scenario } from "./scenario.ts"
import { overlappingLane, storedRow } from "./store.ts"
import type { Reading, Topics } from "./topics.ts"

/** What becomes of a pass. */
export type Fate =
  "commits" | "crashes before its commit" | "crashes after its commit" | "loses the commit's answer" | "is overlapped"

class Crashed extends Error {}

/** What nodes have in common: the time, ids, and who listens. */
export interface Surroundings {
  /** Messages that somebody has read already. */
  readonly readings: WeakMap<BrokerRecord, MessageInput>
  readonly store: NonNullable<Scenario["store"]>
  readonly now: () => number
  /** Runs what waits for nothing, under the simulation's time. */
  readonly run: <A, E>(effect: Effect.Effect<A, E>) => Exit.Exit<A, E>
  readonly newId: () => string
  /** Runs something else of this node, between a pass's last look at its rows and its commit. */
  readonly overlap: (node: Node) => void
  readonly wrote: (node: Node, table: string, before: object | undefined, after: object) => void
  readonly decided: (node: Node, record: BrokerRecord) => void
  readonly sent: (messages: ReadonlyArray<OutboxMessage>) => void
}

const window = { slotMs: 86_400_000, slots: 30 }
const mostPerPartition = 50

/** A call that was carried out, and what is known of it. */
interface Landed {
  readonly call: TakenCall
  readonly input: RequestInput
}

export class Node {
  readonly database = emptyDatabase()
  readonly readings: ReadonlyArray<Reading>
  /** How many of the outbox's messages were published; goes back when they are published again. */
  published = 0
  /** Until when nothing of the outbox is published. */
  stalledUntil = 0
  /** Records that were passed over, to come later. */
  readonly late: Array<BrokerRecord> = []
  private landed: Array<Landed> = []
  private readonly fates: Array<Fate> = []
  /** The records in hand by their messages' ids. */
  private inHand: ReadonlyMap<string, BrokerRecord> = new Map()
  /** The ids of what the attempt at hand has decided so far, and what it is about to write. */
  private readonly deciding: Array<string> = []
  private writing: ReadonlyArray<{
    readonly table: string
    readonly before: object | undefined
    readonly after: object
  }> = []
  private readonly environment: Omit<PassEnvironment, "tables" | "calls">
  private participant: AnyParticipant
  private reader: Reader
  private readonly callsLane = takeAndPostpone(() => callsOf(this.database))
  readonly name: string

  constructor(
    public build: AnyParticipant,
    private readonly callers: ReadonlyArray<Caller>,
    topics: Topics,
    /** Of all builds. */
    subscribed: ReadonlyArray<string>,
    private readonly surroundings: Surroundings
  ) {
    this.name = build.name
    this.participant = remembering(build)
    this.reader = this.readerOf(build)
    this.readings = topics.readings(subscribed)
    this.environment = {
      consumer: build.name,
      window,
      newId: surroundings.newId,
      committed: () => {},
      lane: surroundings.store(
        overlappingLane(this.database, () => ({
          begun: () => void this.deciding.splice(0),
          before: (writes) => this.beforeCommit(writes),
          after: (writes) => this.afterCommit(writes)
        })),
        build.name
      )
    }
  }

  /** Another build of the participant takes over. */
  deploy(participant: AnyParticipant): void {
    this.build = participant
    this.participant = remembering(participant)
    this.reader = this.readerOf(participant)
    this.crash()
  }

  /** Ends the process: what was not committed is gone, and so is what it had in hand. */
  crash(): void {
    for (const reading of this.readings) reading.position = reading.committed
    this.landed = []
  }

  private pass<A>(pass: Effect.Effect<A, StoreError>, fate: Fate): A | "crashed" | "busy" {
    this.fates.push(fate)
    const exit = this.surroundings.run(pass)
    const left = this.fates.pop()
    if (Exit.isSuccess(exit)) return exit.value
    const error = Cause.squash(exit.cause)
    if (error instanceof Crashed) {
      this.crash()
      return "crashed"
    }
    if (!(error instanceof StoreUnavailable)) throw error
    // as a lane does: the same pass is run again, and finds what it did
    return fate === "loses the commit's answer" && left === "commits" ? this.pass(pass, "commits") : "busy"
  }

  private beforeCommit({ changes }: Writes): void {
    const fate = this.fates.at(-1)
    if (fate === "crashes before its commit") throw new Crashed()
    if (fate === "is overlapped") {
      // of what the other pass decides nothing is to be taken for this one's
      const deciding = this.deciding.splice(0)
      this.surroundings.overlap(this)
      this.deciding.splice(0, this.deciding.length, ...deciding)
    }
    this.writing = changes.flatMap(({ table, updates, inserts }) =>
      [...updates, ...inserts].map((after) => {
        const before = table.kind === "log" ? undefined : storedRow(this.database, table, after)
        return { table: table.name, before, after }
      })
    )
  }

  private afterCommit({ outbox }: Writes): Effect.Effect<void, StoreUnavailable> {
    for (const id of this.deciding.splice(0)) {
      const record = this.inHand.get(id)
      if (record === undefined) throw new Error(`${this.name} decided ${id}, which it was not given`)
      this.surroundings.decided(this, record)
    }
    for (const { table, before, after } of this.writing) this.surroundings.wrote(this, table, before, after)
    this.surroundings.sent(outbox)
    const fate = this.fates.at(-1)
    if (fate === "crashes after its commit") throw new Crashed()
    if (fate !== "loses the commit's answer") return Effect.void
    this.fates[this.fates.length - 1] = "commits"
    return Effect.fail(new StoreUnavailable({ message: "the connection was lost at the commit" }))
  }

  private runnable(): PassEnvironment {
    const { tables, calls } = this.participant
    return { ...this.environment, tables, calls }
  }

  /** Decides records in one pass. Undefined when nothing came of it, because of a crash or of another transaction. */
  decide(
    records: ReadonlyArray<BrokerRecord>,
    fate: Fate
  ): ReadonlyArray<readonly [BrokerRecord, Outcome]> | undefined {
    const read: Array<readonly [BrokerRecord, MessageInput | UnreadableInput]> = []
    for (const record of records) {
      const input = this.read(record)
      if (input._tag !== "skipped") read.push([record, input])
    }
    if (read.length === 0) return []
    const outcomes = this.decided(
      read.map(([, input]) => input),
      fate
    )
    if (typeof outcomes === "string") return undefined
    return outcomes.map((outcome, index) => [read[index]?.[0] as BrokerRecord, outcome])
  }

  /** A record's payload is the same for everybody who handles its type: it is decoded once. */
  private read(record: BrokerRecord): ReturnType<typeof readRecord> {
    const type = String(record.headers["ce_type"])
    const contract = this.reader.topics.get(record.topic)?.catalogue.get(type)
    const handler = contract && this.reader.handlers.get(contract)
    const known = this.surroundings.readings.get(record)
    if (handler === undefined || known === undefined) {
      const read = readRecord(this.reader, record)
      if (read._tag === "message") this.surroundings.readings.set(record, read)
      return read
    }
    const isOurs = handler.coordination === undefined || handler.coordination === known.envelope.coordination
    return isOurs ? { ...known, handler } : { _tag: "skipped", known: true }
  }

  /** Discards the letters that are hopeless and decides the others after all, in the order in which they were read. */
  redrive(isHopeless: (letter: StoredDeadLetter) => boolean): ReadonlyArray<readonly [BrokerRecord, Outcome]> {
    const letters = this.database.deadLetters.get(this.name)
    const parked = [...(letters?.values() ?? [])].filter(({ discardedAt }) => discardedAt === null)
    const discardedAt = new Date(this.surroundings.now())
    for (const letter of parked.filter(isHopeless)) letters?.set(letter.id, { ...letter, discardedAt })
    const records = parked.filter((letter) => !isHopeless(letter)).map(({ record }) => record)
    const read = records.flatMap((record) => {
      const input = readRecord(this.reader, record, true)
      return input._tag === "message" ? [input] : []
    })
    const outcomes = read.length === 0 ? [] : this.decided(read, "commits")
    if (typeof outcomes === "string") return []
    return read.flatMap(({ record }, index) => {
      const outcome = outcomes[index]
      return outcome === undefined ? [] : [[record, outcome] as const]
    })
  }

  private decided(inputs: ReadonlyArray<MessageInput | UnreadableInput>, fate: Fate) {
    const before = this.inHand
    const inHand = new Map<string, BrokerRecord>()
    // of several records of one message the first is decided
    for (const input of inputs)
      if (input._tag === "message" && !inHand.has(input.envelope.id)) inHand.set(input.envelope.id, input.record)
    this.inHand = inHand
    const outcomes = this.pass(runPass(this.runnable(), inputs), fate)
    this.inHand = before
    return outcomes
  }

  /** Notes which messages are decided. */
  private readerOf({ topics, messages }: AnyParticipant): Reader {
    const noting = (handler: AnyHandler): AnyHandler => ({
      ...handler,
      decide: (rows, payload, context) => {
        this.deciding.push(context.id)
        return handler.decide(rows, payload, context)
      }
    })
    return {
      topics,
      handlers: new Map([...messages].map(([contract, handler]) => [contract, noting(handler)]))
    }
  }

  /** Decides requests in one pass. Undefined when nobody was answered. */
  request(inputs: ReadonlyArray<RequestInput>, fate: Fate): ReadonlyArray<Outcome> | undefined {
    const outcomes = this.pass(runPass(this.runnable(), inputs), fate)
    return typeof outcomes === "string" ? undefined : outcomes
  }

  /** Decides what is due, but for rows that are another build's. Answers how many were, and what was wrong with them. */
  fire(fate: Fate): { readonly decided: number; readonly failed: ReadonlyArray<string> } {
    const failed: Array<string> = []
    let decided = 0
    for (const [name, handler] of this.participant.timers) {
      const table = this.participant.tables[name]
      if (table === undefined || !this.isDue(table.name)) continue
      const result = this.pass(runDue(this.runnable(), { _tag: "due", table, handler, limit: 50 }, new Set()), fate)
      if (typeof result === "string") continue
      decided += result.decided
      failed.push(...result.failed.map(({ key, detail }) => `due ${name} ${key}: ${detail}`))
    }
    return { decided, failed }
  }

  private isDue(table: string): boolean {
    return this.earliest(table) <= this.surroundings.now()
  }

  private earliest(table: string): number {
    let next = Number.POSITIVE_INFINITY
    for (const row of this.database.tables.get(table)?.values() ?? [])
      if ("due_at" in row && row.due_at instanceof Date) next = Math.min(next, row.due_at.getTime())
    return next
  }

  /** When the next row or call falls due; infinity when none will. */
  nextDue(): number {
    const tables = [...this.participant.timers.keys()].map((name) => this.participant.tables[name]?.name ?? name)
    return Math.min(...[...tables, "calls"].map((table) => this.earliest(table)))
  }

  get calls(): boolean {
    return this.callers.length > 0
  }

  /** Takes calls that are due and carries them out; `trouble` says what of. Their results wait to be settled. */
  carryOut(trouble: () => "none" | "before" | "after"): number {
    let taken = 0
    for (const caller of this.callers) {
      const calls = this.sync(this.callsLane.take(caller.call.kind, caller.concurrency, caller.leaseMs))
      for (const call of calls) {
        taken++
        const input = this.carry(caller, call, trouble())
        if (input !== undefined) this.landed.push({ call, input })
        else {
          const afterMs = pauseAfter(caller, call.id, call.attempt)
          this.sync(
            this.callsLane.postpone([{ id: call.id, attempt: call.attempt, afterMs, error: "trouble", result: null }])
          )
        }
      }
    }
    return taken
  }

  private carry(caller: Caller, call: TakenCall, trouble: "none" | "before" | "after"): RequestInput | undefined {
    if (trouble === "before") return undefined
    const { key, id, attempt } = call
    const request = caller.call.request
    const carried = caller.carry(call.request as typeof request.Type, {
      key,
      idempotencyKey: id,
      attempt,
      signal: new AbortController().signal
    })
    if (!Effect.isEffect(carried)) throw new Error(`the model of ${call.kind} must answer with an Effect`)
    const exit = Effect.runSyncExit(carried)
    if (trouble === "after" || Exit.isFailure(exit)) return undefined
    const result = resultOf(caller, call, exit.value)
    return resultInput(this.participant as never, call, result, this.surroundings.newId())
  }

  /** Decides the results that are known. Answers how many. */
  settle(fate: Fate): number {
    const landed = this.landed
    if (landed.length === 0) return 0
    const environment = { ...this.runnable(), tables: withCalls(this.participant.tables) }
    const outcomes = this.pass(
      runPass(
        environment,
        landed.map(({ input }) => input)
      ),
      fate
    )
    if (typeof outcomes === "string") return 0
    this.landed = []
    for (const outcome of outcomes) if (outcome._tag === "failed") throw new Error(outcome.message)
    return landed.length
  }

  private sync<A>(effect: Effect.Effect<A, StoreError>): A {
    const exit = this.surroundings.run(effect)
    if (Exit.isSuccess(exit)) return exit.value
    throw Cause.squash(exit.cause)
  }

  given(table: string, rows: ReadonlyArray<object>): void {
    const known = this.participant.tables[table]
    if (known === undefined) throw new Error(`${this.name} has no table ${table}`)
    const decoded = rows.map((row) => known.decode(row))
    if (known.kind === "log") this.database.logs.set(known.name, decoded)
    else this.database.tables.set(known.name, new Map(decoded.map((row) => [keyOf(known, row), row])))
  }
}

/** Rows that were decoded once stay so: the memory store gives back the very rows that were put. */
const remembering = (participant: AnyParticipant): AnyParticipant => ({
  ...participant,
  tables: Object.fromEntries(
    Object.entries(participant.tables).map(([name, table]) => {
      const decoded = new WeakSet<object>()
      const decode = (row: unknown): object => {
        if (typeof row === "object" && row !== null && decoded.has(row)) return row
        const found = table.decode(row)
        decoded.add(found)
        return found
      }
      return [name, { ...table, decode }]
    })
  )
})

/** The next records of a partition. */
export const pendingOf = ({ log, position }: Reading, most = mostPerPartition): ReadonlyArray<BrokerRecord> =>
  position >= log.length ? [] : log.slice(position, position + most)
