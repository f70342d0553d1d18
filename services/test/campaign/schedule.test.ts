/** The nemesis's schedule: what a seed says, no more at once than it may, and time left alone. */
import { expect, test } from "bun:test"
import { AUDITOR, SERVICE_NAMES, SERVICES } from "../../../stack/supervise.ts"
import { linkNames } from "./links.ts"
import { classNames, mixOf, quietShare, schedule, secondsFor, spanOf, windowMs, type ClassName } from "./schedule.ts"

const seeds = Array.from({ length: 50 }, (_, n) => n + 1)

test.each([
  [40, 90],
  [500, 1_020]
])("%d faults find their place in %d seconds, whatever the seed", (count, seconds) => {
  expect(secondsFor(count)).toBeLessThanOrEqual(seconds)
  for (const seed of count === 40 ? seeds : seeds.slice(0, 3)) {
    const faults = schedule(seed, count, seconds)
    expect(faults).toHaveLength(count)
    expect(new Set(faults.map((fault) => fault.class)).size).toBe(classNames.length)
    expect(quietShare(faults.map(spanOf), 0, seconds * 1_000)).toBeGreaterThan(0.25)
    for (const fault of faults) {
      const { from, to } = spanOf(fault)
      expect(Math.floor(to / windowMs)).toBe(Math.floor(from / windowMs))
      expect(to % windowMs).toBeLessThanOrEqual(windowMs * 0.75)
      const under = faults.filter((other) => spanOf(other).from <= from && from <= spanOf(other).to)
      expect(under.length).toBeLessThanOrEqual(3)
      expect(new Set(under.filter(({ lastsMs }) => lastsMs > 0).map(({ target }) => target)).size).toBe(
        under.filter(({ lastsMs }) => lastsMs > 0).length
      )
    }
  }
})

test("each class befalls what there is of its kind, for as long as it should", () => {
  const databases = SERVICE_NAMES.map((name) => SERVICES[name].database)
  const processes = [...SERVICE_NAMES, AUDITOR.name]
  const due: Readonly<Record<ClassName, readonly [ReadonlyArray<string>, least: number, most: number]>> = {
    "kill service": [processes, 200, 1_500],
    "cut link": [linkNames, 0, 0],
    "terminate backends": [databases, 0, 0],
    "black hole": [linkNames, 1_000, 5_000],
    latency: [linkNames, 1_000, 8_000],
    "short stop": [processes, 1_000, 4_000],
    poison: [["topics"], 0, 0],
    "rewind group": [SERVICE_NAMES, 0, 0],
    "connector over REST": [databases, 1_000, 4_000],
    // the session is 15 seconds
    "stop beyond session": [SERVICE_NAMES, 16_000, 18_000],
    "kill connect": [["connect"], 200, 1_000],
    "kill broker": [["kafka"], 200, 1_000],
    "kill postgres": [["postgres"], 200, 1_000],
    "connector offsets": [databases, 0, 0]
  }
  const drawn = Array.from({ length: 150 }, (_, n) => schedule(n + 1, 40, 90)).flat()
  for (const name of classNames) {
    const own = drawn.filter((fault) => fault.class === name)
    const [targets, least, most] = due[name]
    const lasting = own.map(({ lastsMs }) => lastsMs)
    expect([name, [...new Set(own.map(({ target }) => target))].toSorted()]).toEqual([name, targets.toSorted()])
    expect(Math.min(...lasting)).toBeGreaterThanOrEqual(least)
    expect(Math.max(...lasting)).toBeLessThanOrEqual(most)
    // of the span at least two thirds are drawn
    expect(Math.max(...lasting) - Math.min(...lasting)).toBeGreaterThanOrEqual(((most - least) * 2) / 3)
  }
})

