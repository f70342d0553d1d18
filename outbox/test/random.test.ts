/** The generator that whatever follows a seed draws from. */
import { expect, test } from "bun:test"
import { random } from "../testing/random.ts"
import { seeded } from "../testing/simulation/choices.ts"

test("a seed determines the numbers, and the simulator's choices are the same ones", () => {
  const next = random(7)
  const again = random(7)
  const choices = seeded(7)

  const numbers = Array.from({ length: 1_000 }, next)

  expect(numbers.every((number) => number >= 0 && number < 1)).toBe(true)
  expect(Array.from({ length: 1_000 }, again)).toEqual(numbers)
  expect(numbers.map(() => choices.pick(1_000_000))).toEqual(numbers.map((number) => Math.floor(number * 1_000_000)))
  expect(random(8)()).not.toBe(numbers[0])
})
