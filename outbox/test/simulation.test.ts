/** The simulator on a system of two participants, and on the same with bugs. */
import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { replay, sequenceDiagram, simulate, type Scenario } from "oncebox/testing"
import { Effect, Schema } from "effect"
import { bank, Noted } from "./bank.ts"
import { desk, teapots } from "../examples/simulate.ts"
import { product, Reserve } from "../examples/rent.ts"
import { Request, type AnyContract } from "../message.ts"
import { Participant } from "../participant.ts"
import { shrunk } from "../testing/simulation/shrink.ts"

setDefaultTimeout(60_000)

const options = { seed: 1, runs: 200 }

test("nothing is lost or done twice, whatever befalls the system", () => {
  const { failure, runs, counts } = simulate(teapots, options)

  expect(failure).toBeUndefined()
  expect(runs).toBe(200)
  for (const what of [
    "crash",
    "replay",
    "stall",
    "republish",
    "rewind",
    "rebalance",
    "ask again",
    "late",
    "lose",
    "poison"
  ])
    expect(counts[`fault: ${what}`] ?? 0, what).toBeGreaterThan(0)
  for (const what of [
    "crashes before its commit",
    "crashes after its commit",
    "loses the commit's answer",
    "is overlapped",
    "repetitions",
    "duplicate",
    "parked",
    "due rows"
  ])
    expect(counts[what] ?? 0, what).toBeGreaterThan(0)
})

test("the same seed is the same run, another one is not; how seeds are shared out does not matter", () => {
  const digest = (seed: number, runs: number, every = 1) =>
    BigInt(`0x${simulate(teapots, { seed, runs, every }).digest}`)

  expect(digest(1, 20)).toBe(digest(1, 20))
  expect(digest(2, 20)).not.toBe(digest(1, 20))
  expect(digest(1, 10, 2) ^ digest(2, 10, 2)).toBe(digest(1, 20))
})

test("faults can be left out, all of them too", () => {
  expect(simulate(teapots, options).counts["fault: crash"]).toBeGreaterThan(0)
  expect(simulate(teapots, { ...options, without: ["crash"] }).counts["fault: crash"]).toBeUndefined()

  const { counts } = simulate(teapots, { ...options, faultPercent: 0 })
  expect(Object.keys(counts).filter((what) => what.startsWith("fault: "))).toEqual([])
})

/** Reserves as often as it is asked to. */
const withoutFence: Scenario = {
  ...teapots,
  participants: [
    desk,
    {
      ...product,
      messages: new Map(
        [...product.messages].map(([contract, handler]) =>
          (contract as object) === Reserve
            ? [
                contract,
                {
                  ...handler,
                  decide: (rows, ...rest) =>
                    handler.decide({ ...rows, reservations: { get: () => undefined } }, ...rest)
                }
              ]
            : [contract, handler]
        )
      )
    }
  ]
}

describe("a bug", () => {
  test("is found, and shrinks to a run that is short enough to read", () => {
    const { failure } = simulate(withoutFence, options)

    expect(failure?.wrong).toEqual([expect.stringContaining("left of 3")])
    expect(failure?.shrunk).toEqual([expect.stringContaining("left of 3")])
    const lines = failure?.diagram.split("\n") ?? []
    expect(lines[0]).toBe("sequenceDiagram")
    expect(lines.filter((line) => line.includes("Reserve (")).length).toBeGreaterThanOrEqual(2)
    expect(lines.length).toBeLessThan(30)
  })

  test("is there again when its choices are played again, without the bug they do no harm", () => {
    const { failure } = simulate(withoutFence, options)
    const choices = failure?.choices ?? []

    expect(replay(withoutFence, choices).wrong).toEqual([...(failure?.shrunk ?? [])])
    expect(replay(teapots, choices).wrong).toEqual([])
  })

  test("in a decision is told with its message", () => {
    const throwing: Scenario = {
      ...teapots,
      participants: [
        desk,
        {
          ...product,
          messages: new Map(
            [...product.messages].map(([contract, handler]): [AnyContract, typeof handler] => [
              contract,
              {
                ...handler,
                decide: () => {
                  throw new Error("out of tea")
                }
              }
            ])
          )
        }
      ]
    }

    expect(simulate(throwing, options).failure?.wrong[0]).toContain(
      "product parked Reserve: decision-failed, Error: out of tea"
    )
  })

  test("that keeps the system busy for ever is told", () => {
    const restless: Scenario = { ...teapots, participants: [{ ...desk, messages: new Map() }, product] }

    expect(simulate(restless, options).failure?.wrong).toEqual([expect.stringContaining("it is not quiet after")])
  })
})

