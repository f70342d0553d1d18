import { describe, expect, spyOn, test } from "bun:test"
import { Effect } from "effect"
import { Hono, type Context } from "hono"
import { routes } from "../../order/http.ts"
import { bodyLimitBytes, preferredWaitSeconds, toPage, traceparent } from "../request.ts"
import { bodyOf, json, quietly, standIn, withApp } from "./stand-ins.ts"

quietly()

const queries = {
  order: async () => undefined,
  orders: async () => [],
  ended: async () => [],
  history: async () => []
}

/** What the order service answers to a request that it must refuse; nothing may get as far as the participant. */
const refusal = async (path: string, init?: RequestInit) => {
  const { edge, submitted } = standIn(() => Effect.die(new Error("must not be reached")))
  let answer: { status: number; headers: Headers; problem: Readonly<Record<string, unknown>> } | undefined
  await withApp(edge, routes(edge, queries), async (app) => {
    const response = await app.request(path, init)
    answer = { status: response.status, headers: response.headers, problem: await bodyOf(response) }
  })
  expect(submitted).toEqual([])
  if (answer === undefined) throw new Error("there was no answer")
  expect(answer.headers.get("Content-Type")).toBe("application/problem+json")
  expect(answer.headers.get("X-Content-Type-Options")).toBe("nosniff")
  expect(answer.problem).toMatchObject({ status: answer.status, type: expect.any(String), title: expect.any(String) })
  return answer
}

const item = { productId: "p1", quantity: 1 }
const order = { userId: "u1", items: [item] }

describe("a body", () => {
  const broken = ["", "{", '{"userId":', "undefined", '{"userId":"u1"}}', "[".repeat(20_000)]
  for (const text of broken) {
    test(`of ${JSON.stringify(text.slice(0, 20))} is not JSON: 400`, async () => {
      expect(await refusal("/orders", json(text))).toMatchObject({ status: 400 })
    })
  }

  test("that is not UTF-8 is not JSON: 400", async () => {
    const body = new Uint8Array([0x22, 0xff, 0x22])

    expect(await refusal("/orders", { ...json(""), body })).toMatchObject({ status: 400 })
  })

  for (const type of ["text/plain", "application/json-patch+json", "application/json; charset=latin1", ""]) {
    test(`of type ${JSON.stringify(type)} is not taken: 415`, async () => {
      expect(await refusal("/orders", json(order, { "Content-Type": type }))).toMatchObject({ status: 415 })
    })
  }

  const tooLarge = JSON.stringify({ ...order, padding: "x".repeat(bodyLimitBytes) })

  test("of more than 64 kB is too large: 413", async () => {
    expect(await refusal("/orders", json(tooLarge))).toMatchObject({ status: 413 })
  })

  test("of more than 64 kB in chunks of unknown number is too large: 413", async () => {
    const chunks = new ReadableStream({
      pull: (controller) => controller.enqueue(new TextEncoder().encode("x".repeat(1_000)))
    })

    const answer = await refusal("/orders", { ...json(""), body: chunks })

    expect(answer).toMatchObject({ status: 413 })
  })

  test("whose client goes away in the middle of it leaves no line in the log", async () => {
    const { edge } = standIn()
    const leaving = new AbortController()
    const chunks = new ReadableStream({
      pull: (controller) => {
        leaving.abort()
        controller.error(leaving.signal.reason)
      }
    })
    const logged = spyOn(console, "log").mockClear()
    let status = 0

    await withApp(edge, routes(edge, queries), async (app) => {
      status = (await app.request("/orders", { ...json(""), body: chunks, signal: leaving.signal })).status
    })

    expect([status, logged.mock.calls]).toEqual([499, []])
  })

  const invalid: ReadonlyArray<readonly [string, unknown, ReadonlyArray<readonly [field: string, allowed: string]>]> = [
    ["is no object", [order], [["body", "object"]]],
    [
      "lacks fields",
      {},
      [
        ["userId", "missing"],
        ["items", "missing"]
      ]
    ],
    ["sets a total", { ...order, total: 1 }, [["total", "userId, items, payment, country, coordination"]]],
    ["sets a price", { ...order, items: [{ ...item, price: 1 }] }, [["items[0].price", "productId, quantity"]]],
    ["sets a status", { ...order, status: "APPROVED" }, [["status", "allowed are"]]],
    ["has no items", { ...order, items: [] }, [["items", "between 1 and 50"]]],
    ["has too many items", { ...order, items: Array(51).fill(item) }, [["items", "between 1 and 50"]]],
    ["names a product twice", { ...order, items: [item, item] }, [["items", "once"]]],
    ["orders nothing", { ...order, items: [{ ...item, quantity: 0 }] }, [["items[0].quantity", "between 1 and 10000"]]],
    ["orders a half", { ...order, items: [{ ...item, quantity: 0.5 }] }, [["items[0].quantity", "integer"]]],
    ["orders by text", { ...order, items: [{ ...item, quantity: "1" }] }, [["items[0].quantity", "number"]]],
    ["has a bad user", { ...order, userId: "a b" }, [["userId", "1 to 64 characters of A-Z"]]],
    ["has a NUL", { ...order, userId: "a\u0000" }, [["userId", "1 to 64 characters of A-Z"]]],
    ["wants a style that there is not", { ...order, coordination: "anarchy" }, [["coordination", "choreography"]]],
    ["wants a saga that there is not", { ...order, definition: "pay-last" }, [["definition", "pay-first"]]]
  ]
  for (const [what, body, fields] of invalid) {
    test(`that ${what} is not valid: 422, and names ${fields.map(([field]) => field).join(", ")}`, async () => {
      const { status, problem } = await refusal("/orders", json(body))

      expect(status).toBe(422)
      for (const [field, allowed] of fields) {
        expect(problem["errors"]).toContainEqual({ field, detail: expect.stringContaining(allowed) })
      }
    })
  }

  test("that names a field at great length is not told the whole name", async () => {
    const { problem } = await refusal("/orders", json({ ...order, ["x".repeat(3_000)]: 1 }))

    expect(problem["errors"]).toMatchObject([{ field: "x".repeat(100) }])
  })

  test("may spell its media type in capitals", async () => {
    const { edge, submitted } = standIn(({ payload }) => Effect.succeed(payload))
    const type = { "Content-Type": 'Application/JSON ; Charset="UTF-8"' }

    await withApp(edge, routes(edge, queries), async (app) => void (await app.request("/orders", json(order, type))))

    expect(submitted).toHaveLength(1)
  })

  test("with thousands of mistakes is told a few of them", async () => {
    const unknown = Object.fromEntries(Array.from({ length: 3_000 }, (_, n) => [`field${n}`, n]))

    const { problem } = await refusal("/orders", json({ ...order, ...unknown }))

    expect(problem["errors"]).toHaveLength(20)
  })
})

