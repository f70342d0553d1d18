/** What the auditor remembers, and when it lets go of an offset; and how far it may go. */
import { describe, expect, test } from "bun:test"
import type { BrokerRecord } from "../broker/broker.ts"
import { lookedAt, noHorizon } from "../delivery/horizon.ts"
import { microsecondsOf, Seen } from "../delivery/seen.ts"

const source = "/oncebox/notes"
const now = microsecondsOf("2026-01-01T12:00:00Z") ?? 0
const second = 1_000_000

/** A record of a row that was created so many seconds ago. */
const record = (offset: number, ago: number, more: Partial<BrokerRecord> = {}): BrokerRecord => ({
  topic: "notes",
  partition: 0,
  offset: BigInt(offset),
  key: Buffer.from("key"),
  value: Buffer.from("value"),
  headers: { id: idOf(offset), ce_source: source, ce_time: new Date((now - ago * second) / 1000).toISOString() },
  ...more
})
const idOf = (n: number): string => `00000000-0000-7000-8000-${String(n).padStart(12, "0")}`
const offsetsOf = (seen: Seen): ReadonlyArray<number> => seen.done().map(({ offset }) => Number(offset))
const extent = (end: number, first = 0) => new Map([["notes/0", { first: BigInt(first), end: BigInt(end) }]])

