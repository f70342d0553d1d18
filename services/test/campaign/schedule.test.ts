/** The nemesis's schedule: what a seed says, no more at once than it may, and time left alone. */
import { expect, test } from "bun:test"
import { classNames, mixOf, quietShare, schedule, secondsFor, spanOf, windowMs } from "./schedule.ts"

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
  expect(quietShare([], 0, 10)).toBe(1)
})
