/**
 * A lane's connection to Postgres. It sends BEGIN with the claims and the first loads, then the writes with COMMIT, so that a
 * pass costs two round trips.
 *
 * A crash of either side rolls back whatever was not committed. Between load and write the connection may be lost:
 * writes are sent only while the connection that began is still the one in use, together with their COMMIT, so that
 * none of them can run by itself on a new connection. The file is long because all that depends on that is in it.
 */
import { Effect } from "effect"
import {
  connect,
  checkViolation,
  failureOf,
  inFailedTransaction,
  boundsOf,
  uniqueViolation,
  type ConnectionOptions,
  type Sql
} from "./connection.ts"
import { textsOf } from "./arrays.ts"
import type { Prepared, TableStatements } from "./statements.ts"
import { notAnswered, unavailable } from "./pool.ts"
import { writeLetters } from "./letters.ts"
import {
  askRows,
  askStatement,
  oneRequestPerKey,
  otherRequest,
  postponedRows,
  postponeStatement,
  takeStatement
} from "./calls.ts"
import { appendStatement, claimedIds, claimRows, outboxRows } from "./outbox.ts"
import {
  KeyTaken,
  parkedKey,
  RowRefused,
  StoreUnavailable,
  type Load,
  type Opening,
  type PostponedCall,
  type StoreError,
  type TakenCall,
  type Transaction,
  type Writes
} from "./store.ts"
import type { AnyTable } from "../table.ts"

/** Whose statement it is decides whose fault its failure is. */
interface Statement {
  readonly of: AnyTable | "outbox" | "calls" | "library"
  readonly query: PromiseLike<QueryResult>
}
type QueryResult = ReadonlyArray<Readonly<Record<string, unknown>>> & {
  readonly command: string
  readonly count: number
}

export class Lane {
  private epoch = 0
  private connectedIn = -1
  private partitionsMissing = false
  private sql: Sql

  constructor(
    private readonly options: ConnectionOptions,
    private readonly name: string,
    private readonly statements: ReadonlyMap<AnyTable, TableStatements>,
    /** Makes the partitions that are missing. */
    private readonly preparePartitions: Effect.Effect<unknown, StoreUnavailable>
  ) {
    this.sql = this.open()
  }

  private open(): Sql {
    this.epoch++
    const opened: Sql = connect(this.options, {
      name: this.name,
      max: 1,
      once: true,
      // a lane reads by key or by due_at, and its plans are kept: one that was made while a table was small must not read it
      // from end to end once it is large
      session: { enable_seqscan: "off", plan_cache_mode: "force_generic_plan" },
      onClose: () => {
        if (this.sql === opened) this.reopen()
      }
    })
    return opened
  }

  close(): Promise<void> {
    return this.sql.end({ timeout: 2 })
  }

  /** Gives the connection up, with whatever hangs on it. */
  private reopen(): void {
    void this.sql.end({ timeout: 0 })
    this.sql = this.open()
  }

  private statement(of: Statement["of"], text: string, parameters: ReadonlyArray<string | number> = []): Statement {
    return { of, query: this.sql.unsafe(text, [...parameters], { prepare: true }) }
  }

  private tableOf(table: AnyTable): TableStatements {
    const found = this.statements.get(table)
    if (found === undefined) throw new Error(`${table.name} was not named when the lane was opened`)
    return found
  }

  private prepared(of: AnyTable, { text, parameters }: Prepared): Statement {
    return this.statement(of, text, parameters)
  }

  private loadStatement({ table, keys }: Load): Statement {
    return this.prepared(table, this.tableOf(table).load(keys))
  }

  /** What a fresh connection owes before BEGIN: it exists, so that BEGIN and what follows leave in one piece. */
  private readonly connected = Effect.suspend(() => {
    if (this.connectedIn === this.epoch && !this.partitionsMissing) return Effect.void
    return Effect.gen({ self: this }, function* () {
      if (this.partitionsMissing) {
        yield* this.preparePartitions
        this.partitionsMissing = false
      }
      const epoch = this.epoch
      // a connection that ended before it was made tells nobody but the query that waited for it
      yield* this.run([this.statement("library", "select 1")]).pipe(
        Effect.onError(() => Effect.sync(() => this.reopen()))
      )
      if (epoch !== this.epoch)
        return yield* new StoreUnavailable({ message: "the connection was lost as it was made" })
      this.connectedIn = epoch
    })
  })

