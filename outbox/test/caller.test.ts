/** What a caller, a contract and a participant with calls promise without a store. */
import { describe, expect, test } from "bun:test"
import { Effect, Schema } from "effect"
import { Charge, Paid, Pay, Refund, till, Undo, Undone } from "./till.ts"
import { Call } from "../calls/call.ts"
import { pauseAfter } from "../calls/caller.ts"
import { kindsOf } from "../lanes/calls.ts"
import { Participant } from "../participant.ts"
import type { Tables } from "../table.ts"
import { decideWith } from "../testing/index.ts"

const chargeCaller = Charge.caller({
  carry: async () => ({ status: "CHARGED", charge: "c" }),
  deadline: "1 second",
  concurrency: 1,
  pause: { first: "100 millis", most: "5 seconds" }
})
const refundCaller = Refund.caller({
  carry: () => Effect.succeed({ refunded: true }),
  deadline: "1 second",
  concurrency: 1
})

describe("the pause after an attempt without result", () => {
  const pauses = (id: string) => Array.from({ length: 60 }, (_, n) => pauseAfter(chargeCaller, id, n + 1))

  test("is the same for the same attempt, and another for another call", () => {
    expect(pauses("charge:o-1")).toEqual(pauses("charge:o-1"))
    expect(pauses("charge:o-1")).not.toEqual(pauses("charge:o-2"))
  })

  test("doubles up to its bound, give or take half of it", () => {
    for (const [index, pause] of pauses("charge:o-1").entries()) {
      const full = Math.min(5_000, 100 * 2 ** index)
      expect(pause).toBeGreaterThanOrEqual(full / 2)
      expect(pause).toBeLessThanOrEqual(full)
    }
  })

  test("spreads the calls of one failure over half of it", () => {
    const firsts = Array.from({ length: 200 }, (_, n) => pauseAfter(chargeCaller, `charge:o-${n}`, 1))

    expect(Math.max(...firsts) - Math.min(...firsts)).toBeGreaterThan(40)
    expect(new Set(firsts).size).toBeGreaterThan(30)
  })
})

describe("a participant", () => {
  const asTables = till() as unknown as Participant<Tables>

  test("runs only with a caller for each of its calls, and for no other", () => {
    const other = Call.make("ship", { request: {}, result: Schema.Struct({}) })
    const shipCaller = other.caller({ carry: async () => ({}), deadline: "1 second", concurrency: 1 })

    expect([...kindsOf(asTables, [chargeCaller, refundCaller]).keys()]).toEqual(["charge", "refund"])
    expect(() => kindsOf(asTables, [chargeCaller])).toThrow("till has no caller for refund")
    expect(() => kindsOf(asTables, [chargeCaller, refundCaller, shipCaller])).toThrow("decides no results")
    expect(() => kindsOf(asTables, [chargeCaller, chargeCaller, refundCaller])).toThrow("two callers for charge")
  })

  test("decides the result of a kind once", () => {
    expect(() => till().called(Charge, { decide: () => ({}) })).toThrow("the result of charge is handled twice")
  })
})

describe("a contract", () => {
  test("has a kind that can be part of an idempotency key", () => {
    const contract = (kind: string) => () => Call.make(kind, { request: {}, result: Schema.Struct({}) })

    for (const kind of ["", "Charge", "a:b", "ä", "1st"]) expect(contract(kind)).toThrow("is no kind of call")
    expect(contract("charge-card")).not.toThrow()
  })

  test("is what a caller is typed by", () => {
    // @ts-expect-error a charge has no such result
    Charge.caller({ carry: async () => ({ status: "LOST" }), deadline: "1 second", concurrency: 1 })
  })
})

describe("decided without a store", () => {
  const amount = 10
  const charged = Charge.answered("o-1", { amount }, { status: "CHARGED", charge: "c-1" })
  const refused = Charge.answered("o-1", { amount }, { status: "REFUSED", reason: "NO" })
  const payment = { id: "o-1", amount, status: "PENDING", due_at: null } as const
  const asked = Pay.of({ order: "o-1", amount })
  const undo = Undo.of({ order: "o-1" })

  test("a command shows the call that it asks for", () => {
    const { call, rows } = decideWith(till(), {}, asked)

    expect(call).toEqual([Charge.of("o-1", { amount })])
    expect(rows.payments).toEqual([payment])
  })

  test("a result is decided on the rows that the command left", () => {
    const { send, rows } = decideWith(till(), {}, asked, charged)

    expect(send).toEqual([Paid.of({ order: "o-1", charge: "c-1" })])
    expect(rows.payments).toEqual([{ ...payment, status: "PAID" }])
  })

  test("an undo that meets a pending call waits for its result", () => {
    const waiting = decideWith(till(), {}, asked, undo)
    const taken = decideWith(till(), {}, asked, undo, charged)
    const notTaken = decideWith(till(), {}, asked, undo, refused)

    expect([waiting.send, waiting.call]).toEqual([undefined, undefined])
    expect(taken.call).toEqual([Refund.of("o-1", {})])
    expect(notTaken.send).toEqual([Undone.of({ order: "o-1" })])
  })

  test("a message and a result belong to the saga whose definition they name, or to none", () => {
    const seen: Array<string | null> = []
    const note = (_rows: unknown, _payload: unknown, { definition }: { readonly definition: string | null }) => {
      seen.push(definition)
      return {}
    }
    const listener = Participant.make("listener", {}).on(Pay, { decide: note }).called(Charge, { decide: note })
    const result = { status: "CHARGED", charge: "c-1" } as const
    const answered = Charge.answered("o-1", { amount }, result, { definition: "sell" })

    decideWith(listener, {}, { ...asked, definition: "sell" }, asked, answered, charged)

    expect(seen).toEqual(["sell", null, "sell", null])
  })

  test("what breaks its contract, or is not decided, is refused as in a pass", () => {
    const { contract } = Charge.of("o-1", { amount })
    const asks = (call: ReturnType<typeof Charge.of>) =>
      Participant.make("asks", {})
        .on(Pay, { decide: () => ({ call: [call] }) })
        .called(Charge, { decide: () => ({}) })
    const result = { called: contract, payload: { key: "o-1", request: { amount }, result: { status: "LOST" } } }

    expect(() => decideWith(asks({ contract, key: "o-1", request: { amount: "ten" } }), {}, asked)).toThrow(
      "charge breaks its contract"
    )
    expect(() => decideWith(asks(Refund.of("o-1", {})), {}, asked)).toThrow("nothing is decided on its result")
    expect(() => decideWith(till(), {}, { ...charged, ...result })).toThrow("charge breaks its contract")
  })
})
