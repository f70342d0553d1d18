/**
 * Connections to Postgres, the names of its errors, and the only place that knows the driver.
 */
import { Socket } from "node:net"
import { Redacted } from "effect"
import postgres from "postgres"

/** A pool, for reads and for code that is not a participant. */
export type Sql = postgres.Sql<{ bigint: number }>

/** A transaction that the caller began: `sql.begin((transaction) => …)`. */
export type SqlTransaction = postgres.TransactionSql<{ bigint: number }>

export interface ConnectionOptions {
  readonly host: string
  readonly port: number
  readonly database: string
  readonly username: string
  readonly password: Redacted.Redacted<string>
  /** Other bounds than the usual ones. */
  readonly bounds?: Partial<Bounds>
}

/** Bounds in milliseconds, all below a consumer group's session timeout: a stalled pass must not outlive its group. */
export interface Bounds {
  readonly transactionMs: number
  readonly lockMs: number
  readonly idleInTransactionMs: number
  /** How long an answer may take. Postgres ends a transaction before this: it takes a connection that is dead. */
  readonly answerMs: number
}

const usualBounds: Bounds = { transactionMs: 10_000, lockMs: 5_000, idleInTransactionMs: 5_000, answerMs: 15_000 }

export const boundsOf = (options: ConnectionOptions): Bounds => ({ ...usualBounds, ...options.bounds })

/** Opens `max` connections at most, as they are needed. `onClose` is told of each connection that ended. */
export const connect = (
  options: ConnectionOptions,
  use: {
    readonly name: string
    readonly max: number
    readonly readOnly?: boolean
    /** Makes each of its connections once: what is asked for after one was lost fails. */
    readonly once?: boolean
    readonly onClose?: () => void
    /** Settings of the session, over the bounds above. */
    readonly session?: Readonly<Record<string, string | number>>
  }
): Sql => {
  const bounds = boundsOf(options)
  return postgres({
    host: options.host,
    port: options.port,
    database: options.database,
    username: options.username,
    password: Redacted.value(options.password),
    max: use.max,
    connect_timeout: 5,
    // a connection is kept until it breaks: a lane's transaction must never be moved to a fresh one
    idle_timeout: 0,
    max_lifetime: null,
    backoff: (retries: number) => Math.min(2, 0.05 * 2 ** retries),
    fetch_types: false,
    onnotice: () => {},
    ...(use.onClose === undefined ? {} : { onclose: use.onClose }),
    ...(use.once === true ? { socket: sockets(options, use.max) } : {}),
    types: {
      bigint: { to: 20, from: [20], parse: (text: string) => Number(text), serialize: (value: number) => String(value) }
    },
    connection: {
      application_name: use.name,
      transaction_timeout: bounds.transactionMs,
      lock_timeout: bounds.lockMs,
      idle_in_transaction_session_timeout: bounds.idleInTransactionMs,
      ...(use.readOnly === true ? { default_transaction_read_only: true } : {}),
      ...use.session
    }
  })
}

/**
 * The driver connects again by itself, and then sends on the new connection what it still held back when the old one was
 * lost: outside of the transaction that it belongs to. It may also never get over a connection that was lost while
 * something was about to be written. Without another socket it can do neither.
 */
const sockets = ({ host, port }: ConnectionOptions, max: number) => {
  let left = max
  return () => {
    if (left-- <= 0) throw Object.assign(new Error("the connection was lost"), { code: "CONNECTION_LOST" })
    return gathering(new Socket()).connect(port, host)
  }
}

/** Has a socket send what is written in one turn of the event loop in one piece: the other side wakes up once for it. */
const gathering = (socket: Socket): Socket => {
  const write = socket.write.bind(socket)
  let gathered: Array<Uint8Array> = []
  const flush = (): void => {
    const chunks = gathered
    gathered = []
    if (chunks.length > 0 && socket.writable) write(Buffer.concat(chunks))
  }
  return Object.assign(socket, {
    // what a lane sends is bounded by its pass: the driver need not be held back
    write: (chunk: Uint8Array): boolean => {
      if (gathered.push(chunk) === 1) process.nextTick(flush)
      return true
    }
  })
}

export const uniqueViolation = "23505"
export const checkViolation = "23514"
export const inFailedTransaction = "25P02"

/** What the driver tells of an error; `code` is a SQLSTATE or one of the driver's own words for a lost connection. */
export interface SqlFailure {
  readonly code: string
  readonly message: string
  readonly table: string | undefined
  readonly constraint: string | undefined
}

/** Whether the code is the driver's or the system's word for a connection that was lost or not made. */
export const isLost = (code: string): boolean => /^(CONNECT|E[A-Z]{4,})/.test(code)

export const failureOf = (error: unknown): SqlFailure => {
  const fields: Readonly<Record<string, unknown>> = typeof error === "object" && error !== null ? { ...error } : {}
  const text = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)
  return {
    code: text(fields["code"]) ?? "unknown",
    message: error instanceof Error ? error.message : String(error),
    table: text(fields["table_name"]),
    constraint: text(fields["constraint_name"])
  }
}
