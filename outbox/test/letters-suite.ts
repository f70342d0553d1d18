/** What every store promises about dead letters and who looks after them: listing, redriving in turn, discarding for good. */
import { describe, expect } from "bun:test"
import { Effect, type Scope } from "effect"
import { accounts, bank, Deposit, idDated, idOf, Noted, pages, record, type Letter } from "./bank.ts"
import {
  everything,
  firstAnswerLost,
  replica,
  replicaOf,
  scenario,
  type OpenWorld,
  type World,
  type Wrap
} from "./store-suite.ts"
import type { LetterOutcome } from "../lanes/redrive.ts"
import { Participant } from "../participant.ts"
import type { BrokerRecord } from "../broker/broker.ts"
import type { LetterQuery } from "../store/store.ts"
import type { Tables } from "../table.ts"

const deposit = (account: string, amount: number, letter?: Letter) => record(Deposit.of({ account, amount }), letter)
const note = (page: string, text: string) => record(Noted.of({ page, text }))
const fates = (outcomes: ReadonlyArray<LetterOutcome>) => outcomes.map(({ outcome }) => outcome)
const tags = (outcomes: ReadonlyArray<{ readonly _tag: string }>) => outcomes.map(({ _tag }) => _tag)
const idsOf = (letters: ReadonlyArray<{ readonly id: string }>) => letters.map(({ id }) => id)
const copiesIn = (world: World) =>
  Effect.map(
    Effect.promise(() => world.outbox()),
    (sent) => sent.filter(({ type }) => type === "DeadLetter").length
  )
const textOf = (world: World, page: string) =>
  Effect.map(
    Effect.promise(() => world.rows(pages)),
    (rows) => rows.map((row) => pages.decode(row)).find(({ id }) => id === page)?.text
  )
const totalOf = (world: World) =>
  Effect.map(
    Effect.promise(() => world.rows(accounts)),
    (rows) => rows.map((row) => accounts.decode(row).balance).reduce((sum, balance) => sum + balance, 0)
  )

/** A bank that can't decide what is `bad`, until it is repaired. */
const broken = () => {
  const switches = {
    repaired: false,
    decide: (_type: string, m: object) => {
      if (switches.repaired) return
      if ("amount" in m && m.amount === 13) throw new Error("unlucky")
      if ("text" in m && m.text === "bad") throw new Error("bad")
    }
  }
  return switches
}

/** How often the replicas of the suite redrive a letter with others. */
const mostRedrives = 2

