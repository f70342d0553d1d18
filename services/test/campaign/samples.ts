/**
 * What is looked at again and again while the campaign runs: counters, which end with their process, money and stock, and what
 * processes and Postgres take.
 */
import { within } from "../../../stack/wait.ts"
import { SERVICE_NAMES, type Service } from "../../../stack/supervise.ts"
import { counterNames } from "../../../outbox/telemetry.ts"
import type { Site } from "./site.ts"

export interface Samples {
  /** By service and counter, over all its processes: at least so many. */
  readonly counters: Readonly<Record<string, Readonly<Record<string, number>>>>
  /** Entries of the ledger that were there at some time, as `user/position`. */
  readonly ledger: ReadonlyArray<string>
  /** Whatever was below zero at some time. */
  readonly negative: ReadonlyArray<string>
  /** How often money and stock were looked at. */
  readonly looks: number
  /** The most memory that each process had, in bytes. */
  readonly memory: Readonly<Record<string, number>>
  /** The most connections that Postgres had. */
  readonly connections: number
}

const everyMs = 1_000
const measuresEvery = 5
const answersWithinMs = 3_000

export const startSamples = ({ stack, auditor }: Site) => {
  const counters = new Map<string, ReadonlyMap<string, number>>()
  const ledger = new Set<string>()
  const negative = new Set<string>()
  const memory = new Map<string, number>()
  let connections = 0
  let looks = 0
  let turns = 0
  let over = false

  const count = async (name: (typeof SERVICE_NAMES)[number]): Promise<void> => {
    const replica = stack.service(name)
    const { pid } = replica
    const response = await fetch(`${replica.adminUrl}/metrics`, { signal: AbortSignal.timeout(answersWithinMs) })
    const said = await response.text()
    const found = counterNames.map((counter): [string, number] => {
      const line = new RegExp(`^oncebox_${counter}_total\\S* (\\d+)$`, "m").exec(said)
      return [counter, Number(line?.[1] ?? 0)]
    })
    counters.set(`${name} ${pid}`, new Map(found))
  }
  const look = async (): Promise<void> => {
    const entries = await stack.database("payments")<Array<{ user_id: string; position: number }>>`
      select user_id, position from ledger order by at desc limit 500`
    for (const { user_id, position } of entries) ledger.add(`${user_id}/${position}`)
    const poor = await stack.database("payments")<Array<{ id: string }>>`
      select user_id as id from accounts where balance < 0`
    const short = await stack.database("products")<Array<{ id: string }>>`select id from products where quantity < 0`
    for (const { id } of [...poor, ...short]) negative.add(id)
    looks++
  }
  const measure = async (): Promise<void> => {
    const processes: ReadonlyArray<Pick<Service, "name" | "pid">> = [...SERVICE_NAMES.map(stack.service), auditor]
    for (const { name, pid } of processes) memory.set(name, Math.max(memory.get(name) ?? 0, await residentBytes(pid)))
    const [open] = await stack.database("orders")<Array<{ count: number }>>`
      select count(*)::int as count from pg_stat_activity where datname is not null`
    connections = Math.max(connections, open?.count ?? 0)
  }
  const all = async (): Promise<void> => {
    // what is down or does not answer is looked at the next time
    await Promise.allSettled([
      ...SERVICE_NAMES.map(count),
      within("a look at money and stock", answersWithinMs, look()),
      ...(turns++ % measuresEvery === 0 ? [within("a measurement", answersWithinMs, measure())] : [])
    ])
  }
  const running = (async () => {
    while (!over) {
      await all()
      await Bun.sleep(everyMs)
    }
  })()
  return {
    stop: async (): Promise<Samples> => {
      over = true
      await running
      await all()
      return {
        counters: Object.fromEntries(SERVICE_NAMES.map((name) => [name, sumOf(counters, name)])),
        ledger: [...ledger],
        negative: [...negative],
        looks,
        memory: Object.fromEntries(memory),
        connections
      }
    }
  }
}

const residentBytes = async (pid: number): Promise<number> => {
  const child = Bun.spawn(["ps", "-o", "rss=", "-p", String(pid)], { stdout: "pipe", stderr: "ignore" })
  return Number((await new Response(child.stdout).text()).trim()) * 1024
}

const sumOf = (
  counters: ReadonlyMap<string, ReadonlyMap<string, number>>,
  name: string
): Readonly<Record<string, number>> => {
  const sums: Record<string, number> = {}
  for (const [of, found] of counters) {
    if (of.split(" ")[0] !== name) continue
    for (const [counter, value] of found) sums[counter] = (sums[counter] ?? 0) + value
  }
  return sums
}