  readonly begin = Effect.fnUntraced({ self: this }, function* (this: Lane, opening: Opening) {
    yield* this.connected
    const epoch = this.epoch
    const { claims, unpark, parking, parkedKeys, due } = opening
    const opened = [this.statement("library", "begin isolation level read committed")]
    if (unpark.length > 0)
      opened.push(this.statement("library", unparkText, [opening.consumer, JSON.stringify(unpark)]))
    const settledAt =
      parking.length > 0
        ? opened.push(this.statement("library", settledText, [opening.consumer, JSON.stringify(parking)])) - 1
        : undefined
    if (parkedKeys.length > 0)
      opened.push(this.statement("library", parkedKeysText, [opening.consumer, JSON.stringify(parkedKeys)]))
    const claimAt =
      opened.push(
        claims.length > 0
          ? this.statement("library", claimText, [opening.consumer, ...claimRows(claims)])
          : this.statement("library", "select now() as now, '[]'::json as claimed")
      ) - 1
    if (due !== undefined)
      opened.push(this.statement(due.table, this.tableOf(due.table).due, [due.limit, textsOf(due.skip)]))
    const loadsAt = opened.push(...opening.loads.map((load) => this.loadStatement(load))) - opening.loads.length
    const results = yield* this.run(opened).pipe(Effect.onError(() => this.rollback(epoch)))

    const claim = results[claimAt]?.[0]
    let open = true
    const transaction: Transaction = {
      now: claim?.["now"] instanceof Date ? claim["now"] : new Date(Number.NaN),
      claimed: new Set(Array.isArray(claim?.["claimed"]) ? claim["claimed"].map(String) : []),
      settled: new Set(
        settledAt === undefined ? [] : (results[settledAt] ?? []).map((row) => String(row["message_id"]))
      ),
      parkedKeys: new Map(
        parkedKeys.length === 0
          ? []
          : (results[claimAt - 1] ?? []).map((row) => [
              parkedKey(String(row["topic"]), String(row["key"])),
              { partition: Number(row["partition"]), offset: BigInt(String(row["offset"])) }
            ])
      ),
      due: due === undefined ? [] : (results[claimAt + 1] ?? []),
      rows: results.slice(loadsAt),
      load: (loads) =>
        Effect.suspend(() =>
          this.run(
            loads.map((load) => this.loadStatement(load)),
            epoch
          )
        ),
      commit: (writes) =>
        Effect.suspend(() => {
          open = false
          return this.commit(opening.consumer, writes, epoch)
        }),
      rollback: Effect.suspend(() => {
        if (!open) return Effect.void
        open = false
        return this.rollback(epoch)
      })
    }
    return transaction
  })

  /** One statement, which is its own transaction. When its answer is lost, the calls wait for the end of their lease. */
  readonly take = Effect.fnUntraced(
    { self: this },
    function* (
      this: Lane,
      kind: string,
      limit: number,
      leaseMs: number
    ): Effect.fn.Return<ReadonlyArray<TakenCall>, StoreUnavailable> {
      const [taken = []] = yield* this.alone(takeStatement, [kind, limit, leaseMs])
      // the columns of its `returning`
      return taken as unknown as ReadonlyArray<TakenCall>
    }
  )

  postpone(calls: ReadonlyArray<PostponedCall>): Effect.Effect<void, StoreUnavailable> {
    return Effect.asVoid(this.alone(postponeStatement, postponedRows(calls)))
  }

  private readonly alone = Effect.fnUntraced(
    { self: this },
    function* (this: Lane, text: string, parameters: ReadonlyArray<string | number>) {
      yield* this.connected
      return yield* this.run([this.statement("library", text, parameters)])
    },
    Effect.mapError((error) => (error._tag === "StoreUnavailable" ? error : unavailable(error)))
  )

  private commit(consumer: string, writes: Writes, epoch: number): Effect.Effect<void, StoreError> {
    const rowCounts: Array<readonly [index: number, expected: number, table: string]> = []
    const list: Array<Statement> = []
    for (const { table, inserts, updates, changed } of writes.changes) {
      const statements = this.tableOf(table)
      if (inserts.length > 0) list.push(this.prepared(table, statements.insert(inserts)))
      if (updates.length > 0) {
        rowCounts.push([list.length, updates.length, table.name])
        list.push(this.prepared(table, statements.update(updates, changed)))
      }
    }
    if (writes.parked.length > 0) list.push({ of: "library", query: writeLetters(this.sql, consumer, writes.parked) })
    if (writes.calls.length > 0) list.push(this.statement("calls", askStatement, askRows(writes.calls)))
    if (writes.outbox.length > 0) list.push(this.statement("outbox", appendStatement, outboxRows(writes.outbox)))
    list.push(this.statement("library", "commit"))
    return Effect.suspend(() => this.run(list, epoch)).pipe(
      Effect.onError(() => this.rollback(epoch)),
      Effect.flatMap((results) => {
        // COMMIT of a transaction that failed answers ROLLBACK and raises no error
        const tag = results.at(-1)?.command
        if (tag !== "COMMIT") return Effect.fail(new StoreUnavailable({ message: `COMMIT was answered with ${tag}` }))
        const lost = rowCounts.find(([index, expected]) => results[index]?.count !== expected)
        return lost === undefined
          ? Effect.void
          : Effect.die(new Error(`an update of ${lost[2]} found ${results[lost[0]]?.count} of ${lost[1]} locked rows`))
      })
    )
  }

