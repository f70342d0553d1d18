/** Whatever a client sends, to any route of any service: it is answered as documented, and what it leaves behind adds up. */
import { expect, setDefaultTimeout, test } from "bun:test"
import { connect as connectTo } from "node:net"
import { Exit, Schema } from "effect"
import { connect, type Sql } from "oncebox"
import { text, until } from "../../../stack/wait.ts"
import type { ServiceName } from "../../../stack/embedded.ts"
import { pickOne, seeded, type Choices } from "../../../outbox/testing/simulation/choices.ts"
import { ledgers, movements, readModel, stock } from "../checks/goods-and-money.ts"
import { histories, sagaLogs, sagas, states } from "../checks/orders.ts"
import { useSystem } from "../in-process/system.ts"
import type { Database } from "../stack.ts"
import { readRows } from "../world.ts"
import { ids } from "./payloads.ts"
import { bodiesFor, requestTo, type Known, type Sent } from "./requests.ts"

setDefaultTimeout(600_000)

const seed = Number(process.env["SEED"] ?? 20260301)
const count = 50_000
const atATime = 48
const answersWithinMs = 60_000
const settlesWithinMs = 60_000

const { embedded, send } = useSystem()

const addressOf = (service: ServiceName, admin: boolean): string => {
  const address = (admin ? embedded.adminUrls : embedded.urls).get(service)
  if (address === undefined) throw new Error(`there is no ${service}`)
  return address
}

/** As it can be sent again. */
const shown = (sent: Sent): string => {
  const { route, method, path, headers, body, chunked } = sent
  const options = headers.map(([name, value]) => `-H ${JSON.stringify(`${name}: ${value}`)}`).join(" ")
  const data =
    body === undefined ? "" : ` --data-binary @<(echo ${body.toString("base64").slice(0, 4_000)} | base64 -d)`
  const how = chunked ? ' -H "Transfer-Encoding: chunked"' : ""
  return `SEED=${seed} ${route.service}${route.admin ? " (admin)" : ""}: curl -X ${method} ${options}${how}${data} '${path}'`
}

const inPieces = (body: Buffer): ReadableStream<Uint8Array> =>
  new ReadableStream({
    start: (controller) => {
      for (let from = 0; from < body.length; from += 1_000) controller.enqueue(body.subarray(from, from + 1_000))
      controller.close()
    }
  })

interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly said: string
}

const ask = async (sent: Sent): Promise<Answer> => {
  const { route, method, path, body, chunked } = sent
  const headers = new Headers()
  // one that fetch itself refuses is none that reaches a service
  for (const [name, value] of sent.headers) if (/^[\x20-\x7e]*$/.test(value)) headers.append(name, value)
  const response = await fetch(`${addressOf(route.service, route.admin)}${path}`, {
    method,
    headers,
    redirect: "manual",
    signal: AbortSignal.timeout(answersWithinMs),
    ...(body === undefined ? {} : { body: chunked ? inPieces(body) : body })
  })
  return { status: response.status, headers: response.headers, said: await response.text() }
}

const Problem = Schema.Struct({
  type: Schema.String.check(Schema.isPattern(/^urn:oncebox:problem:[a-z-]+$/)),
  title: Schema.String,
  status: Schema.Int,
  detail: Schema.String.check(Schema.isMinLength(1)),
  errors: Schema.optionalKey(
    Schema.Array(Schema.Struct({ field: Schema.String.check(Schema.isMinLength(1)), detail: Schema.String }))
  )
})
const strictly = { onExcessProperty: "error" } as const
const inside = /node_modules|\.ts:\d|\bselect\b.*\bfrom\b|postgres(ql)?:\/\//i

/** What is wrong with an answer. */
const wrongWith = ({ method, route, path }: Sent, { status, headers, said }: Answer): string | undefined => {
  if (status === 503) return headers.get("Retry-After") === null ? "503 without Retry-After" : undefined
  if (status >= 500) return `${status}: ${said}`
  if (method === "HEAD") return undefined
  if (status >= 400) {
    if (headers.get("Content-Type") !== "application/problem+json") return `${status} is no problem document: ${said}`
    const read = Schema.decodeUnknownExit(Schema.fromJsonString(Problem))(said, strictly)
    if (!Exit.isSuccess(read)) return `${status} is no sound problem document: ${said}`
    if (read.value.status !== status) return `${status} says that it is ${read.value.status}`
    if (read.value.type.endsWith(":invalid-request") && (read.value.errors ?? []).length === 0)
      return `${status} does not name what is wrong: ${said}`
    return inside.test(said) ? `${status} tells of the inside: ${said}` : undefined
  }
  if (status < 200 || status >= 300) return `it is ${status}`
  // of another method or path than the route's own nothing is documented here
  if (method !== route.method || /^\/\/|\/x$|\/$|^\/(metrics|[A-Z])|\/\?/.test(path)) return undefined
  const documented = route.answers[status]
  if (documented === undefined) return `${status} is not documented: ${said}`
  if (documented === null) return said === "" ? undefined : `${status} has a body: ${said}`
  const read = Schema.decodeUnknownExit(Schema.fromJsonString(documented))(said, strictly)
  return Exit.isSuccess(read) ? undefined : `${status} is not what is documented: ${said} ${String(read.cause)}`
}

