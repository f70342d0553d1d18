/** The same orders in both styles and both definitions: what is left in the end is the same. */
import { expect, setDefaultTimeout } from "bun:test"
import { placeAll, planOf, prepare, type Plan, type Planned } from "./orders.ts"
import { onStack, useStack } from "./stack.ts"
import { expectExactlyOnce, readWorld } from "./world.ts"
import type { World } from "./checks/check.ts"

setDefaultTimeout(300_000)
useStack()

const orderCount = 200

const styles = [
  { coordination: "orchestration", definition: "place-order" },
  { coordination: "choreography", definition: "place-order" },
  { coordination: "orchestration", definition: "pay-first" },
  { coordination: "choreography", definition: "pay-first" }
] as const
type Style = (typeof styles)[number]

/** The plan's orders in one style. Of orders that compete for the last of something nobody knows who gets it: they are left out. */
const planIn = ({ coordination, definition }: Style, index: number): Plan => {
  const plan = planOf(`style${index}`, orderCount * 2, 17)
  const orders = plan.orders
    .filter(({ outcome }) => outcome.status !== "FIRST_COME")
    .slice(0, orderCount)
    .map((planned): Planned => ({ ...planned, body: { ...planned.body, coordination, definition } }))
  return { ...plan, orders }
}

/** What orders hold in the end, by the client's key, without what tells one style from another: ids, times, tombstones. */
const holdings = ({ prefix }: Plan, world: World, placed: ReadonlyMap<string, Planned>) => {
  const bare = (text: string): string => text.replaceAll(prefix, "")
  const keyOf = (id: string): string => bare(placed.get(id)?.key ?? `stranger ${id}`)
  const sorted = (rows: ReadonlyArray<unknown>): ReadonlyArray<string> =>
    rows.map((row) => bare(JSON.stringify(row))).sort()
  const held = <A extends { readonly order_id: string; readonly status: string }>(
    rows: ReadonlyArray<A>,
    status: string
  ) => rows.filter((row) => row.status === status)
  return {
    orders: sorted(
      world.orders.map(({ id, user_id, items, lines, total, status, reason }) => [
        keyOf(id),
        user_id,
        items,
        lines,
        total,
        status,
        reason
      ])
    ),
    history: sorted(world.history.map(({ order_id, status, reason }) => [keyOf(order_id), status, reason])),
    reservations: sorted(
      held(world.reservations, "RESERVED").map(({ order_id, lines, total }) => [keyOf(order_id), lines, total])
    ),
    payments: sorted(
      held(world.payments, "PROCESSED").map(({ order_id, user_id, amount }) => [keyOf(order_id), user_id, amount])
    ),
    shipments: sorted(held(world.shipments, "CREATED").map(({ order_id, items }) => [keyOf(order_id), items])),
    products: sorted(world.products.map(({ id, quantity }) => [id, quantity])),
    accounts: sorted(world.accounts.map(({ user_id, balance }) => [user_id, balance])),
    sagas: sorted(world.sagas.map(({ id, state }) => [keyOf(id), state]))
  }
}

onStack("the same 200 orders end in the same rows in both styles and both definitions", async (stack) => {
  const found: Array<ReturnType<typeof holdings>> = []
  for (const [index, style] of styles.entries()) {
    const plan = planIn(style, index)
    expect(plan.orders).toHaveLength(orderCount)
    await prepare(stack, plan)
    const { placed, done } = placeAll(stack, plan.orders)
    await done
    await expectExactlyOnce(stack, plan, placed)
    found.push(holdings(plan, await readWorld(stack, plan, placed), placed))
  }
  const [first, ...others] = found

  expect(new Set(first?.orders.map((row) => row.includes("APPROVED")))).toEqual(new Set([true, false]))
  for (const other of others) expect(other).toEqual(first as typeof other)
})
