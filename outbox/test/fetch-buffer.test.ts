/** What is fetched ahead is taken within bounds, comes again after a rebalance, and is committed once it was processed. */
import { expect, test } from "bun:test"
import { Effect, Fiber } from "effect"
import { FetchBuffer } from "../broker/fetch-buffer.ts"
import { within } from "../../stack/wait.ts"

const all = { messages: 1_000_000, bytes: Number.MAX_SAFE_INTEGER }
const waitsAtMostMs = 5_000

/** A buffer, what it commits, and kafkajs as far as it sees it. */
const bufferOf = (commit: (offsets: ReadonlyArray<string>) => Promise<void> = async () => {}) => {
  const committed: Array<ReadonlyArray<string>> = []
  const buffer = new FetchBuffer(async (offsets) => {
    const told = offsets.map(({ topic, partition, offset }) => `${topic}/${partition} ${offset}`)
    await commit(told)
    committed.push(told)
  })
  let next = 0
  const kafkajs = { resolved: [] as Array<string>, heartbeats: 0, isRunning: true, isStale: false }
  /** So many messages of a partition, with values and headers of so many bytes. */
  const fetch = (
    count: number,
    { value = 0, header = 0, times = 1, partition = 0, first = next } = {}
  ): Promise<void> => {
    const padding = Array.from({ length: times }, () => Buffer.alloc(header / times))
    const messages = Array.from({ length: count }, (_, n) => ({
      key: null,
      value: Buffer.alloc(value),
      headers: { padding: padding.length === 1 ? padding[0] : padding },
      offset: String(first + n)
    }))
    next = first + count
    return buffer.fetched({
      batch: { topic: "t", partition, messages, lastOffset: () => String(next - 1) },
      resolveOffset: (offset) => void kafkajs.resolved.push(offset),
      heartbeat: async () => void kafkajs.heartbeats++,
      isRunning: () => kafkajs.isRunning,
      isStale: () => kafkajs.isStale
    })
  }
  const take = (limit = all) =>
    within("a take", waitsAtMostMs, Effect.runPromise(buffer.take(limit))).then((records) => [...records])
  const offsets = async (limit = all) => (await take(limit)).map(({ offset }) => Number(offset))
  const commitNow = () => Effect.runPromise(buffer.commit())
  return { buffer, committed, kafkajs, fetch, take, offsets, commitNow }
}

/** Whether a promise is still not settled after everything that waits for nothing has run. */
const isPending = async (promise: Promise<unknown>): Promise<boolean> => {
  let pending = true
  void promise.finally(() => (pending = false))
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
  return pending
}

test("what was fetched is taken in its order, by number and by size, one at least", async () => {
  const { fetch, offsets, kafkajs } = bufferOf()
  await fetch(5, { value: 1_000 })

  expect(await offsets({ messages: 2, bytes: 1_000_000 })).toEqual([0, 1])
  expect(await offsets({ messages: 9, bytes: 0 })).toEqual([2])
  expect(await offsets()).toEqual([3, 4])
  expect(kafkajs.resolved).toEqual(["4"])
})

test("a take that waits gets what the partitions of one fetch bring together", async () => {
  const { fetch, offsets } = bufferOf()
  const taken = offsets()
  await fetch(1, { partition: 0 })
  await fetch(1, { partition: 1 })

  expect(await taken).toEqual([0, 1])
})

test.each([
  ["messages", 5_000, {}],
  ["bytes of values", 50, { value: 100_000 }],
  ["bytes of headers", 50, { header: 100_000 }],
  ["bytes of headers that occur twice", 50, { header: 100_000, times: 2 }]
])(
  "when there are too many %s kafkajs is held back until there is room, with heartbeats",
  async (_what, count, size) => {
    const { fetch, take, kafkajs, offsets } = bufferOf()
    expect(await isPending(fetch(count, size))).toBe(false)

    const held = fetch(count, size)
    expect(await isPending(held)).toBe(true)
    const one = await take({ messages: 1, bytes: 1 })
    expect(await isPending(held)).toBe(true)
    const most = await take({ messages: count, bytes: Number.MAX_SAFE_INTEGER })
    await within("kafkajs goes on", 400, held)

    expect(kafkajs.heartbeats).toBeGreaterThan(0)
    expect([one.length, most.length, (await offsets()).length]).toEqual([1, count, count - 1])
  }
)

