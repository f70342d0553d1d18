/** Exactly-once effect on the real stack: whatever is delivered again, lost on the way or killed, each order counts once. */
import { expect, setDefaultTimeout } from "bun:test"
import { connectorNames } from "../../connectors/apply.ts"
import { SERVICE_NAMES, type ServiceName } from "../../stack/supervise.ts"
import { until } from "../../stack/wait.ts"
import { placeAll, planOf, prepare, type Placing, type Planned } from "./orders.ts"
import { connector, counter, onStack, useStack, type Stack } from "./stack.ts"
import { handles } from "./checks/check.ts"
import { askedAgain, echo, type Taped } from "./tape.ts"
import { ended, expectExactlyOnce, groups, quiet, readSeen, readState, subscribers } from "./world.ts"

setDefaultTimeout(300_000)
useStack()

const orderCount = 300
/** How many orders flow around each kill. */
const chunk = 25
const countsWithinMs = 30_000

/** Those of the records that a participant handles. */
const handledBy = (name: ServiceName, records: ReadonlyArray<Taped>): ReadonlyArray<Taped> => {
  const own = subscribers.filter(({ consumer }) => consumer === name)
  return records.filter((record) => own.some((subscriber) => handles(subscriber, record)))
}

/** How many of the records each participant handles. */
const handledOf = (records: ReadonlyArray<Taped>): ReadonlyMap<ServiceName, number> =>
  new Map(SERVICE_NAMES.map((name) => [name, handledBy(name, records).length]))

const countersOf = async (stack: Stack, name: string): Promise<ReadonlyMap<ServiceName, number>> =>
  new Map(
    await Promise.all(
      SERVICE_NAMES.map(async (service) => [service, await counter(stack.service(service), name)] as const)
    )
  )

/** Every participant counted at least as many as it was given, since the counters were `before`. */
const expectCounted = async (
  stack: Stack,
  name: string,
  given: ReadonlyMap<ServiceName, number>,
  before: ReadonlyMap<ServiceName, number> = new Map()
): Promise<void> => {
  await until(`${name} counted`, countsWithinMs, async () => {
    const counted = await countersOf(stack, name)
    const less = [...given].filter(
      ([service, count]) => (counted.get(service) ?? 0) - (before.get(service) ?? 0) < count
    )
    if (less.length > 0)
      throw new Error(less.map(([service, count]) => `${service}: ${counted.get(service)} of ${count}`).join(", "))
    return true
  })
  for (const [service, count] of given) expect([service, count > 0]).toEqual([service, true])
}

onStack("every record of every topic is there twice, byte for byte", async (stack) => {
  const plan = planOf("twice", orderCount, 1)
  const before = await countersOf(stack, "duplicates")
  const echoing = echo(stack.tape, (record) => record)
  await prepare(stack, plan)

  const { placed, done } = placeAll(stack, plan.orders)
  await done
  await expectExactlyOnce(stack, plan, placed)
  const copied = await echoing.stop()

  const { records } = await expectExactlyOnce(stack, plan, placed)
  const times = Map.groupBy(records, ({ id }) => id)
  expect([...times.values()].filter((copies) => copies.length < 2)).toEqual([])
  await expectCounted(stack, "duplicates", handledOf(copied), before)
})

onStack("consumer groups go back to the first record", async (stack) => {
  const plan = planOf("rewound", orderCount, 2)
  await prepare(stack, plan)

  const { placed, done, reached } = placeAll(stack, plan.orders)
  await reached(orderCount / 2)
  await ended(stack, placed, orderCount / 6)
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).stop()))
  await stack.tape.caughtUp()
  const decided = new Set((await readSeen(stack)).map(({ consumer, id }) => `${consumer} ${id}`))
  const again = new Map(
    SERVICE_NAMES.map((name) => [
      name,
      handledBy(name, stack.tape.records).filter(({ id }) => decided.has(`${name} ${id}`)).length
    ])
  )
  // a group without offsets begins at the first record
  await stack.tape.admin((admin) => admin.deleteGroups(groups.map(({ group }) => group)))
  await Promise.all(SERVICE_NAMES.map((name) => stack.service(name).restart()))
  await done

  await expectExactlyOnce(stack, plan, placed)
  await expectCounted(stack, "duplicates", again)
})

