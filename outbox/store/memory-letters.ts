/** Dead letters in memory: what `letters.ts` does in Postgres. */
import {
  isBefore,
  parkedKey,
  type LetterFilter,
  type LetterGroup,
  type LetterPlace,
  type LetterQuery,
  type LetterSummary,
  type Opening,
  type Parking,
  type ParkReason,
  type Place,
  type StoredDeadLetter
} from "./store.ts"

type Letters = Map<string, StoredDeadLetter>

export const park = (letters: Letters, { redriven, ...letter }: Parking, now: Date): void => {
  const earlier = letters.get(letter.id)
  if (earlier === undefined) {
    letters.set(letter.id, { ...letter, redriven: Number(redriven), parkedAt: now, discardedAt: null, note: null })
  } else if (earlier.discardedAt === null) {
    const { reason, detail } = letter
    letters.set(letter.id, { ...earlier, reason, detail, redriven: earlier.redriven + Number(redriven) })
  }
}

/** Of these keys, those with a parked message, and where the first of them is. */
export const firstParked = (letters: Letters, keys: Opening["parkedKeys"]): ReadonlyMap<string, Place> => {
  const asked = new Set(keys.map(([topic, key]) => parkedKey(topic, key)))
  const found = new Map<string, Place>()
  if (asked.size === 0) return found
  for (const { key, record, discardedAt } of inOrder(letters)) {
    const lane = parkedKey(record.topic, key ?? "")
    if (discardedAt === null && asked.has(lane) && !found.has(lane)) found.set(lane, record)
  }
  return found
}

export const inOrder = (letters: Letters): ReadonlyArray<StoredDeadLetter> =>
  [...letters.values()].toSorted((a, b) => compare(placeOf(a), placeOf(b)))

const placeOf = ({ id, record: { topic, partition, offset } }: StoredDeadLetter): LetterPlace => ({
  topic,
  partition,
  offset,
  id
})

const compare = (a: LetterPlace, b: LetterPlace): number => {
  if (a.topic !== b.topic) return a.topic < b.topic ? -1 : 1
  if (a.partition !== b.partition || a.offset !== b.offset) return isBefore(a, b) ? -1 : 1
  return a.id < b.id ? -1 : Number(a.id > b.id)
}

const matches = ({ reason, type, key, topic }: LetterFilter, letter: StoredDeadLetter): boolean =>
  (reason === undefined || letter.reason === reason) &&
  (type === undefined || letter.type === type) &&
  (key === undefined || letter.key === key) &&
  (topic === undefined || letter.record.topic === topic)

/** Of the parked messages, those that a redrive of all that match takes. */
const redrivables = (letters: Letters, filter: LetterFilter, redrivenLessThan: number): ReadonlySet<string> => {
  const left = new Set<string>()
  const found = new Set<string>()
  for (const letter of inOrder(letters)) {
    if (letter.discardedAt !== null) continue
    const lane = parkedKey(letter.record.topic, letter.key ?? "")
    const taken = letter.redriven < redrivenLessThan && matches(filter, letter)
    if (taken && (letter.reason !== "behind" || !left.has(lane))) found.add(letter.id)
    if (!taken) left.add(lane)
  }
  return found
}

export const listLetters = (letters: Letters, query: LetterQuery): ReadonlyArray<LetterSummary> => {
  const { ids, state, after, redrivenLessThan, limit } = query
  const redrivable = redrivenLessThan === undefined ? undefined : redrivables(letters, query, redrivenLessThan)
  return inOrder(letters)
    .filter(
      (letter) =>
        matches(query, letter) &&
        (ids === undefined || ids.includes(letter.id)) &&
        (state === undefined || (letter.discardedAt === null) === (state === "parked")) &&
        (after === undefined || compare(placeOf(letter), after) > 0) &&
        (redrivable === undefined || redrivable.has(letter.id))
    )
    .slice(0, limit)
    .map(({ record, detail, ...letter }) => ({
      ...letter,
      ...placeOf({ ...letter, record, detail }),
      detail: detail.slice(0, 300),
      bytes: (record.key?.length ?? 0) + (record.value?.length ?? 0)
    }))
}

export const groupLetters = (
  letters: Letters,
  query: LetterFilter & Pick<LetterQuery, "redrivenLessThan">
): ReadonlyArray<LetterGroup> => {
  const redrivable = redrivables(letters, query, query.redrivenLessThan ?? Number.POSITIVE_INFINITY)
  const parked = inOrder(letters).filter((letter) => letter.discardedAt === null && matches(query, letter))
  return [...Map.groupBy(parked, ({ reason }) => reason)]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([reason, list]: [ParkReason, ReadonlyArray<StoredDeadLetter>]) => {
      const times = list.map(({ parkedAt }) => parkedAt.getTime())
      return {
        reason,
        count: list.length,
        redrivable: list.filter(({ id }) => redrivable.has(id)).length,
        oldest: new Date(Math.min(...times)),
        newest: new Date(Math.max(...times))
      }
    })
}

export const discardLetters = (
  letters: Letters,
  ids: ReadonlyArray<string>,
  note: string | null,
  now: Date
): ReadonlyArray<string> =>
  ids.filter((id) => {
    const letter = letters.get(id)
    if (letter === undefined || letter.discardedAt !== null) return false
    letters.set(id, { ...letter, discardedAt: now, note })
    return true
  })
