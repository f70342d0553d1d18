/** The nemesis at Kafka Connect: what befalls a connector is asked for over REST, and asked again while Connect is away. */
import { connectorConfig } from "../../../connectors/apply.ts"
import { until } from "../../../stack/wait.ts"
import type { Database, Stack } from "../stack.ts"
import { healsWithinMs, type Carry } from "./carry.ts"

/** Connect may be down, or busy with a rebalance. Answers what it said. */
const rest = async (
  { engines }: Stack,
  method: "GET" | "PUT" | "POST" | "DELETE" | "PATCH",
  path: string,
  body?: object
): Promise<string> => {
  let said = ""
  await until(`${method} ${path}`, healsWithinMs, async () => {
    const response = await fetch(`${engines.connect.url}/connectors/${path}`, {
      method,
      ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(5_000)
    })
    said = await response.text()
    if (!response.ok) throw new Error(said)
    return true
  })
  return said
}

/** A connector whose offsets can be changed. */
const stopped = async (stack: Stack, name: string): Promise<void> => {
  await rest(stack, "PUT", `${name}/stop`)
  await until(`connector ${name} stopped`, healsWithinMs, async () =>
    (await rest(stack, "GET", `${name}/status`)).includes('"state":"STOPPED"')
  )
}

/** Pauses it for a while, or restarts it. */
export const restConnector: Carry = async ({ stack, fault, next, healed }) => {
  if (next() < 0.5) {
    await rest(stack, "PUT", `${fault.target}/pause`)
    await Bun.sleep(fault.lastsMs)
    await rest(stack, "PUT", `${fault.target}/resume`)
  } else await rest(stack, "POST", `${fault.target}/restart?includeTasks=true`)
  healed()
}

/** What Connect says of a connector's offsets; none before it has published something. */
export const offsetsOf = async (stack: Stack, name: string): Promise<ReadonlyArray<unknown>> =>
  // what Connect answers
  (JSON.parse(await rest(stack, "GET", `${name}/offsets`)) as { readonly offsets: ReadonlyArray<unknown> }).offsets

/** They are gone, or what they were when the faults began. */
export const losingOffsets: Carry = async ({ stack, fault: { target: name }, offsets, next, healed }) => {
  const earlier = offsets.get(name) ?? []
  try {
    await stopped(stack, name)
    if (earlier.length === 0 || next() < 0.5) await rest(stack, "DELETE", `${name}/offsets`)
    else await rest(stack, "PATCH", `${name}/offsets`, { offsets: earlier })
  } finally {
    await rest(stack, "PUT", `${name}/resume`)
    healed()
  }
}

/** The planted bug: the slot is made anew and begins where the log is then, and no snapshot makes up for what was before. */
export const skipping: Carry = async ({ stack, superuser, fault, healed }) => {
  const name = fault.target
  const config = connectorConfig(name)
  const slot = config["slot.name"] ?? ""
  await stopped(stack, name)
  await rest(stack, "DELETE", `${name}/offsets`)
  await rest(stack, "PUT", `${name}/config`, { ...config, name, "snapshot.mode": "no_data" })
  await until(`slot ${slot} dropped`, 30_000, async () => {
    await superuser`select pg_drop_replication_slot(${slot})`
    return true
  })
  const sql = stack.database(name as Database)
  const count = async (): Promise<number> =>
    (await sql<Array<{ n: number }>>`select count(*)::int as n from outbox`)[0]?.n ?? 0
  const before = await count()
  await until("a message that nobody reads", healsWithinMs, async () => (await count()) > before)
  await rest(stack, "PUT", `${name}/resume`)
  healed()
}
