/** How a campaign ends: what is broken is healed, orders end, and nothing moves any more. Each wait has its bound. */
import { applyConnectors } from "../../../connectors/apply.ts"
import { connectorTarget, SERVICE_NAMES } from "../../../stack/supervise.ts"
import { Hopeless, text, until, within } from "../../../stack/wait.ts"
import type { Stack } from "../stack.ts"
import { ended, groups, quiet } from "../world.ts"
import { release } from "./links.ts"
import { databases, type Site } from "./site.ts"

const quietWithinMs = 120_000
// a choreographed saga whose beginning was heard of after its end is cleared up by its deadline, which is five minutes
const clearedUpWithinMs = 420_000
/** With more orders there is more to read before it is known that all is quiet. */
const readMsForOrder = 4
const replayMsForOrder = 20
const looksEveryMs = 500

/** Ends what is left of the faults. Answers what could not be healed. */
export const heal = async (
  { stack, links, auditor }: Site,
  { skips }: { readonly skips: boolean }
): Promise<Array<string>> => {
  for (const link of links.of.values()) release(link)
  try {
    await within("a revival", quietWithinMs, revive(stack))
    await within("connections of its own", quietWithinMs, stack.reconnect())
    // who looks after the connectors would put the planted configuration right
    if (skips) return []
    if (!auditor.alive()) await auditor.restart()
    await applyConnectors(connectorTarget(stack.engines))
    return []
  } catch (cause) {
    return [text(cause)]
  }
}

/** Starts whatever is dead; stack.revive knows nothing of what was put in a service's place. */
const revive = async (stack: Stack): Promise<void> => {
  const { postgres, kafka, connect } = stack.engines
  for (const one of [postgres, kafka, connect, ...SERVICE_NAMES.map(stack.service)])
    if (!one.alive()) await one.restart()
}

/** What is left of a patience that was given for all of it; none was, and each wait has its own bound. */
export type Left = () => number | undefined

export const openOrders = async (stack: Stack, prefix: string): Promise<number> => {
  const [open] = await stack.database("orders")<Array<{ count: number }>>`
    select count(*)::int as count
    from orders
    where status not in ('APPROVED', 'REJECTED') and starts_with(user_id, ${prefix})`
  return open?.count ?? 0
}

/** Returns when every order that a client knows of has ended. */
export const allEnded = (
  stack: Stack,
  prefix: string,
  answered: Parameters<typeof ended>[1],
  left: Left
): Promise<void> =>
  until(
    "the end of all orders",
    left() ?? quietWithinMs + readMsForOrder * answered.size,
    async () => {
      const open = await openOrders(stack, prefix)
      // only then all are looked for, which takes longer
      if (open > 0) throw new Error(`${open} are open`)
      await ended(stack, answered)
      return true
    },
    looksEveryMs
  )

/** Returns when nothing moves any more, and nobody waits to move. */
export const settled = async (stack: Stack, prefix: string, orders: number, left: Left): Promise<void> => {
  const withinMs = (): number => left() ?? quietWithinMs + readMsForOrder * orders
  const soon = Date.now() + withinMs()
  await until(
    "nobody who waits",
    left() ?? clearedUpWithinMs,
    async () => {
      const { now, byDeadline } = await waiting(stack, prefix)
      if (now.length > 0 && Date.now() > soon) throw new Hopeless(now.join(", "))
      const found = [...now, ...byDeadline]
      if (found.length > 0) throw new Error(found.join(", "))
      return true
    },
    looksEveryMs
  )
  await quiet(stack, withinMs())
  // once more for what the last of it caused after the outboxes were read
  await quiet(stack, withinMs())
}

/** Who waits for something that is due any time, and which sagas are left to their deadline. */
const waiting = async (
  stack: Stack,
  prefix: string
): Promise<{ readonly now: ReadonlyArray<string>; readonly byDeadline: ReadonlyArray<string> }> => {
  const open = await stack.database("sagas")<Array<{ coordination: string; count: number }>>`
    select coordination, count(*)::int as count
    from sagas
    where ended_at is null and starts_with(data ->> 'userId', ${prefix})
    group by coordination`
  const told = open.map(({ coordination, count }) => ({
    choreographed: coordination === "choreography",
    line: `${count} sagas of ${coordination} are open`
  }))
  // one whose caller was killed is its caller's until its lease is over
  const [calls] = await stack.database("payments")<Array<{ count: number }>>`
    select count(*)::int as count from calls where done_at is null`
  const unseen = await Promise.all(
    databases.map((name) => stack.database(name)<Array<{ id: string }>>`select id from audit_exceptions limit 1`)
  )
  return {
    now: [
      ...told.flatMap(({ choreographed, line }) => (choreographed ? [] : [line])),
      ...(calls?.count === 0 ? [] : [`${calls?.count} calls are open`]),
      ...(unseen.flat().length === 0 ? [] : ["the auditor misses messages"])
    ],
    byDeadline: told.flatMap(({ choreographed, line }) => (choreographed ? [line] : []))
  }
}

/** Why it failed, or nothing. */
export const failing = async (wait: Promise<void>): Promise<ReadonlyArray<string>> => {
  try {
    await wait
    return []
  } catch (cause) {
    return [text(cause)]
  }
}

/** Every topic from its first record once more. */
export const replay = async (stack: Stack, orders: number): Promise<void> => {
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).stop()))
  await stack.tape.admin((admin) => admin.deleteGroups(groups.map(({ group }) => group)))
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).restart()))
  await quiet(stack, quietWithinMs + replayMsForOrder * orders)
}