const most = 300
const learn = (known: Known, { route, method }: Sent, { status, said }: Answer): void => {
  const kind = { "/orders": "order", "/users/:user/deposits": "deposit" }[route.path]
  const held = known[kind ?? ""]
  if (method !== "POST" || status >= 300 || held === undefined || held.length >= most) return
  const { id } = JSON.parse(said) as { readonly id?: string }
  if (id !== undefined) held.push(id)
}

/** What of stock there must be, by product: an answer to a repeated request says what was done once. */
const makeStockBook = () => {
  const due = new Map<string, number>()
  const counted = new Set<string>()
  const note = ({ route, method, headers, body, path }: Sent, { status, said }: Answer): void => {
    if (route.service !== "product" || status >= 300 || body === undefined || method !== "POST") return
    const key = headers.find(([name]) => name === "Idempotency-Key")?.[1]
    if (key !== undefined && counted.has(key)) return
    if (key !== undefined) counted.add(key)
    const { id, quantity } = JSON.parse(said) as { readonly id: string; readonly quantity: number }
    if (status === 201) due.set(id, (due.get(id) ?? 0) + quantity)
    else if (path.includes("/stock"))
      due.set(
        id,
        (due.get(id) ?? 0) + (JSON.parse(new TextDecoder().decode(body)) as { readonly quantity: number }).quantity
      )
  }
  return { due, note }
}

/** The next of many, by so many at a time; ends with the first that fails. */
const inParallel = async (many: number, work: () => Promise<void>): Promise<void> => {
  let left = many
  const one = async (): Promise<void> => {
    while (left-- > 0) await work()
  }
  await Promise.all(Array.from({ length: atATime }, one))
}

const prepare = async (): Promise<void> => {
  const made = await Promise.all([
    ...(ids["productId"] ?? []).map((id) =>
      send("POST", "product", "/products", { body: { id, name: id, price: 7, quantity: 1_000_000 } })
    ),
    ...(ids["userId"] ?? []).map((id) =>
      send("POST", "user", "/users", { body: { id, name: id, email: `${id}@example.org`, balance: 1_000_000_000 } })
    )
  ])
  expect(new Set(made.map(({ status }) => status))).toEqual(new Set([201]))
}

/** Once no order is on its way any more, all rows must fit together. */
const expectSound = async (due: ReadonlyMap<string, number>): Promise<void> => {
  const databases = new Map<Database, Sql>()
  const database = (name: Database): Sql => {
    const sql = databases.get(name) ?? connect(embedded.owner(name), { name: "test", max: 2 })
    databases.set(name, sql)
    return sql
  }
  try {
    await until("all orders ended", settlesWithinMs, async () => {
      const [open] = await database("sagas")<Array<{ count: number }>>`
        select count(*)::int as count from sagas where ended_at is null`
      const [asked] = await database("users")<Array<{ count: number }>>`
        select count(*)::int as count from deposits where status = 'PENDING'`
      if (open?.count === 0 && asked?.count === 0) return true
      throw new Error(`${open?.count} sagas and ${asked?.count} deposits are open`)
    })
    await until("soundness", settlesWithinMs, async () => {
      const rows = await readRows({ database })
      const world = { ...rows, outbox: [], inbox: [], letters: [], records: [], charges: [] }
      const products = [...due].map(([id, quantity]) => ({ id, quantity, name: id, price: 1 }))
      const expected = { plan: { products, accounts: [] }, placed: new Map(), subscribers: [] }
      const checks = { ledgers, movements, readModel, stock, states, histories, sagas, sagaLogs }
      const wrong = Object.entries(checks).flatMap(([name, check]) =>
        check(world, expected).map((what) => `${name}: ${what}`)
      )
      // a deposit that is made is in the ledger, once, and no other is
      const booked = world.ledger.filter(({ kind }) => kind === "DEPOSIT").map(({ deposit_id }) => deposit_id)
      const madeOnes = rows.askedDeposits.filter(({ status }) => status === "MADE").map(({ id }) => id)
      if (booked.toSorted().join() !== madeOnes.toSorted().join()) wrong.push("deposits: not what is in the ledger")
      if (wrong.length > 0) throw new Error(wrong.slice(0, 10).join("; "))
      return true
    })
  } finally {
    await Promise.all([...databases.values()].map((sql) => sql.end({ timeout: 1 })))
  }
}