describe("what was seen", () => {
  test("is known by its id, on its topic, until the watermark is past it", () => {
    const seen = new Seen([source], 10)
    const message = { source, id: idOf(0), topic: "notes" }

    seen.note(record(0, 10), now)

    expect(seen.has(message)).toBe(true)
    expect(seen.has({ ...message, topic: "others" })).toBe(false)
    expect(seen.has({ ...message, id: idOf(1) })).toBe(false)
    seen.audited(source, now - 10 * second)
    expect(seen.has(message)).toBe(true)
    expect(offsetsOf(seen)).toEqual([])
    seen.audited(source, now - 9 * second)
    expect(seen.has(message)).toBe(false)
    expect(offsetsOf(seen)).toEqual([0])
  })

  test("an offset is let go of once all records before it are older than the watermark", () => {
    const seen = new Seen([source], 10)
    for (const [offset, ago] of [30, 10, 20, 5].entries()) seen.note(record(offset, ago), now)

    expect(offsetsOf(seen)).toEqual([])
    seen.audited(source, now - 15 * second)
    expect(offsetsOf(seen)).toEqual([0])
    expect(offsetsOf(seen)).toEqual([])
    seen.audited(source, now - 7 * second)
    expect(offsetsOf(seen)).toEqual([2])
    expect(seen.size).toBe(1)
  })

  test("of what an offset needs no more than its place is kept", () => {
    const seen = new Seen([source], 10)
    seen.note(record(0, 10), now)

    seen.audited(source, now)

    const { topic, partition, offset } = record(0, 10)
    expect(seen.done()).toEqual([{ topic, partition, offset, key: null, value: null, headers: {} }])
  })

  test("a record of another outbox holds an offset back, too, and one of none does not", () => {
    const seen = new Seen([source, "/other"], 10)
    const other = { ...record(1, 5), headers: { ...record(1, 5).headers, ce_source: "/other" } }
    seen.note(record(0, 5, { headers: {} }), now)
    expect(offsetsOf(seen)).toEqual([0])
    seen.note(other, now)
    seen.note(record(2, 5), now)
    seen.note(record(3, 5, { headers: {} }), now)

    seen.audited(source, now)
    expect(offsetsOf(seen)).toEqual([])
    seen.audited("/other", now)
    expect(offsetsOf(seen)).toEqual([2])
  })

  test("what was audited before is not remembered, and what is dated in the future is not waited for", () => {
    const seen = new Seen([source], 10)
    seen.audited(source, now - 10 * second)

    expect(seen.note(record(0, 11), now)?.id).toBe(idOf(0))
    expect(seen.note(record(1, -7_200), now)?.id).toBe(idOf(1))

    expect(seen.size).toBe(0)
    expect(offsetsOf(seen)).toEqual([1])
    // as old as the watermark it was not audited yet, and holds back what comes after it
    seen.note(record(2, 10), now)
    seen.note(record(3, 11), now)
    expect(seen.size).toBe(1)
    expect(offsetsOf(seen)).toEqual([])
  })

  test("an offset that may be let go of stays so while a watermark moves past nothing", () => {
    const seen = new Seen([source], 10)
    seen.note(record(0, 5, { headers: {} }), now)

    seen.audited(source, now - 10 * second)

    expect(offsetsOf(seen)).toEqual([0])
  })

  test("what has no id of a message is nobody's", () => {
    const seen = new Seen([source], 10)
    const { headers } = record(0, 10)

    expect(seen.note(record(0, 10, { headers: { ...headers, id: "1" } }), now)).toBeUndefined()

    expect(seen.size).toBe(0)
    expect(offsetsOf(seen)).toEqual([0])
  })

  test("is full at its bound, and has room again when the watermark moves", () => {
    const seen = new Seen([source], 2)
    seen.note(record(0, 20), now)
    expect(seen.full).toBe(false)
    seen.note(record(1, 10), now)
    expect(seen.full).toBe(true)

    seen.audited(source, now - 15 * second)

    expect(seen.full).toBe(false)
  })

  test("reaches the ends when everything up to them was read or committed", () => {
    const seen = new Seen([source], 10)
    expect(seen.reaches(extent(0), new Map())).toBe(true)
    expect(seen.reaches(extent(2), new Map())).toBe(false)
    expect(seen.reaches(extent(2), new Map([["notes/0", 2n]]))).toBe(true)
    // retention has taken all of it
    expect(seen.reaches(extent(2, 2), new Map())).toBe(true)
    expect(seen.reaches(extent(2, 2), new Map([["notes/0", 1n]]))).toBe(true)

    seen.note(record(0, 1), now)
    expect(seen.reaches(extent(2), new Map())).toBe(false)
    seen.note(record(1, 1), now)
    expect(seen.reaches(extent(2), new Map())).toBe(true)
    // what was read is not committed yet
    expect(seen.reaches(extent(2), new Map([["notes/0", 1n]]))).toBe(true)
  })

  test("reading on from what was committed replaces what was read before", () => {
    const seen = new Seen([source], 10)
    for (const offset of [0, 1, 2]) seen.note(record(offset, 10), now)

    seen.note(record(1, 10), now)

    expect(seen.size).toBe(1)
    expect(seen.has({ source, id: idOf(2), topic: "notes" })).toBe(true)
    expect(seen.reaches(extent(3), new Map())).toBe(false)
    seen.audited(source, now)
    expect(seen.size).toBe(0)
    expect(offsetsOf(seen)).toEqual([1])
  })

  test("times are read to the microsecond", () => {
    expect(microsecondsOf("1970-01-01T00:00:01.000002Z")).toBe(1_000_002)
    expect(microsecondsOf("1970-01-01T00:00:01.000002999Z")).toBe(1_000_002)
    expect(microsecondsOf("1970-01-01T00:00:01.5Z")).toBe(1_500_000)
    expect(microsecondsOf("1970-01-01T00:00:01Z")).toBe(1_000_000)
    for (const bad of ["", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00+01:00"])
      expect(microsecondsOf(bad)).toBeUndefined()
  })
})

describe("the horizon", () => {
  const names = (...open: ReadonlyArray<string>): ReadonlySet<string> => new Set(open)

  test("is at hand while nothing is open", () => {
    expect(lookedAt(noHorizon, 100, names()).final).toBe(100)
  })

  test("stays below a transaction until it has ended, whatever else begins and ends", () => {
    let horizon = lookedAt(noHorizon, 100, names())
    for (const [now, open] of [
      [200, names("long", "a")],
      [300, names("long", "b")],
      [400, names("long")]
    ] as const) {
      horizon = lookedAt(horizon, now, open)
      expect(horizon.final).toBeLessThanOrEqual(200)
    }

    horizon = lookedAt(horizon, 500, names("c"))
    expect(horizon.final).toBe(200)
    expect(lookedAt(horizon, 600, names("d")).final).toBe(500)
  })

  test("waits for none that began after the time that is to be final", () => {
    const waiting = lookedAt(lookedAt(noHorizon, 100, names("a")), 200, names("a", "b"))

    expect(lookedAt(waiting, 300, names("b")).final).toBe(100)
  })
})
