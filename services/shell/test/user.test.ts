import { expect, test } from "bun:test"
import { Effect } from "effect"
import { routes } from "../../user/http.ts"
import type { Queries } from "../../user/queries.ts"
import type { UserView } from "../../user/user.ts"
import { bodyOf, json, standIn, withApp } from "./stand-ins.ts"

const ann = { name: "Ann", email: "ann@example.org", balance: 10_000 }
const view = (id: string, balance: number | null): UserView => ({
  id,
  name: ann.name,
  email: ann.email,
  balance,
  createdAt: "2026-11-21T10:00:00.000Z"
})

const queries: Queries = {
  user: async () => undefined,
  users: async () => [],
  withAccount: async (ids) => ids.map((id) => view(id, ann.balance))
}

const created = ({ payload }: { readonly payload: object }) =>
  Effect.succeed({ _tag: "created", user: view("id" in payload ? String(payload.id) : "", null) })

test("a user is answered once the account is open: 201 with the balance", async () => {
  const { edge, submitted } = standIn(created)

  await withApp(edge, routes(edge, queries), async (app) => {
    const response = await app.request("/users", json({ ...ann, id: "ann" }))

    expect(response.status).toBe(201)
    expect(response.headers.get("Location")).toBe("/users/ann")
    expect(await response.json()).toEqual(view("ann", ann.balance))
    expect(submitted[0]?.payload).toEqual({ ...ann, id: "ann" })
  })
})

test("an account that does not open in time leaves the user accepted: 202 with the location", async () => {
  const { edge } = standIn(created)

  await withApp(edge, routes(edge, { ...queries, withAccount: async () => [] }), async (app) => {
    const response = app.request("/users", json({ ...ann, id: "ann" }))
    // what a shutdown cuts short is answered like what the clock does
    edge.closing.openUnsafe()

    expect((await response).status).toBe(202)
    expect((await response).headers.get("Location")).toBe("/users/ann")
  })
})

test("an id is made when the client chooses none, and does not enter what the key stands for", async () => {
  const { edge, submitted } = standIn(created)

  await withApp(edge, routes(edge, queries), async (app) => {
    const first = await bodyOf(await app.request("/users", json(ann, { "Idempotency-Key": "k" })))
    const second = await bodyOf(await app.request("/users", json(ann, { "Idempotency-Key": "k" })))

    expect(first.id).not.toBe(second.id)
    expect(submitted[0]?.options).toEqual(submitted[1]?.options)
  })
})

test("an id that exists is 409", async () => {
  const { edge } = standIn(() => Effect.succeed({ _tag: "exists" }))

  await withApp(edge, routes(edge, queries), async (app) => {
    expect((await app.request("/users", json({ ...ann, id: "ann" }))).status).toBe(409)
  })
})

test("bad users are refused field by field", async () => {
  const { edge, submitted } = standIn(created)

  await withApp(edge, routes(edge, queries), async (app) => {
    const bad = { id: "a/b", name: "", email: "nobody", balance: -1, position: 3 }
    const response = await app.request("/users", json(bad))

    const { errors } = await bodyOf<{ errors: ReadonlyArray<{ field: string }> }>(response)
    expect(response.status).toBe(422)
    expect(new Set(errors.map(({ field }) => field))).toEqual(new Set(Object.keys(bad)))
    expect(submitted).toEqual([])
  })
})