const expectReady = async (): Promise<void> => {
  for (const service of embedded.urls.keys()) {
    const response = await send("GET", service, "/health/ready")
    expect([service, response.status, await response.text()]).toEqual([service, 200, '{"status":"ready"}'])
  }
}

test(`${count} requests to all routes are answered as documented, and what they leave adds up (SEED=${seed})`, async () => {
  const choices = seeded(seed)
  const known: Known = {
    order: [...(ids["orderId"] ?? [])],
    deposit: [...(ids["depositId"] ?? [])],
    user: [...(ids["userId"] ?? [])],
    product: [...(ids["productId"] ?? [])],
    victim: ["x", "a", "victim"],
    letter: ["00000000-0000-7000-8000-000000000001"]
  }
  await prepare()
  const book = makeStockBook()
  for (const id of ids["productId"] ?? []) book.due.set(id, 1_000_000)
  const bodies = bodiesFor(choices, seed)
  const statuses = new Map<number, number>()

  await inParallel(count, async () => {
    const sent = requestTo(choices, known, bodies)
    const answer = await ask(sent).catch((cause: unknown) => {
      throw new Error(`${text(cause)}: ${shown(sent)}`)
    })
    const wrong = wrongWith(sent, answer)
    if (wrong !== undefined) throw new Error(`${wrong}: ${shown(sent)}`)
    statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
    learn(known, sent, answer)
    book.note(sent, answer)
  })

  console.log(Object.fromEntries([...statuses].toSorted(([a], [b]) => a - b)))
  for (const status of [200, 201, 202, 204, 400, 404, 405, 409, 412, 413, 415, 422, 428])
    expect([status, (statuses.get(status) ?? 0) > 0]).toEqual([status, true])
  await expectReady()
  await expectSound(book.due)
})

const lines = [
  "GET /orders",
  "POST /orders",
  "get /orders",
  "GET orders",
  "GET http://example.org/orders",
  "GET *",
  "GET /\u0000",
  "GET /%",
  "\u00ff /"
]
const rawHeaders = [
  "Host: x",
  "Host: x\r\nHost: y",
  "Content-Length: 5",
  "Content-Length: -1",
  "Content-Length: 99999999999999999999",
  "Content-Length: 5\r\nContent-Length: 6",
  "Transfer-Encoding: chunked",
  "Transfer-Encoding: chunked\r\nContent-Length: 3",
  "Transfer-Encoding: gzip, chunked",
  "Content-Type: application/json",
  "X: \0",
  "X : y",
  ": y",
  " folded: y",
  "X: ÿþ",
  `X: ${"x".repeat(2e4)}`,
  "Expect: 100-continue",
  "Connection: upgrade\r\nUpgrade: websocket",
  "Idempotency-Key: ä"
]
const rawBodies = [
  "",
  "{}",
  "5\r\nhello\r\n0\r\n\r\n",
  "ffffffffffffffff\r\n",
  "-1\r\n",
  "0\r\n\r\n",
  '{"userId":'.repeat(50),
  "GET / HTTP/1.1\r\n\r\n"
]

/** Writes bytes that no client library would, and answers with what comes until the connection ends or nothing is due any more. */
const askRaw = (port: number, bytes: Buffer): Promise<string> =>
  new Promise((resolve, reject) => {
    let said = ""
    const socket = connectTo({ host: "127.0.0.1", port }, () => socket.end(bytes))
    socket.setTimeout(answersWithinMs, () => {
      socket.destroy()
      reject(new Error("the connection was neither answered nor closed"))
    })
    socket.on("data", (chunk) => void (said += chunk.toString("latin1")))
    socket.on("close", () => resolve(said))
    // a connection that is cut off is an answer to what is no HTTP
    socket.on("error", () => resolve(said))
  })

const rawRequest = (choices: Choices): Buffer => {
  const headers = Array.from({ length: choices.pick(4) }, () => pickOne(choices, rawHeaders))
  const version = pickOne(choices, ["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""])
  const whole = `${pickOne(choices, lines)} ${version}\r\n${["Host: x", ...headers].join("\r\n")}\r\n\r\n${pickOne(choices, rawBodies)}`
  return Buffer.from(whole, "latin1").subarray(0, choices.pick(5) === 0 ? choices.pick(whole.length) : whole.length)
}

test(`bytes that are hardly HTTP are answered below 500, and hurt nobody (SEED=${seed})`, async () => {
  const choices = seeded(seed + 1)

  await inParallel(2_000, async () => {
    const bytes = rawRequest(choices)
    const port = Number(new URL(addressOf("order", choices.pick(4) === 0)).port)
    const said = await askRaw(port, bytes)
    if (/^HTTP\/1\.\d 5(?!01|05)/m.test(said))
      throw new Error(`SEED=${seed} ${JSON.stringify(bytes.toString("latin1"))}: ${said}`)
  })

  await expectReady()
})
