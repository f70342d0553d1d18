/**
 * A card processor: a system outside, with a record of its own and no idea of sagas. It listens on loopback, in this process
 * or, with `PORT=… RECORD=… bun stack/processor.ts`, as one of its own.
 *
 * What it promises is all that a call to the outside needs: under one Idempotency-Key a card is charged once, and who asks
 * again gets the same answer. With a record file that holds across a kill: an entry is written before it is answered.
 * `PUT /control` makes it fail in ways that a test can count on.
 */
import { appendFileSync, existsSync, readFileSync } from "node:fs"
import { Exit, Schema } from "effect"
import { Hono, type Context } from "hono"

const Charge = Schema.Struct({
  amount: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000_000_000 })),
  card: Schema.String.check(Schema.isPattern(/^[A-Za-z0-9_-]{1,64}$/))
})

/** What became of a key. `amount` and `card` are null when it was refunded before it was charged. */
const Entry = Schema.Struct({
  key: Schema.String,
  id: Schema.String,
  amount: Schema.NullOr(Schema.Int),
  card: Schema.NullOr(Schema.String),
  status: Schema.Literals(["CHARGED", "DECLINED", "REFUNDED", "VOIDED"]),
  /** Why it was not charged. */
  reason: Schema.NullOr(Schema.String)
})
export type ProcessorEntry = typeof Entry.Type

const Control = Schema.Struct({
  /** Answers 503 to charges and refunds, and does nothing, until it is told otherwise. */
  down: Schema.Boolean,
  /** Answers charges and refunds that much later; they take effect at once. */
  delayMs: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 60_000 })),
  /** Of the next charges and refunds so many take effect and are not answered: the connection breaks. */
  loseAnswers: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 })),
  /** Larger amounts are declined; null declines none. */
  declineAbove: Schema.NullOr(Schema.Int)
})
export type ProcessorControl = typeof Control.Type

export interface Processor {
  readonly url: string
  readonly stop: () => Promise<void>
}

/** Starts it, on any free port unless one is named. What the record file holds is known from the start. */
export const startProcessor = (options: { readonly port?: number; readonly record?: string } = {}): Processor => {
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: options.port ?? 0,
    maxRequestBodySize: 65_536,
    fetch: makeProcessor(options.record).fetch
  })
  return { url: server.url.origin, stop: () => server.stop(true) }
}

/** The app: what was charged, and the control over its failures. */
const makeProcessor = (record?: string): Hono => {
  const book = new Book(record)
  let control: ProcessorControl = { down: false, delayMs: 0, loseAnswers: 0, declineAbove: null }

  /** Does the work, unless it is down, and answers as the control says. */
  const answer = async (c: Context, work: () => Response): Promise<Response> => {
    if (control.down) return c.json({ reason: "DOWN" }, 503)
    const response = work()
    const refused = response.status >= 400 && response.status !== 402
    if (refused) return response
    if (control.delayMs > 0) await Bun.sleep(control.delayMs)
    if (control.loseAnswers === 0) return response
    control = { ...control, loseAnswers: control.loseAnswers - 1 }
    return new Response(lost())
  }

  return new Hono()
    .get("/health/ready", (c) => c.json({ status: "ready" }))
    .get("/charges", (c) => c.json({ items: book.all() }))
    .post("/charges", async (c) => {
      const key = c.req.header("idempotency-key") ?? ""
      if (!isKey(key)) return c.json({ reason: "IDEMPOTENCY_KEY_MISSING" }, 400)
      const body = decodeCharge(await jsonOf(c))
      if (Exit.isFailure(body)) return c.json({ reason: "INVALID" }, 400)
      return answer(c, () => {
        const entry = book.charge(key, body.value, control.declineAbove)
        if (entry === "other body") return c.json({ reason: "KEY_REUSED" }, 422)
        return entry.reason === null
          ? c.json({ id: entry.id, status: "CHARGED" }, 201)
          : c.json({ reason: entry.reason }, 402)
      })
    })
    .post("/charges/:key/refund", async (c) => {
      const key = c.req.param("key")
      if (!isKey(key)) return c.json({ reason: "INVALID" }, 400)
      return answer(c, () => {
        const { id, status } = book.refund(key)
        return c.json({ id, status })
      })
    })
    .get("/control", (c) => c.json(control))
    .put("/control", async (c) => {
      const exit = decodeControl({ ...control, ...(await jsonOf(c)) })
      if (Exit.isFailure(exit)) return c.json({ reason: "INVALID" }, 400)
      control = exit.value
      return c.json(control)
    })
}

/** What it did, by key; each change is a line of the record file. */
class Book {
  private readonly entries = new Map<string, ProcessorEntry>()

  constructor(private readonly record: string | undefined) {
    if (record === undefined || !existsSync(record)) return
    // a line that a kill cut off was not answered
    for (const line of readFileSync(record, "utf8").split("\n")) {
      const entry = decodeLine(line)
      if (Exit.isSuccess(entry)) this.entries.set(entry.value.key, entry.value)
    }
  }

  all(): ReadonlyArray<ProcessorEntry> {
    return [...this.entries.values()]
  }

  charge(
    key: string,
    { amount, card }: typeof Charge.Type,
    declineAbove: number | null
  ): ProcessorEntry | "other body" {
    const earlier = this.entries.get(key)
    // refunded before it came: nothing is known of its body, and it is refused whatever that is
    if (earlier?.status === "VOIDED") return earlier
    if (earlier !== undefined) return earlier.amount === amount && earlier.card === card ? earlier : "other body"
    const declined = declineAbove !== null && amount > declineAbove
    const status = declined ? "DECLINED" : "CHARGED"
    return this.write({ key, id: this.nextId(), amount, card, status, reason: declined ? "CARD_DECLINED" : null })
  }

  /** Gives back what was charged; a key that is not known yet is void from now on, and one that was declined stays so. */
  refund(key: string): ProcessorEntry {
    const earlier = this.entries.get(key)
    if (earlier === undefined)
      return this.write({ key, id: this.nextId(), amount: null, card: null, status: "VOIDED", reason: "VOIDED" })
    return earlier.status === "CHARGED" ? this.write({ ...earlier, status: "REFUNDED" }) : earlier
  }

  private nextId(): string {
    return `ch_${this.entries.size + 1}`
  }

  private write(entry: ProcessorEntry): ProcessorEntry {
    if (this.record !== undefined) appendFileSync(this.record, `\n${JSON.stringify(entry)}`)
    this.entries.set(entry.key, entry)
    return entry
  }
}

const decodeCharge = Schema.decodeUnknownExit(Charge)
const decodeControl = Schema.decodeUnknownExit(Control)
const decodeLine = Schema.decodeUnknownExit(Schema.fromJsonString(Entry))

const jsonOf = (c: Context) => c.req.json<object>().catch(() => undefined)

const isKey = (key: string): boolean => /^[\x21-\x7e]{1,256}$/.test(key)

/** A body that breaks off before its first byte: the connection ends without an answer. */
const lost = (): ReadableStream => new ReadableStream({ pull: (body) => body.error() })

if (import.meta.main) {
  const { PORT, RECORD } = process.env
  const processor = startProcessor({ port: Number(PORT ?? 8010), ...(RECORD === undefined ? {} : { record: RECORD }) })
  console.log(`the card processor listens on ${processor.url}`)
  for (const name of ["SIGINT", "SIGTERM"] as const)
    process.once(name, () => void processor.stop().then(() => process.exit(0)))
}
