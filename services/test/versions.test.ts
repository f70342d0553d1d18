/**
 * Builds that run side by side: while orders flow, replicas of the orchestrator with other versions of the sagas take over one
 * by one, and an order service tells what the others have never heard of. Each saga ends on the version that it began on.
 */
import { expect, setDefaultTimeout } from "bun:test"
import { join } from "node:path"
import type { SagaDefinition } from "oncebox"
import type { ServiceName } from "../../stack/supervise.ts"
import { allDefinitions } from "./builds/definitions.ts"
import { placeAll, planOf, prepare, type Plan, type Planned } from "./orders.ts"
import { counter, onStack, useStack, type Replica, type Stack } from "./stack.ts"
import { expectExactlyOnce, groups } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const build = (name: string): string => join(import.meta.dir, "builds", `${name}.ts`)
/** The builds of the orchestrator; `old` is today's. */
const builds = { old: undefined, prepared: build("orchestrator-prepared"), next: build("orchestrator-next") }
type Build = keyof typeof builds

const orderCount = 320
/** How many orders a stage has. */
const chunk = 40

/** A number of replicas of the orchestrator. Orders are placed at the first. */
const twoReplicas = async (stack: Stack, label: string) => {
  const first = stack.service("orchestrator")
  const replicas: Array<Replica> = [first, await stack.start("orchestrator", `${label}-1`)]
  let started = 1
  return {
    replicas,
    /** Stops a replica, and starts another build on its ports. */
    replace: async (index: number, by: Build): Promise<void> => {
      const leaving = replicas[index] ?? first
      await leaving.stop()
      replicas[index] = await stack.start("orchestrator", `${label}-${++started}-${by}`, builds[by], leaving)
    },
    end: async (): Promise<void> => {
      for (const replica of replicas) await replica.stop()
      await first.restart()
    }
  }
}

/** Places a plan's orders chunk by chunk: each stage has orders of its own, however fast they are placed. */
const inChunks = (stack: Stack, plan: Plan) => {
  const placed = new Map<string, Planned>()
  let from = 0
  return {
    placed,
    next: async (chunks = 1): Promise<void> => {
      const orders = plan.orders.slice(from, (from += chunks * chunk))
      const { placed: some, done } = placeAll(stack, orders, 8)
      await done
      for (const [id, planned] of some) placed.set(id, planned)
    }
  }
}

/** Of the sagas of some orders: the version of each. */
const versionsOf = async (stack: Stack, ids: Iterable<string>): Promise<ReadonlyMap<string, number>> => {
  const rows = await stack.database("sagas")<Array<{ id: string; version: number }>>`
    select id, version
    from sagas
    where id = any(array(select id from jsonb_array_elements_text(${JSON.stringify([...ids])}::text::jsonb) as ids(id)))`
  return new Map(rows.map(({ id, version }) => [id, version]))
}

interface Entry {
  readonly saga_id: string
  readonly state: string
  readonly step: string
}

/** The steps that an orchestrated saga took, as its log tells. */
const stepsTaken = async (stack: Stack, prefix: string) => {
  const rows = await stack.database("sagas")<Array<Entry & { definition: string; version: number }>>`
    select saga_id, definition, version, saga_log.state, saga_log.step
    from saga_log
    join sagas on sagas.id = saga_id
    where coordination = 'orchestration' and starts_with(data ->> 'userId', ${prefix})
    order by saga_id, saga_log.position`
  return Map.groupBy(rows, ({ saga_id }) => saga_id)
}

/** A saga that went forward did so by the steps of its own version, in their order, none left out. */
const astray = (log: ReadonlyArray<Entry>, { steps }: SagaDefinition): boolean => {
  const names = steps.map(({ name }) => name)
  const forward = [...new Set(log.filter(({ state }) => state === "RUNNING").map(({ step }) => step))]
  const from = names.indexOf(forward[0] ?? "")
  // one that its order started has its first step behind it
  return from > 1 || forward.join() !== names.slice(from, from + forward.length).join()
}

const expectOwnVersions = async (stack: Stack, prefix: string): Promise<void> => {
  const logs = await stepsTaken(stack, prefix)
  const versions = new Set<string>()
  for (const [id, log] of logs) {
    const { definition: name, version } = log[0] ?? {}
    const definition = allDefinitions.find((one) => one.name === name && one.version === version)
    if (definition === undefined) throw new Error(`saga ${id} runs on ${name} v${version}`)
    versions.add(`${name} v${version}`)
    expect([id, version, log, astray(log, definition)]).toEqual([id, version, log, false])
  }
  expect([...versions].sort()).toEqual(["pay-first v1", "pay-first v2", "place-order v1", "place-order v2"])
}

