/**
 * Tables as a participant sees them: rows by key, loaded before it decides and written back after.
 *
 * Names of columns are names of fields, values are what Postgres' types map to: text and uuid as string,
 * int and bigint as number (they must stay below 2^53), timestamptz as Date, jsonb as its JSON.
 */
import { Schema } from "effect"

/**
 * `rows` are loaded with a lock, changed and written back. A `log` is append-only: its rows are written and never
 * loaded. Rows of a `reference` never change: they are loaded without a lock.
 */
export type TableKind = "rows" | "log" | "reference"

/** A table with one key column. */
export interface Table<Row extends object> {
  readonly name: string
  readonly kind: TableKind
  readonly key: keyof Row & string
  readonly columns: ReadonlyArray<string>
  readonly decode: (row: unknown) => Row
}

// Row is contravariant in nothing but `key`; `never` keys make every table fit a registry of tables.
export type AnyTable = Omit<Table<object>, "key"> & { readonly key: string }
export type Tables = Readonly<Record<string, AnyTable>>
export type RowOf<T> = T extends { readonly decode: (row: unknown) => infer Row } ? Row : never

/** The rows a decision may read. Reading a key that its `touches` did not name is a bug, and says so. */
export type Rows<T extends Tables> = {
  readonly [K in keyof T]: { readonly get: (key: string) => RowOf<T[K]> | undefined }
}

/** The rows a decision leaves behind, whole, by table. */
export type Puts<T extends Tables> = { readonly [K in keyof T]?: ReadonlyArray<RowOf<T[K]>> }

const make =
  (kind: TableKind) =>
  <Fields extends Schema.Struct.Fields>(
    name: string,
    options: { readonly key: keyof Fields & string; readonly row: Fields }
  ): Table<Schema.Struct.Type<Fields>> => {
    type Row = Schema.Struct.Type<Fields>
    const columns = Object.entries(options.row).map(([column, field]) => [column, columnOf(field)])
    const row = Schema.Struct(Object.fromEntries(columns) as Fields)
    const decode = Schema.decodeUnknownSync(row as unknown as Schema.Codec<Row, Row>)
    return {
      name,
      kind,
      key: options.key as keyof Row & string,
      columns: Object.keys(options.row),
      decode: (row) => decode(row)
    }
  }

const time = Schema.ObjectKeyword.pipe(
  Schema.refine((value: object): value is Date => value instanceof Date, { expected: "a Date" })
)

/** The same column, with a plain check in place of the declared `Schema.Date`: rows with times decode in a third of the time (2026-11-21). */
const columnOf = (field: Schema.Struct.Fields[string]): Schema.Struct.Fields[string] => {
  const { ast } = field
  if (ast === Schema.Date.ast) return time
  const isNullable = ast._tag === "Union" && ast.checks === undefined && ast.types.length === 2
  return isNullable && ast.types[0] === Schema.Date.ast && ast.types[1]?._tag === "Null" ? Schema.NullOr(time) : field
}

export const Table = {
  /** Rows that decisions load by key, change and write back. */
  make: make("rows"),
  /** Append-only rows, such as a ledger or a history. `key` names the column that says whose entries they are. */
  log: make("log"),
  /** Rows that decisions look up and never change, such as a price list kept by somebody else. */
  reference: make("reference")
}

/** A decision asked for a row that was not loaded. When it is not the pass's first message, the pass is cut there. */
export class NotLoaded extends Error {
  override readonly name = "NotLoaded"
  constructor(table: string, key: string) {
    super(`${table} ${JSON.stringify(key)} was read but not named in touches`)
  }
}

interface Loaded {
  /** What the database held, `undefined` when the row was absent. */
  readonly stored: object | undefined
  current: object | undefined
}

/**
 * The rows of one pass. Changes of a decision are applied only once it returned, so a decision that throws
 * leaves nothing behind.
 */
export class WorkingSet {
  private readonly rows: Map<AnyTable, Map<string, Loaded>>
  private readonly appended = new Map<AnyTable, Array<object>>()

  constructor(private readonly tables: Tables) {
    this.rows = new Map(Object.values(tables).map((table) => [table, new Map<string, Loaded>()]))
  }

