/**
 * The campaign's clients, as a process: `bun load.ts '<job>'`. Places orders at a steady rate, each by a client that asks
 * again under its key until it is answered (or gives up), cancels some, and reads some again and again. Every request about
 * an order and what came of it is a line of the history. Ends by itself; when its stdin does, no client begins any more. A line
 * there is how many orders are open, and while they are too many no client begins either.
 */
import { appendFileSync } from "node:fs"
import { text } from "../../../stack/wait.ts"
import { random } from "../orders.ts"
import { canonical, type Event } from "./history.ts"
import { workloadOf, type Client, type Work } from "./workload.ts"

export interface LoadJob {
  readonly orderUrl: string
  readonly orchestratorUrl: string
  readonly shipmentUrl: string
  readonly work: Work
  readonly perSecond: number
  readonly mostOpen: number
  readonly history: string
}

const answersWithinMs = 5_000
const patienceMs = 120_000
const pauseMs = 250
const readsEveryMs = 50
const readsApprovedEveryMs = 500
const tracksEveryMs = 100
const holdsMs = 50
const mostAtOnce = 400

type Ask = {
  readonly method: "GET" | "POST"
  readonly url: string
  readonly body?: object
  readonly idempotencyKey?: string
  /** The order that it is about, where the answer does not say it. */
  readonly order?: string
}

type Told = Omit<Event, "at" | "op" | "f" | "key">

const job = JSON.parse(Bun.argv[2] ?? "{}") as LoadJob
let ops = 0
let beginning = true
let held = false

const write = (event: Omit<Event, "at">): void =>
  appendFileSync(job.history, `${JSON.stringify({ at: Date.now(), ...event })}\n`)

/** One request, with both of its lines. */
const request = async (f: Event["f"], key: string, ask: Ask): Promise<Omit<Event, "at">> => {
  const op = ++ops
  write({ op, type: "invoke", f, key })
  const event = { op, f, key, ...(await answerOf(ask)), ...(ask.order === undefined ? {} : { order: ask.order }) }
  write(event)
  return event
}

const answerOf = async ({ method, url, body, idempotencyKey }: Ask): Promise<Told> => {
  try {
    const response = await fetch(url, {
      method,
      headers: {
        "content-type": "application/json",
        ...(idempotencyKey === undefined ? {} : { "idempotency-key": idempotencyKey })
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(answersWithinMs)
    })
    return told(response.status, (await response.json()) as Readonly<Record<string, unknown>>)
  } catch (cause) {
    // nobody listened: nothing can have been done
    const refused =
      cause instanceof Error && "code" in cause && /^(ECONNREFUSED|ConnectionRefused)$/.test(String(cause.code))
    return { type: refused ? "fail" : "info", error: text(cause) }
  }
}

const told = (status: number, said: Readonly<Record<string, unknown>>): Told => {
  if (status < 300 || status === 409) {
    const digest = Bun.hash(canonical(said)).toString(36)
    return { type: "ok", status, order: String(said["id"]), state: String(said["status"]), digest }
  }
  const kind = String(said["type"]).split(":").at(-1) ?? ""
  return { type: status < 500 || kind === "busy" ? "fail" : "info", status, error: kind }
}

/** Asks until it is answered for good. What is refused for good is an answer, too. */
const persist = async (
  f: Event["f"],
  key: string,
  ask: Ask,
  givesUp: boolean
): Promise<Omit<Event, "at"> | undefined> => {
  const until = Date.now() + patienceMs
  let refused = 0
  while (Date.now() < until) {
    // an answer is for good under its key, "not found" too: after it this is a new request
    const again = refused === 0 ? ask : { ...ask, idempotencyKey: `${ask.idempotencyKey}-${refused}` }
    const event = await request(f, key, again)
    if (event.status === 404) refused++
    if (event.type === "ok") return event
    if (event.type === "info" && givesUp) return undefined
    if (event.type === "fail" && event.status !== undefined && event.status !== 404 && event.status < 500) return event
    // a client's pace: it knows nothing of the system but its answers
    await Bun.sleep(pauseMs)
  }
  return undefined
}

const known: Array<string> = []

const readApproved = async (id: string): Promise<void> => {
  const until = Date.now() + patienceMs
  while (Date.now() < until) {
    const { state } = await request("read", id, { method: "GET", url: `${job.orderUrl}/orders/${id}` })
    if (state === "APPROVED" || state === "REJECTED") return
    await Bun.sleep(readsApprovedEveryMs)
  }
}

/** Returns when the order is shipped, or will not be. It is asked too often to be written down, and shows nothing. */
const trackShipped = async (id: string): Promise<void> => {
  const until = Date.now() + patienceMs
  while (Date.now() < until) {
    const { type } = await answerOf({ method: "GET", url: `${job.shipmentUrl}/shipments/${id}` })
    if (type === "ok") return
    await Bun.sleep(tracksEveryMs)
  }
}

const live = async ({ order, cancels, givesUp }: Client): Promise<void> => {
  const url = `${order.entry === "order" ? job.orderUrl : job.orchestratorUrl}/orders`
  const ask: Ask = { method: "POST", url, body: order.body, idempotencyKey: order.key }
  const answers = await Promise.all(
    Array.from({ length: order.posts }, () => persist("place", order.key, ask, givesUp))
  )
  const id = answers.find((answer) => answer?.type === "ok")?.order
  if (id === undefined) return
  known.push(id)
  if (cancels === null) return
  if (cancels === "approved") await readApproved(id)
  else if (cancels === "shipped") await trackShipped(id)
  else await Bun.sleep(cancels.afterMs)
  const key = `cancel-${id}`
  // an order that was asked of the orchestrator may not be known to the order service yet: 404 is asked again
  await persist(
    "cancel",
    order.key,
    { method: "POST", url: `${job.orderUrl}/orders/${id}/cancel`, body: {}, idempotencyKey: key, order: id },
    false
  )
  // what was approved must not have changed
  if (cancels === "approved") await request("read", id, { method: "GET", url: `${job.orderUrl}/orders/${id}` })
}

/** Reads orders of late, one after the other; of each it is known what was read before. */
const readOn = async (over: () => boolean): Promise<void> => {
  const next = random(job.work.seed ^ 0x4ead)
  while (!over()) {
    const id = known[Math.floor(known.length * (1 - next() ** 3 * 0.999))] ?? known.at(-1)
    if (id !== undefined) await request("read", id, { method: "GET", url: `${job.orderUrl}/orders/${id}` })
    await Bun.sleep(readsEveryMs)
  }
}

const main = async (): Promise<void> => {
  const { clients } = workloadOf(job.work)
  const next = random(job.work.seed ^ 0x70ad)
  const open = new Set<Promise<void>>()
  let over = false
  const reading = readOn(() => over)
  let due = performance.now()
  for (const client of clients) {
    const wait = due - performance.now()
    if (wait > 0) await Bun.sleep(wait)
    while (open.size >= mostAtOnce) await Promise.race(open)
    // what is late then is made up for as fast as orders end
    while (held && beginning) await Bun.sleep(holdsMs)
    if (!beginning) break
    const life = live(client)
    open.add(life)
    void life.finally(() => open.delete(life))
    due += (-Math.log(1 - next()) / job.perSecond) * 1_000
  }
  await Promise.all(open)
  over = true
  await reading
  process.exit(0)
}

const watchStdin = async (): Promise<void> => {
  const decoder = new TextDecoder()
  for await (const said of Bun.stdin.stream()) {
    const count = decoder.decode(said).trimEnd().split("\n").at(-1)
    held = Number(count) > job.mostOpen
  }
  beginning = false
}

void watchStdin()
await main()
