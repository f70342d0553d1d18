/**
 * Routes for who looks after a service's dead letters. What changes something takes its choice as JSON, which no page in a
 * browser of the same machine can send here unasked.
 */
import { Effect, Schema } from "effect"
import { Hono, type Context } from "hono"
import {
  ParkReason,
  type BulkOutcome,
  type LetterGroup,
  type LetterOutcome,
  type LetterSummary,
  type StoredDeadLetter,
  type StoreUnavailable
} from "oncebox"
import type { Edge } from "./edge.ts"
import { answer } from "./http.ts"
import { notFound, readBody, readPage, toPage } from "./request.ts"
import { problem, problemForNow, type Problem } from "./problem.ts"

/** How many letters a request takes when it does not say, and at most. */
const usualLimit = 100
const mostLetters = 1_000

/** How much of a record is shown. */
const shown = { bytes: 4_096, headers: 50, headerBytes: 512 }
const shownDetail = 300

const readsWithin = "10 seconds"
// below the server's idle timeout
const changesWithin = "45 seconds"

const Text = Schema.String.check(
  Schema.isPattern(/^[^\p{Cc}\p{Cs}]{1,512}$/u, { expected: "1 to 512 characters, none of them a control character" })
)
const Note = Schema.String.check(
  Schema.isPattern(/^[^\p{Cc}\p{Cs}]{1,500}$/u, { expected: "1 to 500 characters, none of them a control character" })
)
const Place = Schema.String.check(
  Schema.isPattern(/^[\w.-]{1,249}\/\d{1,9}\/\d{1,18}\/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
)
const Flag = Schema.Literals(["true", "false"])

const choice = {
  reason: Schema.optionalKey(ParkReason),
  type: Schema.optionalKey(Text),
  key: Schema.optionalKey(Text),
  topic: Schema.optionalKey(Text),
  limit: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: mostLetters })))
}
const Redrive = Schema.Struct({ ...choice, force: Schema.optionalKey(Schema.Boolean) })
const Discard = Schema.Struct({
  ...choice,
  note: Schema.optionalKey(Note),
  all: Schema.optionalKey(Schema.Literal(true))
})
const DiscardOne = Schema.Struct({ note: Schema.optionalKey(Note) })

export const deadLetterRoutes = ({ running: { deadLetters } }: Pick<Edge, "running">): Hono =>
  new Hono()
    .get(
      "/",
      answer(function* (c) {
        const filters = { reason: ParkReason, type: Text, key: Text, topic: Text, discarded: Flag }
        const page = yield* readPage(c, Place, filters)
        const { discarded, ...filter } = page.where
        const state = discarded === "true" ? "discarded" : "parked"
        const after = page.after === undefined ? {} : { after: placeOf(page.after) }
        const letters = yield* reading(deadLetters.list({ ...filter, ...after, state, limit: page.limit + 1 }))
        const groups = yield* reading(deadLetters.groups(filter))
        const { items, next } = toPage(letters, page, keyOf)
        return c.json({ groups: groups.map(groupView), items: items.map(letterView), next })
      })
    )
    .get(
      "/:id",
      answer(function* (c) {
        const id = c.req.param("id") ?? ""
        const letter = yield* reading(deadLetters.find(id))
        return letter === undefined ? yield* notFound(id) : c.json(wholeView(letter))
      })
    )
    .post(
      "/redrive",
      answer(function* (c) {
        const { limit = usualLimit, force = false, ...filter } = yield* readBody(c, Redrive)
        return c.json(bulkView(yield* changing(deadLetters.redriveAll(filter, { limit, force }))))
      })
    )
    .post(
      "/discard",
      answer(function* (c) {
        const { limit = usualLimit, note, all, ...filter } = yield* readBody(c, Discard)
        // it can't be undone
        if (Object.keys(filter).length === 0 && all === undefined) return yield* nothingChosen
        return c.json(bulkView(yield* changing(deadLetters.discardAll(filter, { limit, note }))))
      })
    )
    .post(
      "/:id/redrive",
      answer(function* (c) {
        const outcome = yield* one(c, changing(deadLetters.redrive([c.req.param("id") ?? ""])))
        if (outcome.outcome !== "discarded") return c.json(outcome)
        return yield* problem("discarded", `The message of ${outcome.id} is never to be decided.`)
      })
    )
    .post(
      "/:id/discard",
      answer(function* (c) {
        const { note } = hasBody(c) ? yield* readBody(c, DiscardOne) : {}
        return c.json(yield* one(c, changing(deadLetters.discard([c.req.param("id") ?? ""], note))))
      })
    )

