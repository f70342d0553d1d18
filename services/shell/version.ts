/**
 * Versions of what clients edit. A row's ETag is its version in quotes; an edit names the ETags that it is meant for, so
 * that nobody overwrites what they have not seen. What services change by themselves, such as stock, is no new version.
 */
import { Schema } from "effect"

export const Version = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2_147_483_647 }))

/** The ETags that an edit is meant for; `*` stands for whichever is there. */
export const Precondition = Schema.Union([Schema.Literal("*"), Schema.Array(Schema.String)])
export type Precondition = typeof Precondition.Type

export const etagOf = (version: number): string => `"${version}"`

/** Whether an edit is meant for this version. A weak ETag stands for none. */
export const isMeantFor = (precondition: Precondition, version: number): boolean =>
  precondition === "*" || precondition.includes(etagOf(version))
