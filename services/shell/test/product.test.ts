import { describe, expect, test } from "bun:test"
import { Effect } from "effect"
import { routes } from "../../product/http.ts"
import type { ProductView } from "../../product/product.ts"
import type { Queries } from "../../product/queries.ts"
import { answerTo, bodyOf, json, standIn, withApp } from "./stand-ins.ts"

const mug: ProductView = {
  id: "mug",
  name: "Mug",
  price: 2_000,
  quantity: 5,
  status: "ACTIVE",
  version: 3,
  createdAt: "2026-11-21T10:00:00.000Z"
}
const done = { _tag: "done", product: mug }

const queries: Queries = {
  product: async (id) => (id === "mug" ? mug : undefined),
  products: async () => []
}

const edit = { name: "Cup", price: 1_500 }
const put = (body: unknown, headers: Readonly<Record<string, string>>) => json(body, headers, "PUT")

const answered = (path: string, init: RequestInit, reply: object = done) =>
  answerTo((edge) => routes(edge, queries), path, init, reply)

test("products are created, and refused when they exist or are not valid", async () => {
  const body = { id: "mug", name: "Mug", price: 2_000, quantity: 5 }
  const exists = new Set<unknown>()
  const { edge } = standIn(({ payload }) => {
    const id = "id" in payload ? payload.id : undefined
    if (exists.has(id)) return Effect.succeed({ _tag: "exists" })
    exists.add(id)
    return Effect.succeed({ _tag: "created", product: { ...mug, version: 1 } })
  })

  await withApp(edge, routes(edge, queries), async (app) => {
    const response = await app.request("/products", json(body))

    expect(response.status).toBe(201)
    expect(response.headers.get("Location")).toBe("/products/mug")
    expect(response.headers.get("ETag")).toBe('"1"')
    expect(await response.json()).toEqual({ ...mug, version: 1 })
    expect((await app.request("/products", json(body))).status).toBe(409)
    expect((await app.request("/products", json({ ...body, price: 0 }))).status).toBe(422)
    expect((await app.request("/products/none")).status).toBe(404)
  })
})

test("a product is read with its version as ETag", async () => {
  const { status, etag, text } = await answered("/products/mug", {})

  expect(status).toBe(200)
  expect(etag).toBe('"3"')
  expect(JSON.parse(text)).toEqual(mug)
})

