/** The checks can fail: each promise is taken out of a service in turn, on the real stack, and each time they say so. */
import { expect, setDefaultTimeout } from "bun:test"
import { join } from "node:path"
import { CancelProductReservationCommand, ReserveProductCommand } from "../product/contract.ts"
import { RefundPaymentCommand } from "../payment/contract.ts"
import type { ServiceName } from "../../stack/supervise.ts"
import { within } from "../../stack/wait.ts"
import { violations } from "./checks.ts"
import { placeAll, planOf, prepare, type Plan, type Planned } from "./orders.ts"
import { onStack, useStack, type Replica, type Stack } from "./stack.ts"
import { askedAgain } from "./tape.ts"
import { expectExactlyOnce, quiet, readWorld, subscribers } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const orderCount = 40

/** Runs the body while a broken program stands in for a service. */
const replaced = async (
  stack: Stack,
  name: ServiceName,
  program: string,
  body: (broken: Replica) => Promise<void>
): Promise<void> => {
  await stack.service(name).stop()
  try {
    const broken = await stack.start(name, program, join(import.meta.dir, "broken", `${program}.ts`))
    try {
      await body(broken)
    } finally {
      await broken.stop()
    }
  } finally {
    await stack.service(name).restart()
  }
}

const recordsOf = (stack: Stack, placed: ReadonlyMap<string, Planned>, types: ReadonlyArray<string>) =>
  stack.tape.records.filter(({ type, key }) => types.includes(type) && placed.has(key?.toString() ?? ""))

const wrongIn = async (stack: Stack, plan: Plan, placed: ReadonlyMap<string, Planned>) =>
  violations(await readWorld(stack, plan, placed), { plan, placed, subscribers })

onStack("without inbox and fence, records that come twice are seen in the stock", async (stack) => {
  const plan = planOf("unfenced", orderCount, 6)
  await prepare(stack, plan)

  await replaced(stack, "product", "product-without-fences", async () => {
    const { placed, done } = placeAll(stack, plan.orders)
    await done
    await expectExactlyOnce(stack, plan, placed)
    const commands = recordsOf(stack, placed, [ReserveProductCommand.type, CancelProductReservationCommand.type])
    await stack.tape.produce(commands)
    await quiet(stack)

    const wrong = await wrongIn(stack, plan, placed)
    expect(wrong.stock?.length).toBeGreaterThan(0)
  })
})

onStack("without its fence, a refund that is asked again is seen in the money", async (stack) => {
  const plan = planOf("refunded", orderCount, 7)
  await prepare(stack, plan)
  const sql = stack.database("payments")

  // the database has a fence of its own, behind the participant's
  const [index] = await sql<Array<{ text: string }>>`
    select indexdef as text from pg_indexes where indexname = 'ledger_once_per_order'`
  await sql`drop index ledger_once_per_order`
  try {
    await replaced(stack, "payment", "payment-without-fence", async () => {
      const { placed, done } = placeAll(stack, plan.orders)
      await done
      await expectExactlyOnce(stack, plan, placed)
      await stack.tape.produce(recordsOf(stack, placed, [RefundPaymentCommand.type]).map(askedAgain))
      await quiet(stack)

      const wrong = await wrongIn(stack, plan, placed)
      expect(wrong.balances?.length).toBeGreaterThan(0)
      expect(wrong.movements?.length).toBeGreaterThan(0)
    })
  } finally {
    await sql`
      delete from ledger again
      using ledger first
      where again.order_id = first.order_id
        and again.kind = first.kind
        and again.position > first.position`
    await sql.unsafe(index?.text ?? "")
  }
})

onStack(
  "with offsets committed before the transaction, a killed service loses messages, and that is seen",
  async (stack) => {
    const plan = planOf("hasty", orderCount, 8)
    await prepare(stack, plan)

    let placed: ReadonlyMap<string, Planned> = new Map()
    await replaced(stack, "product", "product-acknowledging-first", async (broken) => {
      const placing = placeAll(stack, plan.orders)
      await placing.done
      placed = placing.placed
      const { signal } = await within("the end of the broken service", 30_000, broken.exited())
      expect(signal).toBe("SIGKILL")
    })
    await quiet(stack)

    const wrong = await wrongIn(stack, plan, placed)
    expect(wrong.delivered?.length).toBeGreaterThan(0)
    expect(wrong.delivered?.filter((one) => !one.startsWith("product never saw "))).toEqual([])
  }
)
