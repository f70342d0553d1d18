/** The load tool's own arithmetic: what it counts, from when, and what it makes of it. */
import { expect, spyOn, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { hopsOf } from "../load/hops.ts"
import { Loops } from "../load/loops.ts"
import { drawPicture } from "../load/picture.ts"
import { isSound, linesOf, percentilesOf, reportOf, type Measured, type Report } from "../load/report.ts"
import { makeShop, type Planned, type Shop } from "../load/shop.ts"
import { outputOf, withinMs } from "./command.ts"

const order: Planned = {
  body: {},
  approved: true,
  product: { id: "p", price: 1, quantity: 1 },
  user: { id: "u", balance: 1 }
}

/** A shop whose orders end at once, or so long after they were placed; every third one wrongly. */
const shopOf = (takesMs = 0) => {
  let placed = 0
  let open = 0
  const seen = { most: 0, approved: 0 }
  const shop: Shop = {
    first: async () => {},
    prepare: async () => {},
    plan: () => order,
    place: async () => {
      const id = String(placed++)
      seen.most = Math.max(seen.most, ++open)
      const end = () => {
        open--
        loops.ended({ orderId: id, approved: Number(id) % 3 !== 2, atMs: Date.now() })
      }
      // half of the outcomes overtake the answer
      if (takesMs > 0) setTimeout(end, takesMs)
      else if (Number(id) % 2 === 0) end()
      else setImmediate(end)
      return id
    },
    approved: () => void seen.approved++,
    errors: async () => [],
    random: () => 0.5
  }
  const loops = new Loops(shop)
  return { loops, shop, seen, placed: () => placed }
}

test("a closed loop keeps so many orders in flight, and counts each as it ended", async () => {
  const { loops, seen, placed } = shopOf()
  const tally = await loops.run({ inFlight: 7 }, 0.05)
  expect(seen.most).toBeLessThanOrEqual(7)
  expect(seen.most).toBe(7)
  expect(tally.latencies.length).toBe(placed())
  expect(tally.approved + tally.rejected).toBe(placed())
  expect(tally.rejected).toBe(Math.floor(placed() / 3))
  expect(tally.wrong).toBe(tally.rejected)
  expect(seen.approved).toBe(tally.approved)
})

test("an open loop counts from the schedule, not from when it got round to placing", async () => {
  const { loops } = shopOf()
  const stalled = 200
  // the event loop stands still while orders fall due
  setTimeout(() => Bun.sleepSync(stalled), 20)
  const tally = await loops.run({ rate: 200 }, 0.3)
  expect(tally.late).toBeGreaterThan(stalled / 2)
  expect(Math.max(...tally.latencies)).toBeGreaterThan(stalled / 2)
  // at the median of their distribution, ln 2 / 200 s from arrival to arrival: 86 of them in 300 ms
  expect(tally.latencies.length).toBeGreaterThan(75)
  expect(tally.latencies.length).toBeLessThan(90)
})

test("an open loop ends when all of its orders have ended", async () => {
  const { loops, placed } = shopOf(50)
  const tally = await loops.run({ rate: 200 }, 0.02)
  expect(placed()).toBeGreaterThan(1)
  expect(tally.latencies.length).toBe(placed())
})

test("an order that is refused is counted as failed, and the first ones are told", async () => {
  const told = spyOn(console, "error").mockImplementation(() => {})
  const { shop } = shopOf()
  const refusing = { ...shop, place: () => Promise.reject(new Error("refused")) }
  const tally = await new Loops(refusing).run({ rate: 100 }, 0.05)
  const lines = told.mock.calls.map(([line]) => String(line))
  told.mockRestore()
  expect(tally.failed).toBeGreaterThan(3)
  expect(tally.latencies).toEqual([])
  expect(lines).toEqual(["refused", "refused", "refused"])
})

test("percentiles are by nearest rank", () => {
  expect(percentilesOf(Array.from({ length: 200 }, (_, n) => 200 - n))).toEqual({
    p50: 100,
    p95: 190,
    p99: 198,
    max: 200
  })
  expect(percentilesOf([3])).toEqual({ p50: 3, p95: 3, p99: 3, max: 3 })
  expect(percentilesOf([]).p50).toBeNaN()
})

test("a hop goes from the message to the one that it caused", () => {
  const record = (id: string, type: string, causation: string | undefined, writtenMs: number, onTopicMs: number) => ({
    id,
    type,
    causation,
    writtenMs,
    onTopicMs
  })
  const hops = hopsOf([
    record("1", "Asked", undefined, 100, 105),
    record("2", "Done", "1", 112, 120),
    record("3", "Done", "gone", 200, 203)
  ])
  expect(hops).toEqual([
    { type: "Asked", toTopicMs: [5], toHandlerMs: [7] },
    { type: "Done", toTopicMs: [8, 3], toHandlerMs: [] }
  ])
})

test("a report tells what was used between the two looks, by saga", () => {
  const look = (cpu: number, wal: number, commits: number, passes: number, decided: number) => ({
    cpu: new Map([
      ["order", cpu],
      ["postgres", 2 * cpu]
    ]),
    wal,
    commits,
    work: new Map([["order", { passes, decided, skipped: decided }]])
  })
  const measured: Measured = {
    firstOrderMs: 1_234,
    load: { inFlight: 8 },
    seconds: 2,
    tally: { latencies: [10, 20, 30, 40], approved: 3, rejected: 1, wrong: 0, failed: 0, late: 0 },
    before: look(1, 1_000, 10, 5, 50),
    after: look(1.5, 9_000, 14, 7, 90),
    ownCpu: 0.1,
    resident: new Map([["order", 3 * 2 ** 20]]),
    hops: [
      { type: "Asked", toTopicMs: [5], toHandlerMs: [7] },
      { type: "Done", toTopicMs: [1, 2], toHandlerMs: [] }
    ],
    errors: []
  }
  const report = reportOf(measured)
  expect(report).toMatchObject({
    firstOrderMs: 1_234,
    sagas: 4,
    sagasPerSecond: 2,
    cpuSecondsPer1000: { order: 125, postgres: 250 },
    allCpuSecondsPer1000: 375,
    ownCpuSecondsPer1000: 25,
    walBytesPerSaga: 2_000,
    commitsPerSaga: 1,
    work: { order: { passes: 2, decided: 40, skipped: 40, batch: 20 } },
    allResidentMiB: 3
  })
  const lines = linesOf(report)
  expect(lines[0]).toBe("the first order was approved 1234 ms after the start of the system")
  expect(linesOf(reportOf({ ...measured, firstOrderMs: null }))).toEqual(lines.slice(1))
  expect(lines[1]).toBe("8 in flight: 2 sagas/s over 2 s (3 approved, 1 rejected, 0 wrong, 0 failed)")
  // what was used in 2 s by 4 sagas, of which it would be 125 s by 1,000
  expect(lines).toContain("order                    125.000           25    3")
  expect(lines.slice(-4, -2)).toEqual([
    "Done         2     1 / 2 / 2 / 2                   –",
    "Asked        1     5 / 5 / 5 / 5       7 / 7 / 7 / 7"
  ])
  expect(lines.at(-1)).toBe("stock and money add up")
  expect(linesOf({ ...report, errors: ["stock of p is 1, expected 2 (late)"] }).at(-2)).toBe("STOCK OR MONEY IS WRONG:")
  const many = linesOf({ ...report, errors: Array.from({ length: 20 }, (_, n) => `error ${n}`) })
  expect(many.slice(-11)).toEqual(["STOCK OR MONEY IS WRONG:", ...Array.from({ length: 10 }, (_, n) => `error ${n}`)])
})

test("a run is sound when stock and money add up, and every order ended as it should", () => {
  const sound = { errors: [], outcomes: { approved: 1, rejected: 1, wrong: 0, failed: 0 } }
  expect(isSound(sound)).toBe(true)
  expect(isSound({ ...sound, errors: ["stock of p is 1"] })).toBe(false)
  for (const amiss of ["wrong", "failed"])
    expect(isSound({ ...sound, outcomes: { ...sound.outcomes, [amiss]: 1 } })).toBe(false)
})

test("the first order must be approved", async () => {
  let status = "APPROVED"
  const asked: Array<string> = []
  const services = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request) => {
      const { pathname } = new URL(request.url)
      asked.push(`${pathname} ${request.headers.get("prefer")}`)
      return Response.json({ status }, { status: pathname === "/orders" ? 200 : 201 })
    }
  })
  const at = services.url.href.replace(/\/$/, "")
  const options = { seed: 1, coordination: "orchestration", definition: "place-order" } as const
  const shop = makeShop({ ...options, at: { orders: [at], product: at, user: at } })
  try {
    await shop.first()
    expect(asked.toSorted()).toEqual(["/orders wait=30", "/products null", "/users null"])

    status = "REJECTED"
    await expect(shop.first()).rejects.toThrow('the first order was not approved: 200 {"status":"REJECTED"}')
  } finally {
    await services.stop(true)
  }
})

