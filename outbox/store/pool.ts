/** A pool that does not outlive its connections: when one is lost, or answers nothing, all are opened anew. */
import { Effect } from "effect"
import { boundsOf, connect, failureOf, isLost, type ConnectionOptions, type Sql } from "./connection.ts"
import { StoreUnavailable } from "./store.ts"

export class Pool {
  private current: Sql
  /** The connections of the moment: may be kept, and used at any time. */
  readonly sql: Sql = new Proxy<Sql>((() => {}) as unknown as Sql, {
    apply: (_target, _self, parameters) => Reflect.apply(this.current, undefined, parameters),
    get: (_target, name) => Reflect.get(this.current, name)
  })

  constructor(
    private readonly options: ConnectionOptions,
    private readonly settings: Omit<Parameters<typeof connect>[1], "once" | "onClose">
  ) {
    this.current = this.open()
  }

  /** Runs queries. A failure is the database's, or the query's; it leaves the pool fit for the next one. */
  use<A>(run: (sql: Sql) => PromiseLike<A>): Effect.Effect<A, StoreUnavailable> {
    return Effect.suspend(() => {
      const { current } = this
      return Effect.tryPromise({ try: async () => run(current), catch: (error) => error }).pipe(
        Effect.mapError((error) => {
          // a connection that ended before it was made tells nobody but the query that waited for it
          if (isLost(failureOf(error).code)) this.reopen(current)
          return unavailable(error)
        }),
        Effect.timeoutOrElse({
          duration: boundsOf(this.options).answerMs,
          orElse: () => {
            // one that answers nothing would take the next queries too
            this.reopen(current)
            return Effect.fail(notAnswered())
          }
        })
      )
    })
  }

  close(): Promise<void> {
    return this.current.end({ timeout: 2 })
  }

  private open(): Sql {
    const opened: Sql = connect(this.options, {
      ...this.settings,
      once: true,
      onClose: () => this.reopen(opened)
    })
    return opened
  }

  private reopen(instead: Sql): void {
    if (this.current !== instead) return
    void instead.end({ timeout: 0 })
    this.current = this.open()
  }
}

export const notAnswered = () => new StoreUnavailable({ message: "the database did not answer in time" })

export const unavailable = (error: unknown): StoreUnavailable => {
  const { code, message } = failureOf(error)
  return new StoreUnavailable({ message: `${code}: ${message}`, cause: error })
}
