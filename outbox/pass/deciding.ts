/**
 * The state of one attempt at a pass: what is loaded, decided and to be written so far. No I/O in here: an attempt that
 * comes to nothing is thrown away whole.
 */
import { sealCall, type OutgoingCall } from "../calls/call.ts"
import { seal, type Origin, type OutboxMessage } from "../message.ts"
import { OtherBuild, type Context, type Decision, type Cause } from "../participant.ts"
import { deadLetterCopy } from "../delivery/dead-letter.ts"
import {
  idempotencyKeys,
  type Fault,
  type Faults,
  type Input,
  type MessageInput,
  type Outcome,
  type PassEnvironment,
  type RequestInput,
  type UnreadableInput
} from "./inputs.ts"
import { bucketOf } from "../store/inbox.ts"
import { otherRequest, sameRequest } from "../store/calls.ts"
import {
  isBefore,
  parkedKey,
  type DeadLetter,
  type Load,
  type NewCall,
  type Parking,
  type Transaction,
  type Writes
} from "../store/store.ts"
import { NotLoaded, WorkingSet, type AnyTable, type Rows, type Tables } from "../table.ts"

export class Pass {
  readonly working: WorkingSet
  readonly outbox: Array<OutboxMessage> = []
  readonly parked: Array<Parking> = []
  private readonly calls = new Map<string, NewCall>()
  readonly outcomes: Array<Outcome> = []
  readonly newFaults = new Map<Input, Fault>()
  readonly claims: Array<{ readonly id: string; readonly bucket: number }> = []
  readonly unpark: Array<string> = []
  readonly parking: Array<string> = []
  readonly orderedKeys: Array<readonly [string, string]> = []
  private readonly repeated = new Set<Input>()
  private readonly outside = new Set<Input>()
  private readonly deciding: ReadonlyArray<MessageInput | RequestInput>
  private readonly tables: Tables
  private readonly view: Rows<Tables>
  private tableIndex = 0

  constructor(
    private readonly environment: PassEnvironment,
    private readonly inputs: ReadonlyArray<Input>,
    private readonly known: Faults,
    nowMs: number
  ) {
    const requests = inputs.some((input) => input._tag === "request" && input.idempotencyKey !== "")
    // first, so that of two requests of one key the later waits there, and not at a row that both would write
    this.tables = requests ? { idempotencyKeys, ...environment.tables } : environment.tables
    this.working = new WorkingSet(this.tables)
    this.view = this.working.view()
    const seen = new Set<string>()
    const deciding: Array<MessageInput | RequestInput> = []
    for (const input of inputs) {
      if (input._tag === "request") {
        if (!known.has(input)) deciding.push(input)
        continue
      }
      const id = messageId(input)
      if (seen.has(id)) {
        this.repeated.add(input)
        continue
      }
      seen.add(id)
      if (input._tag === "message" && !known.has(input)) {
        const bucket = bucketOf(id, nowMs, environment.window)
        if (bucket !== "outside-window") {
          this.claims.push({ id, bucket })
          if (input.redrive) this.unpark.push(id)
          if (input.handler.ordered) this.orderedKeys.push([input.record.topic, input.envelope.key])
          deciding.push(input)
          continue
        }
        this.outside.add(input)
      }
      if (!input.redrive) this.parking.push(id)
    }
    this.deciding = deciding
  }

  /**
   * What to load next: tables in their declared order, as far as their keys can be told without rows that are not
   * loaded yet. Every table comes up once, so it is locked once.
   */
  nextLoads(): Array<Load> {
    const entries = Object.entries(this.tables)
    const loads: Array<Load> = []
    const pending = new Set<AnyTable>()
    for (; this.tableIndex < entries.length; this.tableIndex++) {
      const entry = entries[this.tableIndex]
      if (entry === undefined) break
      const [name, table] = entry
      const keys = this.keysOf(name, table, pending)
      if (keys === "later") return loads
      if (keys.length === 0) continue
      loads.push({ table, keys })
      pending.add(table)
    }
    return loads
  }