export const lettersSuite = (name: string, open: OpenWorld): void => {
  const inWorld = (sentence: string, body: (world: World) => Effect.Effect<void, unknown, Scope.Scope>): void =>
    scenario(sentence, Effect.flatMap(open, body))

  describe(`${name}: a list of dead letters`, () => {
    inWorld("has them in the order in which they were read, page by page, without their records", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, broken())
        const records = Array.from({ length: 7 }, (_, n) => deposit(`a${n}`, 13, { partition: n % 3 }))
        const inOrder = records.toSorted((a, b) => a.partition - b.partition || Number(a.offset - b.offset))
        yield* one.take(...records.toReversed())

        const seen: Array<string> = []
        let page: Partial<LetterQuery> = {}
        for (;;) {
          const letters = yield* one.deadLetters.list({ ...page, limit: 3 })
          const last = letters.at(-1)
          if (last === undefined) break
          seen.push(...idsOf(letters))
          page = { after: last }
        }

        expect(seen).toEqual(inOrder.map(idOf))
        const [first] = yield* one.deadLetters.list({ limit: 1 })
        expect(first).toMatchObject({
          topic: "bank-commands",
          type: "Deposit",
          key: "a0",
          reason: "decision-failed",
          redriven: 0,
          discardedAt: null,
          note: null
        })
        expect(first?.detail.length).toBeLessThanOrEqual(300)
        expect(first?.bytes).toBeGreaterThan(20)
        expect(Object.keys(first ?? {})).not.toContain("record")
      })
    )

    inWorld("has those of a reason, a type, a key and a topic, and counts them by reason", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, broken())
        const [thrown, refused, cut, noted] = [
          deposit("a", 13),
          deposit("a", -1),
          deposit("b", 1, { value: Buffer.from("{") }),
          note("a", "bad")
        ]
        yield* one.take(thrown, refused, cut, noted, deposit("c", 1))
        const idsWith = (filter: Partial<LetterQuery>) =>
          Effect.map(one.deadLetters.list({ ...filter, limit: 10 }), idsOf)

        expect(yield* idsWith({ reason: "row-refused" })).toEqual([idOf(refused)])
        expect(yield* idsWith({ type: "Noted" })).toEqual([idOf(noted)])
        expect(yield* idsWith({ key: "a", topic: "bank-commands" })).toEqual([idOf(thrown), idOf(refused)])
        expect(yield* idsWith({ key: "b", reason: "decision-failed" })).toEqual([])
        const groups = yield* one.deadLetters.groups()
        expect(groups.map(({ reason, count, redrivable }) => [reason, count, redrivable])).toEqual([
          ["decision-failed", 2, 2],
          ["row-refused", 1, 1],
          ["unreadable", 1, 1]
        ])
        for (const { oldest, newest } of groups) {
          expect(oldest.getTime()).toBeLessThanOrEqual(newest.getTime())
          expect(Math.abs(newest.getTime() - Date.now())).toBeLessThan(60_000)
        }
        expect((yield* one.deadLetters.groups({ key: "b" })).map(({ reason, count }) => [reason, count])).toEqual([
          ["unreadable", 1]
        ])
      })
    )

    inWorld("finds one with its record, and none under an id that is not there", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, broken())
        const bad = deposit("a", 13)
        yield* one.take(bad)

        const found = yield* one.deadLetters.find(idOf(bad))

        expect(Buffer.from(found?.record.value ?? []).equals(Buffer.from(bad.value ?? []))).toBe(true)
        expect(found?.record.offset).toBe(bad.offset)
        expect(yield* one.deadLetters.find(Bun.randomUUIDv7())).toBeUndefined()
        expect(yield* one.deadLetters.find("not an id")).toBeUndefined()
      })
    )
  })

  describe(`${name}: a discarded letter`, () => {
    const discardable: ReadonlyArray<readonly [reason: string, make: () => BrokerRecord]> = [
      ["a decision that threw", () => deposit("a", 13)],
      ["a value that is cut", () => deposit("a", 1, { value: Buffer.from("{") })],
      ["no id", () => deposit("a", 1, { headers: { id: undefined } })],
      ["an id outside the window", () => deposit("a", 1, { id: idDated(Date.now() - 400 * 86_400_000) })]
    ]
    for (const [reason, make] of discardable) {
      inWorld(`of ${reason} is kept, and no redelivery or redrive decides its message`, (world) =>
        Effect.gen(function* () {
          const switches = broken()
          const one = yield* replica(world, switches)
          const bad = make()
          yield* one.take(bad)
          const [parked] = yield* one.deadLetters.list({ limit: 1 })
          const id = parked?.id ?? ""

          const first = yield* one.deadLetters.discard([id], "ann: it was a test")
          const second = yield* one.deadLetters.discard([id], "bob: again")
          const third = yield* world.store.discardLetters("bank", [id], "carl: at the same time")
          switches.repaired = true
          const before = yield* everything(world)
          const redelivered = yield* one.take(bad, bad)
          const redriven = yield* one.deadLetters.redrive([id])
          const all = yield* one.deadLetters.redriveAll({}, { limit: 10, force: true })

          expect([first, second, redriven].map(fates)).toEqual([["discarded"], ["discarded"], ["discarded"]])
          expect(third).toEqual([])
          expect(tags(redelivered)).toEqual(["duplicate", "duplicate"])
          expect(all).toEqual({ letters: [], left: 0, heldBack: 0 })
          expect(yield* everything(world)).toEqual(before)
          expect(yield* totalOf(world)).toBe(0)
          const [kept] = yield* one.deadLetters.list({ state: "discarded", limit: 10 })
          expect(kept).toMatchObject({ id, note: "ann: it was a test", discardedAt: expect.any(Date) })
          expect(yield* one.deadLetters.list({ state: "parked", limit: 10 })).toEqual([])
          expect(yield* one.deadLetters.groups()).toEqual([])
        })
      )
    }

    inWorld("lets what waits behind it go on", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, broken())
        const [bad, second] = [note("p", "bad"), note("p", "2")]
        yield* one.take(note("p", "1"), bad, second)

        yield* one.deadLetters.discard([idOf(bad)])
        const redriven = yield* one.redrive(idOf(second))
        const next = yield* one.take(note("p", "3"))

        expect([fates(redriven), tags(next)]).toEqual([["decided"], ["done"]])
        expect(yield* textOf(world, "p")).toBe("123")
      })
    )

    inWorld("is not decided by a redrive at the same time: it is one or the other", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const other = yield* replica(world, switches)
        const bad = Array.from({ length: 30 }, (_, n) => deposit(`a${n}`, 13))
        yield* one.take(...bad)
        switches.repaired = true

        const outcomes = yield* Effect.all(
          bad.flatMap((letter) => [one.redrive(idOf(letter)), other.deadLetters.discard([idOf(letter)])]),
          { concurrency: "unbounded" }
        )

        const discarded = yield* one.deadLetters.list({ state: "discarded", limit: 100 })
        const decided = fates(outcomes.flat()).filter((fate) => fate === "decided").length
        expect(decided + discarded.length).toBe(30)
        expect(yield* totalOf(world)).toBe(13 * decided)
        expect(yield* one.deadLetters.list({ state: "parked", limit: 100 })).toEqual([])
      })
    )

    inWorld("is not decided by a redrive that found it parked", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const bad = deposit("a", 13)
        const one = yield* replica(world, switches)
        yield* one.take(bad)
        switches.repaired = true
        const first: Wrap = (lane) => ({
          begin: (opening) =>
            Effect.andThen(Effect.orDie(one.deadLetters.discard([idOf(bad)], "ann")), lane.begin(opening))
        })
        const two = yield* replica(world, switches, first)

        const outcomes = yield* two.redrive(idOf(bad))

        expect(fates(outcomes)).toEqual(["settled"])
        expect(yield* totalOf(world)).toBe(0)
        expect(idsOf(yield* one.deadLetters.list({ state: "discarded", limit: 10 }))).toEqual([idOf(bad)])
      })
    )

    inWorld("is left as it is by a redrive that was under way and comes to nothing", (world) =>
      Effect.gen(function* () {
        const bad = deposit("a", 13)
        const one = yield* replica(world, broken())
        yield* one.take(bad)
        // in the one transaction that parks it again, before it does; where only one can be open, before it begins
        const discard = Effect.asVoid(one.deadLetters.discard([idOf(bad)], "ann")).pipe(Effect.orDie)
        const meanwhile: Wrap = (lane) => ({
          begin: (opening) =>
            opening.unpark.length > 0
              ? lane.begin(opening)
              : world.sideBySide
                ? Effect.tap(lane.begin(opening), () => discard)
                : Effect.andThen(discard, lane.begin(opening))
        })
        const two = yield* replica(world, broken(), meanwhile)

        yield* two.redrive(idOf(bad))

        const [kept] = yield* one.deadLetters.list({ limit: 10 })
        expect(kept).toMatchObject({ id: idOf(bad), redriven: 0, note: "ann", discardedAt: expect.any(Date) })
      })
    )

    inWorld("by what they have in common is one of the first that match, and what is left is told", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, broken())
        const bad = Array.from({ length: 5 }, (_, n) => deposit(`a${n}`, 13))
        const other = deposit("b", -1)
        yield* one.take(other, ...bad)

        const first = yield* one.deadLetters.discardAll({ reason: "decision-failed" }, { limit: 3, note: "gone" })
        const rest = yield* one.deadLetters.discardAll({ reason: "decision-failed" }, { limit: 3 })

        expect([idsOf(first.letters), fates(first.letters), first.left]).toEqual([
          bad.slice(0, 3).map(idOf),
          ["discarded", "discarded", "discarded"],
          2
        ])
        expect([idsOf(rest.letters), rest.left]).toEqual([bad.slice(3).map(idOf), 0])
        expect(idsOf(yield* one.deadLetters.list({ state: "parked", limit: 10 }))).toEqual([idOf(other)])
      })
    )

    inWorld("of an unknown id is told", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const ids = [Bun.randomUUIDv7(), "not an id"]

        expect(fates(yield* one.deadLetters.discard(ids))).toEqual(["unknown", "unknown"])
        expect(fates(yield* one.deadLetters.redrive(ids))).toEqual(["unknown", "unknown"])
      })
    )
  })

  describe(`${name}: a redrive`, () => {
    inWorld("of a letter behind another of its key is refused, and changes nothing", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const [bad, second, third] = [note("p", "bad"), note("p", "2"), note("p", "3")]
        yield* one.take(note("p", "1"), bad, second, third)
        switches.repaired = true
        const before = yield* everything(world)

        const alone = yield* one.redrive(idOf(third))
        const between = yield* one.redrive(idOf(second))
        const after = yield* everything(world)
        const first = yield* one.redrive(idOf(bad))
        const outOfTurn = yield* one.redrive(idOf(third))
        const rest = yield* one.redrive(idOf(third), idOf(second))

        const behind = { outcome: "parked", reason: "behind", detail: expect.any(String) } as const
        expect([...alone, ...between]).toEqual([
          { id: idOf(third), ...behind },
          { id: idOf(second), ...behind }
        ])
        expect(after).toEqual(before)
        expect([first, outOfTurn, rest].map(fates)).toEqual([["decided"], ["parked"], ["decided", "decided"]])
        expect(idsOf(rest)).toEqual([idOf(second), idOf(third)])
        expect(yield* textOf(world, "p")).toBe("1bad23")
      })
    )

    inWorld("of a key whose first letter is still bad leaves the others behind it, uncounted", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const [bad, second] = [note("p", "bad"), note("p", "2")]
        yield* one.take(bad, second)
        const copies = yield* copiesIn(world)

        const { letters, left } = yield* one.deadLetters.redriveAll({}, { limit: 10 })

        expect(letters.map(({ outcome, reason }) => [outcome, reason])).toEqual([
          ["parked", "decision-failed"],
          ["parked", "behind"]
        ])
        expect(left).toBe(2)
        const counts = (yield* one.deadLetters.list({ limit: 10 })).map(({ redriven }) => redriven)
        expect(counts).toEqual([1, 0])
        expect(yield* copiesIn(world)).toBe(copies + 1)
        expect(yield* textOf(world, "p")).toBeUndefined()
      })
    )

    inWorld("of all leaves alone what was redriven too often, unless it is asked for by id or by force", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const [bad, worse, good] = [deposit("a", 13), deposit("b", -1), deposit("c", 13)]
        yield* one.take(bad, worse)
        let rounds = 0
        for (let left = 1; left > 0; rounds++) {
          expect(rounds).toBeLessThan(10)
          left = (yield* one.deadLetters.redriveAll({}, { limit: 10 })).left
        }
        yield* one.take(good)
        switches.repaired = true

        const all = yield* one.deadLetters.redriveAll({}, { limit: 10 })
        const byId = yield* one.redrive(idOf(bad))
        const forced = yield* one.deadLetters.redriveAll({}, { limit: 10, force: true })

        expect(rounds).toBe(mostRedrives)
        expect([idsOf(all.letters), all.left, all.heldBack]).toEqual([[idOf(good)], 0, 2])
        expect(fates(byId)).toEqual(["decided"])
        expect([idsOf(forced.letters), fates(forced.letters), forced.left]).toEqual([[idOf(worse)], ["parked"], 1])
        const [kept] = yield* one.deadLetters.list({ limit: 10 })
        expect(kept).toMatchObject({ id: idOf(worse), redriven: mostRedrives + 1 })
      })
    )

    inWorld("of all leaves alone what is behind a letter that it leaves alone", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const [bad, second, elsewhere] = [note("p", "bad"), note("p", "2"), note("q", "bad")]
        yield* one.take(bad, second, elsewhere)
        yield* one.redrive(idOf(bad))
        yield* one.redrive(idOf(bad))

        const behind = yield* one.deadLetters.redriveAll({ reason: "behind" }, { limit: 10 })
        const all = yield* one.deadLetters.redriveAll({}, { limit: 10 })
        const groups = yield* one.deadLetters.groups()

        expect(behind).toEqual({ letters: [], left: 0, heldBack: 1 })
        expect([idsOf(all.letters), all.left, all.heldBack]).toEqual([[idOf(elsewhere)], 1, 2])
        expect(groups.map(({ reason, count, redrivable }) => [reason, count, redrivable])).toEqual([
          ["behind", 1, 0],
          ["decision-failed", 2, 1]
        ])
      })
    )

    inWorld("of all takes the first that match, in their order, until nothing is left", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const one = yield* replica(world, switches)
        const records = ["p", "q"].flatMap((page) => ["bad", "2", "3", "4"].map((text) => note(page, text)))
        yield* one.take(...records, deposit("a", -1))
        switches.repaired = true

        const taken: Array<ReadonlyArray<string>> = []
        const lefts: Array<number> = []
        while (lefts.at(-1) !== 0 && lefts.length < 10) {
          const { letters, left } = yield* one.deadLetters.redriveAll({ type: "Noted" }, { limit: 3 })
          taken.push(idsOf(letters))
          lefts.push(left)
        }

        expect(taken.flat()).toEqual(records.map(idOf))
        expect(lefts).toEqual([5, 2, 0])
        expect(yield* textOf(world, "p")).toBe("bad234")
        expect(yield* textOf(world, "q")).toBe("bad234")
      })
    )

    inWorld("takes no more of large letters into one pass than it could hold of fresh ones", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world)
        const large = Array.from({ length: 6 }, (_, n) => deposit(`a${n}`, 1, { value: Buffer.alloc(1_048_576, "x") }))
        yield* one.take(...large)
        const before = one.counters.passes

        const { letters } = yield* one.deadLetters.redriveAll({}, { limit: 10 })

        expect(idsOf(letters)).toEqual(large.map(idOf))
        expect(one.counters.passes - before).toBe(2)
      })
    )

    inWorld("whose COMMIT may have happened takes effect once", (world) =>
      Effect.gen(function* () {
        const switches = broken()
        const bad = deposit("a", 13)
        const one = yield* replica(world, switches)
        yield* one.take(bad)
        switches.repaired = true
        const losing = yield* replica(world, switches, firstAnswerLost())

        const outcomes = yield* losing.redrive(idOf(bad))

        expect(fates(outcomes)).toEqual(["settled"])
        expect(yield* totalOf(world)).toBe(13)
        expect(yield* one.deadLetters.list({ limit: 10 })).toEqual([])
      })
    )

    inWorld("of a type that is not handled any more leaves it parked, counted, and says why", (world) =>
      Effect.gen(function* () {
        const one = yield* replica(world, broken())
        const bad = deposit("a", 13)
        yield* one.take(bad)
        const { accounts: table } = bank().tables
        const smaller = Participant.make("bank", { accounts: table }) as unknown as Participant<Tables>
        const later = yield* replicaOf(smaller, world)

        const [outcome] = yield* later.redrive(idOf(bad))

        expect(outcome).toMatchObject({ outcome: "parked", reason: "unknown-type" })
        expect(outcome?.detail).toContain("not handled here")
        expect((yield* later.deadLetters.list({ limit: 1 }))[0]).toMatchObject({ id: idOf(bad), redriven: 1 })
      })
    )
  })
}
