/**
 * The inbox's buckets. A claim lies in the time slot of its own id, so the same id always meets the same
 * partition: deduplication is exact and old slots are dropped whole.
 */

/** How long claims are kept: `slots` slots of `slot` milliseconds before the current one, one slot ahead. */
export interface InboxWindow {
  readonly slotMs: number
  readonly slots: number
}

/** The bucket for ids that carry no time, such as UUIDv4; it is cleaned by age. */
export const foreignBucket = 0

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

/** Whether the text is a UUID in its canonical lower-case form, as the inbox stores it. */
export const isUuid = (id: string): boolean => uuid.test(id)

/** Milliseconds since the epoch in a UUIDv7, undefined for any other UUID (RFC 9562, section 5.7). */
export const timeOf = (id: string): number | undefined =>
  id[14] === "7" ? Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : undefined

/** The id's bucket, or "outside-window" for an id whose slot may be gone already or is not there yet. */
export const bucketOf = (id: string, nowMs: number, window: InboxWindow): number | "outside-window" => {
  const time = timeOf(id)
  if (time === undefined) return foreignBucket
  const bucket = slotOf(time, window)
  const current = slotOf(nowMs, window)
  // The next slot is a clock running ahead; an id dated later than that would fall into a bucket of its own later on.
  return bucket < current - window.slots || bucket > current + 1 ? "outside-window" : bucket
}

export const slotOf = (timeMs: number, window: InboxWindow): number => Math.floor(timeMs / window.slotMs)
