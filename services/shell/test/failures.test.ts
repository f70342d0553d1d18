/** Which orders fail on demand: a rule picks them by their amount, or so many of a hundred by a hash. */
import { expect, test } from "bun:test"
import { failsOnDemand } from "../failures.ts"

const rule = { step: "pay", above: null, percent: 0, seed: "a", delay_ms: null }
const orders = Array.from({ length: 2_000 }, (_, n) => `00000000-0000-7000-8000-${String(n).padStart(12, "0")}`)
const failing = (change: Partial<typeof rule>) => orders.filter((id) => failsOnDemand({ ...rule, ...change }, id))

test("without a rule, or by one that names nothing, no order fails", () => {
  expect(orders.filter((id) => failsOnDemand(undefined, id, 1_000_000))).toEqual([])
  expect(orders.filter((id) => failsOnDemand(rule, id, 1_000_000))).toEqual([])
})

test("orders above an amount fail, that amount does not", () => {
  const above = { ...rule, above: 100 }

  expect([0, 100, 101].map((amount) => failsOnDemand(above, "order", amount))).toEqual([false, false, true])
  expect(failsOnDemand({ ...rule, above: 0 }, "order")).toBe(false)
})

test("so many of a hundred orders fail, more when more are wanted, at last all", () => {
  const share = (percent: number) => failing({ percent }).length / orders.length

  expect(share(1)).toBeWithin(0.001, 0.02)
  expect(share(50)).toBeWithin(0.45, 0.55)
  expect(failing({ percent: 50 })).toEqual(expect.arrayContaining(failing({ percent: 20 })))
  expect(failing({ percent: 100 })).toEqual(orders)
})

test("the same ones fail for the same seed, and others for another seed or at another step", () => {
  const picked = failing({ percent: 50 })

  expect(failing({ percent: 50 })).toEqual(picked)
  for (const other of [{ seed: "b" }, { step: "reserve" }]) {
    const both = failing({ percent: 50, ...other }).filter((id) => picked.includes(id))
    // of two choices that have nothing to do with each other a quarter is common
    expect(both.length / orders.length).toBeWithin(0.2, 0.3)
  }
})
