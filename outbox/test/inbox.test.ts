import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { bucketOf, foreignBucket, isUuid, slotOf, timeOf, type InboxWindow } from "../store/inbox.ts"

const runs = { seed: Number(process.env["SEED"] ?? 20260301), numRuns: 2_000 }

const day = 86_400_000
const week: InboxWindow = { slotMs: day, slots: 7 }
const now = Date.parse("2026-03-01T12:00:00.000Z")
const today = slotOf(now, week)

/** A UUIDv7 of this very millisecond, as RFC 9562 section 5.7 lays it out. */
const idAt = (timeMs: number, rest = "7abc-8def-0123456789ab"): string => {
  const hex = timeMs.toString(16).padStart(12, "0")
  return `${hex.slice(0, 8)}-${hex.slice(8)}-${rest}`
}
const slots = fc.record({ slotMs: fc.integer({ min: 1_000, max: 10 * day }), slots: fc.integer({ min: 1, max: 400 }) })
const times = fc.integer({ min: Date.parse("2020-01-01"), max: Date.parse("2100-01-01") })

describe("an id", () => {
  test.each([
    ["a UUIDv7 is one", "019c9a1e-5b00-7abc-8def-0123456789ab", true],
    ["a UUIDv4 is one", "3f2b8c1e-9d4a-4b6c-a1d2-0123456789ab", true],
    ["a UUIDv8, such as a hash, is one", "3f2b8c1e-9d4a-8b6c-b1d2-0123456789ab", true],
    ["upper case is none: Postgres would answer it in lower case", "019C9A1E-5B00-7ABC-8DEF-0123456789AB", false],
    ["one in braces is none", "{019c9a1e-5b00-7abc-8def-0123456789ab}", false],
    ["one without dashes is none", "019c9a1e5b007abc8def0123456789ab", false],
    ["one of another variant is none", "019c9a1e-5b00-7abc-0def-0123456789ab", false],
    ["the nil UUID is none", "00000000-0000-0000-0000-000000000000", false],
    ["one with something behind it is none", "019c9a1e-5b00-7abc-8def-0123456789ab\n", false],
    ["nothing is none", "", false]
  ])("%s", (_name, id, expected) => {
    expect(isUuid(id)).toBe(expected)
  })

  test("tells its time when it is a UUIDv7, to the millisecond", () => {
    fc.assert(
      fc.property(fc.nat(2 ** 48 - 1), (timeMs) => {
        expect(isUuid(idAt(timeMs))).toBe(true)
        expect(timeOf(idAt(timeMs))).toBe(timeMs)
      }),
      runs
    )
    expect(timeOf(Bun.randomUUIDv7("hex", now))).toBe(now)
  })

  test("tells no time when it is any other UUID", () => {
    expect(timeOf("3f2b8c1e-9d4a-4b6c-a1d2-0123456789ab")).toBeUndefined()
    expect(timeOf("3f2b8c1e-9d4a-8b6c-b1d2-0123456789ab")).toBeUndefined()
  })
})

describe("an id's bucket", () => {
  test.each([
    ["now", now, today],
    ["the first millisecond of the oldest kept slot", (today - 7) * day, today - 7],
    ["the millisecond before it", (today - 7) * day - 1, "outside-window"],
    ["the last millisecond of the next slot: a clock runs ahead", (today + 2) * day - 1, today + 1],
    ["the millisecond after it", (today + 2) * day, "outside-window"],
    ["1970", 1, "outside-window"],
    ["the last time there is", 2 ** 48 - 1, "outside-window"]
  ])("of %s", (_name, timeMs, bucket) => {
    expect(bucketOf(idAt(timeMs), now, week)).toBe(bucket as number)
  })

  test("is the foreign one when it carries no time", () => {
    expect(bucketOf("3f2b8c1e-9d4a-4b6c-a1d2-0123456789ab", now, week)).toBe(foreignBucket)
  })

  test("is the same whenever it is asked for: a redelivered message meets its own claim", () => {
    fc.assert(
      fc.property(slots, times, fc.integer({ min: -20 * day, max: 20 * day }), times, (window, nowMs, age, laterMs) => {
        const id = idAt(nowMs + age)
        const buckets = [nowMs, laterMs].map((time) => bucketOf(id, time, window))
        const inside = buckets.filter((bucket) => bucket !== "outside-window")

        expect(new Set(inside).size).toBeLessThanOrEqual(1)
        expect(inside.every((bucket) => bucket === slotOf(nowMs + age, window))).toBe(true)
      }),
      runs
    )
  })

  test("once it is outside for being too old it stays outside", () => {
    fc.assert(
      fc.property(slots, times, fc.nat(400 * day), fc.nat(400 * day), (window, nowMs, age, later) => {
        const id = idAt(nowMs - age)
        if (bucketOf(id, nowMs, window) !== "outside-window") return

        expect(bucketOf(id, nowMs + later, window)).toBe("outside-window")
      }),
      runs
    )
  })

  test("is kept for at least as long as the window says", () => {
    fc.assert(
      fc.property(slots, times, fc.double({ min: 0, max: 1, noNaN: true }), (window, nowMs, part) => {
        const age = Math.floor(part * window.slotMs * window.slots)

        expect(bucketOf(idAt(nowMs - age), nowMs, window)).not.toBe("outside-window")
      }),
      runs
    )
  })
})
