/** Sound data of any schema, drawn from a seed, about few orders, users and products, so that what is drawn meets the same rows. */
import { Effect, type Schema } from "effect"
import * as Arbitrary from "effect/Arbitrary"
import { pickOne, type Choices } from "../../../outbox/testing/simulation/choices.ts"

const uuids = (kind: number): ReadonlyArray<string> =>
  Array.from({ length: 8 }, (_, n) => `0000000${kind}-0000-7000-8000-00000000000${n}`)

/** Those that everything is about. */
export const ids: Readonly<Record<string, ReadonlyArray<string>>> = {
  orderId: uuids(1),
  depositId: uuids(2),
  userId: ["ann", "bob", "eve", "joe", "pat"],
  productId: ["desk", "lamp", "vase", "anvil", "chair", "table", "shelf"]
}

/** The same data about things that others are about, too. */
const related = (choices: Choices, data: unknown): unknown => {
  if (Array.isArray(data)) {
    const from = choices.pick(7)
    return data.map((part, n) => {
      const one = related(choices, part)
      // each product once
      return isRecord(one) && "productId" in one && data.length <= 7
        ? { ...one, productId: ids["productId"]?.[(from + n) % 7] }
        : one
    })
  }
  if (!isRecord(data)) return data
  return Object.fromEntries(
    Object.entries(data).map(([name, value]) => {
      const known = ids[name]
      return [
        name,
        known !== undefined && typeof value === "string" ? pickOne(choices, known) : related(choices, value)
      ]
    })
  )
}

const isRecord = (data: unknown): data is Readonly<Record<string, unknown>> =>
  typeof data === "object" && data !== null && !Array.isArray(data)

/** So many documents of a schema: of eight, so many about strangers, the others about those that all know. */
export const drawn = (
  choices: Choices,
  schema: Schema.Codec<object, object>,
  seed: string,
  count: number,
  strangers = 1
): ReadonlyArray<object> =>
  Effect.runSync(Arbitrary.sampleEffect(Arbitrary.schema(schema), { count, seed, size: 4 })).map((data) =>
    // an object stays one
    choices.pick(8) < strangers ? data : (related(choices, data) as object)
  )
