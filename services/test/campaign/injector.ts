/**
 * Puts more on the topics than was sent, as a process: `bun injector.ts '<job>'`. A share of all records comes again byte for
 * byte, and a share of the commands under new ids, as from somebody who asks again; at once or much later. When its stdin ends
 * it produces what is still due, writes how many there were, and ends.
 */
import { writeFileSync } from "node:fs"
import { hashOf } from "oncebox"
import { text } from "../../../stack/wait.ts"
import { random } from "../orders.ts"
import { askedAgain, startTape, type Raw, type Taped } from "../tape.ts"

export interface InjectorJob {
  readonly brokers: string
  readonly seed: number
  /** Of a hundred records so many come again as they are, and so many of the commands under new ids. */
  readonly copiedPercent: number
  readonly againPercent: number
  /** How long after the original they come at the latest. */
  readonly latestMs: number
  /** Where it writes what it did, as an Injected. */
  readonly result: string
}

export interface Injected {
  readonly records: number
  readonly copies: number
  readonly again: number
}

const producesEveryMs = 50

interface Due {
  readonly at: number
  readonly record: Raw
}

const main = async (job: InjectorJob): Promise<void> => {
  const { brokers, seed, result, copiedPercent, againPercent, latestMs } = job
  const next = random(seed ^ 0x12ec)
  const tape = await startTape(brokers, { slim: true })
  const ids = new Set<string>()
  let due: Array<Due> = []
  const count = { records: 0, copies: 0, again: 0 }
  let over = false
  // half of them while the original is being decided, the others when it is long over
  const later = (record: Raw): void =>
    void due.push({ at: Date.now() + (next() < 0.5 ? 0 : next() * latestMs), record })
  const consider = (record: Taped): void => {
    if (over || record.injected || ids.size === ids.add(record.id).size) return
    count.records++
    // by the record's id, not by chance: what comes again does not depend on how fast it is read
    const dice = hashOf(`${seed} ${record.id}`) % 100
    if (dice < copiedPercent) later(record)
    else if (dice < copiedPercent + againPercent && record.topic.endsWith("-commands")) later(askedAgain(record))
  }
  // what was there before belongs to nobody who is at work now
  await tape.caughtUp()
  for (const { id } of tape.records) ids.add(id)
  tape.follow(consider)

  const produce = async (ready: ReadonlyArray<Due>): Promise<void> => {
    const records = ready.map(({ record }) => record)
    await tape.produce(records)
    const again = records.filter((record) => record.headers["test_injected"] !== undefined).length
    count.again += again
    count.copies += records.length - again
  }
  const ended = (async () => {
    for await (const said of Bun.stdin.stream()) void said
    await tape.caughtUp()
    over = true
  })()
  while (!over || due.length > 0) {
    const now = Date.now()
    const ready = over ? due : due.filter(({ at }) => at <= now)
    due = over ? [] : due.filter(({ at }) => at > now)
    await produce(ready).catch((cause: unknown) => {
      // the broker is away: what came of it is not known, so it comes again
      console.error(text(cause))
      due.push(...ready)
    })
    // its pace, nothing is waited for: what is due within it goes out together
    await Bun.sleep(producesEveryMs)
  }
  await ended
  writeFileSync(result, JSON.stringify(count satisfies Injected))
  process.exit(0)
}

await main(JSON.parse(Bun.argv[2] ?? "{}") as InjectorJob)
