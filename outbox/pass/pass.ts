/**
 * A pass: a batch of messages, requests or due rows, decided in order and committed in one transaction.
 *
 * All of it takes effect or none of it. A crash before the commit leaves nothing; after it, the messages' ids are
 * in the inbox, so that what the broker delivers again falls out here. A message whose decision throws, or whose
 * rows Postgres refuses, is parked alone and spoils no other; trouble of the store fails the pass and parks nothing.
 */
import { Clock, Effect } from "effect"
import { Pass } from "./deciding.ts"
import type { Fault, Faults, Input, Outcome, PassEnvironment } from "./inputs.ts"
import { RowRefused, type StoreError, type Transaction } from "../store/store.ts"

/** Runs the inputs in order, in as few transactions as their faults allow. One outcome for each input. */
export const runPass = (
  environment: PassEnvironment,
  inputs: ReadonlyArray<Input>
): Effect.Effect<ReadonlyArray<Outcome>, StoreError> =>
  Effect.uninterruptible(decideAll(environment, inputs, new Map()))

/** How often a pass may lose the race for an absent row: with each try it starts from what is committed by then. */
export const mostTries = 20

export const keyNotFound = (table: string) =>
  new RowRefused({ table, message: "a key is taken and yet no row was found by it" })

const decideAll = (
  environment: PassEnvironment,
  inputs: ReadonlyArray<Input>,
  faults: Faults,
  tries = 1
): Effect.Effect<ReadonlyArray<Outcome>, StoreError> =>
  Effect.matchEffect(attempt(environment, inputs, faults), {
    onSuccess: (result) => {
      if (result._tag === "faulty") return decideAll(environment, inputs, new Map([...faults, ...result.faults]))
      if (result._tag === "committed") return Effect.succeed(result.outcomes)
      return inParts(environment, [inputs.slice(0, result.before), inputs.slice(result.before)], faults)
    },
    onFailure: (error) => {
      if (error._tag === "StoreUnavailable") return Effect.fail(error)
      if (error._tag === "RowRefused") return withoutRefused(environment, inputs, faults, error)
      // the next load finds the row, unless its key is in another form than Postgres returns it in
      return tries < mostTries
        ? decideAll(environment, inputs, faults, tries + 1)
        : withoutRefused(environment, inputs, faults, keyNotFound(error.table))
    }
  })

/** Finds out whose row was refused, one input at a time, and decides the others. */
const withoutRefused = (
  environment: PassEnvironment,
  inputs: ReadonlyArray<Input>,
  faults: Faults,
  refused: RowRefused
): Effect.Effect<ReadonlyArray<Outcome>, StoreError> => {
  const [only] = inputs
  if (inputs.length === 1 && only !== undefined && !faults.has(only)) {
    const fault: Fault = { reason: "row-refused", detail: `${refused.table}: ${refused.message}` }
    return decideAll(environment, inputs, new Map([[only, fault]]))
  }
  if (inputs.length <= 1) return Effect.die(refused)
  const one = inputs.map((input) => [input])
  return inParts(environment, one, faults)
}

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
    yield* transaction.commit(pass.writes())
    environment.committed(pass.outbox, pass.asked())
    return { _tag: "committed", outcomes: pass.outcomes }
  }).pipe(Effect.onError(() => transaction.rollback))
})

const faulty = (pass: Pass): Attempt => ({ _tag: "faulty", faults: pass.newFaults })

export const loadRest = Effect.fnUntraced(function* (pass: Pass, transaction: Transaction) {
  for (let loads = pass.nextLoads(); loads.length > 0; loads = pass.nextLoads()) {
    pass.loaded(loads, yield* transaction.load(loads))
  }
})
