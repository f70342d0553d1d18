/**
 * A pass: a batch of messages, requests or due rows, decided in order and committed in one transaction.
 *
 * All of it takes effect or none of it. A crash before the commit leaves nothing; after it, the messages' ids are
 * in the inbox, so that what the broker delivers again falls out here. A message whose decision throws, or whose
 * rows Postgres refuses, is parked alone and spoils no other; trouble of the store fails the pass and parks nothing.
 */
import { Clock, Effect, Schema } from "effect"
import {
  decodePayload,
  maxPayloadLength,
  seal,
  type AnyContract,
  type Envelope,
  type OutboxMessage
} from "./message.ts"
import type { BrokerRecord } from "./broker/broker.ts"
import type { AnyHandler, Cause, Context, Decision } from "./participant.ts"
import { deadLetterCopy } from "./delivery/dead-letter.ts"
import { bucketOf, type InboxWindow } from "./store/inbox.ts"
import {
  parkedKey,
  RowRefused,
  type DeadLetter,
  type Load,
  type ParkReason,
  type StoreError,
  type StoreLane,
  type Transaction
} from "./store/store.ts"
import { NotLoaded, Table, WorkingSet, type AnyTable, type Rows, type Tables } from "./table.ts"

/** A decoded message from a topic. `redrive` says that it lies in the dead letters and is to be decided after all. */
export interface MessageInput {
  readonly _tag: "message"
  readonly envelope: Envelope
  readonly payload: object
  readonly handler: AnyHandler
  readonly record: BrokerRecord
  readonly redrive: boolean
}

/** A record that can't be decided: it goes to the dead letters. */
export interface UnreadableInput {
  readonly _tag: "unreadable"
  readonly letter: DeadLetter
  readonly redrive: boolean
}

export interface RequestInput {
  readonly _tag: "request"
  readonly cause: Cause
  readonly payload: object
  readonly handler: AnyHandler
  /** The client's Idempotency-Key, or the request's own id. */
  readonly idempotencyKey: string
  /** What the key was used for; the same key for something else is refused. */
  readonly fingerprint: string
}

/** "Take what is due": the rows are found inside the pass. */
export interface DueInput {
  readonly _tag: "due"
  readonly table: AnyTable
  readonly handler: AnyHandler
  readonly limit: number
}

export type Input = MessageInput | UnreadableInput | RequestInput

export type Outcome =
  | { readonly _tag: "done"; readonly reply?: unknown }
  | { readonly _tag: "duplicate" }
  | { readonly _tag: "parked"; readonly reason: ParkReason; readonly detail: string }
  /** A request's key was used for another request before. */
  | { readonly _tag: "key-reused" }
  /** A request whose decision is at fault: nothing was written for it. */
  | { readonly _tag: "failed"; readonly message: string }

/** What a pass runs on. */
export interface PassEnvironment {
  readonly consumer: string
  readonly tables: Tables
  readonly lane: StoreLane
  readonly window: InboxWindow
  readonly newId: () => string
  /** Told what was committed; the embedded relay takes the messages from here. */
  readonly committed: (messages: ReadonlyArray<OutboxMessage>) => void
}

/** Replies to requests, by idempotency key. Written with the request's own effects, read before it is decided. */
export const idempotencyKeys = Table.reference("idempotency_keys", {
  key: "key",
  row: { key: Schema.String, fingerprint: Schema.String, reply: Schema.Unknown }
})

interface Fault {
  readonly reason: ParkReason
  readonly detail: string
}
type Faults = ReadonlyMap<Input, Fault>

/** Runs the inputs in order, in as few transactions as their faults allow. One outcome for each input. */
export const runPass = (
  environment: PassEnvironment,
  inputs: ReadonlyArray<Input>
): Effect.Effect<ReadonlyArray<Outcome>, StoreError> =>
  Effect.uninterruptible(decideAll(environment, inputs, new Map()))

/** How often a pass may lose the race for an absent row: with each try it starts from what is committed by then. */
const mostTries = 20

const keyNotFound = (table: string) =>
  new RowRefused({ table, message: "a key is taken and yet no row was found by it" })

const decideAll = (
  environment: PassEnvironment,
  inputs: ReadonlyArray<Input>,
  faults: Faults,
  tries = 1
): Effect.Effect<ReadonlyArray<Outcome>, StoreError> =>
  attempt(environment, inputs, faults).pipe(
    Effect.flatMap((result) => {
      if (result._tag === "faulty") return decideAll(environment, inputs, new Map([...faults, ...result.faults]))
      if (result._tag === "committed") return Effect.succeed(result.outcomes)
      return inParts(environment, [inputs.slice(0, result.before), inputs.slice(result.before)], faults)
    }),
    Effect.catchTag("KeyTaken", ({ table }) => {
      // the next load finds the row, unless its key is in another form than Postgres returns it in
      if (tries < mostTries) return decideAll(environment, inputs, faults, tries + 1)
      return Effect.fail(keyNotFound(table))
    }),
    Effect.catchTag("RowRefused", (refused) => {
      const [only] = inputs
      if (inputs.length === 1 && only !== undefined && !faults.has(only)) {
        const fault: Fault = { reason: "row-refused", detail: `${refused.table}: ${refused.message}` }
        return decideAll(environment, inputs, new Map([[only, fault]]))
      }
      if (inputs.length <= 1) return Effect.die(refused)
      const one = inputs.map((input) => [input])
      return inParts(environment, one, faults)
    })
  )

