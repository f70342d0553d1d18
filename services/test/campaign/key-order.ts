/** Whether the messages of a key came in the order in which they were committed. */
import type { Commit, Lying, Written } from "./dump.ts"
import type { Done } from "./nemesis.ts"

export interface Published {
  /** As they lie on the topics: each for the first time. */
  readonly records: ReadonlyArray<Lying>
  readonly commits: ReadonlyArray<Commit>
  readonly written: ReadonlyArray<Written>
  readonly done: ReadonlyArray<Done>
  /** By the auditor. */
  readonly republished: ReadonlyArray<string>
}

/**
 * Of each key the messages of a topic come in the order in which they were committed, as they come for the first time. There
 * are two exceptions, which are counted. What the auditor published came when it came, and nothing is told by its place. Of
 * two messages that a connector read from the table, after it had lost its offsets, the one that stands there first comes
 * first.
 */
export const keyOrder = (
  published: Published
): { readonly wrong: ReadonlyArray<string>; readonly excepted: number } => {
  const committed = new Map(published.commits.map((commit) => [commit.id, commit]))
  const read = readFromTable(published)
  const audited = new Set(published.republished)
  const seen = new Set<string>()
  const newest = new Map<string, { readonly commit: Commit; readonly fromTable: boolean }>()
  const wrong: Array<string> = []
  let excepted = 0
  for (const { id, topic, key, type, injected, producer } of published.records) {
    if (injected || seen.size === seen.add(id).size) continue
    const commit = committed.get(id)
    if (commit === undefined) continue
    const fromTable = read.has(nameOf(producer, id))
    const about = `${topic} ${key}`
    const before = newest.get(about)
    const inTurn = before === undefined || before.commit.at <= commit.at
    if (audited.has(id)) {
      if (!inTurn) excepted++
    } else if (inTurn) newest.set(about, { commit, fromTable })
    else if (before.commit.transaction !== commit.transaction) {
      if (fromTable && before.fromTable && before.commit.place < commit.place) excepted++
      else
        wrong.push(
          `${type} ${id} of ${key} comes after ${before.commit.id}, which was committed ${before.commit.at - commit.at} µs later`
        )
    }
  }
  return { wrong, excepted }
}

const nameOf = (producer: string | null, id: string): string => `${producer} ${id}`

/**
 * What tasks of connectors read from the table after the nemesis had taken their offsets: in each partition that with which a
 * task began, as long as it came as the rows stand in the table, had been committed before the task published anything, and
 * left out no row that was there by then. What a task reads from the log begins somewhere else, and leaves out what was before.
 */
const readFromTable = ({ commits, written, done, republished }: Omit<Published, "records">): ReadonlySet<string> => {
  const committed = new Map(commits.map((commit) => [commit.id, commit]))
  const rows = rowsOf(written, committed)
  const began = new Map<string, number>()
  for (const { producer, from } of written) began.set(producer, Math.min(from, began.get(producer) ?? from))
  const losses = done.filter((fault) => fault.class === "connector offsets")
  const audited = new Set(republished)
  return new Set(
    written.flatMap(({ producer, partition, ids }) => {
      const database = committed.get(ids[0] ?? "")?.database
      const from = began.get(producer) ?? 0
      if (!losses.some(({ target, startedAt }) => target === database && startedAt <= from)) return []
      const table = rows.get(`${partition} ${database}`) ?? []
      return beginning(ids, table, from, audited).map((id) => nameOf(producer, id))
    })
  )
}

/** The rows of each outbox that belong to a partition, as they stand in the table. */
const rowsOf = (
  written: ReadonlyArray<Written>,
  committed: ReadonlyMap<string, Commit>
): ReadonlyMap<string, ReadonlyArray<Commit>> => {
  const found = new Map<string, Map<string, Commit>>()
  for (const { partition, ids } of written)
    for (const id of ids) {
      const commit = committed.get(id)
      if (commit === undefined) continue
      const name = `${partition} ${commit.database}`
      const known = found.get(name)
      if (known === undefined) found.set(name, new Map([[id, commit]]))
      else known.set(id, commit)
    }
  return new Map([...found].map(([name, rows]) => [name, [...rows.values()].toSorted((a, b) => a.place - b.place)]))
}

const beginning = (
  ids: ReadonlyArray<string>,
  table: ReadonlyArray<Commit>,
  fromMs: number,
  audited: ReadonlySet<string>
): ReadonlyArray<string> => {
  const at = new Map(table.map(({ id }, n) => [id, n]))
  const last = new Map(ids.map((id, n) => [id, n]))
  let reached = -1
  let newest = Number.NEGATIVE_INFINITY
  let oldestLeftOut = Number.POSITIVE_INFINITY
  for (const [n, id] of ids.entries()) {
    const place = at.get(id) ?? -1
    const row = table[place]
    // the record's time is a whole number of milliseconds, rounded down
    if (row === undefined || place <= reached || row.at / 1_000 >= fromMs + 1) return ids.slice(0, n)
    for (const skipped of table.slice(reached + 1, place)) {
      // of two commits at the same moment the later one may be seen first: the other one comes from the log, or the auditor
      const comes = (last.get(skipped.id) ?? -1) > n || audited.has(skipped.id)
      if (!comes) oldestLeftOut = Math.min(oldestLeftOut, skipped.at)
    }
    newest = Math.max(newest, row.at)
    if (oldestLeftOut <= newest) return ids.slice(0, n)
    reached = place
  }
  return ids
}
