/**
 * Rows on their way to Postgres: one array per column, which `unnest` puts together again. Postgres reads them two to three
 * times as fast as the same rows in JSON, and the statement's text does not depend on how many they are.
 */
export interface Column {
  readonly name: string
  /** As Postgres writes it, without a length: an explicit cast to varchar(3) would cut what an assignment refuses. */
  readonly type: string
  /** Its values are what JSON.stringify made. */
  readonly encoded?: true
}

export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** A table expression with these columns, called `r`. Its parameters begin at `$first`. */
export const unnested = (columns: ReadonlyArray<Column>, first = 1): string =>
  `unnest(${columns.map(({ type }, index) => `$${first + index}::${type}[]`).join(", ")}) as r(${columns.map(({ name }) => quoted(name)).join(", ")})`

/** The parameters of `unnested`. */
export const arraysOf = (columns: ReadonlyArray<Column>, rows: ReadonlyArray<object>): Array<string> =>
  columns.map(({ name, type, encoded = false }) => {
    const json = type === "jsonb" || type === "json"
    const element = encoded ? encodedOf : json ? jsonOf : elementOf
    return arrayOf(rows.map((row) => element((row as Readonly<Record<string, unknown>>)[name])))
  })

/** Texts as one parameter of an array type. */
export const textsOf = (texts: ReadonlyArray<string>): string => arrayOf(texts.map(escaped))

const arrayOf = (elements: ReadonlyArray<string>): string => `{${elements.join(",")}}`

const elementOf = (value: unknown): string => {
  if (value === null || value === undefined) return "NULL"
  if (typeof value === "string") return escaped(value)
  if (typeof value === "number") return String(value)
  if (value instanceof Date) return `"${value.toISOString()}"`
  return typeof value === "object" ? jsonOf(value) : escaped(String(value))
}

const jsonOf = (value: unknown): string =>
  value === null || value === undefined ? "NULL" : encodedOf(JSON.stringify(value))

// JSON.stringify leaves no control character as it is: its text as a JSON string is what an array's element must be.
const encodedOf = (json: unknown): string => JSON.stringify(json)

// Half of a surrogate pair has no UTF-8: it would be written as another character, silently. U+0000 makes Postgres refuse it.
const escaped = (text: string): string => {
  if (!text.isWellFormed()) return '"\u0000"'
  return /[\\"]/.test(text) ? `"${text.replace(/[\\"]/g, "\\$&")}"` : `"${text}"`
}