const inParts = (environment: PassEnvironment, parts: ReadonlyArray<ReadonlyArray<Input>>, faults: Faults) =>
  Effect.map(
    Effect.forEach(parts, (part) => decideAll(environment, part, faults)),
    (outcomes) => outcomes.flat()
  )

type Attempt =
  | { readonly _tag: "committed"; readonly outcomes: ReadonlyArray<Outcome> }
  /** Nothing was written: to be run again with these inputs parked. */
  | { readonly _tag: "faulty"; readonly faults: Faults }
  /** Nothing was written: this input needs rows that an earlier one of the pass gave a reason to load. */
  | { readonly _tag: "cut"; readonly before: number }

const attempt = Effect.fnUntraced(function* (
  environment: PassEnvironment,
  inputs: ReadonlyArray<Input>,
  known: Faults
) {
  const nowMs = yield* Clock.currentTimeMillis
  const pass = new Pass(environment, inputs, known, nowMs)
  const firstLoads = pass.nextLoads()
  if (pass.newFaults.size > 0) return faulty(pass)
  const transaction = yield* environment.lane.begin({
    consumer: environment.consumer,
    claims: pass.claims,
    unpark: pass.unpark,
    parking: pass.parking,
    parkedKeys: pass.orderedKeys,
    due: undefined,
    loads: firstLoads
  })
  return yield* Effect.gen(function* (): Effect.fn.Return<Attempt, StoreError> {
    pass.loaded(firstLoads, transaction.rows)
    yield* loadRest(pass, transaction)
    pass.decide(transaction)
    if (pass.newFaults.size > 0 || pass.outcomes.length < inputs.length) {
      yield* transaction.rollback
      return pass.newFaults.size > 0 ? faulty(pass) : { _tag: "cut", before: pass.outcomes.length }
    }
    yield* transaction.commit({ changes: pass.working.changes(), outbox: pass.outbox, parked: pass.parked })
    environment.committed(pass.outbox)
    return { _tag: "committed", outcomes: pass.outcomes }
  }).pipe(Effect.onError(() => transaction.rollback))
})

const faulty = (pass: Pass): Attempt => ({ _tag: "faulty", faults: pass.newFaults })

const loadRest = Effect.fnUntraced(function* (pass: Pass, transaction: Transaction) {
  for (let loads = pass.nextLoads(); loads.length > 0; loads = pass.nextLoads()) {
    pass.loaded(loads, yield* transaction.load(loads))
  }
})

export interface DueResult {
  readonly decided: number
  /** Rows whose decision is at fault: nothing was written for them, they stay due. */
  readonly failed: ReadonlyArray<{ readonly key: string; readonly detail: string }>
}

/** Decides the rows of a table that are due, but for those in `skip`; answers how many there were. */
export const runDue = (
  environment: PassEnvironment,
  input: DueInput,
  skip: ReadonlySet<string>
): Effect.Effect<DueResult, StoreError> =>
  Effect.uninterruptible(
    attemptDue(environment, input, skip).pipe(
      Effect.retry({ while: (error) => error._tag === "KeyTaken", times: mostTries - 1 }),
      Effect.catchTag("KeyTaken", ({ table }) => Effect.fail(keyNotFound(table))),
      Effect.catchTag("RowRefused", (refused) =>
        runDue(environment, { ...input, limit: 1 }, skip).pipe(Effect.catchTag("RowRefused", () => Effect.die(refused)))
      )
    )
  )

const attemptDue = Effect.fnUntraced(function* (
  environment: PassEnvironment,
  input: DueInput,
  skip: ReadonlySet<string>
) {
  const transaction = yield* environment.lane.begin({
    consumer: environment.consumer,
    claims: [],
    unpark: [],
    parking: [],
    parkedKeys: [],
    due: { table: input.table, limit: input.limit + skip.size },
    loads: []
  })
  return yield* Effect.gen(function* (): Effect.fn.Return<DueResult, StoreError> {
    const inputs = transaction.due
      .map((row) => dueRow(input, row, environment.newId()))
      .filter((row) => !skip.has(row.cause.key))
      .slice(0, input.limit)
    const pass = new Pass(environment, inputs, new Map(), transaction.now.getTime())
    pass.working.add(input.table, [], transaction.due)
    yield* loadRest(pass, transaction)
    pass.decide(transaction)
    const failed = inputs.flatMap((row) => {
      const fault = pass.newFaults.get(row)
      return fault === undefined ? [] : [{ key: row.cause.key, detail: fault.detail }]
    })
    const [only] = inputs
    yield* transaction
      .commit({ changes: pass.working.changes(), outbox: pass.outbox, parked: [] })
      .pipe(
        Effect.catchTag("RowRefused", (refused) =>
          inputs.length === 1 && only !== undefined
            ? Effect.sync(
                () => void failed.push({ key: only.cause.key, detail: `${refused.table}: ${refused.message}` })
              )
            : Effect.fail(refused)
        )
      )
    if (failed.length === 0 || inputs.length > 1) environment.committed(pass.outbox)
    return { decided: pass.outcomes.length - failed.length, failed }
  }).pipe(Effect.onError(() => transaction.rollback))
})

