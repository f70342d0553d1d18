/** Poison among orders, and what its operator does about it over HTTP: nothing waits for it, and none of it is lost or decided twice. */
import { expect, setDefaultTimeout } from "bun:test"
import { SERVICE_NAMES, type ServiceName } from "../../stack/supervise.ts"
import { until } from "../../stack/wait.ts"
import { placeAll, planOf, prepare, type Plan, type Planned } from "./orders.ts"
import { poisonFor } from "./poison.ts"
import { counter, onStack, useStack, type Stack } from "./stack.ts"
import { injectedHeader, partitionOf, type Taped } from "./tape.ts"
import { ended, expectExactlyOnce, quiet, subscribers } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const orderCount = 2_000
const brokenCount = 10
const poisonCount = 35
const happensWithinMs = 30_000

interface Listed {
  readonly id: string
  readonly reason: string
  readonly key: string | null
  readonly topic: string
  readonly partition: number
  readonly offset: string
}

interface Changed {
  readonly decided: number
  readonly parked: number
  readonly discarded: number
  readonly left: number
}

const admin = async <A>(stack: Stack, service: ServiceName, path: string, body?: object): Promise<A> => {
  const response = await fetch(`${stack.service(service).adminUrl}/dead-letters${path}`, {
    signal: AbortSignal.timeout(60_000),
    ...(body === undefined
      ? {}
      : { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } })
  })
  if (!response.ok) throw new Error(`${service} ${path} answered ${response.status} ${await response.text()}`)
  // What a service of ours answers; the expectations find out what is in it.
  return (await response.json()) as A
}

/** All that a service has parked, page by page. */
const parkedAt = async (stack: Stack, service: ServiceName): Promise<ReadonlyArray<Listed>> => {
  const letters: Array<Listed> = []
  let cursor: string | null = ""
  while (cursor !== null) {
    const query: string = cursor === "" ? "" : `&cursor=${cursor}`
    const page: { items: ReadonlyArray<Listed>; next: string | null } = await admin(stack, service, `?limit=7${query}`)
    letters.push(...page.items)
    cursor = page.next
  }
  return letters
}

const everyService = async <A>(ask: (service: ServiceName) => Promise<A>): Promise<ReadonlyArray<A>> =>
  Promise.all(SERVICE_NAMES.map(ask))

const placeOf = ({ topic, partition, offset }: Pick<Listed, "topic" | "partition"> & { offset: unknown }): string =>
  `${partitionOf({ topic, partition })}/${String(offset)}`

/** A plan some of whose orders are of a user whose sagas can't be written, and who they are. */
const planWithBroken = (name: string) => {
  const sound = planOf(name, orderCount - brokenCount, 8)
  const user = { id: `${sound.prefix}broken`, balance: 1_000_000 }
  const [product] = sound.products
  if (product === undefined) throw new Error("there are no products")
  const orders: Array<Planned> = [...sound.orders]
  const every = Math.floor(orderCount / brokenCount)
  for (let n = 0; n < brokenCount; n++) {
    orders.splice(n * every, 0, {
      key: `${sound.prefix}broken${n}`,
      entry: "order",
      body: { userId: user.id, items: [{ productId: product.id, quantity: 1 }] },
      outcome: { status: "APPROVED" },
      posts: 1
    })
  }
  const plan: Plan = { ...sound, orders, accounts: [...sound.accounts, user] }
  return { plan, user }
}

