/**
 * Rows on their way to Postgres: one array per column, which `unnest` puts together again. Postgres reads them two to three
 * times as fast as the same rows in JSON, and the statement's text does not depend on how many they are.
 */
export interface Column {
  readonly name: string
  /** As Postgres writes it, without a length: an explicit cast to varchar(3) would cut what an assignment refuses. */
  readonly type: string
}

export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** A table expression with these columns, called `r`. Its parameters begin at `$first`. */
export const unnested = (columns: ReadonlyArray<Column>, first = 1): string =>
  `unnest(${columns.map(({ type }, index) => `$${first + index}::${type}[]`).join(", ")}) as r(${columns.map(({ name }) => quoted(name)).join(", ")})`

/** The parameters of `unnested`. */
export const arraysOf = (columns: ReadonlyArray<Column>, rows: ReadonlyArray<object>): Array<string> =>
  columns.map(({ name, type }) => {
    const json = type === "jsonb" || type === "json"
    return arrayOf(rows.map((row) => elementOf((row as Readonly<Record<string, unknown>>)[name], json)))
  })

/** Texts as one parameter of an array type. */
export const textsOf = (texts: ReadonlyArray<string>): string => arrayOf(texts.map(escaped))

const arrayOf = (elements: ReadonlyArray<string>): string => `{${elements.join(",")}}`

const elementOf = (value: unknown, json: boolean): string => {
  if (value === null || value === undefined) return "NULL"
  if (json) return escaped(JSON.stringify(value))
  if (typeof value === "string") return escaped(value)
  if (value instanceof Date) return escaped(value.toISOString())
  return typeof value === "object" ? escaped(JSON.stringify(value)) : escaped(String(value))
}

// Half of a surrogate pair has no UTF-8: it would be written as another character, silently. U+0000 makes Postgres refuse it.
const escaped = (text: string): string => `"${text.isWellFormed() ? text.replace(/[\\"]/g, "\\$&") : "\u0000"}"`
