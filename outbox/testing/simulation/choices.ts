/**
 * Where a run's choices come from. A run is its list of choices: the same list gives the same run, bit for bit, and a
 * shorter one, or one with more zeros, a simpler run. That is how a run that fails is shrunk.
 */
export interface Choices {
  /** A whole number from 0 to `options - 1`. 0 is the harmless one. */
  readonly pick: (options: number) => number
  /** What was picked so far. */
  readonly taken: ReadonlyArray<number>
}

/** Choices that a seed determines (mulberry32). */
export const seeded = (seed: number): Choices => {
  let state = seed | 0
  const taken: Array<number> = []
  return {
    taken,
    pick: (options) => {
      state = (state + 0x6d2b79f5) | 0
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
      const picked = Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * options)
      taken.push(picked)
      return picked
    }
  }
}

/** The choices of another run, as far as they go; after them nothing but harmless ones. */
export const replayed = (choices: ReadonlyArray<number>): Choices => {
  const taken: Array<number> = []
  return {
    taken,
    pick: (options) => {
      const picked = (choices[taken.length] ?? 0) % options
      taken.push(picked)
      return picked
    }
  }
}

/** One of the list. */
export const pickOne = <A>({ pick }: Choices, list: ReadonlyArray<A>): A => {
  const found = list[pick(list.length)]
  if (found === undefined) throw new Error("there is nothing to pick from")
  return found
}

/** One by weight. The first is the harmless one. */
export const pickBy = <A>({ pick }: Choices, weighted: ReadonlyArray<readonly [weight: number, A]>): A => {
  let left = pick(weighted.reduce((total, [weight]) => total + weight, 0))
  for (const [weight, one] of weighted) {
    if (left < weight) return one
    left -= weight
  }
  throw new Error("there is nothing to pick from")
}
