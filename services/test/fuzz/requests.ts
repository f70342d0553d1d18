/** Requests to every route of every service, sound ones and any others, drawn from choices that a seed determines. */
import { pickBy, pickOne, type Choices } from "../../../outbox/testing/simulation/choices.ts"
import { drawn } from "./payloads.ts"
import { routes, type Route } from "./routes.ts"
import { spoilt } from "./spoil.ts"

export interface Sent {
  readonly route: Route
  readonly method: string
  readonly path: string
  readonly headers: ReadonlyArray<readonly [name: string, value: string]>
  readonly body: Buffer | undefined
  /** In pieces, without saying how long it is. */
  readonly chunked: boolean
}

/** Ids of what is there, by what stands for them in a path. */
export type Known = Readonly<Record<string, Array<string>>>

const oddIds = [
  "%00",
  "%ff",
  "%",
  "%2e%2e",
  "..",
  "%2F",
  "a%20b",
  "%F0%9F%98%80",
  "null",
  "-1",
  "1e400",
  "__proto__",
  "constructor",
  "x".repeat(64),
  "x".repeat(65),
  "x".repeat(4e3),
  "00000000-0000-0000-0000-000000000000",
  "'%20or%201=1--",
  "%0d%0a",
  "0193ABCD-0000-7000-8000-000000000000",
  "{id}",
  "*",
  "~",
  "a;b=c",
  "a?b",
  "%E2%80%AE",
  "%ED%A0%80",
  "."
]
const queries: ReadonlyArray<readonly [name: string, values: ReadonlyArray<string>]> = [
  ["limit", ["1", "100", "101", "0", "-1", "1e1", "01", "", "1%00", "9".repeat(400), "ten", "5"]],
  [
    "cursor",
    [
      "",
      "AAAA",
      "%00",
      "Zm9v",
      "x".repeat(201),
      "____",
      "Li4vLi4v",
      "MDE5M2FiY2QtMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwMDAw",
      "7aCA"
    ]
  ],
  ["status", ["CREATED", "APPROVED", "DISCONTINUED", "CLOSED", "approved", "", "%27"]],
  ["state", ["RUNNING", "stuck", "COMPLETED", "x"]],
  ["user", ["ann", "", "%00", "x".repeat(65)]],
  ["reason", ["unreadable", "x", ""]],
  ["type", ["ReserveProductCommand", "%00", "%ED%A0%80", "x".repeat(600)]],
  ["key", ["k", "%0a", "%F0%9F%98%80"]],
  ["topic", ["orders-events", "'"]],
  ["discarded", ["true", "false", "1"]],
  ["__proto__", ["x"]],
  ["constructor", ["x"]],
  ["%00", ["%00"]],
  ["", [""]]
]

const headerValues: Readonly<Record<string, ReadonlyArray<string>>> = {
  "Content-Type": [
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=utf-16",
    "text/plain",
    "",
    "a/b/c",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json, text/html",
    `a/${"b".repeat(4e3)}`
  ],
  "If-Match": [
    '"1"',
    "*",
    '"2"',
    "1",
    '""',
    'W/"1"',
    '"1", "2"',
    '"',
    ", ,",
    `"${"1".repeat(5_000)}"`,
    '"99999999999999999999"',
    "*, *"
  ],
  "Idempotency-Key": [
    "a",
    '"b"',
    "",
    "ä",
    "x".repeat(64),
    "x".repeat(65),
    "a b",
    "__proto__",
    '"',
    "k1",
    "k2",
    "k3",
    "k4"
  ],
  Prefer: [
    "wait=0",
    "wait=1",
    "wait=-1",
    "wait=x",
    "wait",
    "respond-async",
    'wait="0"',
    ",".repeat(3_000),
    "wait = 0 ; x"
  ],
  "Content-Encoding": ["gzip", "br", "identity", "x"],
  traceparent: ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x", "ff-0-0-0", "0".repeat(5_000)],
  Accept: ["text/html", "application/xml;q=0.1", "*/*;q=x"],
  Expect: ["100-continue"],
  "X-HTTP-Method-Override": ["DELETE"],
  "X-Forwarded-For": ["127.0.0.1, ::1"],
  Origin: ["null", "https://example.org"],
  Range: ["bytes=0-1", "bytes=99999-"]
}
const headerNames = Object.keys(headerValues)