const unavailable = problemForNow("unavailable", "The database did not answer. Try again in a moment.")

const reading = <A>(effect: Effect.Effect<A, StoreUnavailable>): Effect.Effect<A, Problem> =>
  effect.pipe(
    Effect.mapError(() => unavailable),
    Effect.timeoutOrElse({ duration: readsWithin, orElse: () => Effect.fail(unavailable) })
  )

const changing = <A>(effect: Effect.Effect<A, StoreUnavailable>): Effect.Effect<A, Problem> => {
  const detail = "Some letters may have been dealt with. Look at GET /dead-letters, and send the request again."
  const open = problemForNow("outcome-unknown", detail)
  return effect.pipe(
    Effect.mapError(() => open),
    Effect.timeoutOrElse({ duration: changesWithin, orElse: () => Effect.fail(open) })
  )
}

/** What came of the one letter of the path. */
const one = Effect.fnUntraced(function* (
  c: Context,
  outcomes: Effect.Effect<ReadonlyArray<LetterOutcome>, Problem>
): Effect.fn.Return<LetterOutcome, Problem> {
  const [outcome] = yield* outcomes
  return outcome === undefined || outcome.outcome === "unknown" ? yield* notFound(c.req.param("id") ?? "") : outcome
})

const hasBody = (c: Context): boolean => c.req.raw.body !== null || c.req.header("Content-Type") !== undefined

const nothingChosen = problem("invalid-request", "Some fields are not valid; `errors` names them.", [
  { field: "body", detail: "Expected a reason, type, key or topic; or all: true, to discard every one" }
])

/** The place of a letter as a cursor holds it. */
const keyOf = ({ topic, partition, offset, id }: LetterSummary): string => `${topic}/${partition}/${offset}/${id}`

const placeOf = (key: string) => {
  const [topic = "", partition = "", offset = "", id = ""] = key.split("/")
  return { topic, partition: Number(partition), offset: BigInt(offset), id }
}

const firstLine = (detail: string): string => (detail.split("\n", 1)[0] ?? "").slice(0, shownDetail).toWellFormed()

const groupView = ({ oldest, newest, ...group }: LetterGroup) => ({
  ...group,
  oldest: oldest.toISOString(),
  newest: newest.toISOString()
})

const bulkView = ({ letters, left, heldBack }: BulkOutcome) => ({
  ...Object.fromEntries(
    (["decided", "parked", "discarded", "settled"] as const).map((name) => [
      name,
      letters.filter(({ outcome }) => outcome === name).length
    ])
  ),
  left,
  heldBack,
  letters: letters.map((letter) =>
    letter.detail === undefined ? letter : { ...letter, detail: firstLine(letter.detail) }
  )
})

type State = Pick<LetterSummary, "parkedAt" | "redriven" | "discardedAt" | "note">

const stateView = ({ parkedAt, redriven, discardedAt, note }: State) => ({
  parkedAt: parkedAt.toISOString(),
  redriven,
  discardedAt: discardedAt?.toISOString() ?? null,
  note
})

const letterView = ({ id, type, key, reason, detail, topic, partition, offset, bytes, ...state }: LetterSummary) => ({
  id,
  reason,
  type,
  key,
  topic,
  partition,
  offset: String(offset),
  bytes,
  detail: firstLine(detail),
  ...stateView(state)
})

const wholeView = ({ id, type, key, reason, detail, record, ...state }: StoredDeadLetter) => ({
  id,
  reason,
  type,
  key,
  topic: record.topic,
  partition: record.partition,
  offset: String(record.offset),
  ...stateView(state),
  detail,
  recordKey: preview(record.key, shown.headerBytes),
  headers: Object.entries(record.headers)
    .flatMap(([name, values]) => [values].flat().map((value) => ({ name, value })))
    .slice(0, shown.headers)
    .map(({ name, value }) => ({
      name: name.slice(0, shown.headerBytes).toWellFormed(),
      ...preview(typeof value === "string" ? Buffer.from(value) : (value ?? null), shown.headerBytes)
    })),
  value: preview(record.value, shown.bytes)
})

const utf8 = new TextDecoder("utf-8", { fatal: true })

/** The beginning of some bytes: as text when all of them are, else in base64. */
const preview = (bytes: Uint8Array | null, most: number) => {
  if (bytes === null) return null
  try {
    return { bytes: bytes.length, text: utf8.decode(bytes).slice(0, most).toWellFormed() }
  } catch {
    return { bytes: bytes.length, base64: Buffer.from(bytes.subarray(0, most)).toString("base64") }
  }
}