test("a client that asks again is given the same answer, or it is told", () => {
  // forgets what was answered: asked again, it decides anew
  const store: Scenario["store"] = (lane) => ({
    begin: (opening) =>
      Effect.map(lane.begin(opening), (opened) => ({
        ...opened,
        commit: (writes) =>
          opened.commit({ ...writes, changes: writes.changes.filter(({ table }) => table.name !== "idempotency_keys") })
      }))
  })

  expect(simulate({ ...teapots, store }, options).failure?.wrong[0]).toMatch(/^desk answered client \d in two ways/)
})

describe("a handler that keeps order", () => {
  const Write = Request.make("Write", { payload: { text: Schema.String }, reply: Schema.Null })
  const author = Participant.make("author", {}).answers(Write, {
    decide: (_rows, { text }) => ({ send: [Noted.of({ page: "one", text })], reply: null })
  })
  const page: Scenario = {
    participants: [author, bank()] as unknown as Scenario["participants"],
    plan: () => ({
      given: {},
      requests: Array.from("abcdefghijklmnopqrst", (letter) => ({
        to: "author",
        request: Write,
        idempotencyKey: letter,
        fingerprint: letter,
        payload: () => ({ text: letter })
      })),
      holds: ({ rows, sent }) => {
        const [found] = rows("bank", "pages") as ReadonlyArray<{ readonly text: string }>
        const due = sent.flatMap(({ type, payload }) => (type === "Noted" ? [JSON.parse(payload).text] : [])).join("")
        return found?.text === due ? [] : [`the page is ${found?.text}, not ${due}`]
      }
    })
  }
  // what is lost and published again comes out of turn, and asking again is writing again
  const limits = { ...options, without: ["late", "lose", "ask again"], faultPercent: 20 } as const

  test("parks what comes behind poison, and decides it in turn when that is discarded", () => {
    const { failure, counts } = simulate(page, limits)

    expect(failure?.wrong).toBeUndefined()
    expect(counts["behind"] ?? 0).toBeGreaterThan(0)
  })

  test("that lets it through is found", () => {
    const store: Scenario["store"] = (lane) => ({
      begin: (opening) => Effect.map(lane.begin(opening), (opened) => ({ ...opened, parkedKeys: new Map() }))
    })

    expect(simulate({ ...page, store }, limits).failure?.wrong[0]).toContain("the page is")
  })
})

test("what is written at any moment can be watched", () => {
  const watched: Scenario = {
    ...teapots,
    watch: (participant, table, before, after) =>
      table === "products" && (after as { quantity: number }).quantity < 2
        ? `${participant} ${table} ${JSON.stringify(before)} ${JSON.stringify(after)}`
        : undefined
  }

  expect(simulate(watched, options).failure?.wrong[0]).toBe(
    'product products {"id":"teapot","quantity":3} {"id":"teapot","quantity":0}'
  )
})

test("shrinking leaves out what is not needed", () => {
  const fails = (choices: ReadonlyArray<number>) => choices.includes(7) && choices.includes(3)

  expect(shrunk([5, 3, 9, 0, 7, 7, 1, 3], fails, 100).toSorted()).toEqual([3, 7])
})

test("a diagram shows what the texts name, and what befell everybody", () => {
  const [one, other] = ["00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"]
  const lines = [
    { at: 1, from: "desk", to: "product", text: "Reserve; now", correlation: one ?? "" },
    { at: 2, from: "desk", to: "product", text: "Reserve", correlation: other ?? "" },
    { at: 3, from: "product", to: "product", text: "crashes", correlation: "" }
  ]

  expect(sequenceDiagram(lines, [`order ${one} is open`])).toBe(
    [
      "sequenceDiagram",
      "  participant desk",
      "  participant product",
      "  desk->>product: Reserve  now (1 ms)",
      "  Note over product: 3 ms crashes",
      ""
    ].join("\n")
  )
})