  private rollback(epoch: number): Effect.Effect<void> {
    return Effect.suspend(() =>
      epoch === this.epoch ? this.run([this.statement("library", "rollback")]).pipe(Effect.ignore) : Effect.void
    )
  }

  /**
   * Sends the statements in one piece and waits for all answers. With an epoch: only on the connection of that epoch.
   * The check and the sending are one synchronous step, so no other connection can come in between.
   */
  private run(
    list: ReadonlyArray<Statement>,
    epoch = this.epoch
  ): Effect.Effect<ReadonlyArray<QueryResult>, StoreError> {
    return Effect.callback<ReadonlyArray<QueryResult>, StoreError>((resume) => {
      if (epoch !== this.epoch) {
        resume(Effect.fail(new StoreUnavailable({ message: "the connection was lost in mid-transaction" })))
        return
      }
      Promise.allSettled(list.map(({ query }) => query)).then((settled) => {
        const results: Array<QueryResult> = []
        for (const [index, { of }] of list.entries()) {
          const outcome = settled[index]
          if (outcome?.status === "fulfilled") results.push(outcome.value)
          else return resume(Effect.fail(this.fault(of, outcome?.reason)))
        }
        resume(Effect.succeed(results))
      })
    }).pipe(
      Effect.timeoutOrElse({
        duration: boundsOf(this.options).answerMs,
        orElse: () => {
          this.reopen()
          return Effect.fail(notAnswered())
        }
      })
    )
  }

  /** Whose fault a failed statement is: see "Rules of a pass" in ARCHITECTURE.md. */
  private fault(of: Statement["of"], error: unknown): StoreError {
    const failure = failureOf(error)
    const { code, message, table, constraint } = failure
    if (of === "library" || code === inFailedTransaction || !/^(2[23]|54)/.test(code)) {
      const owned = [...this.statements.keys()].some((own) => own.name === table)
      // a deferred constraint speaks up at COMMIT
      if (of === "library" && code.startsWith("23") && owned && table !== undefined)
        return new RowRefused({ table, message })
      if (code === checkViolation && !owned) this.partitionsMissing = true
      return unavailable(error)
    }
    if (of === "outbox") {
      if (constraint === "outbox_payload_size") return new RowRefused({ table: "outbox", message })
      this.partitionsMissing = code === checkViolation
      return unavailable(error)
    }
    if (of === "calls")
      return new RowRefused({ table: of, message: constraint === oneRequestPerKey ? otherRequest("a call") : message })
    if (code === uniqueViolation && of.kind !== "log" && constraint === this.tableOf(of).primaryKey)
      return new KeyTaken({ table: of.name })
    return new RowRefused({ table: of.name, message })
  }
}

const claimText = `
  with claimed as (
    insert into inbox (message_id, consumer, bucket)
    select r.id, $1, r.bucket
    from ${claimedIds}
    where not exists (select from dead_letters d where d.consumer = $1 and d.message_id = r.id)
    order by r.id
    on conflict do nothing
    returning message_id
  )
  select now() as now, (select coalesce(json_agg(message_id), '[]') from claimed) as claimed`

const unparkText = `
  delete from dead_letters
  where consumer = $1
    and discarded_at is null
    and message_id in (select id::uuid from jsonb_array_elements_text($2::text::jsonb) as ids(id))`

const settledText = `
  with ids as (select id::uuid from jsonb_array_elements_text($2::text::jsonb) as ids(id))
  select message_id from dead_letters where consumer = $1 and message_id in (select id from ids)
  union
  select message_id from inbox where consumer = $1 and message_id in (select id from ids)`

const parkedKeysText = `
  select distinct on (d.topic, d.key) d.topic, d.key, d."partition", d."offset"
  from dead_letters d
  where d.consumer = $1
    and d.discarded_at is null
    and (d.topic, d.key) in (select pair ->> 0, pair ->> 1 from jsonb_array_elements($2::text::jsonb) as pairs(pair))
  order by d.topic, d.key, d."partition", d."offset"`
