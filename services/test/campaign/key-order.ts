/** Whether the messages of a key came in the order in which they were committed. */
import type { Commit, Lying } from "./dump.ts"
import type { Done } from "./nemesis.ts"

/**
 * How long before and after its connector lost its offsets a message may have been published out of turn: on a busy machine
 * its snapshot began 20 s after it was resumed (2026-11-21).
 */
const republishedMs = 60_000

/**
 * Of each key the messages of a topic come in the order in which they were committed, as they come for the first time. What
 * was committed around the time when its connector lost its offsets is published in the order of the table, and what the
 * auditor published again came when it came: both are counted.
 */
export const keyOrder = (
  records: ReadonlyArray<Lying>,
  commits: ReadonlyArray<Commit>,
  done: ReadonlyArray<Done>,
  republished: ReadonlyArray<string> = []
): { readonly wrong: ReadonlyArray<string>; readonly excepted: number } => {
  const committed = new Map(commits.map((commit) => [commit.id, commit]))
  const losses = done.filter((fault) => fault.class === "connector offsets")
  const around = ({ database, at }: Commit): boolean =>
    losses.some(
      ({ target, startedAt, readyAt }) =>
        target === database && at / 1_000 > startedAt - republishedMs && at / 1_000 < readyAt + republishedMs
    )
  const audited = new Set(republished)
  const seen = new Set<string>()
  const newest = new Map<string, Commit>()
  const wrong: Array<string> = []
  let excepted = 0
  for (const { id, topic, key, type, injected } of records) {
    if (injected || seen.size === seen.add(id).size) continue
    const commit = committed.get(id)
    if (commit === undefined) continue
    const place = `${topic} ${key}`
    const before = newest.get(place)
    if (before === undefined || before.at <= commit.at) newest.set(place, commit)
    else if (before.transaction !== commit.transaction) {
      if (around(commit) || around(before) || audited.has(id) || audited.has(before.id)) excepted++
      else
        wrong.push(
          `${type} ${id} of ${key} comes after ${before.id}, which was committed ${before.at - commit.at} µs later`
        )
    }
  }
  return { wrong, excepted }
}