const placeholder = /:(\w+)/g

const pathOf = (choices: Choices, known: Known, path: string): string => {
  const filled = path.replaceAll(placeholder, (_, kind: string) => {
    const held = known[kind] ?? []
    return choices.pick(4) > 0 && held.length > 0 ? pickOne(choices, held) : pickOne(choices, oddIds)
  })
  if (choices.pick(60) === 0)
    return pickOne(choices, [`/${filled}`, `${filled}/`, `${filled}/x`, "/", filled.toUpperCase(), "/metrics"])
  const asked = choices.pick(4) === 0 ? choices.pick(4) : 0
  const parts = Array.from({ length: asked }, () => {
    const [name, values] = pickOne(choices, queries)
    return choices.pick(10) === 0 ? name : `${name}=${pickOne(choices, values)}`
  })
  return parts.length === 0 ? filled : `${filled}?${parts.join("&")}`
}

const hugeBody = (choices: Choices, sound: string): Buffer => {
  const filling = pickOne(choices, ["m", "[", " ", "\u00e9", "\\u0041"])
  const room = pickOne(choices, [65_535, 65_536, 65_537, 70_000, 200_000])
  const many = filling.repeat(Math.max(0, Math.floor((room - sound.length - 10) / Buffer.byteLength(filling))))
  return Buffer.from(filling === " " || filling === "[" ? `${many}${sound}` : `{"more":"${many}",${sound.slice(1)}`)
}

/** Bodies that each schema takes. */
export const bodiesFor = (choices: Choices, seed: number): ReadonlyMap<Route, ReadonlyArray<object>> =>
  new Map(
    routes
      .filter(({ service, admin }) => !admin || service === "user")
      .flatMap((one) => (one.body === undefined ? [] : [[one, drawn(choices, one.body, `${one.path} ${seed}`, 24)]]))
  )

const bodyOf = (choices: Choices, body: object | undefined): Buffer | undefined => {
  if (body === undefined) {
    return choices.pick(6) === 0 ? spoilt(choices, { a: 1 }).bytes : undefined
  }
  const sound = JSON.stringify(body)
  return pickBy<() => Buffer | undefined>(choices, [
    [3, () => Buffer.from(sound)],
    [14, () => spoilt(choices, body).bytes],
    [1, () => hugeBody(choices, sound)],
    [1, () => undefined]
  ])()
}

const methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND", "QUERY"]

/** One request. */
export const requestTo = (choices: Choices, known: Known, bodies: ReadonlyMap<Route, ReadonlyArray<object>>): Sent => {
  const chosen = pickOne(choices, choices.pick(2) === 0 ? routes : routes.slice(0, 24))
  const held = bodies.get(chosen)
  const method = choices.pick(20) === 0 ? pickOne(choices, methods) : chosen.method
  const wanted = held === undefined ? undefined : pickOne(choices, held)
  const bodyless = method === "GET" || method === "HEAD"
  const body = bodyless ? undefined : bodyOf(choices, wanted)
  const usual: ReadonlyArray<readonly [string, string]> = [
    ...(body === undefined || choices.pick(20) === 0 ? [] : [["Content-Type", "application/json"] as const]),
    ...(method === "PUT" && choices.pick(4) > 0 ? [["If-Match", pickOne(choices, ["*", '"1"', '"2"'])] as const] : [])
  ]
  const more = Array.from({ length: choices.pick(3) === 0 ? 1 + choices.pick(3) : 0 }, () => {
    const name = pickOne(choices, headerNames)
    return [name, pickOne(choices, headerValues[name] ?? [""])] as const
  })
  const chunked = body !== undefined && choices.pick(10) === 0
  return {
    route: chosen,
    method,
    path: pathOf(choices, known, chosen.path),
    headers: [...usual, ...more],
    body,
    chunked
  }
}
