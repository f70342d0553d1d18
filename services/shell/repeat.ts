/** When to say something once more that nobody may have heard. */

const firstWaitMs = 60_000
const longestWaitMs = 600_000

/** The wait doubles: after one, three and seven minutes, that is once the age and the first wait passed again. */
export const repeatAt = (since: Date, now: Date): Date => {
  const ageMs = Math.max(0, now.getTime() - since.getTime())
  return new Date(now.getTime() + Math.min(longestWaitMs, ageMs + firstWaitMs))
}
