/** What clients were told, held against what there is: each check finds what it is for. */
import { expect, test } from "bun:test"
import type { Planned } from "../orders.ts"
import { cancels, clients, placedOf, reverted, served } from "./clients.ts"
import type { Snapshot } from "./dump.ts"
import { event, kept, snapshotOf } from "./fixture.ts"
import type { Event } from "./history.ts"
import { workloadOf } from "./workload.ts"

const answered = (given: Partial<Event> = {}): Event =>
  event({ type: "ok", status: 202, order: "o1", digest: "d", ...given })

test("one order for each key, and equal answers", () => {
  expect(clients([answered(), answered()], [kept("k1", "o1")])).toEqual([])
  expect(clients([answered(), answered({ order: "o2" })], [kept("k1", "o1")])).toHaveLength(1)
  expect(clients([answered(), answered({ digest: "e" })], [kept("k1", "o1")])).toHaveLength(1)
  expect(clients([answered()], [])).toEqual(["k1 was answered with o1, kept is undefined"])
  expect(clients([], [kept("k1", "o1"), kept("k1", "o2")])).toEqual(["k1 is kept twice"])
  expect(clients([], [kept("k1", "o1"), kept("k2", "o1")])).toEqual(["order o1 stands for two keys"])
  expect(clients([event({ type: "fail", status: 422, error: "invalid-request" })], [])).toHaveLength(1)
  expect(clients([event({ type: "fail", status: 500 })], [])).toEqual([])
  expect(clients([event({ type: "fail" })], [])).toEqual([])
  expect(clients([event({ type: "fail", status: 422, f: "cancel" })], [])).toEqual([])
  expect(clients([answered({ status: 200 })], [kept("k1", "o1")])).toEqual(["k1 was answered with 200"])
})

test("a request without an answer may or may not have an order", () => {
  expect(clients([event({ type: "info" })], [])).toEqual([])
  expect(clients([event({ type: "info" })], [kept("k1", "o1")])).toEqual([])
  const { plan } = workloadOf({ name: "p", count: 20, seed: 1, cancelledPercent: 20 })
  const [first] = plan.orders
  expect([...placedOf([], [kept(first?.key ?? "", "o1")], plan)]).toEqual([["o1", first as Planned]])
})

test("an order is its client's who was answered, or whose key stands for it", () => {
  const { plan } = workloadOf({ name: "p", count: 20, seed: 1, cancelledPercent: 20 })
  const [first, second] = plan.orders.map(({ key }) => key)
  const told = [
    answered({ key: first ?? "" }),
    answered({ key: "somebody else's", order: "o2" }),
    answered({ key: second ?? "", order: "o3", type: "fail" }),
    answered({ key: second ?? "", order: "o4", f: "cancel" }),
    event({ type: "ok", key: second ?? "" })
  ]

  expect([...placedOf(told, [], plan)]).toEqual([["o1", plan.orders[0] as Planned]])
})

test("an order that was read as ended stays as it was read", () => {
  const read = (state: string): Event => event({ f: "read", type: "ok", status: 200, order: "o1", state })
  expect(reverted([read("CREATED"), read("CANCELLING"), read("REJECTED"), read("REJECTED")])).toEqual([])
  expect(reverted([read("APPROVED"), read("REJECTED")])).toEqual(["order o1 was APPROVED, then REJECTED"])
  expect(reverted([read("REJECTED"), read("CREATED")])).toHaveLength(1)
  const after = (given: Partial<Event>) => reverted([read("APPROVED"), { ...read("REJECTED"), ...given }])
  expect(after({ order: "o2" })).toEqual([])
  expect(after({ f: "cancel" })).toEqual([])
  expect(after({ type: "info" })).toEqual([])
  const { order: _order, ...nobodys } = read("APPROVED")
  expect(reverted([nobodys, { ...nobodys, state: "REJECTED" }])).toEqual([])
  const { state: _state, ...nothing } = read("")
  expect(reverted([read("APPROVED"), nothing])).toEqual([])
})

test("a cancel's answer is true", () => {
  const cancelled = (status: number): Event => event({ f: "cancel", type: "ok", status, order: "o1" })
  const stored = (status: "APPROVED" | "REJECTED"): Snapshot =>
    // only these two columns are looked at
    snapshotOf({ orders: [{ id: "o1", status }] as unknown as Snapshot["world"]["orders"] })
  expect(cancels([cancelled(202)], stored("REJECTED"))).toEqual([])
  expect(cancels([cancelled(409)], stored("APPROVED"))).toEqual([])
  expect(cancels([cancelled(202)], stored("APPROVED"))).toHaveLength(1)
  expect(cancels([cancelled(409)], stored("REJECTED"))).toHaveLength(1)
  expect(cancels([{ ...cancelled(202), type: "fail" }], stored("APPROVED"))).toEqual([])
  expect(cancels([{ ...cancelled(202), f: "place" }], stored("APPROVED"))).toEqual([])
  const { order: _order, ...nobodys } = cancelled(202)
  expect(cancels([nobodys], stored("APPROVED"))).toEqual([])
})

test("who asks until he is answered is answered", () => {
  const patient = new Set(["k1"])
  const asked = event({ type: "invoke" })
  const cancel = event({ type: "invoke", f: "cancel", key: "k2" })

  expect(served([asked, event({ type: "info" }), answered()], patient)).toEqual([])
  expect(served([asked, event({ type: "info" })], patient)).toEqual(["nobody ever answered: place k1"])
  expect(served([asked, event({ type: "fail" })], patient)).toHaveLength(1)
  expect(served([asked, event({ type: "fail", status: 503 })], patient)).toHaveLength(1)
  expect(served([asked, event({ type: "fail", status: 404 })], patient)).toHaveLength(1)
  expect(served([asked, event({ type: "fail", status: 500 })], patient)).toHaveLength(1)
  expect(served([asked, event({ type: "fail", status: 422 })], patient)).toEqual([])
  expect(served([asked], new Set())).toEqual([])
  expect(served([cancel], patient)).toEqual(["nobody ever answered: cancel k2"])
  expect(served([cancel, { ...cancel, type: "ok", status: 202 }], patient)).toEqual([])
  expect(served([cancel, asked, answered()], patient)).toHaveLength(1)
  expect(served([event({ type: "invoke", f: "read" })], patient)).toEqual([])
})
