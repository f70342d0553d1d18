/** The connectors' replication slots, as Postgres knows them: each look is a connection of its own, for Postgres may be away. */
import postgres from "postgres"

export interface Database {
  readonly host: string
  readonly port: number
  /** Of the replication role. */
  readonly password: string
}

type Config = Readonly<Record<string, string>>

const ANSWERS_WITHIN_MS = 5_000

/** How the slot of a connector with this configuration stands. */
export const slotOf = (database: Database, config: Config): Promise<"active" | "idle" | "lost" | "absent"> =>
  withSql(database, config, async (sql) => {
    const [slot] = await sql`
      select active, wal_status
      from pg_replication_slots
      where slot_name = ${config["slot.name"] ?? ""}`
    if (slot === undefined) return "absent"
    if (slot["active"] === true) return "active"
    return slot["wal_status"] === "lost" ? "lost" : "idle"
  })

/** Drops it, when Postgres has invalidated it. */
export const dropSlot = (database: Database, config: Config): Promise<void> =>
  withSql(database, config, async (sql) => {
    await sql`
      select pg_drop_replication_slot(slot_name)
      from pg_replication_slots
      where slot_name = ${config["slot.name"] ?? ""} and wal_status = 'lost' and not active`
  })

const withSql = async <A>(
  { host, port, password }: Database,
  config: Config,
  use: (sql: postgres.Sql) => Promise<A>
): Promise<A> => {
  const sql = postgres({
    host,
    port,
    password,
    user: config["database.user"] ?? "",
    database: config["database.dbname"] ?? "",
    max: 1,
    connect_timeout: 5,
    // there are no arrays in what is read here
    fetch_types: false,
    connection: { application_name: "connectors", statement_timeout: ANSWERS_WITHIN_MS },
    onnotice: () => {}
  })
  // statement_timeout is the server's: a server that does not answer at all must not hold up the deadline
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(
    () => late.reject(new Error(`Postgres at ${host}:${port} did not answer`)),
    ANSWERS_WITHIN_MS
  )
  try {
    return await Promise.race([use(sql), late.promise])
  } finally {
    clearTimeout(timer)
    await sql.end({ timeout: 1 })
  }
}
