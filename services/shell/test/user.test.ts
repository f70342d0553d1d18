import { describe, expect, test } from "bun:test"
import { Effect } from "effect"
import { routes } from "../../user/http.ts"
import type { Queries } from "../../user/queries.ts"
import type { DepositView } from "../../user/deposit.ts"
import type { UserView } from "../../user/user.ts"
import { answerTo, bodyOf, json, standIn, withApp, type Submitted } from "./stand-ins.ts"

const ann = { name: "Ann", email: "ann@example.org", balance: 10_000 }
const view = (id: string, balance: number | null): UserView => ({
  id,
  name: ann.name,
  email: ann.email,
  balance,
  status: "ACTIVE",
  version: 3,
  createdAt: "2026-11-21T10:00:00.000Z"
})

const queries: Queries = {
  user: async () => undefined,
  users: async () => [],
  withAccount: async (ids) => ids.map((id) => view(id, ann.balance)),
  deposit: async () => undefined,
  settledDeposits: async () => []
}

const created = ({ payload }: { readonly payload: object }) =>
  Effect.succeed({ _tag: "created", user: view("id" in payload ? String(payload.id) : "", null) })

test("a user is answered once the account is open: 201 with the balance", async () => {
  const { edge, submitted } = standIn(created)

  await withApp(edge, routes(edge, queries), async (app) => {
    const response = await app.request("/users", json({ ...ann, id: "ann" }))

    expect(response.status).toBe(201)
    expect(response.headers.get("Location")).toBe("/users/ann")
    expect(response.headers.get("ETag")).toBe('"3"')
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

const known: Queries = { ...queries, user: async (id) => (id === "ann" ? view("ann", 10_000) : undefined) }
const answered = (path: string, init: RequestInit, reply: object = {}, found = known) =>
  answerTo((edge) => routes(edge, found), path, init, reply)

const edit = { name: "Anna", email: "anna@example.org" }
const put = (body: unknown, headers: Readonly<Record<string, string>>) => json(body, headers, "PUT")
const match = { "If-Match": '"3"' }
const remove = { method: "DELETE" }
const done = { _tag: "done", user: view("ann", 10_000) }

test("a user is read with the version as ETag", async () => {
  const { status, etag, text } = await answered("/users/ann", {})

  expect(status).toBe(200)
  expect(etag).toBe('"3"')
  expect(JSON.parse(text)).toEqual(view("ann", 10_000))
})

test("a user is edited in the version that the client has seen", async () => {
  const { status, etag, text, submitted } = await answered("/users/ann", put(edit, match), done)

  expect(status).toBe(200)
  expect(etag).toBe('"3"')
  expect(JSON.parse(text)).toEqual(view("ann", 10_000))
  expect(submitted).toMatchObject([{ type: "EditUser", payload: { id: "ann", ...edit, precondition: ['"3"'] } }])
})

test("a user is closed: 204", async () => {
  const { status, etag, text, submitted } = await answered("/users/ann", remove, done)

  expect(status).toBe(204)
  expect(etag).toBe('"3"')
  expect(text).toBe("")
  expect(submitted).toMatchObject([{ type: "CloseUser", payload: { id: "ann", precondition: "*" } }])
})

test("a key stands for the user and the version too, not for the body alone", async () => {
  const key = { "Idempotency-Key": "k" }
  const sent = await Promise.all([
    answered("/users/ann", put(edit, { ...key, "If-Match": '"1"' }), done),
    answered("/users/ann", put(edit, { ...key, "If-Match": '"2"' }), done),
    answered("/users/bob", put(edit, { ...key, "If-Match": '"1"' }), done),
    answered("/users/ann", { method: "DELETE", headers: { ...key, "If-Match": '"1"' } }, done),
    answered("/users/ann", { method: "DELETE", headers: { ...key, "If-Match": '"2"' } }, done),
    answered("/users/bob", { method: "DELETE", headers: { ...key, "If-Match": '"1"' } }, done)
  ])

  const fingerprints = sent.flatMap(({ submitted }) => submitted.map(({ options }) => options?.fingerprint))
  expect(fingerprints).toHaveLength(6)
  expect(new Set(fingerprints.slice(0, 3)).size).toBe(3)
  expect(new Set(fingerprints.slice(3)).size).toBe(3)
})

test("users are listed by their status, and by nothing else", async () => {
  const pages: Array<unknown> = []
  const users: Queries["users"] = async (page) => {
    pages.push(page)
    return []
  }

  const found = await answered("/users?status=CLOSED", {}, {}, { ...known, users })
  const refused = await answered("/users?status=GONE&email=x", {}, {}, { ...known, users })

  expect(found.status).toBe(200)
  expect(pages).toEqual([{ limit: 20, after: undefined, where: { status: "CLOSED" } }])
  expect(refused.status).toBe(422)
  expect(JSON.parse(refused.text)).toMatchObject({ errors: [{ field: "email" }, { field: "status" }] })
})

const pending: DepositView = {
  id: "019a0000-0000-7000-8000-000000000001",
  userId: "ann",
  amount: 500,
  status: "PENDING",
  reason: null,
  createdAt: "2026-11-21T10:00:00.000Z"
}
const deposits = "/users/ann/deposits"
const asked = { _tag: "asked", deposit: pending }

const refused: ReadonlyArray<readonly [string, string, RequestInit, object, number, string]> = [
  ["an edit of nobody", "/users/ann", put(edit, match), { _tag: "unknown" }, 404, "not-found"],
  ["an edit of who is closed", "/users/ann", put(edit, match), { _tag: "closed" }, 409, "account-closed"],
  ["an old edit", "/users/ann", put(edit, match), { _tag: "stale", version: 4 }, 412, "precondition-failed"],
  ["closing nobody", "/users/ann", remove, { _tag: "unknown" }, 404, "not-found"],
  ["closing an old version", "/users/ann", remove, { _tag: "stale", version: 4 }, 412, "precondition-failed"],
  ["a deposit of who is gone", deposits, json({ amount: 1 }), { _tag: "unknown" }, 404, "not-found"],
  ["a deposit of who is closed", deposits, json({ amount: 1 }), { _tag: "closed" }, 409, "account-closed"]
]
for (const [what, path, init, reply, status, kind] of refused) {
  test(`${what} is ${status} ${kind}`, async () => {
    const answer = await answered(path, init, reply)

    expect(answer.status).toBe(status)
    expect(JSON.parse(answer.text)).toMatchObject({ type: `urn:oncebox:problem:${kind}`, status })
    expect(answer.etag).toBe(status === 412 ? '"4"' : null)
  })
}

const notTried: ReadonlyArray<readonly [string, string, RequestInit, number, string]> = [
  ["an edit without If-Match", "/users/ann", put(edit, {}), 428, "precondition-required"],
  ["an edit of 3", "/users/ann", put(edit, { "If-Match": "3" }), 400, "invalid-header"],
  ["an edit of the balance", "/users/ann", put({ ...edit, balance: 1 }, match), 422, "invalid-request"],
  ["an edit without an address", "/users/ann", put({ name: "Anna" }, match), 422, "invalid-request"],
  ["closing 3", "/users/ann", { ...remove, headers: { "If-Match": "3" } }, 400, "invalid-header"],
  ["a deposit of nothing", deposits, json({ amount: 0 }), 422, "invalid-request"],
  ["a deposit of a debt", deposits, json({ amount: -1 }), 422, "invalid-request"],
  ["a deposit of a half", deposits, json({ amount: 0.5 }), 422, "invalid-request"],
  ["a deposit of more than there can be", deposits, json({ amount: 1_000_000_000_001 }), 422, "invalid-request"],
  ["a deposit with an id", deposits, json({ amount: 1, id: pending.id }), 422, "invalid-request"],
  ["a deposit of nobody", "/users/bob/deposits", json({ amount: 1 }), 404, "not-found"],
  ["a bad key", deposits, json({ amount: 1 }, { "Idempotency-Key": "a b" }), 400, "invalid-header"],
  ["a deposit that nobody asked for", `${deposits}/${pending.id}`, {}, 404, "not-found"],
  ["a deposit without a UUID", `${deposits}/1`, {}, 404, "not-found"]
]
for (const [what, path, init, status, kind] of notTried) {
  test(`${what} is ${status} ${kind}, and nothing is tried`, async () => {
    const { submitted, ...answer } = await answered(path, init)

    expect(answer.status).toBe(status)
    expect(JSON.parse(answer.text)).toMatchObject({ type: `urn:oncebox:problem:${kind}`, status })
    expect(submitted).toEqual([])
  })
}

describe("a deposit", () => {
  test("is accepted, with the place where its end can be seen: 202", async () => {
    const { status, location, text, submitted } = await answered(deposits, json({ amount: 500 }), asked)

    expect(status).toBe(202)
    expect(location).toBe(`${deposits}/${pending.id}`)
    expect(JSON.parse(text)).toEqual(pending)
    const depositId = expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7/)
    expect(submitted).toMatchObject([{ type: "RequestDeposit", payload: { userId: "ann", amount: 500, depositId } }])
  })

  for (const change of [{ status: "MADE" }, { status: "REFUSED", reason: "BALANCE_TOO_LARGE" }] as const) {
    test(`whose end the client prefers to wait for is answered with it: 200 ${change.status}`, async () => {
      const settledDeposits: Queries["settledDeposits"] = async (ids) =>
        ids.map((id) => ({ ...pending, id, ...change }))

      const init = json({ amount: 500 }, { Prefer: "wait=5" })
      const { status, text } = await answered(deposits, init, asked, { ...known, settledDeposits })

      expect(status).toBe(200)
      expect(JSON.parse(text)).toEqual({ ...pending, ...change })
    })
  }

  test("whose end does not come in time stays accepted: 202", async () => {
    const { status, text } = await answered(deposits, json({ amount: 500 }, { Prefer: "wait=1" }), asked)

    expect(status).toBe(202)
    expect(JSON.parse(text)).toEqual(pending)
  })

  test("before the account is open is not asked of anyone: 503, to be sent again", async () => {
    const user: Queries["user"] = async (id) => view(id, null)

    const { status, text, submitted } = await answered(deposits, json({ amount: 1 }), asked, { ...known, user })

    expect(status).toBe(503)
    expect(JSON.parse(text)).toMatchObject({ type: "urn:oncebox:problem:unavailable" })
    expect(submitted).toEqual([])
  })

  test("has an id made per request; a key stands for the user and the amount", async () => {
    const key = { "Idempotency-Key": "k" }
    const everyone: Queries = { ...known, user: async (id) => view(id, 0) }
    const sent: Array<Submitted> = []
    for (const [userId, amount] of [
      ["ann", 1],
      ["ann", 1],
      ["ann", 2],
      ["bob", 1]
    ] as const) {
      const { submitted } = await answered(`/users/${userId}/deposits`, json({ amount }, key), asked, everyone)
      sent.push(...submitted)
    }

    expect(sent).toHaveLength(4)
    const [first, again, ...others] = sent
    expect(again?.options).toEqual(first?.options)
    expect(again?.payload).not.toEqual(first?.payload)
    for (const other of others) expect(other.options?.fingerprint).not.toBe(first?.options?.fingerprint)
  })

  test("is read under its user", async () => {
    const deposit: Queries["deposit"] = async (userId, id) =>
      userId === "ann" && id === pending.id ? pending : undefined

    const found = await answered(`${deposits}/${pending.id}`, {}, {}, { ...known, deposit })
    const others = await answered(`/users/bob/deposits/${pending.id}`, {}, {}, { ...known, deposit })

    expect(found.status).toBe(200)
    expect(JSON.parse(found.text)).toEqual(pending)
    expect(others.status).toBe(404)
  })
})
