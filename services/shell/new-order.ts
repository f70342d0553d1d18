/** What a client sends to place an order, to whichever service takes it. Prices and totals are none of its business. */
import { Schema } from "effect"
import { Id, Items } from "./bounds.ts"

export const NewOrder = Schema.Struct({
  userId: Id,
  items: Items,
  coordination: Schema.optionalKey(Schema.Literals(["orchestration"]))
})