  private keysOf(name: string, table: AnyTable, pending: ReadonlySet<AnyTable>): ReadonlyArray<string> | "later" {
    const keys = new Set<string>()
    for (const input of this.deciding) {
      if (table === idempotencyKeys) {
        if (input._tag === "request") keys.add(input.idempotencyKey)
        continue
      }
      const touches = input.handler.touches[name]
      if (touches === undefined) continue
      try {
        for (const key of touches(input.payload, this.view, causeOf(input))) keys.add(key)
      } catch (error) {
        // an earlier table's rows are asked for while they are still on their way
        if (error instanceof NotLoaded && pending.size > 0) return "later"
        // rows that only an earlier message of this pass leaves behind, or a bug: told apart when it is decided
        if (!(error instanceof NotLoaded)) this.newFaults.set(input, decisionFailed(error))
      }
    }
    return this.working.missing(table, keys)
  }

  loaded(loads: ReadonlyArray<Load>, rows: ReadonlyArray<ReadonlyArray<object>>): void {
    loads.forEach(({ table, keys }, index) => this.working.add(table, keys, rows[index] ?? []))
  }

  /** Decides all inputs in order. Stops before one that needs rows which an earlier one of this pass only just named. */
  decide(transaction: Pick<Transaction, "now" | "claimed" | "settled" | "parkedKeys">): void {
    const parkedHere = new Set<string>()
    for (const input of this.inputs) {
      const outcome = this.decideOne(input, transaction, parkedHere)
      if (outcome === "cut") return
      this.outcomes.push(outcome)
    }
  }

  writes(): Writes {
    return { changes: this.working.changes(), outbox: this.outbox, calls: this.asked(), parked: this.parked }
  }

  /** The calls asked for in this pass. */
  asked(): ReadonlyArray<NewCall> {
    return [...this.calls.values()]
  }

  private decideOne(
    input: Input,
    transaction: Pick<Transaction, "now" | "claimed" | "settled" | "parkedKeys">,
    parkedHere: Set<string>
  ): Outcome | "cut" {
    if (input._tag !== "request" && (this.repeated.has(input) || transaction.settled.has(messageId(input))))
      return { _tag: "duplicate" }
    if (input._tag === "unreadable") return this.park(input.letter, input.redrive, parkedHere)
    const fault = this.known.get(input)
    if (fault !== undefined) {
      return input._tag === "message"
        ? this.park(letterOf(input, fault), input.redrive, parkedHere)
        : { _tag: "failed", message: fault.detail }
    }
    if (input._tag === "message") {
      const detail = `id ${input.envelope.id} is dated outside the window in which its claim could be kept`
      if (this.outside.has(input))
        return this.park(letterOf(input, { reason: "outside-window", detail }), input.redrive, parkedHere)
      if (!transaction.claimed.has(input.envelope.id)) return { _tag: "duplicate" }
      if (input.handler.ordered && waits(input, transaction.parkedKeys, parkedHere)) {
        const fault: Fault = { reason: "behind", detail: `an earlier message of key ${input.envelope.key} is parked` }
        this.newFaults.set(input, fault)
        return { _tag: "parked", ...fault }
      }
    } else if (input.idempotencyKey !== "") {
      const stored = idempotencyOf(this.view).get(input.idempotencyKey)
      if (stored !== undefined) {
        return stored.fingerprint === input.fingerprint ? { _tag: "done", reply: stored.reply } : { _tag: "key-reused" }
      }
    }
    return this.run(input, transaction.now)
  }

