/** All that the checker is given, read from the databases and the topics once all is quiet, or taken down on the way. */
import type { RowOf, Saga } from "oncebox"
import { SERVICE_NAMES, SERVICES } from "../../../stack/supervise.ts"
import type { World } from "../checks/check.ts"
import type { Plan, Planned } from "../orders.ts"
import { poisonFor } from "../poison.ts"
import type { Database, Stack } from "../stack.ts"
import { injectedHeader, partitionOf, type Taped } from "../tape.ts"
import { readState, readWorld, subscribers } from "../world.ts"
import type { Injected } from "./injector.ts"
import type { Samples } from "./samples.ts"
import { databases } from "./site.ts"
import type { Work } from "./workload.ts"

/** What a client's key stands for, as a service has kept it. */
export interface Kept {
  readonly key: string
  readonly order: string
  readonly digest: string
}

/** A dead letter, or one that is due: who parked what lies where. */
export type Letter = string

/** A message of an outbox and when its transaction was committed, in microseconds. */
export interface Commit {
  readonly id: string
  readonly database: Database
  readonly at: number
  readonly transaction: string
  readonly topic: string
  readonly type: string
  readonly key: string
  /** The message on which it was decided to send it; null when a row fell due. */
  readonly cause: string | null
  /** Which row of its outbox it is, in the order in which the table is read. */
  readonly place: number
}

/** A record of a topic that belongs to the campaign's orders, users and products. */
export interface Lying {
  readonly id: string
  readonly topic: string
  readonly type: string
  readonly key: string
  readonly injected: boolean
  /** The task of a connector that wrote it, or the auditor; none when it was somebody else. */
  readonly producer: string | null
}

/** What one task of a connector, or the auditor, wrote to a partition, in that order, whosesoever it is. */
export interface Written {
  readonly producer: string
  readonly partition: string
  /** When the first of it was made, in milliseconds. */
  readonly from: number
  readonly ids: ReadonlyArray<string>
}

export interface Slot {
  readonly name: string
  readonly active: boolean
  readonly lagBytes: number
}

export type SagaRow = RowOf<(typeof Saga.tables)["sagas"]>

/** Of an entry's many columns those that are looked at. */
export type LogEntry = Omit<RowOf<(typeof Saga.tables)["saga_log"]>, "cause_id" | "asked_id">

/** Rows as they were read have all their columns. */
interface Sagas {
  readonly sagas: ReadonlyArray<SagaRow>
  readonly sagaLog: ReadonlyArray<LogEntry>
}

export interface Snapshot {
  /** Dates are texts after they were written and read. */
  readonly world: Omit<World, "records" | keyof Sagas> & Sagas & { readonly records: ReadonlyArray<Lying> }
  /** Records that are there again, and are not among those of the world. */
  readonly repetitions: number
  readonly keys: ReadonlyArray<Kept>
  readonly letters: ReadonlyArray<Letter>
  readonly lettersDue: ReadonlyArray<Letter>
  readonly commits: ReadonlyArray<Commit>
  readonly written: ReadonlyArray<Written>
  /** Messages that the auditor published again. */
  readonly republished: ReadonlyArray<string>
  readonly slots: ReadonlyArray<Slot>
  /** The rows of all tables, by table, as digests. */
  readonly state: Readonly<Record<string, string>>
}

export interface Run {
  readonly work: Work
  readonly faults: number
  readonly plant: string | null
  /** Of the phase of faults, as it was planned. */
  readonly seconds: number
  readonly loadFrom: number
  readonly faultsFrom: number
  readonly faultsTo: number
  readonly loadTo: number
  /** Clients were ended that had not done yet. */
  readonly loadCut: boolean
  /** Why it did not become quiet in time. */
  readonly notQuiet: ReadonlyArray<string>
  readonly quietAfterMs: number
  readonly injected: Injected
  readonly samples: Samples
}