test("a picture has a point for each load, of several runs the median, and says who is who", () => {
  const run = (load: Measured["load"], sagasPerSecond: number, p50: number, p99: number) => ({
    load,
    sagasPerSecond,
    latencyMs: { p50, p95: p50, p99, max: p99 }
  })
  const svg = drawPicture([
    {
      label: "ours <fast>",
      runs: [
        run({ inFlight: 64 }, 400, 1, 1),
        run({ inFlight: 64 }, 512, 1, 1),
        run({ inFlight: 64 }, 900, 1, 1),
        run({ inFlight: 1024 }, 1024, 1, 1),
        run({ rate: 50 }, 50, 32, 64)
      ]
    },
    { label: "theirs", runs: [] }
  ])
  expect(svg.match(/<circle/g)?.length).toBe(4)
  expect(svg.match(/<polyline/g)?.length).toBe(3)
  expect(svg).toContain("ours &lt;fast&gt;")
  expect(svg).toContain("theirs")
  // the axes go from one power of two to another: 64 to 1024 in flight from edge to edge, 512 to 1024 sagas/s from bottom to top
  expect(svg).toContain('<polyline points="64,228 444,36"')
  const between = drawPicture([{ label: "ours", runs: [run({ inFlight: 48 }, 400, 1, 1)] }])
  expect([between.includes(">32<"), between.includes(">64<")]).toEqual([true, true])
})

