import { describe, expect, test } from "bun:test"
import { Effect } from "effect"
import { KeyReused, NotAnswered, QueueFull, RequestFailed, type RequestError } from "oncebox"
import type { OrderView } from "../../order/contract.ts"
import { routes } from "../../order/http.ts"
import type { Queries } from "../../order/queries.ts"
import { bodyOf, json, quietly, standIn, withApp, type Submitted } from "./stand-ins.ts"

quietly()

const body = { userId: "u1", items: [{ productId: "p1", quantity: 2 }] }

const orderOf = (id: string, change: Partial<OrderView> = {}): OrderView => ({
  id,
  sagaId: id,
  userId: "u1",
  items: body.items,
  total: null,
  payment: { method: "account" },
  status: "CREATED",
  reason: null,
  coordination: "orchestration",
  definition: "place-order",
  createdAt: "2026-11-21T10:00:00.000Z",
  ...change
})

const idAt = (n: number) => `019a0000-0000-7000-8000-${String(n).padStart(12, "0")}`

const nothingFound: Queries = {
  order: async () => undefined,
  orders: async () => [],
  ended: async () => [],
  history: async () => []
}

const placed = ({ payload }: Submitted): Effect.Effect<object, RequestError> =>
  Effect.succeed(orderOf("orderId" in payload ? String(payload.orderId) : ""))

describe("placing an order", () => {
  test("answers 202 with the order and its location", async () => {
    const { edge, submitted } = standIn(placed)

    await withApp(edge, routes(edge, nothingFound), async (app) => {
      const response = await app.request("/orders", json(body, { traceparent: trace }))

      const order = await bodyOf<OrderView>(response)
      expect(response.status).toBe(202)
      expect(response.headers.get("Location")).toBe(`/orders/${order.id}`)
      expect(response.headers.get("Preference-Applied")).toBeNull()
      expect(order).toEqual(orderOf(order.id))
      expect(order.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7/)
      expect(submitted).toMatchObject([
        { type: "PlaceOrder", payload: { ...body, country: null, coordination: "orchestration", orderId: order.id } }
      ])
      const style = { coordination: "orchestration", definition: "place-order" }
      expect(submitted[0]?.options).toMatchObject({ ...style, traceparent: trace })
    })
  })

  test("the outcome is waited for when the client prefers that", async () => {
    const { edge } = standIn(placed)
    const ended = async (ids: ReadonlyArray<string>) =>
      ids.map((id) => orderOf(id, { status: "APPROVED", total: 4000 }))

    await withApp(edge, routes(edge, { ...nothingFound, ended }), async (app) => {
      const response = await app.request("/orders", json(body, { Prefer: "respond-async, wait=5" }))

      expect(response.status).toBe(200)
      expect(response.headers.get("Preference-Applied")).toBe("wait=5")
      expect(await response.json()).toMatchObject({ status: "APPROVED", total: 4000 })
    })
  })

  test("an outcome that does not come in time leaves it at 202", async () => {
    const { edge } = standIn(placed)

    await withApp(edge, routes(edge, nothingFound), async (app) => {
      const response = await app.request("/orders", json(body, { Prefer: "wait=1" }))

      expect(response.status).toBe(202)
      expect(response.headers.get("Preference-Applied")).toBe("wait=1")
    })
  })

  test("a shutdown answers those who wait with what is there", async () => {
    const { edge } = standIn(placed)

    await withApp(edge, routes(edge, nothingFound), async (app) => {
      const response = app.request("/orders", json(body, { Prefer: "wait=30" }))
      edge.closing.openUnsafe()

      expect((await response).status).toBe(202)
    })
  })

  test("a client that goes away is not waited for", async () => {
    const { edge } = standIn(placed)
    const gone = new AbortController()

    await withApp(edge, routes(edge, nothingFound), async (app) => {
      const response = app.request("/orders", { ...json(body, { Prefer: "wait=30" }), signal: gone.signal })
      gone.abort()

      expect((await response).status).toBe(499)
    })
  })

  test("a key stands for the client's body, not for the id made per request", async () => {
    const { edge, submitted } = standIn(placed)

    await withApp(edge, routes(edge, nothingFound), async (app) => {
      await app.request("/orders", json(body, { "Idempotency-Key": "k-1" }))
      const reordered = { items: [{ quantity: 2, productId: "p1" }], userId: "u1" }
      await app.request("/orders", json(reordered, { "Idempotency-Key": '"k-1"' }))
      await app.request("/orders", json({ ...body, userId: "u2" }, { "Idempotency-Key": "k-1" }))

      const [first, retry, other] = submitted.map(({ options }) => options)
      expect(first?.idempotencyKey).toBe("k-1")
      expect(retry).toEqual(first)
      expect(other?.fingerprint).not.toBe(first?.fingerprint)
    })
  })

  const refused: ReadonlyArray<readonly [RequestError, number, string, string | null]> = [
    [new QueueFull({ waiting: 1 }), 503, "busy", "1"],
    [new NotAnswered({ afterMs: 1 }), 503, "outcome-unknown", "1"],
    [new KeyReused({ key: "k" }), 422, "key-reused", null],
    [new RequestFailed({ message: "relation orders does not exist" }), 500, "internal", null]
  ]
  for (const [error, status, kind, retryAfter] of refused) {
    test(`${error._tag} is answered with ${status}`, async () => {
      const { edge } = standIn(() => Effect.fail(error))

      await withApp(edge, routes(edge, nothingFound), async (app) => {
        const response = await app.request("/orders", json(body, { "Idempotency-Key": "k" }))

        const text = await response.text()
        expect(response.status).toBe(status)
        expect(response.headers.get("Content-Type")).toBe("application/problem+json")
        expect(response.headers.get("Retry-After")).toBe(retryAfter)
        expect(JSON.parse(text)).toMatchObject({ type: `urn:oncebox:problem:${kind}`, status })
        expect(text).not.toContain("relation")
      })
    })
  }
})

