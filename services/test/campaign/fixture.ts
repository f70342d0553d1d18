/** What the checker's tests judge: a run in which nothing happened, and what they put into it. */
import type { Commit, Kept, Lying, Run, Snapshot } from "./dump.ts"
import type { Event } from "./history.ts"
import type { Done } from "./nemesis.ts"
import type { Evidence } from "./verdict.ts"

export const event = (given: Partial<Event> & Pick<Event, "type">): Event => ({
  at: 0,
  op: 1,
  f: "place",
  key: "k1",
  ...given
})

export const kept = (key: string, order: string): Kept => ({ key, order, digest: "x" })

export const snapshotOf = (world: Partial<Snapshot["world"]>): Snapshot => ({
  world: {
    orders: [],
    history: [],
    products: [],
    reservations: [],
    accounts: [],
    payments: [],
    ledger: [],
    users: [],
    shipments: [],
    sagas: [],
    sagaLog: [],
    outbox: [],
    inbox: [],
    letters: [],
    charges: [],
    records: [],
    ...world
  },
  repetitions: 0,
  keys: [],
  letters: [],
  lettersDue: [],
  commits: [],
  written: [],
  republished: [],
  slots: [],
  state: {}
})

export const record = (id: string, given: Partial<Lying> = {}): Lying => ({
  id,
  topic: "t",
  type: "T",
  key: "o1",
  injected: false,
  producer: "7",
  ...given
})

export const commit = (id: string, at: number, given: Partial<Commit> = {}): Commit => ({
  id,
  database: "orders",
  at,
  transaction: id,
  topic: "orders-events",
  type: "T",
  key: "o1",
  cause: null,
  place: at,
  ...given
})

/** A connector that lost its offsets, for ten milliseconds. */
export const fault: Done = {
  id: 1,
  class: "connector offsets",
  target: "orders",
  atMs: 0,
  lastsMs: 0,
  seed: 1,
  startedAt: 0,
  healedAt: 10,
  readyAt: 10,
  failure: null
}

export const run: Run = {
  work: { name: "p", count: 20, seed: 1, cancelledPercent: 20 },
  faults: 1,
  plant: null,
  seconds: 1,
  loadFrom: 0,
  faultsFrom: 0,
  faultsTo: 1_000,
  loadTo: 1_000,
  loadCut: false,
  notQuiet: [],
  quietAfterMs: 5,
  injected: { records: 10, copies: 1, again: 1 },
  samples: { counters: { order: { duplicates: 1 } }, ledger: [], negative: [], looks: 1, memory: {}, connections: 1 }
}

export const evidence: Evidence = {
  run,
  plan: { prefix: "p_", products: [], refused: [], accounts: [], orders: [] },
  patient: new Set(),
  subscribers: [],
  schedule: [fault],
  done: [fault],
  history: [],
  snapshot: snapshotOf({}),
  replayed: null
}
