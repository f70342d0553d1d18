/** The planted bugs can be planted. That the campaign finds them is `bun run campaign --plant all`. */
import { expect, test } from "bun:test"
import { planted } from "../simulation/planted.ts"
import { plants } from "./plants.ts"

test("there are at least twelve, and those of the simulator are changes of its scenario", () => {
  expect(Object.keys(plants).length).toBeGreaterThanOrEqual(12)
  for (const { simulated } of Object.values(plants))
    if (simulated !== undefined)
      expect([simulated, Object.keys(planted[simulated] ?? {})]).toEqual([simulated, ["scenario"]])
})