const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

describe("reading orders", () => {
  test("pages follow each other by their cursors", async () => {
    const { edge } = standIn()
    const all = [5, 4, 3, 2, 1].map((n) => orderOf(idAt(n)))
    const orders: Queries["orders"] = async ({ limit, after }) =>
      all.filter(({ id }) => after === undefined || id < after).slice(0, limit + 1)

    await withApp(edge, routes(edge, { ...nothingFound, orders }), async (app) => {
      const seen: Array<string> = []
      let next: string | null = ""
      while (next !== null) {
        const cursor: string = next === "" ? "" : `&cursor=${next}`
        const response = await app.request(`/orders?limit=2${cursor}`)
        const page = await bodyOf<{ items: ReadonlyArray<OrderView>; next: string | null }>(response)
        seen.push(...page.items.map(({ id }) => id))
        next = page.next
      }

      expect(seen).toEqual(all.map(({ id }) => id))
    })
  })

  const badQueries = {
    "limit=0": "limit",
    "limit=101": "limit",
    "limit=1e1": "limit",
    "limit=1&limit=2": "limit",
    "cursor=!": "cursor",
    "cursor=bm90LWFuLWlk": "cursor",
    "sort=asc": "sort"
  }
  for (const [query, field] of Object.entries(badQueries)) {
    test(`?${query} is refused and ${field} named`, async () => {
      const { edge } = standIn()

      await withApp(edge, routes(edge, nothingFound), async (app) => {
        const response = await app.request(`/orders?${query}`)

        expect(response.status).toBe(422)
        expect(await bodyOf(response)).toMatchObject({ errors: [{ field }] })
      })
    })
  }

  test("unknown orders are 404, whatever their id looks like", async () => {
    const { edge } = standIn()

    await withApp(edge, routes(edge, nothingFound), async (app) => {
      for (const id of [idAt(1), "1", "%00", `${idAt(1)}x`]) {
        for (const path of [`/orders/${id}`, `/orders/${id}/history`]) {
          expect((await app.request(path)).status).toBe(404)
        }
      }
    })
  })

  test("a history is a list", async () => {
    const { edge } = standIn()
    const entry = { status: "CREATED", reason: null, at: "2026-11-21T10:00:00.000Z" } as const

    await withApp(edge, routes(edge, { ...nothingFound, history: async () => [entry] }), async (app) => {
      const response = await app.request(`/orders/${idAt(1)}/history`)

      expect(await response.json()).toEqual({ items: [entry], next: null })
    })
  })

  test("a database that fails is 503 and tells nothing of the inside", async () => {
    const { edge } = standIn()
    const order = () => Promise.reject(new Error("connect ECONNREFUSED 10.0.0.1:5432"))

    await withApp(edge, routes(edge, { ...nothingFound, order }), async (app) => {
      const response = await app.request(`/orders/${idAt(1)}`)

      expect(response.status).toBe(503)
      expect(response.headers.get("Retry-After")).toBe("1")
      expect(await response.text()).not.toContain("10.0.0.1")
    })
  })
})

describe("cancelling and archiving an order", () => {
  const id = idAt(7)
  const ask = async (reply: object, init: RequestInit & { readonly path?: string } = {}) => {
    const { edge, submitted } = standIn(() => Effect.succeed(reply))
    let answer: { status: number; location: string | null; body: unknown } | undefined
    await withApp(edge, routes(edge, nothingFound), async (app) => {
      const response = await app.request(init.path ?? `/orders/${id}/cancel`, { method: "POST", ...init })
      const text = await response.text()
      answer = {
        status: response.status,
        location: response.headers.get("Location"),
        body: text === "" ? undefined : JSON.parse(text)
      }
    })
    return { ...answer, submitted }
  }
  const archive = (outcome: string) => ask({ outcome }, { method: "DELETE", path: `/orders/${id}` })

  test("answers 202 with the order that will be rejected", async () => {
    const order = orderOf(id, { status: "CANCELLING", reason: "USER_CANCELLED" })

    const { status, location, body, submitted } = await ask({ _tag: "cancelled", order })

    expect({ status, location, body }).toEqual({ status: 202, location: `/orders/${id}`, body: order })
    expect(submitted.map(({ type, payload }) => [type, payload])).toEqual([["CancelOrder", { orderId: id }]])
  })

  test("answers 409 when it is too late, and says what the order is", async () => {
    const { status, body } = await ask({ _tag: "too-late", order: orderOf(id, { status: "APPROVED" }) })

    expect([status, body]).toMatchObject([
      409,
      { type: "urn:oncebox:problem:too-late", detail: expect.stringMatching(/is APPROVED/) }
    ])
  })

  test("answers 404 for an order that nobody knows, and for what can't be an id", async () => {
    expect((await ask({ _tag: "unknown" })).status).toBe(404)
    const odd = await ask({ _tag: "unknown" }, { path: "/orders/x/cancel" })
    expect([odd.status, odd.submitted]).toEqual([404, []])
  })

  test("takes an order off the lists with 204, an open one not: 409 names cancel", async () => {
    expect(await archive("archived")).toMatchObject({ status: 204, body: undefined })
    expect(await archive("open")).toMatchObject({
      status: 409,
      body: { detail: expect.stringMatching(/orders.*cancel/) }
    })
    expect((await archive("unknown")).status).toBe(404)
  })
})
