/** Reading a request: body, ids, pages and headers. What is not as it must be fails with a problem naming it. */
import { Effect, Exit, Schema, SchemaIssue } from "effect"
import type { Context } from "hono"
import { type FieldError, Problem, problem } from "./problem.ts"
import { etagOf, type Precondition } from "./version.ts"

/** The longest body that is read. */
export const bodyLimitBytes = 64 * 1024

/** The longest a client may ask to wait for an outcome. */
const longestWaitSeconds = 30

// a body of 64 kB can break a schema thousands of times
const maxFieldErrors = 20
const maxFieldLength = 100

/** The body, decoded. Fields that the schema does not know are refused. */
export const readBody = Effect.fnUntraced(function* <A>(
  c: Context,
  schema: Schema.Codec<A, unknown>
): Effect.fn.Return<A, Problem> {
  if (!isJson(c.req.header("Content-Type"))) {
    return yield* problem("unsupported-media-type", "Send the body as application/json, in UTF-8.")
  }
  const parsed = yield* Effect.tryPromise({
    try: async (): Promise<unknown> =>
      JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await c.req.arrayBuffer())),
    catch: (cause) => problem("invalid-json", cause instanceof Error ? cause.message : "It could not be read.")
  })
  return yield* decode(schema, parsed, "body")
})

/** An id out of the path. One that can't be an id is as unknown as any other. */
export const pathId = (
  c: Context,
  schema: Schema.Codec<string, unknown>,
  name = "id"
): Effect.Effect<string, Problem> => {
  const id = c.req.param(name) ?? ""
  return Schema.is(schema)(id) ? Effect.succeed(id) : Effect.fail(notFound(id))
}

export const notFound = (id: string): Problem => problem("not-found", `Nothing is known under ${JSON.stringify(id)}.`)

/** One page of a list: how many items, the key of the last item seen before, and what the items are to have in common. */
export interface Page<Filters extends object = object> {
  readonly limit: number
  readonly after: string | undefined
  readonly where: Filters
}

/** A query parameter that a list is filtered by. */
type Filter = Schema.Codec<string, string>
type FiltersOf<F extends Readonly<Record<string, Filter>>> = { readonly [K in keyof F]?: F[K]["Type"] }

/**
 * What `?limit=`, `?cursor=` and the list's own filters ask for. `key` is the schema of the list's keys, `filters` has a
 * schema for each other parameter that the list takes; one that the client did not send is missing from `where`.
 */
export const readPage = Effect.fnUntraced(function* <const F extends Readonly<Record<string, Filter>> = {}>(
  c: Context,
  key: Schema.Codec<string, unknown>,
  filters?: F
): Effect.fn.Return<Page<FiltersOf<F>>, Problem> {
  const query = Object.fromEntries(
    Object.entries(c.req.queries()).map(([name, values]) => [name, values.length === 1 ? values[0] : values])
  )
  const wanted = Object.entries(filters ?? {}).map(([name, schema]) => [name, Schema.optionalKey(schema)] as const)
  const schema = Schema.Struct({ ...pageQuery, ...Object.fromEntries(wanted) })
  const { limit, cursor, ...where } = yield* decode(schema, query, "query")
  const after = cursor === undefined ? undefined : Buffer.from(cursor, "base64url").toString("utf8")
  if (after !== undefined && !Schema.is(key)(after)) {
    return yield* invalid([{ field: "cursor", detail: "Expected the `next` of the page before" }])
  }
  // what is left was decoded by the filters, name by name
  return { limit: limit === undefined ? 20 : Number(limit), after, where: where as FiltersOf<F> }
})

const pageQuery = {
  limit: Schema.optionalKey(
    Schema.String.check(Schema.isPattern(/^([1-9]\d?|100)$/, { expected: "a whole number between 1 and 100" }))
  ),
  cursor: Schema.optionalKey(
    Schema.String.check(Schema.isPattern(/^[A-Za-z0-9_-]{1,200}$/, { expected: "the `next` of the page before" }))
  )
}

/** A list's answer, from the page's items and, if there are more, one of the next page. An item's key is its id. */
export const toPage = <A extends { readonly id: string }>(
  items: ReadonlyArray<A>,
  { limit }: Page,
  keyOf: (item: A) => string = ({ id }) => id
) => {
  const last = items.length > limit ? items[limit - 1] : undefined
  return {
    items: items.slice(0, limit),
    next: last === undefined ? null : Buffer.from(keyOf(last), "utf8").toString("base64url")
  }
}

