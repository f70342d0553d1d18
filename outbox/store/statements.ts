/**
 * The statements of a participant's tables, made once from what Postgres says the columns are. Rows travel as one
 * JSON parameter: one text to prepare whatever the batch's size.
 */
import type { Sql } from "./connection.ts"
import type { AnyTable } from "../table.ts"

export interface TableStatements {
  /** Rows by key, locked in key order unless they never change. $1: the keys as a JSON array. */
  readonly load: string
  /** Rows whose due_at has passed. $1: how many. */
  readonly due: string
  /** $1: rows as a JSON array. */
  readonly insert: string
  /** $1: rows as a JSON array. */
  readonly update: string
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
    const columns = await sql<Array<{ name: string; type: string }>>`
      select attname as name, format_type(atttypid, atttypmod) as type
      from pg_attribute
      where attrelid = to_regclass(${table.name}) and attnum > 0 and not attisdropped`
    const [primaryKey] = await sql<Array<{ name: string }>>`
      select conname as name
      from pg_constraint
      where conrelid = to_regclass(${table.name}) and contype = 'p'`
    const types = new Map(columns.map(({ name, type }) => [name, type]))
    const missing = table.columns.filter((column) => !types.has(column))
    if (columns.length === 0)
      return { missing: `table ${table.name} does not exist or may not be read: run the migrations` }
    if (missing.length > 0)
      return { missing: `table ${table.name} has no column ${missing.join(", ")}: run the migrations` }
    statements.set(table, make(table, types, primaryKey?.name))
  }
  return { statements }
}

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

const make = (table: AnyTable, types: ReadonlyMap<string, string>, primaryKey: string | undefined): TableStatements => {
  const name = quoted(table.name)
  const key = quoted(table.key)
  const columns = table.columns.map(quoted).join(", ")
  const record = `jsonb_to_recordset($1::text::jsonb) as r(${table.columns.map((column) => `${quoted(column)} ${types.get(column)}`).join(", ")})`
  const changeable = table.columns.filter((column) => column !== table.key)
  return {
    load: `
      select ${columns}
      from ${name}
      where ${key} = any(array(select k::${types.get(table.key)} from jsonb_array_elements_text($1::text::jsonb) as keys(k)))
      ${table.kind === "reference" ? "" : `order by ${key} for update`}`,
    due: `
      select ${columns}
      from ${name}
      where due_at <= now()
      order by due_at
      limit $1::int
      for update skip locked`,
    // in key order, so that two that insert the same rows never wait for each other
    insert: `
      insert into ${name} (${columns})
      select ${columns}
      from ${record}
      ${table.kind === "log" ? "" : `order by ${key}`}`,
    update: `
      update ${name} as t
      set ${changeable.map((column) => `${quoted(column)} = r.${quoted(column)}`).join(", ")}
      from ${record}
      where t.${key} = r.${key}`,
    primaryKey
  }
}