test("a full buffer sends heartbeats though nobody takes, and lets go when the consumer stops", async () => {
  const { fetch, kafkajs } = bufferOf()
  const held = fetch(9_000)
  const twice = Promise.withResolvers<void>()
  const timer = setInterval(() => {
    if (kafkajs.heartbeats >= 2) twice.resolve()
  }, 10)
  await within("two heartbeats", waitsAtMostMs, twice.promise)
  clearInterval(timer)
  expect(await isPending(held)).toBe(true)

  kafkajs.isRunning = false

  await within("its end", waitsAtMostMs, held)
})

test("what comes late, of an assignment that is over or to a consumer that stops, is left alone", async () => {
  const { fetch, kafkajs, offsets } = bufferOf()
  kafkajs.isStale = true
  await fetch(1)
  kafkajs.isStale = false
  kafkajs.isRunning = false
  await fetch(1)
  kafkajs.isRunning = true
  await fetch(1, { first: 7 })

  expect(await offsets()).toEqual([7])
  expect(kafkajs.resolved).toEqual(["7"])
})

test("after a rebalance what was buffered is gone, nobody is held back, and what is marked late is not committed", async () => {
  const { buffer, fetch, take, offsets, committed, commitNow } = bufferOf()
  await fetch(2)
  const before = await take()
  await fetch(2)
  buffer.processed(before.slice(0, 1))
  const held = fetch(100, { value: 100_000 })
  expect(await isPending(held)).toBe(true)

  buffer.joined()
  const anew = fetch(100, { value: 100_000, first: 0 })
  await within("kafkajs goes on", 400, held)
  expect(await isPending(anew)).toBe(true)
  buffer.processed(before)
  await commitNow()
  expect(committed).toEqual([])

  expect(await offsets()).toEqual([...Array(100).keys()])
  await within("kafkajs goes on", 400, anew)
  expect(await isPending(fetch(1))).toBe(false)
})

test("the offset behind the last record that was processed is committed, of each partition, once", async () => {
  const { buffer, fetch, take, committed, commitNow } = bufferOf()
  await fetch(3, { partition: 0 })
  await fetch(2, { partition: 1, first: 40 })
  buffer.processed(await take())

  await commitNow()
  await commitNow()

  expect(committed).toEqual([["t/0 3", "t/1 42"]])
})

test("a commit that fails is made up for by the next, unless more was processed meanwhile or the group was joined anew", async () => {
  let commit = (): Promise<void> => Promise.resolve()
  const { buffer, fetch, take, committed, commitNow } = bufferOf(() => commit())
  const fails = async (meanwhile: () => void) => {
    const failing = Promise.withResolvers<void>()
    commit = () => failing.promise
    const committing = commitNow()
    meanwhile()
    failing.reject(new Error("the coordinator moved"))
    await committing
    commit = () => Promise.resolve()
  }
  await fetch(3)
  const [first, second, third] = await take()
  const done = (record: typeof first) => () => buffer.processed(record === undefined ? [] : [record])

  done(first)()
  await fails(() => {})
  await commitNow()
  expect(committed).toEqual([["t/0 1"]])

  done(second)()
  await fails(done(third))
  await commitNow()
  expect(committed.slice(1)).toEqual([["t/0 3"]])

  await fetch(1)
  buffer.processed(await take())
  await fails(() => buffer.joined())
  await commitNow()
  expect(committed).toHaveLength(2)
})

test("who takes is told of a crash, waiting or not", async () => {
  const { buffer } = bufferOf()
  const told = () => Effect.runPromise(Effect.flip(buffer.take(all)))
  const waiting = told()

  buffer.crashed(new Error("a bug"))

  for (const error of [waiting, told()])
    expect(await within("the error", waitsAtMostMs, error)).toMatchObject({ message: "the consumer stopped: a bug" })
})

test("a take that is given up takes nothing", async () => {
  const { buffer, fetch, offsets } = bufferOf()
  await Effect.runPromise(
    Effect.gen(function* () {
      const taking = yield* Effect.forkChild(buffer.take(all))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(taking)
    })
  )

  await fetch(2)
  await new Promise((resolve) => setImmediate(resolve))

  expect(await offsets()).toEqual([0, 1])
})