test("of a thousand faults there are as many of each class as was said", () => {
  expect(Object.fromEntries(mixOf(1_000))).toEqual({
    "kill service": 300,
    "cut link": 100,
    "terminate backends": 110,
    "black hole": 75,
    latency: 75,
    "short stop": 110,
    poison: 45,
    "rewind group": 40,
    "connector over REST": 40,
    "stop beyond session": 40,
    "kill connect": 15,
    "kill broker": 15,
    "kill postgres": 15,
    "connector offsets": 20
  })
})

test.each([
  [500, [151, 50, 56, 37, 37, 56, 22, 20, 20, 20, 7, 7, 7, 10]],
  [40, [13, 4, 5, 3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1]],
  [20, [5, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1]]
])("of %d faults what the shares leave over, or lack, is the largest classes'", (count, mix) => {
  expect([...mixOf(count).values()]).toEqual(mix)
})

test("a target has got over a fault before the next one; Connect and its connectors take turns", () => {
  const recovers: Readonly<Partial<Record<ClassName, number>>> = {
    "kill service": 8_000,
    "stop beyond session": 8_000,
    "rewind group": 8_000,
    "kill connect": 12_000,
    "kill broker": 10_000,
    "kill postgres": 3_000,
    "connector offsets": 5_000,
    "connector over REST": 2_000,
    "black hole": 1_000
  }
  const connects = new Set<ClassName>(["kill connect", "kill broker", "connector over REST", "connector offsets"])
  for (const seed of seeds) {
    const faults = schedule(seed, 40, 90)
    for (const [n, fault] of faults.entries()) {
      const over = spanOf(fault).to + (recovers[fault.class] ?? 0)
      const next = faults
        .slice(n + 1)
        .find((other) =>
          connects.has(fault.class)
            ? connects.has(other.class)
            : !connects.has(other.class) && other.target === fault.target
        )
      if (next !== undefined) expect(next.atMs).toBeGreaterThan(over)
    }
    expect(faults.map(({ id }) => id)).toEqual(faults.map((_, n) => n + 1))
    expect(faults.map(({ atMs }) => atMs)).toEqual(faults.map(({ atMs }) => atMs).toSorted((a, b) => a - b))
  }
})

test("what does not fit is said", () => {
  expect(() => schedule(1, 400, 30)).toThrow("400 faults don't fit into 30 s")
  expect(secondsFor(1)).toBe(30)
  expect(secondsFor(15)).toBe(30)
  expect(secondsFor(16)).toBe(60)
  expect(secondsFor(500)).toBe(1_020)
})

test("the same seed is the same schedule, and another one is another", () => {
  expect(schedule(7, 40, 90)).toEqual(schedule(7, 40, 90))
  expect(schedule(7, 40, 90)).not.toEqual(schedule(8, 40, 90))
})

test("a mix has as many faults as it is asked for, and each class at least once", () => {
  for (const count of [14, 15, 40, 100, 500, 1_000]) {
    const mix = mixOf(count)
    expect([...mix.values()].reduce((sum, one) => sum + one, 0)).toBe(count)
    expect(Math.min(...mix.values())).toBeGreaterThanOrEqual(1)
  }
  expect(() => mixOf(13)).toThrow("at least 14 faults")
})

test("the quiet share counts what is covered twice once", () => {
  expect(
    quietShare(
      [
        { from: 0, to: 20 },
        { from: 10, to: 40 },
        { from: 15, to: 18 },
        { from: 60, to: 70 }
      ],
      0,
      100
    )
  ).toBeCloseTo(0.5)
  const turned = [
    { from: 60, to: 70 },
    { from: 0, to: 20 }
  ]
  expect(quietShare(turned, 0, 100)).toBeCloseTo(0.7)
  expect(quietShare([], 0, 10)).toBe(1)
  expect(quietShare([{ from: -5, to: 2 }], 0, 10)).toBeCloseTo(0.8)
  expect(quietShare([{ from: 8, to: 12 }], 0, 10)).toBeCloseTo(0.8)
  expect(quietShare([{ from: 12, to: 14 }], 0, 10)).toBe(1)
  expect(quietShare([{ from: 12, to: 14 }], 10, 20)).toBeCloseTo(0.8)
})
