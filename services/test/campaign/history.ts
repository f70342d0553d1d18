/** What clients asked and were told, one line each, in the order in which it happened to them. */
import { readFileSync } from "node:fs"

/**
 * `ok` is an answer, `fail` is certain to have done nothing, `info` is not known: a timeout, a connection that broke, a
 * service that does not know either.
 */
export interface Event {
  readonly at: number
  readonly op: number
  readonly type: "invoke" | "ok" | "fail" | "info"
  readonly f: "place" | "cancel" | "read"
  /** The client's, which is its order's Idempotency-Key. */
  readonly key: string
  /** Of an answer. */
  readonly status?: number
  readonly order?: string
  /** The same for equal bodies. */
  readonly digest?: string
  /** Of the order that was read. */
  readonly state?: string
  readonly error?: string
}

export const readLines = <A>(file: string): ReadonlyArray<A> =>
  readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    // written by a process of the campaign
    .map((line) => JSON.parse(line) as A)

/** The same text for values that are equal, whatever the order of their fields. */
export const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner
  )
