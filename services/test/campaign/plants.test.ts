/** The planted bugs can be planted, and what is told of them is true. That they are found is `bun run campaign --plants`. */
import { expect, test } from "bun:test"
import { planted } from "../simulation/planted.ts"
import { tellPlants, type Played } from "./plant.ts"
import { plants } from "./plants.ts"

test("there are at least twelve, and those of the simulator are changes of its scenario", () => {
  expect(Object.keys(plants).length).toBeGreaterThanOrEqual(12)
  for (const { simulated } of Object.values(plants))
    if (simulated !== undefined)
      expect([simulated, Object.keys(planted[simulated] ?? {})]).toEqual([simulated, ["scenario"]])
})

test("a bug is found when a check objects in time, and there is nothing to find without one", () => {
  const found: Played = { plant: "no fence", seconds: 30, violations: { stock: ["too little"] }, failure: null }
  const sound: Played = { plant: null, seconds: 30, violations: {}, failure: null }
  const goodness = (...played: ReadonlyArray<Played>): boolean => tellPlants(played).good

  expect(goodness(sound, found, sound)).toBe(true)
  expect(tellPlants([sound, found]).table).toContain("✓ no fence")
  expect(tellPlants([sound, found]).table).toEndWith("1 of 1 bugs found within 90 s")
  expect(tellPlants([sound, { ...found, seconds: 90, violations: { stock: ["a"], states: ["b"] } }, sound]).table).toBe(
    [
      "✓ no bug                                    30 s  nothing found",
      "✓ no fence                                  90 s  stock, states",
      "✓ no bug                                    30 s  nothing found",
      "1 of 1 bugs found within 90 s"
    ].join("\n")
  )
  const late = { ...found, seconds: 90.1 }
  expect(goodness(sound, found, late, sound)).toBe(false)
  expect(tellPlants([found, late]).table).toEndWith("1 of 2 bugs found within 90 s")
  expect(tellPlants([{ ...found, failure: "it did not start" }]).table).toContain("✗ no fence")
  expect(tellPlants([{ ...found, failure: "it did not start" }]).table).toContain("30 s  it did not start")
  expect(goodness({ ...found, seconds: 91 })).toBe(false)
  expect(goodness({ ...found, violations: {} })).toBe(false)
  expect(goodness({ ...found, violations: { quiet: ["not within 30 s"] } })).toBe(false)
  expect(goodness({ ...found, failure: "it did not start" })).toBe(false)
  expect(goodness({ ...sound, violations: { stock: ["too little"] } })).toBe(false)
  expect(goodness({ ...sound, violations: { quiet: ["not within 30 s"] } })).toBe(false)
  expect(goodness({ ...sound, failure: "it did not start" })).toBe(false)
})
