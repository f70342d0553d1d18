/** Makes a failing run simpler: fewer choices, and more of them harmless. */

/** Choices that still fail, of which neither a stretch can be left out nor one be made harmless, within the tries there are. */
export const shrunk = (
  taken: ReadonlyArray<number>,
  fails: (choices: ReadonlyArray<number>) => boolean,
  /** How many runs may be spent on it. */
  mostTries: number
): ReadonlyArray<number> => {
  let best = taken
  let tries = 0
  const attempt = (candidate: ReadonlyArray<number>): boolean => {
    if (tries++ >= mostTries || !fails(candidate)) return false
    best = candidate
    return true
  }
  shortest(best, attempt)
  for (let size = best.length >> 1; size >= 1 && tries < mostTries; size >>= 1) {
    for (let start = 0; start < best.length && tries < mostTries;) {
      const without = [...best.slice(0, start), ...best.slice(start + size)]
      if (attempt(without)) continue
      const stretch = best.slice(start, start + size)
      if (stretch.some((choice) => choice !== 0))
        attempt([...best.slice(0, start), ...stretch.map(() => 0), ...best.slice(start + size)])
      start += size
    }
  }
  return best
}

/** The shortest beginning that fails, as far as halving finds it. */
const shortest = (taken: ReadonlyArray<number>, attempt: (candidate: ReadonlyArray<number>) => boolean): void => {
  let enough = taken.length
  let tooFew = 0
  while (enough - tooFew > 1) {
    const middle = (enough + tooFew) >> 1
    if (attempt(taken.slice(0, middle))) enough = middle
    else tooFew = middle
  }
}