onStack("connectors lose their offsets and publish what the outboxes hold again", async (stack) => {
  const plan = planOf("replayed", orderCount, 3)
  await prepare(stack, plan)
  const before = await countersOf(stack, "duplicates")

  const { placed, done, reached } = placeAll(stack, plan.orders)
  await reached(orderCount / 2)
  await ended(stack, placed, orderCount / 6)
  await stack.tape.caughtUp()
  const ids = new Set<string>()
  const published = stack.tape.records.filter(({ id, injected }) => !injected && ids.size !== ids.add(id).size)
  const from = stack.tape.records.length
  await Promise.all(
    connectorNames().map(async (name) => {
      await connector(stack, name, "PUT", "stop")
      await until(`connector ${name} stopped`, countsWithinMs, async () =>
        (await connector(stack, name, "GET", "status")).includes('"state":"STOPPED"')
      )
      await connector(stack, name, "DELETE", "offsets")
      await connector(stack, name, "PUT", "resume")
    })
  )
  await done

  await until("all of it published again", 60_000, () => {
    const again = new Set(stack.tape.records.slice(from).map(({ id }) => id))
    return published.every(({ id }) => again.has(id))
  })
  await expectExactlyOnce(stack, plan, placed)
  await expectCounted(stack, "duplicates", handledOf(published), before)
})

onStack(
  "every command is asked again under a new id, while its order is open and after it has ended",
  async (stack) => {
    const plan = planOf("asked", orderCount, 4)
    const isCommand = ({ topic }: Taped): boolean => topic.endsWith("-commands")
    await prepare(stack, plan)
    const asking = echo(stack.tape, (record) => (isCommand(record) ? askedAgain(record) : undefined))

    const { placed, done } = placeAll(stack, plan.orders)
    await done
    await expectExactlyOnce(stack, plan, placed)
    await asking.stop()
    await expectExactlyOnce(stack, plan, placed)
    const state = await readState(stack)
    const before = await countersOf(stack, "messages")
    const commands = stack.tape.records.filter(
      (record) => isCommand(record) && !record.injected && placed.has(record.key?.toString() ?? "")
    )
    await stack.tape.produce(commands.map(askedAgain))
    await quiet(stack)

    await expectExactlyOnce(stack, plan, placed)
    expect(await readState(stack)).toEqual(state)
    const given = new Map([...handledOf(commands)].filter(([, count]) => count > 0))
    expect([...given.keys()].sort()).toEqual(["order", "payment", "product", "shipment"])
    await expectCounted(stack, "messages", given, before)
  }
)

onStack("each process is killed and started again while orders flow", async (stack) => {
  const plan = planOf("killed", orderCount, 5)
  await prepare(stack, plan)
  const { postgres, kafka, connect } = stack.engines
  const placings: Array<Placing> = []
  const flow = async (): Promise<void> => {
    const from = placings.length * chunk
    const placing = placeAll(stack, plan.orders.slice(from, from + chunk), 4)
    placings.push(placing)
    await placing.reached(chunk / 3)
  }

  await flow()
  await postgres.kill()
  await postgres.restart()
  const restarts: Array<Promise<void>> = []
  // against the stream, or those further down would have nothing to do when they are killed
  for (const name of ["shipment", "user", "payment", "product", "order", "orchestrator"] as const) {
    const arrives = arrival(stack, groups.find(({ group }) => group === name)?.topics ?? [])
    await flow()
    await arrives()
    await stack.service(name).kill9()
    restarts.push(stack.service(name).restart())
  }
  for (const engine of [kafka, connect]) {
    await flow()
    await engine.kill()
    await engine.restart()
  }
  while (placings.length * chunk < orderCount) await flow()
  await Promise.all([...restarts, ...placings.map(({ done }) => done)])

  await expectExactlyOnce(stack, plan, placedIn(placings))
})

const placedIn = (placings: ReadonlyArray<Placing>): ReadonlyMap<string, Planned> =>
  new Map(placings.flatMap(({ placed }) => [...placed]))

/** Waits until a record arrives on one of the topics; counts from now on, not from when it is called. */
const arrival = ({ tape }: Stack, topics: ReadonlyArray<string>): (() => Promise<void>) => {
  let arrived = false
  const unfollow = tape.follow(({ topic }) => {
    if (topics.includes(topic)) arrived = true
  })
  return () => until(`a record on ${topics.join(", ")}`, countsWithinMs, () => arrived, 1).finally(unfollow)
}
