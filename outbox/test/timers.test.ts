/** The timers lane on the memory store, by a clock that the test sets. */
import { expect, test } from "bun:test"
import { Effect, Layer, References, Schema } from "effect"
import { TestClock } from "effect/testing"
import { layerInProcess, layerMemory, Participant, run, Table, type RowOf } from "oncebox"
import { emptyDatabase } from "../store/memory.ts"

const alarms = Table.make("alarms", {
  key: "id",
  row: { id: Schema.String, due_at: Schema.NullOr(Schema.Date), rung: Schema.Int }
})
type Row = RowOf<typeof alarms>

/** The rows of a clock, by id, on a store of their own. */
const holding = (rows: ReadonlyArray<Row>) => {
  const database = emptyDatabase()
  database.tables.set("alarms", new Map(rows.map((row) => [row.id, row])))
  const rung = () => [...(database.tables.get("alarms")?.values() ?? [])].map((row) => (row as Row).rung)
  return { rung, layers: Layer.merge(layerMemory(database), layerInProcess({ partitions: 1 })) }
}

const clock = Participant.make("clock", { alarms }).due("alarms", {
  decide: (_rows, alarm) => ({ put: { alarms: [{ ...alarm, due_at: null, rung: alarm.rung + 1 }] } })
})

test("what falls due at once is decided in one look, however much it is", () =>
  Effect.gen(function* () {
    const rows = Array.from({ length: 1_000 }, (_, n) => ({ id: `a${n}`, due_at: new Date(n % 100), rung: 0 }))
    const { layers, rung } = holding(rows)
    const running = yield* run(clock).pipe(Effect.provide(layers))
    yield* TestClock.adjust("249 millis")
    expect(running.counters().timers).toBe(0)
    yield* TestClock.adjust("1 millis")
    expect(running.counters()).toMatchObject({ timers: 1_000, passes: 5 })
    expect(new Set(rung())).toEqual(new Set([1]))
  }).pipe(Effect.scoped, Effect.provide(TestClock.layer()), Effect.runPromise))

test("a row is due at its time, and not a moment before", () =>
  Effect.gen(function* () {
    const { layers, rung } = holding([250, 251].map((at) => ({ id: `at ${at}`, due_at: new Date(at), rung: 0 })))
    yield* run(clock).pipe(Effect.provide(layers))

    yield* TestClock.adjust("250 millis")
    expect(rung()).toEqual([1, 0])
    yield* TestClock.adjust("250 millis")
    expect(rung()).toEqual([1, 1])
  }).pipe(Effect.scoped, Effect.provide(TestClock.layer()), Effect.runPromise))

test("a row that can't be decided is left alone for a minute, and costs no passes", () =>
  Effect.gen(function* () {
    let tries = 0
    const jammed = Participant.make("clock", { alarms }).due("alarms", {
      decide: () => {
        tries++
        throw new Error("it is jammed")
      }
    })
    const { layers } = holding([{ id: "a", due_at: new Date(0), rung: 0 }])
    const running = yield* run(jammed).pipe(Effect.provide(layers))

    yield* TestClock.adjust("250 millis")
    const first = tries
    yield* TestClock.adjust("59750 millis")
    expect([first > 0, tries]).toEqual([true, first])
    yield* TestClock.adjust("250 millis")
    expect(tries).toBe(2 * first)
    expect(running.counters()).toMatchObject({ timers: 0, passes: 0 })
  }).pipe(
    Effect.scoped,
    Effect.provide(TestClock.layer()),
    Effect.provideService(References.MinimumLogLevel, "None"),
    Effect.runPromise
  ))