/** How many seconds `Prefer: wait=…` (RFC 7240) asks to wait, 0 without it. What can't be read is no preference. */
export const preferredWaitSeconds = (c: Context): number => {
  const wait = /(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:[;,]|$)/i.exec(c.req.header("Prefer") ?? "")?.[1]
  return wait === undefined ? 0 : Math.min(Number(wait), longestWaitSeconds)
}

/** The client's Idempotency-Key, undefined without one. */
export const idempotencyKey = (c: Context): Effect.Effect<string | undefined, Problem> => {
  const key = c.req.header("Idempotency-Key")
  // the draft writes it as a quoted string
  const bare = key?.replace(/^"(.*)"$/, "$1")
  return bare === undefined || /^[A-Za-z0-9_-]{1,64}$/.test(bare)
    ? Effect.succeed(bare)
    : Effect.fail(problem("invalid-header", "Idempotency-Key must have 1 to 64 characters of A-Z a-z 0-9 _ and -."))
}

/** What If-Match (RFC 9110) asks for, undefined without it. */
export const ifMatch = (c: Context): Effect.Effect<Precondition | undefined, Problem> => {
  const header = c.req.header("If-Match")?.trim()
  if (header === undefined || header === "*") return Effect.succeed(header)
  return entityTags.test(header)
    ? Effect.succeed(header.match(entityTag) ?? [])
    : Effect.fail(problem("invalid-header", 'If-Match must be *, or ETags with their quotes, such as "3".'))
}

const entityTag = /(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"/g
const entityTags = new RegExp(`^${entityTag.source}(?:\\s*,\\s*${entityTag.source})*$`)

/** What If-Match asks for, where an edit must say what it is meant for. */
export const requiredIfMatch = (c: Context): Effect.Effect<Precondition, Problem> =>
  Effect.flatMap(ifMatch(c), (precondition) =>
    precondition === undefined
      ? Effect.fail(problem("precondition-required", "Send If-Match with the ETag of the version that you edit."))
      : Effect.succeed(precondition)
  )

/** The edit was meant for another version than the one that is there. */
export const stale = (version: number): Problem => {
  const ETag = etagOf(version)
  const detail = `Nothing was done: the version is ${ETag} now. Read it again before you edit it.`
  return new Problem({ kind: "precondition-failed", detail, headers: { ETag } })
}

/** The W3C trace context, if it is one: a caller's mistake in it must not cost it the answer. */
export const traceparent = (c: Context): string | undefined => {
  const header = c.req.header("traceparent") ?? ""
  const valid = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(header)
  return valid ? header : undefined
}

const isJson = (contentType: string | undefined): boolean =>
  /^application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$/i.test(contentType?.trim() ?? "")

const decode = <A>(schema: Schema.Codec<A, unknown>, input: unknown, whole: string): Effect.Effect<A, Problem> => {
  const exit = Schema.decodeUnknownExit(schema)(input, { errors: "all", onExcessProperty: "error" })
  if (Exit.isSuccess(exit)) return Effect.succeed(exit.value)
  const reason = exit.cause.reasons[0]
  if (reason?._tag !== "Fail") return Effect.die(exit.cause)
  return Effect.fail(invalid(fieldErrors(reason.error.issue, whole)))
}

const invalid = (errors: ReadonlyArray<FieldError>): Problem =>
  problem("invalid-request", "Some fields are not valid; `errors` names them and what is allowed.", errors)

const fieldErrors = (issue: SchemaIssue.Issue, whole: string): ReadonlyArray<FieldError> =>
  format(issue)
    .issues.slice(0, maxFieldErrors)
    .map(({ path, message }) => ({ field: fieldName(path).slice(0, maxFieldLength) || whole, detail: message }))

const format = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: (issue) => {
    if (issue._tag === "MissingKey") return "Expected a value, it is missing"
    if (issue._tag !== "UnexpectedKey") return SchemaIssue.defaultLeafHook(issue)
    const known = issue.ast._tag === "Objects" ? issue.ast.propertySignatures.map(({ name }) => String(name)) : []
    return `Expected no such field; allowed are ${known.join(", ")}`
  }
})

/** `items[0].quantity` */
const fieldName = (path: SchemaIssuePath): string =>
  (path ?? []).reduce<string>((name, step) => {
    const part = typeof step === "object" ? step.key : step
    return typeof part === "number" ? `${name}[${part}]` : name === "" ? String(part) : `${name}.${String(part)}`
  }, "")

type SchemaIssuePath = ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined
