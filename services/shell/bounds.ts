/**
 * The values that services exchange, and how large they may get. Sums stay exact: a line comes to 10^12 at most and
 * fifty of them to 5 · 10^13, far below 2^53.
 */
import { Schema } from "effect"

const integer = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

export const Id = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9_-]{1,64}$/, { expected: "1 to 64 characters of A-Z a-z 0-9 _ and -" })
)

// lower case only: Postgres writes uuids so, and a row must be found again under the key that was asked for
const Uuid = Schema.String.check(
  Schema.isPattern(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, { expected: "a UUID in lower case" })
)
export const OrderId = Uuid
export const DepositId = Uuid

// control characters and lone surrogates are kept out: Postgres can't store all of them
export const Name = Schema.String.check(
  Schema.isPattern(/^[^\p{Cc}\p{Cs}]{1,200}$/u, { expected: "1 to 200 characters, none of them a control character" })
)
export const Email = Schema.String.check(
  Schema.isPattern(/^[^\s@\p{Cc}\p{Cs}]+@[^\s@\p{Cc}\p{Cs}]+$/u, { expected: "an e-mail address" }),
  Schema.isMaxLength(254)
)

export const Quantity = integer(1, 10_000)
/** What is returned from reservations may take the stock above it, what is added to it may not. */
export const greatestStock = 1_000_000_000
export const Stock = integer(0, greatestStock)
export const AddedStock = integer(1, greatestStock)

/** Money is in minor units: 100 is 1.00. */
export const Price = integer(1, 100_000_000)
export const greatestAmount = 1_000_000_000_000
export const Amount = integer(0, greatestAmount)
export const DepositAmount = integer(1, greatestAmount)
/** Deposits take a balance up to `greatestAmount`. A refund is never refused, so it may take it above. */
export const Balance = integer(0, Number.MAX_SAFE_INTEGER)

/** The place of an entry in an account's ledger, counted from 1. */
export const Position = integer(1, 2_147_483_647)

/** A code such as OUT_OF_STOCK: why something was refused or taken back. */
export const Reason = Schema.String.check(
  Schema.isPattern(/^[A-Z][A-Z0-9_]{0,63}$/, { expected: "a code such as OUT_OF_STOCK" })
)
/** A command that an earlier undo of the same step refuses. */
export const alreadyCancelled = "ALREADY_CANCELLED"

/** A point in time as JSON has it. */
export const Timestamp = Schema.String.check(
  Schema.isPattern(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, { expected: "a time in ISO 8601" })
)

const eachProductOnce = Schema.makeFilter<ReadonlyArray<{ readonly productId: string }>>(
  (lines) => lines.length < 2 || new Set(lines.map(({ productId }) => productId)).size === lines.length,
  { expected: "each product once" }
)
const lineCount = Schema.isBetweenLength(1, 50)

/** What an order asks for. */
export const Item = Schema.Struct({ productId: Id, quantity: Quantity })
export type Item = typeof Item.Type
export const Items = Schema.Array(Item).check(lineCount, eachProductOnce)
export type Items = typeof Items.Type

/** How an order is paid: from the user's account, or with a card. `card` is the processor's token for it, never its number. */
export const PaymentMethod = Schema.Union([
  Schema.Struct({ method: Schema.Literal("account") }),
  Schema.Struct({ method: Schema.Literal("card"), card: Id })
])
export type PaymentMethod = typeof PaymentMethod.Type
export const fromAccount: PaymentMethod = { method: "account" }

/** Where an order goes, by ISO 3166-1 alpha-2; the shop's own country when it does not say. */
export const Country = Schema.String.check(Schema.isPattern(/^[A-Z]{2}$/, { expected: "two letters such as NL" }))

/** Which saga an order runs: the order in which its steps are taken. */
export const DefinitionName = Schema.Literals(["place-order", "pay-first"])
export type DefinitionName = typeof DefinitionName.Type

/** An item at the price it was reserved for. */
export const Line = Schema.Struct({ productId: Id, quantity: Quantity, price: Price })
export type Line = typeof Line.Type
export const Lines = Schema.Array(Line).check(lineCount, eachProductOnce)
export type Lines = typeof Lines.Type
