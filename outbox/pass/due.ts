/** A pass of rows that are due. They are found and locked inside of it; a row whose decision is at fault stays due. */
import { Effect } from "effect"
import { Pass } from "./deciding.ts"
import type { DueInput, PassEnvironment, RequestInput } from "./inputs.ts"
import { keyNotFound, loadRest, mostTries } from "./pass.ts"
import type { StoreError } from "../store/store.ts"

export interface DueResult {
  readonly decided: number
  /** Rows whose decision is at fault: nothing was written for them, they stay due. */
  readonly failed: ReadonlyArray<{ readonly key: string; readonly detail: string }>
  /** Rows that another build must decide: they stay due, too. */
  readonly left: ReadonlyArray<{ readonly key: string; readonly detail: string }>
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
    due: { table: input.table, limit: input.limit, skip: [...skip] },
    loads: []
  })
  return yield* Effect.gen(function* (): Effect.fn.Return<DueResult, StoreError> {
    const inputs = transaction.due.map((row) => dueRow(input, row, environment.newId()))
    const pass = new Pass(environment, inputs, new Map(), transaction.now.getTime())
    pass.working.add(input.table, [], transaction.due)
    yield* loadRest(pass, transaction)
    pass.decide(transaction)
    const failed: Array<DueResult["failed"][number]> = []
    const left: Array<DueResult["left"][number]> = []
    for (const row of inputs) {
      const fault = pass.newFaults.get(row)
      if (fault === undefined) continue
      const { detail, ofOtherBuild = false } = fault
      ;(ofOtherBuild ? left : failed).push({ key: row.cause.key, detail })
    }
    const [only] = inputs
    yield* transaction
      .commit(pass.writes())
      .pipe(
        Effect.catchTag("RowRefused", (refused) =>
          inputs.length === 1 && only !== undefined
            ? Effect.sync(
                () => void failed.push({ key: only.cause.key, detail: `${refused.table}: ${refused.message}` })
              )
            : Effect.fail(refused)
        )
      )
    if (failed.length === 0 || inputs.length > 1) environment.committed(pass.outbox, pass.asked())
    return { decided: pass.outcomes.length - failed.length - left.length, failed, left }
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
      definition: null,
      traceparent: null
    },
    causation: null,
    payload: decoded,
    handler: input.handler,
    idempotencyKey: "",
    fingerprint: ""
  }
}