const handovers = (stack: Stack, ids: Iterable<string>) =>
  stack.database("sagas")<Array<{ type: string; due_at: Date | null }>>`
    select type, due_at
    from saga_handovers
    where saga_id = any(array(select id from jsonb_array_elements_text(${JSON.stringify([...ids])}::text::jsonb) as ids(id)))`

onStack("the orchestrator's builds follow one another, a replica at a time, while orders flow", async (stack) => {
  const plan = planOf("rolling", orderCount, 11)
  await prepare(stack, plan)
  const { replace, end } = await twoReplicas(stack, "rolling")
  try {
    const { placed, next } = inChunks(stack, plan)
    await next()
    await Promise.all([next(), replace(0, "prepared")])
    await Promise.all([next(), replace(1, "prepared")])
    await Promise.all([next(), replace(0, "next")])
    // one starts the new version, the other one the old one
    await next()
    const before = await versionsOf(stack, placed.keys())
    await Promise.all([next(), replace(1, "next")])
    await next(2)

    await expectExactlyOnce(stack, plan, placed)
    await expectOwnVersions(stack, plan.prefix)
    const after = await versionsOf(stack, placed.keys())
    expect(new Map([...before.keys()].map((id) => [id, after.get(id)]))).toEqual(new Map(before))
    // everybody had both versions before somebody began the new one
    expect(await handovers(stack, placed.keys())).toHaveLength(0)
  } finally {
    await end()
  }
})

onStack("a build with new versions meets builds that lack them, and goes and comes again", async (stack) => {
  const plan = planOf("leap", orderCount, 12)
  await prepare(stack, plan)
  const { replicas, replace, end } = await twoReplicas(stack, "leap")
  try {
    const { placed, next } = inChunks(stack, plan)
    await next()
    await Promise.all([next(), replace(0, "next")])
    // the old build meets sagas that it knows nothing of
    await next(2)
    const before = await versionsOf(stack, placed.keys())
    const old = replicas[1] ?? stack.service("orchestrator")
    expect([await counter(old, "parked"), (await fetch(`${old.url}/health/ready`)).status]).toEqual([0, 200])
    await Promise.all([next(), replace(0, "old")])
    await next()
    await replace(1, "next")
    await Promise.all([next(), replace(0, "next")])
    await next()

    await expectExactlyOnce(stack, plan, placed)
    await expectOwnVersions(stack, plan.prefix)
    const after = await versionsOf(stack, placed.keys())
    expect(new Map([...before.keys()].map((id) => [id, after.get(id)]))).toEqual(new Map(before))
    const handed = await handovers(stack, placed.keys())
    expect(handed.length).toBeGreaterThan(0)
    expect(handed.filter(({ due_at }) => due_at !== null)).toEqual([])
    console.log(`  ${handed.length} messages were handed over`)
  } finally {
    await end()
  }
})

onStack("a message type that only a new build knows harms nobody", async (stack) => {
  const plan = planOf("news", orderCount / 2, 13)
  const listeners: ReadonlyArray<ServiceName> = ["orchestrator", "product", "payment", "shipment"]
  const unknown = () => Promise.all(listeners.map((name) => counter(stack.service(name), "unknown")))
  await prepare(stack, plan)
  const before = await unknown()
  const next = await stack.start("order", "order-next", build("order-next"))
  try {
    const { placed, done } = placeAll(stack, plan.orders, 8)
    await done

    await expectExactlyOnce(stack, plan, placed)
    const told = stack.tape.records.filter(
      ({ type, key }) => type === "OrderEndedEvent" && placed.has(key?.toString() ?? "")
    )
    for (const [index, count] of (await unknown()).entries()) {
      const read = groups.find(({ group }) => group === listeners[index])?.topics ?? []
      const met = told.filter(({ topic }) => read.includes(topic))
      expect(met.length).toBeGreaterThan(0)
      expect(count - (before[index] ?? 0)).toBeGreaterThanOrEqual(met.length)
    }
    for (const name of listeners) expect([name, await counter(stack.service(name), "parked")]).toEqual([name, 0])
  } finally {
    await next.stop()
  }
})