onStack("45 poisoned messages among 2,000 orders are parked, redriven once repaired, and discarded", async (stack) => {
  const { plan, user } = planWithBroken("poisoned")
  const poison = poisonFor(subscribers)
  expect([poison.length, new Set(poison.map(({ sort }) => sort)).size]).toEqual([poisonCount, poisonCount])
  await everyService((service) => admin(stack, service, "/discard", { all: true, note: "of other tests" }))
  await prepare(stack, plan)
  const sagas = stack.database("sagas")
  await sagas.unsafe(
    `alter table sagas add constraint sagas_poisoned check (data ->> 'userId' <> '${user.id}') not valid`
  )

  try {
    // one after the other, so that at no time most of what a service gets is poison
    const { placed, done, reached } = placeAll(stack, plan.orders, 64)
    for (const [n, { record }] of poison.entries()) {
      await reached(((n + 1) * orderCount) / (poisonCount + 5))
      await stack.tape.produce([record])
    }
    await done
    const isBroken = ({ body }: Planned): boolean => body.userId === user.id
    const sound = new Map([...placed].filter(([, planned]) => !isBroken(planned)))
    const broken = new Set([...placed].filter(([, planned]) => isBroken(planned)).map(([id]) => id))
    expect([sound.size, broken.size]).toEqual([orderCount - brokenCount, brokenCount])

    // nothing waited for any of it
    await ended(stack, sound)
    await quiet(stack)
    const injected = stack.tape.records.filter((record) => sortOf(poison, record) !== undefined)
    const due = injected.flatMap((record) =>
      (sortOf(poison, record)?.consumers ?? []).map((name) => `${name} ${placeOf(record)}`)
    )
    const parked = (
      await everyService(async (service) => (await parkedAt(stack, service)).map((letter) => ({ ...letter, service })))
    ).flat()
    const repairable = parked.filter(({ reason }) => reason === "row-refused")
    const hopeless = parked.filter(({ reason }) => reason !== "row-refused")
    expect(hopeless.map((letter) => `${letter.service} ${placeOf(letter)}`).toSorted()).toEqual(due.toSorted())
    expect(injected).toHaveLength(poisonCount)
    expect(hopeless).toHaveLength(poisonCount)
    // an order that waits for long is announced again, under another id
    expect(new Set(repairable.map(({ service, key }) => `${service} ${key}`))).toEqual(
      new Set([...broken].map((id) => `orchestrator ${id}`))
    )
    expect(await gauge(stack, "orchestrator", "row-refused")).toBe(repairable.length)

    // the fix
    await sagas`alter table sagas drop constraint sagas_poisoned`
    const redriven = await admin<Changed>(stack, "orchestrator", "/redrive", { reason: "row-refused" })
    expect(redriven).toMatchObject({ decided: repairable.length, parked: 0, left: 0 })
    await expectExactlyOnce(stack, plan, placed)

    // what can't be decided stays, whoever tries, until it is discarded
    const tried = await everyService((service) => admin<Changed>(stack, service, "/redrive", {}))
    expect([sum(tried, "decided"), sum(tried, "parked")]).toEqual([0, poisonCount])
    const gone = await everyService((service) =>
      admin<Changed>(stack, service, "/discard", { all: true, note: "poison" })
    )
    expect([sum(gone, "discarded"), sum(gone, "left")]).toEqual([poisonCount, 0])

    // delivered once more it changes nothing
    const before = await everyService((service) => counter(stack.service(service), "duplicates"))
    await stack.tape.produce(poison.map(({ record }) => record))
    await quiet(stack)
    await until("the poison dropped", happensWithinMs, async () => {
      const after = await everyService((service) => counter(stack.service(service), "duplicates"))
      return (
        after.reduce((total, count) => total + count, 0) >= before.reduce((total, count) => total + count, poisonCount)
      )
    })
    expect((await everyService((service) => parkedAt(stack, service))).flat()).toEqual([])
    await expectExactlyOnce(stack, plan, placed)
  } finally {
    await sagas`alter table sagas drop constraint if exists sagas_poisoned`
  }
})

/** Which poison a record is. */
const sortOf = (poison: ReturnType<typeof poisonFor>, { headers }: Taped) =>
  poison.find(({ sort }) => sort === headers[injectedHeader]?.toString())

const sum = (answers: ReadonlyArray<Changed>, name: keyof Changed): number =>
  answers.reduce((total, answer) => total + answer[name], 0)

/** How many messages a service has parked now for a reason, as its metrics tell. */
const gauge = async (stack: Stack, service: ServiceName, reason: string): Promise<number> => {
  const response = await fetch(`${stack.service(service).adminUrl}/metrics`, { signal: AbortSignal.timeout(5_000) })
  const found = new RegExp(`^oncebox_dead_letters\\{.*reason="${reason}"\\} (\\d+)$`, "m").exec(await response.text())
  return Number(found?.[1])
}
