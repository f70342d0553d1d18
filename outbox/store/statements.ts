/** The statements of a participant's tables, made from what Postgres says the columns are. */
import { arraysOf, quoted, textsOf, unnested, type Column } from "./arrays.ts"
import type { Sql } from "./connection.ts"
import type { AnyTable } from "../table.ts"

export interface Prepared {
  readonly text: string
  readonly parameters: ReadonlyArray<string>
}

export interface TableStatements {
  /** Rows by key, locked in key order unless they never change. */
  readonly load: (keys: ReadonlyArray<string>) => Prepared
  /** Rows whose due_at has passed. $1: how many. $2: the keys of those to pass over. */
  readonly due: string
  readonly insert: (rows: ReadonlyArray<object>) => Prepared
  /** Writes these columns of the rows. */
  readonly update: (rows: ReadonlyArray<object>, changed: ReadonlySet<string>) => Prepared
  /** The name of the primary key's constraint. */
  readonly primaryKey: string | undefined
}

/** Looks the tables up; `missing` says which table or column the database does not have. */
export const statementsOf = async (
  sql: Sql,
  tables: ReadonlyArray<AnyTable>
): Promise<{ readonly statements: ReadonlyMap<AnyTable, TableStatements> } | { readonly missing: string }> => {
  const statements = new Map<AnyTable, TableStatements>()
  for (const table of tables) {
    const columns = await sql<Array<Column>>`
      select attname as name, format_type(atttypid, -1) as type
      from pg_attribute
      where attrelid = to_regclass(${table.name}) and attnum > 0 and not attisdropped`
    const [primaryKey] = await sql<Array<{ name: string }>>`
      select conname as name
      from pg_constraint
      where conrelid = to_regclass(${table.name}) and contype = 'p'`
    const known = new Map(columns.map((column) => [column.name, column]))
    const missing = table.columns.filter((column) => !known.has(column))
    if (columns.length === 0)
      return { missing: `table ${table.name} does not exist or may not be read: run the migrations` }
    if (missing.length > 0)
      return { missing: `table ${table.name} has no column ${missing.join(", ")}: run the migrations` }
    const array = columns.find(({ name, type }) => type.endsWith("[]") && table.columns.includes(name))
    if (array !== undefined)
      return { missing: `column ${array.name} of table ${table.name} is an array: make it jsonb` }
    const named = table.columns.flatMap((column) => known.get(column) ?? [])
    statements.set(table, make(table, named, primaryKey?.name))
  }
  return { statements }
}

/** How many sets of changed columns get a statement of their own: each stays prepared as long as the connection lives. */
const mostUpdates = 32

const make = (table: AnyTable, columns: ReadonlyArray<Column>, primaryKey: string | undefined): TableStatements => {
  const name = quoted(table.name)
  const key = quoted(table.key)
  const names = columns.map((column) => quoted(column.name)).join(", ")
  const keyType = columns.find((column) => column.name === table.key)?.type ?? "text"
  const load = `
    select ${names}
    from ${name}
    where ${key} = any($1::${keyType}[])
    ${table.kind === "reference" ? "" : `order by ${key} for update`}`
  // in key order, so that two that insert the same rows never wait for each other
  const insert = `
    insert into ${name} (${names})
    select ${names}
    from ${unnested(columns)}
    ${table.kind === "log" ? "" : `order by ${key}`}`
  const updates = new Map<string, { readonly text: string; readonly columns: ReadonlyArray<Column> }>()
  const updateOf = (changed: ReadonlySet<string>) => {
    const wanted = columns.filter((column) => column.name !== table.key && changed.has(column.name))
    const signature = wanted.map((column) => column.name).join()
    const known = updates.get(signature)
    if (known !== undefined) return known
    if (updates.size >= mostUpdates && wanted.length < columns.length - 1) return updateOf(new Set(table.columns))
    const sent = columns.filter((column) => column.name === table.key || wanted.includes(column))
    const text = `
      update ${name} as t
      set ${wanted.map((column) => `${quoted(column.name)} = r.${quoted(column.name)}`).join(", ")}
      from ${unnested(sent)}
      where t.${key} = r.${key}`
    const made = { text, columns: sent }
    updates.set(signature, made)
    return made
  }
  return {
    load: (keys) => ({ text: load, parameters: [textsOf(keys)] }),
    due: `
      select ${names}
      from ${name}
      where due_at <= now() and ${key} <> all($2::${keyType}[])
      order by due_at
      limit $1::int
      for update skip locked`,
    insert: (rows) => ({ text: insert, parameters: arraysOf(columns, rows) }),
    update: (rows, changed) => {
      const update = updateOf(changed)
      return { text: update.text, parameters: arraysOf(update.columns, rows) }
    },
    primaryKey
  }
}