  /** What decisions read through; one view for the whole pass. */
  readonly view = (): Rows<Tables> => {
    const view: Record<string, { get: (key: string) => object | undefined }> = {}
    for (const [name, table] of Object.entries(this.tables)) view[name] = { get: (key) => this.get(table, key) }
    return view
  }

  /** The keys of `keys` that are not loaded yet. */
  missing(table: AnyTable, keys: Iterable<string>): Array<string> {
    const loaded = this.of(table)
    const missing = new Set<string>()
    for (const key of keys) if (!loaded.has(key)) missing.add(key)
    return [...missing]
  }

  /** Remembers what the database answered for `keys`; a key without a row is remembered as absent. */
  add(table: AnyTable, keys: ReadonlyArray<string>, rows: ReadonlyArray<object>): void {
    const loaded = this.of(table)
    for (const row of rows) {
      const stored = table.decode(row)
      loaded.set(keyOf(table, stored), { stored, current: stored })
    }
    for (const key of keys) if (!loaded.has(key)) loaded.set(key, { stored: undefined, current: undefined })
  }

  private get(table: AnyTable, key: string): object | undefined {
    const loaded = this.of(table).get(key)
    if (loaded === undefined) throw new NotLoaded(table.name, key)
    return loaded.current
  }

  /** Applies what a decision put. Checks all of it first: all or nothing. */
  apply(puts: Puts<Tables>): void {
    const entries = Object.entries(puts).map(([name, rows]) => {
      const table = this.tables[name]
      if (table === undefined) throw new Error(`put names ${name}, which is no table of this participant`)
      const decoded = (rows ?? []).map((row) => table.decode(row))
      for (const row of table.kind === "log" ? [] : decoded) {
        const loaded = this.of(table).get(keyOf(table, row))
        if (loaded === undefined) throw new NotLoaded(table.name, keyOf(table, row))
        if (table.kind === "reference" && loaded.current !== undefined) {
          throw new Error(`${table.name} ${keyOf(table, row)} is a reference and can't be changed`)
        }
      }
      return [table, decoded] as const
    })
    for (const [table, rows] of entries) {
      if (table.kind === "log") {
        const appended = this.appended.get(table)
        if (appended === undefined) this.appended.set(table, [...rows])
        else appended.push(...rows)
        continue
      }
      for (const row of rows) {
        const loaded = this.of(table).get(keyOf(table, row))
        if (loaded === undefined) continue
        loaded.current = row
      }
    }
  }

  /** What to write: rows absent at load are inserted, those that differ from what was loaded updated, log entries appended. */
  changes(): Array<{
    readonly table: AnyTable
    readonly inserts: ReadonlyArray<object>
    readonly updates: ReadonlyArray<object>
    readonly changed: ReadonlySet<string>
  }> {
    const changes = []
    for (const [table, rows] of this.rows) {
      const inserts: Array<object> = [...(this.appended.get(table) ?? [])]
      const updates: Array<object> = []
      const changed = new Set<string>()
      for (const { stored, current } of rows.values()) {
        if (current === undefined || current === stored) continue
        if (stored === undefined) inserts.push(current)
        else if (noteChanged(table, stored, current, changed)) updates.push(current)
      }
      if (inserts.length > 0 || updates.length > 0) changes.push({ table, inserts, updates, changed })
    }
    return changes
  }

  private of(table: AnyTable): Map<string, Loaded> {
    const rows = this.rows.get(table)
    if (rows === undefined) throw new Error(`${table.name} is no table of this participant`)
    return rows
  }
}

/** Notes the columns in which two versions of a row differ; false when there is none. An object within a row is another unless it is the same. */
const noteChanged = (table: AnyTable, stored: object, current: object, changed: Set<string>): boolean => {
  const before = stored as Readonly<Record<string, unknown>>
  const after = current as Readonly<Record<string, unknown>>
  let different = false
  for (const column of table.columns) {
    if (same(before[column], after[column])) continue
    changed.add(column)
    different = true
  }
  return different
}

const same = (one: unknown, other: unknown): boolean =>
  Object.is(one, other) || (one instanceof Date && other instanceof Date && one.getTime() === other.getTime())

/** A row's key as text. */
export const keyOf = (table: AnyTable, row: object): string =>
  String((row as Readonly<Record<string, unknown>>)[table.key])