/** What the first orders of a seed are about. */
const planned = (count: number) => {
  const options = { seed: 1, coordination: "orchestration", definition: "place-order" } as const
  const shop = makeShop({ ...options, at: { orders: [], product: "", user: "" } })
  const plans = Array.from({ length: count }, shop.plan)
  return {
    approved: plans.filter(({ approved }) => approved).length,
    poor: plans.filter(({ user }) => user.balance === 0).length,
    soldOut: plans.filter(({ product }) => product.quantity === 0).length
  }
}

test("one order in ten comes from a user without money, one in twenty asks for what is sold out", () => {
  const { approved, poor, soldOut } = planned(10_000)

  expect(poor / 10_000).toBeCloseTo(0.1, 1.5)
  expect(soldOut / 10_000).toBeCloseTo(0.05, 1.5)
  expect(approved).toBe(10_000 - poor - soldOut)
})

test.each(["orchestration", "choreography"])(
  "orders at the embedded system end as they should by %s, and the report tells what they cost",
  async (style) => {
    const dir = mkdtempSync(join(tmpdir(), "oncebox-load-"))
    try {
      const load = ["--in-flight", "16", "--seconds", "2", "--warm-up", "0", "--coordination", style]
      const { out, err, code } = await outputOf("stack/load/main.ts", "--embedded", "--json", "--dir", dir, ...load)
      expect([err, code]).toEqual(["", 0])

      const report = JSON.parse(out) as Report
      const { sagas, outcomes, latencyMs, work } = report
      expect(report).toMatchObject({ load: { inFlight: 16 }, errors: [], outcomes: { wrong: 0, failed: 0 } })
      expect(sagas).toBeGreaterThanOrEqual(16)
      const { approved } = planned(sagas)
      expect(outcomes).toMatchObject({ approved, rejected: sagas - approved })
      expect(report.firstOrderMs).toBeGreaterThan(0)
      expect(latencyMs.p50).toBeGreaterThan(0)
      expect(latencyMs.max).toBeGreaterThanOrEqual(latencyMs.p50)
      expect(report.walBytesPerSaga).toBeGreaterThan(1_000)
      expect(report.commitsPerSaga).toBeGreaterThan(0)
      expect(Object.keys(work).sort()).toEqual(["orchestrator", "order", "payment", "product", "shipment", "user"])
      // an order is placed and approved or rejected, and its saga has more than one answer to decide
      expect(work["order"]?.decided).toBeGreaterThanOrEqual(2 * sagas)
      expect(work["orchestrator"]?.decided).toBeGreaterThanOrEqual(3 * sagas)
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  },
  withinMs
)