describe("PUT, DELETE and added stock", () => {
  test("an edit names the versions that it is meant for", async () => {
    const { status, etag, text, submitted } = await answered(
      "/products/mug",
      put(edit, { "If-Match": '"1",W/"2", "3"' })
    )

    expect(status).toBe(200)
    expect(etag).toBe('"3"')
    expect(JSON.parse(text)).toEqual(mug)
    const precondition = ['"1"', 'W/"2"', '"3"']
    expect(submitted).toMatchObject([{ type: "EditProduct", payload: { id: "mug", ...edit, precondition } }])
  })

  test("an edit of any version", async () => {
    const { submitted } = await answered("/products/mug", put(edit, { "If-Match": " * " }))

    expect(submitted[0]?.payload).toMatchObject({ precondition: "*" })
  })

  test("a product is discontinued, whatever its version: 204", async () => {
    const { status, etag, text, submitted } = await answered("/products/mug", { method: "DELETE" })

    expect(status).toBe(204)
    expect(etag).toBe('"3"')
    expect(text).toBe("")
    expect(submitted).toMatchObject([{ type: "DiscontinueProduct", payload: { id: "mug", precondition: "*" } }])
  })

  test("a product is discontinued in the version that the client has seen", async () => {
    const { submitted } = await answered("/products/mug", { method: "DELETE", headers: { "If-Match": '"3"' } })

    expect(submitted[0]?.payload).toMatchObject({ precondition: ['"3"'] })
  })

  test("stock is added, and answered with the product", async () => {
    const { status, etag, text, submitted } = await answered("/products/mug/stock", json({ quantity: 2 }))

    expect(status).toBe(200)
    expect(etag).toBe('"3"')
    expect(JSON.parse(text)).toEqual(mug)
    expect(submitted).toMatchObject([{ type: "AddStock", payload: { id: "mug", quantity: 2 } }])
  })

  test("a key stands for the product and the version too, not for the body alone", async () => {
    const key = { "Idempotency-Key": "k" }
    const sent = await Promise.all([
      answered("/products/mug/stock", json({ quantity: 2 }, key)),
      answered("/products/mug/stock", json({ quantity: 2 }, key)),
      answered("/products/cup/stock", json({ quantity: 2 }, key)),
      answered("/products/mug", put(edit, { ...key, "If-Match": '"1"' })),
      answered("/products/mug", put(edit, { ...key, "If-Match": '"2"' }))
    ])

    const [first, again, ...others] = sent.map(({ submitted }) => submitted[0]?.options)
    expect(first?.idempotencyKey).toBe("k")
    expect(again).toEqual(first)
    expect(new Set(others.map((options) => options?.fingerprint)).size).toBe(3)
    for (const other of others) expect(other?.fingerprint).not.toBe(first?.fingerprint)
  })

  const match = { "If-Match": '"3"' }
  const stock = json({ quantity: 2 })
  const remove = { method: "DELETE" }
  const refused: ReadonlyArray<readonly [string, string, RequestInit, object, number, string]> = [
    ["an edit of nothing", "mug", put(edit, match), { _tag: "unknown" }, 404, "not-found"],
    ["an edit of a discontinued one", "mug", put(edit, match), { _tag: "discontinued" }, 409, "discontinued"],
    ["an edit of an old version", "mug", put(edit, match), { _tag: "stale", version: 4 }, 412, "precondition-failed"],
    ["discontinuing nothing", "mug", remove, { _tag: "unknown" }, 404, "not-found"],
    ["discontinuing an old version", "mug", remove, { _tag: "stale", version: 4 }, 412, "precondition-failed"],
    ["stock of nothing", "mug/stock", stock, { _tag: "unknown" }, 404, "not-found"],
    ["stock of a discontinued one", "mug/stock", stock, { _tag: "discontinued" }, 409, "discontinued"],
    ["too much stock", "mug/stock", stock, { _tag: "full", quantity: 5 }, 409, "stock-limit"]
  ]
  for (const [what, path, init, reply, status, kind] of refused) {
    test(`${what} is ${status} ${kind}`, async () => {
      const answer = await answered(`/products/${path}`, init, reply)

      expect(answer.status).toBe(status)
      expect(JSON.parse(answer.text)).toMatchObject({ type: `urn:oncebox:problem:${kind}`, status })
      expect(answer.etag).toBe(status === 412 ? '"4"' : null)
    })
  }

  test("too much stock is told how much there is", async () => {
    const { text } = await answered("/products/mug/stock", stock, { _tag: "full", quantity: 5 })

    expect(JSON.parse(text)).toMatchObject({ detail: "There are 5 of mug, and there can be 1000000000 at most." })
  })

  const notTried: ReadonlyArray<readonly [string, string, RequestInit, number, string]> = [
    ["an edit without If-Match", "mug", put(edit, {}), 428, "precondition-required"],
    ["an ETag without quotes", "mug", put(edit, { "If-Match": "3" }), 400, "invalid-header"],
    ["an ETag without an end", "mug", put(edit, { "If-Match": '"3' }), 400, "invalid-header"],
    ["an ETag beside *", "mug", put(edit, { "If-Match": '*, "3"' }), 400, "invalid-header"],
    ["no ETag", "mug", put(edit, { "If-Match": "" }), 400, "invalid-header"],
    ["an edit of stock", "mug", put({ ...edit, quantity: 3 }, match), 422, "invalid-request"],
    ["half an edit", "mug", put({ name: "Cup" }, match), 422, "invalid-request"],
    ["an id that can be none", "%00", put(edit, match), 404, "not-found"],
    ["discontinuing what can be none", "%00", remove, 404, "not-found"],
    ["discontinuing 3", "mug", { ...remove, headers: { "If-Match": "3" } }, 400, "invalid-header"],
    ["no stock", "mug/stock", json({ quantity: 0 }), 422, "invalid-request"],
    ["stock below nothing", "mug/stock", json({ quantity: -1 }), 422, "invalid-request"],
    ["more stock than there can be", "mug/stock", json({ quantity: 1_000_000_001 }), 422, "invalid-request"],
    ["a bad key", "mug/stock", json({ quantity: 1 }, { "Idempotency-Key": "a b" }), 400, "invalid-header"]
  ]
  for (const [what, path, init, status, kind] of notTried) {
    test(`${what} is ${status} ${kind}, and nothing is tried`, async () => {
      const { submitted, ...answer } = await answered(`/products/${path}`, init)

      expect(answer.status).toBe(status)
      expect(JSON.parse(answer.text)).toMatchObject({ type: `urn:oncebox:problem:${kind}`, status })
      expect(submitted).toEqual([])
    })
  }
})

describe("a list's filter", () => {
  const asked = async (query: string) => {
    const { edge } = standIn()
    const pages: Array<unknown> = []
    let answer: { status: number; body: Readonly<Record<string, unknown>> } = { status: 0, body: {} }
    const products: Queries["products"] = async (page) => {
      pages.push(page)
      return []
    }
    await withApp(edge, routes(edge, { ...queries, products }), async (app) => {
      const response = await app.request(`/products${query}`)
      answer = { status: response.status, body: await bodyOf(response) }
    })
    return { ...answer, pages }
  }

  test("that is not sent filters nothing", async () => {
    expect((await asked("")).pages).toEqual([{ limit: 20, after: undefined, where: {} }])
  })

  test("reaches the query, beside limit and cursor", async () => {
    const { status, pages } = await asked("?limit=2&cursor=bXVn&status=DISCONTINUED")

    expect(status).toBe(200)
    expect(pages).toEqual([{ limit: 2, after: "mug", where: { status: "DISCONTINUED" } }])
  })

  const bad: Readonly<Record<string, readonly [field: string, allowed: string]>> = {
    "?status=GONE": ["status", '"ACTIVE" | "DISCONTINUED"'],
    "?status=": ["status", '"ACTIVE" | "DISCONTINUED"'],
    "?status=ACTIVE&status=DISCONTINUED": ["status", "ACTIVE"],
    "?state=ACTIVE": ["state", "limit, cursor, status"]
  }
  for (const [query, [field, allowed]] of Object.entries(bad)) {
    test(`${query} is 422 and names what is allowed`, async () => {
      const { status, body, pages } = await asked(query)

      expect(status).toBe(422)
      expect(body["errors"]).toEqual([{ field, detail: expect.stringContaining(allowed) }])
      expect(pages).toEqual([])
    })
  }
})
