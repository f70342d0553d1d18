/** The timers lane on the memory store, by a clock that the test sets. */
import { expect, test } from "bun:test"
import { Effect, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"
import { layerInProcess, layerMemory, Participant, run, Table } from "oncebox"
import { emptyDatabase } from "../store/memory.ts"

const alarms = Table.make("alarms", {
  key: "id",
  row: { id: Schema.String, due_at: Schema.NullOr(Schema.Date), rung: Schema.Int }
})
const clock = Participant.make("clock", { alarms }).due("alarms", {
  decide: (_rows, alarm) => ({ put: { alarms: [{ ...alarm, due_at: null, rung: alarm.rung + 1 }] } })
})

test("what falls due at once is decided in one look, however much it is", () =>
  Effect.gen(function* () {
    const database = emptyDatabase()
    const rows = Array.from({ length: 1_000 }, (_, n) => ({ id: `a${n}`, due_at: new Date(n % 100), rung: 0 }))
    database.tables.set("alarms", new Map(rows.map((row) => [row.id, row])))
    const running = yield* run(clock).pipe(
      Effect.provide(Layer.merge(layerMemory(database), layerInProcess({ partitions: 1 })))
    )
    yield* TestClock.adjust("249 millis")
    expect(running.counters().timers).toBe(0)
    yield* TestClock.adjust("1 millis")
    expect(running.counters()).toMatchObject({ timers: 1_000, passes: 5 })
    const rung = [...(database.tables.get("alarms")?.values() ?? [])]
    expect(rung.every((row) => "rung" in row && row.rung === 1)).toBe(true)
  }).pipe(Effect.scoped, Effect.provide(TestClock.layer()), Effect.runPromise))