  private run(input: MessageInput | RequestInput, now: Date): Outcome | "cut" {
    const context: Context = { ...causeOf(input), now, newId: this.environment.newId }
    const { correlation, coordination, definition, traceparent } = context
    const causation = input._tag === "message" ? context.id : input.causation
    const origin: Origin = { correlation, causation, coordination, definition, traceparent }
    try {
      const decision = input.handler.decide(this.view, input.payload, context)
      const messages = (decision.send ?? []).map((outgoing) => seal(outgoing, origin, this.environment.newId))
      const calls = this.newCalls(decision.call ?? [], origin)
      this.working.apply(this.putsOf(input, decision))
      this.outbox.push(...messages)
      for (const call of calls) this.calls.set(call.id, call)
      return { _tag: "done", reply: decision.reply }
    } catch (error) {
      // rows that an earlier message of this pass gave a reason to load: they are loaded by the next pass
      if (error instanceof NotLoaded && this.outcomes.length > 0) return "cut"
      this.newFaults.set(input, decisionFailed(error))
      return { _tag: "failed", message: "" }
    }
  }

  /** Of the calls asked for, those that no earlier decision of this pass asked for. */
  private newCalls(asked: ReadonlyArray<OutgoingCall>, origin: Origin): ReadonlyArray<NewCall> {
    if (asked.length === 0) return []
    const fresh = new Map<string, NewCall>()
    for (const each of asked) {
      const call = sealCall(each, origin, this.environment.calls)
      const earlier = this.calls.get(call.id) ?? fresh.get(call.id)
      if (earlier === undefined) fresh.set(call.id, call)
      else if (!sameRequest(earlier, call)) throw new Error(otherRequest(call.id))
    }
    return [...fresh.values()]
  }

  private putsOf(input: MessageInput | RequestInput, decision: Decision<Tables>) {
    if (input._tag === "message" || input.idempotencyKey === "") return decision.put ?? {}
    const row = { key: input.idempotencyKey, fingerprint: input.fingerprint, reply: decision.reply ?? null }
    return { ...decision.put, idempotencyKeys: [row] }
  }

  private park(letter: DeadLetter, redrive: boolean, parkedHere: Set<string>): Outcome {
    // one that was redriven out of its turn was not tried: that is neither counted nor announced again
    const outOfTurn = redrive && letter.reason === "behind"
    this.parked.push({ ...letter, redriven: redrive && !outOfTurn })
    if (!outOfTurn) this.outbox.push(deadLetterCopy(letter, this.environment.consumer, this.environment.newId()))
    if (letter.key !== null) parkedHere.add(parkedKey(letter.record.topic, letter.key))
    return { _tag: "parked", reason: letter.reason, detail: letter.detail }
  }
}

const idempotencyOf = (view: Rows<Tables>): Rows<{ keys: typeof idempotencyKeys }>["keys"] => {
  const rows = view["idempotencyKeys"]
  if (rows === undefined) throw new Error("a request was decided without its idempotency keys")
  // The one table this module adds itself, under this name.
  return rows as Rows<{ keys: typeof idempotencyKeys }>["keys"]
}

const messageId = (input: MessageInput | UnreadableInput): string =>
  input._tag === "message" ? input.envelope.id : input.letter.id

const causeOf = (input: MessageInput | RequestInput): Cause => (input._tag === "message" ? input.envelope : input.cause)

/** Whether a message has to wait behind a parked one of its key. A redriven one waits only for what was read before it. */
const waits = (
  { envelope, record, redrive }: MessageInput,
  parked: Transaction["parkedKeys"],
  parkedHere: ReadonlySet<string>
): boolean => {
  const key = parkedKey(record.topic, envelope.key)
  if (parkedHere.has(key)) return true
  const first = parked.get(key)
  return first !== undefined && (!redrive || isBefore(first, record))
}

const decisionFailed = (error: unknown): Fault =>
  error instanceof OtherBuild
    ? { reason: "decision-failed", detail: error.message, ofOtherBuild: true }
    : {
        reason: "decision-failed",
        detail: error instanceof Error ? (error.stack ?? error.message) : String(error)
      }

const letterOf = (input: MessageInput, { reason, detail }: Fault): DeadLetter => ({
  id: input.envelope.id,
  type: input.envelope.type,
  key: input.envelope.key,
  reason,
  detail,
  record: input.record
})