export const readSnapshot = async (
  stack: Stack,
  plan: Plan,
  placed: ReadonlyMap<string, Planned>,
  earlier: ReadonlySet<Letter>
): Promise<Snapshot> => {
  const { records, ...world } = (await readWorld(stack, plan, placed)) as Omit<World, keyof Sagas> & Sagas
  // what was read is the tape's own, with keys
  const own = new Set(records)
  const all = stack.tape.records.filter((record) => own.has(record))
  // what comes again as it was shows nothing more
  const seen = new Set<string>()
  const lying = all.filter(
    ({ id, topic, type, injected }) => seen.size !== seen.add(`${id} ${topic} ${type} ${injected}`).size
  )
  const state = await readState(stack)
  return {
    world: {
      ...world,
      sagaLog: world.sagaLog.map(({ saga_id, position, at, state, step, attempt, cause_type, asked_type, reason }) => ({
        saga_id,
        position,
        at,
        state,
        step,
        attempt,
        cause_type,
        asked_type,
        reason
      })),
      records: lying.map(({ id, topic, type, key, injected, producer }) => ({
        id,
        topic,
        type,
        key: key?.toString() ?? "",
        injected,
        producer: producer ?? null
      }))
    },
    repetitions: all.length - lying.length,
    keys: [...(await keysOf(stack, "orders")), ...(await keysOf(stack, "sagas"))].filter(({ key }) =>
      key.startsWith(plan.prefix)
    ),
    letters: (await lettersOf(stack)).filter((letter) => !earlier.has(letter)),
    lettersDue: lettersDueOf(stack).filter((letter) => !earlier.has(letter)),
    commits: (await Promise.all(SERVICE_NAMES.map((name) => commitsOf(stack, SERVICES[name].database)))).flat(),
    written: writtenOn(stack.tape.records),
    republished: (
      await Promise.all(
        databases.map((name) => stack.database(name)<Array<{ id: string }>>`select id from campaign_republished`)
      )
    )
      .flat()
      .map(({ id }) => id),
    slots: await slotsOf(stack),
    state: Object.fromEntries(
      Object.entries(state).map(([table, rows]) => [table, `${rows.length} ${Bun.hash(rows.join("\n")).toString(36)}`])
    )
  }
}

const writtenOn = (records: ReadonlyArray<Taped>): ReadonlyArray<Written> => {
  const found = new Map<string, Omit<Written, "ids"> & { readonly ids: Array<string> }>()
  for (const record of records) {
    const { id, producer, at } = record
    if (producer === undefined) continue
    const partition = partitionOf(record)
    const name = `${producer} ${partition}`
    const known = found.get(name)
    if (known === undefined) found.set(name, { producer, partition, from: at, ids: [id] })
    else known.ids.push(id)
  }
  return [...found.values()]
}

const keysOf = async (stack: Stack, database: Database): Promise<ReadonlyArray<Kept>> =>
  (
    await stack.database(database)<Array<Kept>>`
      select key, reply ->> 'id' as "order", md5(reply::text) as digest
      from idempotency_keys
      where reply ->> 'id' is not null`
  ).map((row) => ({ ...row }))

export const lettersOf = async (stack: Stack): Promise<ReadonlyArray<Letter>> =>
  (
    await Promise.all(
      SERVICE_NAMES.map(async (name) => {
        const rows = await stack.database(SERVICES[name].database)<Array<{ letter: string }>>`
          select consumer || ' ' || topic || '/' || "partition" || '/' || "offset" as letter from dead_letters`
        return rows.map(({ letter }) => letter)
      })
    )
  ).flat()

/** Who has to park the poison that lies on the topics. */
const lettersDueOf = (stack: Stack): ReadonlyArray<Letter> => {
  const sorts = new Map(poisonFor(subscribers).map(({ sort, consumers }) => [sort, consumers]))
  return stack.tape.records.flatMap((record) => {
    const consumers = sorts.get(record.headers[injectedHeader]?.toString() ?? "") ?? []
    return consumers.map((consumer) => `${consumer} ${partitionOf(record)}/${record.offset}`)
  })
}

const commitsOf = async (stack: Stack, database: Database): Promise<ReadonlyArray<Commit>> =>
  (
    await stack.database(database)<Array<Omit<Commit, "database" | "at"> & { readonly at: string }>>`
      select id, topic, type, key, causation as cause,
             (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint::text as at,
             xmin::text as transaction,
             (row_number() over (
                order by substring(tableoid::regclass::text from '[0-9]+$')::bigint, ctid
              ))::int as place
      from outbox`
  ).map((row) => ({ ...row, database, at: Number(row.at) }))

const slotsOf = async (stack: Stack): Promise<ReadonlyArray<Slot>> =>
  (
    await stack.database("orders")<Array<{ name: string; active: boolean; lag: string }>>`
      select slot_name as name, active, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::text as lag
      from pg_replication_slots`
  ).map(({ name, active, lag }) => ({ name, active, lagBytes: Number(lag) }))