describe("a header", () => {
  for (const key of ["a b", "ü", "x".repeat(65), '""']) {
    test(`Idempotency-Key of ${JSON.stringify(key)} is not valid: 400`, async () => {
      expect(await refusal("/orders", json(order, { "Idempotency-Key": key }))).toMatchObject({ status: 400 })
    })
  }

  test("traceparent that is none is left out", async () => {
    const { edge, submitted } = standIn(({ payload }) => Effect.succeed(payload))

    await withApp(edge, routes(edge, queries), async (app) => {
      await app.request("/orders", json(order, { traceparent: `00-${"0".repeat(32)}-b7ad6b7169203331-01` }))
      await app.request("/orders", json(order, { traceparent: "nonsense" }))

      expect(submitted.map(({ options }) => options?.traceparent)).toEqual([undefined, undefined])
    })
  })
})

/** What a function finds out about a request with this header. */
const readOf = async <A>(name: string, value: string | undefined, read: (c: Context) => A): Promise<A | undefined> => {
  let found: A | undefined
  const app = new Hono().get("/", (c) => {
    found = read(c)
    return c.body(null, 204)
  })
  await app.request("/", { headers: value === undefined ? {} : { [name]: value } })
  return found
}

describe("the wait that a client prefers", () => {
  test.each<readonly [string | undefined, number]>([
    [undefined, 0],
    ["wait=5", 5],
    ["Wait = 5", 5],
    ['wait="5"', 5],
    ["respond-async, wait=5; foo", 5],
    ["wait=30", 30],
    ["wait=31", 30],
    ["wait=999999999", 30],
    ["await=5", 0],
    ["respond-async; wait=5", 0],
    ["wait=5s", 0],
    ["wait=-5", 0],
    ["wait", 0]
  ])("%p is %p seconds", async (prefer, seconds) => {
    expect(await readOf("Prefer", prefer, preferredWaitSeconds)).toBe(seconds)
  })
})

describe("a traceparent", () => {
  const [trace, span] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"]

  test.each<readonly [string, boolean]>([
    [`00-${trace}-${span}-01`, true],
    [`cc-${trace}-${span}-00`, true],
    [`ff-${trace}-${span}-01`, false],
    [`00-${"0".repeat(32)}-${span}-01`, false],
    [`00-${trace}-${"0".repeat(16)}-01`, false],
    [`00-${trace}-${span}-01-more`, false]
  ])("%s is one: %p", async (header, valid) => {
    expect(await readOf("traceparent", header, traceparent)).toBe(valid ? header : undefined)
  })
})

test("a page says where the next one begins, if there is one", () => {
  const page = { limit: 2, after: undefined, where: {} }
  const [a, b, c] = [{ id: "a" }, { id: "b" }, { id: "c" }]

  expect(toPage([a, b], page)).toEqual({ items: [a, b], next: null })
  expect(toPage([a, b, c], page)).toEqual({ items: [a, b], next: Buffer.from("b").toString("base64url") })
})

test("an unknown route is 404", async () => {
  expect(await refusal("/nothing")).toMatchObject({ status: 404 })
})

test("a method that a route does not have is 405 and names those it has", async () => {
  const { status, headers } = await refusal("/orders", { ...json(order), method: "PUT" })

  expect(status).toBe(405)
  expect(headers.get("Allow")).toBe("POST, GET, HEAD")
})

test("a defect is 500 and tells nothing of the inside", async () => {
  const { edge } = standIn(() => Effect.die(new Error("secret detail")))

  await withApp(edge, routes(edge, queries), async (app) => {
    const response = await app.request("/orders", json(order))

    expect(response.status).toBe(500)
    expect(await response.text()).not.toContain("secret")
  })
})