/** A due row takes the way of a request that nobody waits for and that has no key. */
const dueRow = (input: DueInput, row: object, id: string): RequestInput => {
  const decoded = input.table.decode(row)
  const key = String((decoded as Readonly<Record<string, unknown>>)[input.table.key])
  return {
    _tag: "request",
    cause: {
      id,
      key,
      type: `due ${input.table.name}`,
      correlation: null,
      coordination: "orchestration",
      traceparent: null
    },
    payload: decoded,
    handler: input.handler,
    idempotencyKey: "",
    fingerprint: ""
  }
}

/** The state of one attempt: what is loaded, decided and to be written so far. No I/O in here. */
class Pass {
  readonly working: WorkingSet
  readonly outbox: Array<OutboxMessage> = []
  readonly parked: Array<DeadLetter> = []
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
          if (input.handler.ordered && !input.redrive) this.orderedKeys.push([input.record.topic, input.envelope.key])
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
    const behind = new Set(transaction.parkedKeys)
    for (const input of this.inputs) {
      const outcome = this.decideOne(input, transaction, behind)
      if (outcome === "cut") return
      this.outcomes.push(outcome)
    }
  }

  private decideOne(
    input: Input,
    transaction: Pick<Transaction, "now" | "claimed" | "settled">,
    behind: Set<string>
  ): Outcome | "cut" {
    if (input._tag !== "request" && (this.repeated.has(input) || transaction.settled.has(messageId(input))))
      return { _tag: "duplicate" }
    if (input._tag === "unreadable") return this.park(input.letter, behind)
    const fault = this.known.get(input)
    if (fault !== undefined) {
      return input._tag === "message"
        ? this.park(letterOf(input, fault), behind)
        : { _tag: "failed", message: fault.detail }
    }
    if (input._tag === "message") {
      const detail = `id ${input.envelope.id} is dated outside the window in which its claim could be kept`
      if (this.outside.has(input)) return this.park(letterOf(input, { reason: "outside-window", detail }), behind)
      if (!transaction.claimed.has(input.envelope.id)) return { _tag: "duplicate" }
      const lane = parkedKey(input.record.topic, input.envelope.key)
      if (input.handler.ordered && !input.redrive && behind.has(lane)) {
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
    const origin = { ...context, causation: context.type.startsWith("due ") ? null : context.id }
    try {
      const decision = input.handler.decide(this.view, input.payload, context)
      const messages = (decision.send ?? []).map((outgoing) => seal(outgoing, origin, this.environment.newId))
      this.working.apply(this.putsOf(input, decision))
      this.outbox.push(...messages)
      return { _tag: "done", reply: decision.reply }
    } catch (error) {
      // rows that an earlier message of this pass gave a reason to load: they are loaded by the next pass
      if (error instanceof NotLoaded && this.outcomes.length > 0) return "cut"
      this.newFaults.set(input, decisionFailed(error))
      return { _tag: "failed", message: "" }
    }
  }

  private putsOf(input: MessageInput | RequestInput, decision: Decision<Tables>) {
    if (input._tag === "message" || input.idempotencyKey === "") return decision.put ?? {}
    const row = { key: input.idempotencyKey, fingerprint: input.fingerprint, reply: decision.reply ?? null }
    return { ...decision.put, idempotencyKeys: [row] }
  }

  private park(letter: DeadLetter, behind: Set<string>): Outcome {
    this.parked.push(letter)
    this.outbox.push(deadLetterCopy(letter, this.environment.consumer, this.environment.newId()))
    if (letter.key !== null) behind.add(parkedKey(letter.record.topic, letter.key))
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

const decisionFailed = (error: unknown): Fault => ({
  reason: "decision-failed",
  detail: error instanceof Error ? (error.stack ?? error.message) : String(error)
})

const letterOf = (input: MessageInput, { reason, detail }: Fault): DeadLetter => ({
  id: input.envelope.id,
  type: input.envelope.type,
  key: input.envelope.key,
  reason,
  detail,
  record: input.record
})

/** Decodes a message's payload for its handler, or says why it can't be. */
export const readPayload = (contract: AnyContract, json: string): ReturnType<typeof decodePayload> =>
  json.length > maxPayloadLength
    ? { unreadable: `payload has ${json.length} characters, more than the ${maxPayloadLength} a message may have` }
    : decodePayload(contract, json)
