import { describe, expect, test } from "bun:test"
import { Effect } from "effect"
import { routes } from "../../order/http.ts"
import { bodyLimitBytes } from "../request.ts"
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
