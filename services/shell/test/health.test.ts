import { expect, test } from "bun:test"
import { Effect } from "effect"
import { Hono } from "hono"
import { makeAdminApp, type Gauges } from "../admin.ts"
import { bodyOf, standIn, withApp } from "./stand-ins.ts"

const ready = async (stand: ReturnType<typeof standIn>) => {
  let answer = { status: 0, body: {} }
  await withApp(stand.edge, Effect.succeed(new Hono()), async (app) => {
    const response = await app.request("/health/ready")
    answer = { status: response.status, body: await bodyOf(response) }
  })
  return answer
}

test("a service whose participant runs and whose database answers is ready", async () => {
  expect(await ready(standIn())).toEqual({ status: 200, body: { status: "ready" } })
})

test("a participant that stopped makes it unready and says why", async () => {
  const stopped = standIn(undefined, { reasons: ["15 of 20 messages were parked"] })

  expect(await ready(stopped)).toEqual({
    status: 503,
    body: { status: "unready", reasons: ["15 of 20 messages were parked"] }
  })
})

test("a database that fails or does not answer makes it unready", async () => {
  for (const select of [() => Promise.reject(new Error("ECONNREFUSED")), () => new Promise<never>(() => {})]) {
    const { status, body } = await ready(standIn(undefined, { select }))

    expect(status).toBe(503)
    expect(body).toMatchObject({ reasons: [expect.stringContaining("database")] })
  }
})

test("a service that shuts down is not ready, but alive", async () => {
  const stand = standIn()
  stand.edge.closing.openUnsafe()

  expect(await ready(stand)).toMatchObject({ status: 503 })
  await withApp(stand.edge, Effect.succeed(new Hono()), async (app) => {
    expect((await app.request("/health/live")).status).toBe(200)
  })
})

test("counters are shown as Prometheus reads them", async () => {
  const response = await makeAdminApp("order", standIn().edge).request("/metrics")

  expect(response.headers.get("Content-Type")).toStartWith("text/plain; version=0.0.4")
  expect(await response.text()).toContain(
    '# TYPE oncebox_passes_total counter\noncebox_passes_total{service="order"} 3\n'
  )
})

test("gauges are shown beside the counters, which are there even when a gauge can't be read", async () => {
  const shown = async (gauges: Gauges) =>
    (await makeAdminApp("order", standIn().edge, gauges).request("/metrics")).text()

  const measured = await shown(Effect.succeed({ things_open: 7 }))
  const unread = await shown(Effect.fail("the database is away"))

  expect(measured).toContain('# TYPE oncebox_things_open gauge\noncebox_things_open{service="order"} 7\n')
  expect(measured).toContain("oncebox_passes_total")
  expect(unread).toContain("oncebox_passes_total")
  expect(unread).not.toContain("things_open")
})
