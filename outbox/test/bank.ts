/**
 * A bank for the tests: accounts, holds on them, and pages of notes, as the smallest participant that shows every rule
 * of a pass. Its decisions can be made to fail through `Switches`, which production code never has.
 */
import { Schema } from "effect"
import type { BrokerRecord } from "../broker/broker.ts"
import { Request, Topic, type Outgoing } from "../message.ts"
import { Participant } from "../participant.ts"
import { Table } from "../table.ts"

const commands = Topic.commands("bank-commands")
const events = Topic.events("bank-events")

export const OpenAccount = commands.message(
  "OpenAccount",
  { account: Schema.String, balance: Schema.Int, dueInMs: Schema.NullOr(Schema.Int) },
  { key: "account" }
)
export const Deposit = commands.message(
  "Deposit",
  { account: Schema.String, amount: Schema.Int, memo: Schema.optionalKey(Schema.String) },
  { key: "account" }
)
export const PlaceHold = commands.message(
  "PlaceHold",
  { hold: Schema.String, account: Schema.String, amount: Schema.Int },
  { key: "hold" }
)
export const MoveHold = commands.message(
  "MoveHold",
  { hold: Schema.String, account: Schema.String },
  {
    key: "hold"
  }
)
export const ReleaseHold = commands.message("ReleaseHold", { hold: Schema.String }, { key: "hold" })
export const Report = commands.message("Report", { account: Schema.String, figures: Schema.Int }, { key: "account" })
/** In the catalogue of its topic, and handled by nobody here. */
export const CloseBank = commands.message("CloseBank", { day: Schema.String }, { key: "day" })

export const Deposited = events.message(
  "Deposited",
  { account: Schema.String, amount: Schema.Int, balance: Schema.Int },
  { key: "account" }
)
export const Reported = events.message(
  "Reported",
  { account: Schema.String, figures: Schema.Array(Schema.Int) },
  { key: "account" }
)
/** Folded into a page: the order of one page's notes carries state. */
export const Noted = events.message("Noted", { page: Schema.String, text: Schema.String }, { key: "page" })

export const Account = Schema.Struct({ account: Schema.String, balance: Schema.Int })
export const Open = Request.make("Open", {
  payload: { account: Schema.String, balance: Schema.Int },
  reply: Account
})
export const Forget = Request.make("Forget", { payload: { account: Schema.String }, reply: Schema.Null })

export const holds = Table.make("holds", {
  key: "id",
  row: { id: Schema.String, account: Schema.String, amount: Schema.Int, released: Schema.Boolean }
})
export const accounts = Table.make("accounts", {
  key: "id",
  row: { id: Schema.String, balance: Schema.Int, due_at: Schema.NullOr(Schema.Date) }
})
export const entries = Table.log("entries", {
  key: "account",
  row: { account: Schema.String, amount: Schema.Int, cause: Schema.String }
})
export const pages = Table.make("pages", { key: "id", row: { id: Schema.String, text: Schema.String } })

/** The tables above; `accounts` refuses a balance below zero. */
export const schema = `
  create table holds (id text primary key, account text not null, amount int not null, released boolean not null);
  create table accounts (id text primary key, balance int not null check (balance >= 0), due_at timestamptz);
  create table entries (account text not null, amount int not null, cause uuid not null);
  create table pages (id text primary key, text text not null);
  grant select, insert, update on holds, accounts, pages to bank_service;
  grant insert on entries to bank_service;`

/** What a test does to the decisions: both may throw. */
export interface Switches {
  touch?: (type: string, payload: object) => void
  decide?: (type: string, payload: object) => void
  /** What a due account gets; an entry takes whole numbers only. */
  interest?: (account: string) => number
}

export const bank = (switches: Switches = {}) =>
  Participant.make("bank", { holds, accounts, entries, pages })
    .on(OpenAccount, {
      touches: { accounts: (m) => [m.account] },
      decide: (rows, m, { now }) =>
        rows.accounts.get(m.account) !== undefined
          ? {}
          : {
              put: {
                accounts: [
                  {
                    id: m.account,
                    balance: m.balance,
                    due_at: m.dueInMs === null ? null : new Date(now.getTime() + m.dueInMs)
                  }
                ]
              }
            }
    })
    .on(Deposit, {
      touches: {
        accounts: (m) => {
          switches.touch?.("Deposit", m)
          return [m.account]
        }
      },
      decide: (rows, m, { id }) => {
        switches.decide?.("Deposit", m)
        const balance = (rows.accounts.get(m.account)?.balance ?? 0) + m.amount
        return {
          put: {
            accounts: [{ id: m.account, balance, due_at: rows.accounts.get(m.account)?.due_at ?? null }],
            entries: [{ account: m.account, amount: m.amount, cause: id }]
          },
          send: [Deposited.of({ account: m.account, amount: m.amount, balance })]
        }
      }
    })
    .on(PlaceHold, {
      touches: { holds: (m) => [m.hold], accounts: (m) => [m.account] },
      decide: (rows, m) => {
        const account = rows.accounts.get(m.account)
        if (rows.holds.get(m.hold) !== undefined || account === undefined) return {}
        return {
          put: {
            holds: [{ id: m.hold, account: m.account, amount: m.amount, released: false }],
            accounts: [{ ...account, balance: account.balance - m.amount }]
          }
        }
      }
    })
    .on(MoveHold, {
      touches: { holds: (m) => [m.hold] },
      decide: (rows, m) => {
        const hold = rows.holds.get(m.hold)
        return hold === undefined ? {} : { put: { holds: [{ ...hold, account: m.account }] } }
      }
    })
    .on(ReleaseHold, {
      touches: {
        holds: (m) => [m.hold],
        // only the hold knows the account
        accounts: (m, rows) => {
          const hold = rows.holds.get(m.hold)
          return hold === undefined ? [] : [hold.account]
        }
      },
      decide: (rows, m) => {
        const hold = rows.holds.get(m.hold)
        if (hold === undefined || hold.released) return {}
        const account = rows.accounts.get(hold.account)
        return account === undefined
          ? {}
          : {
              put: {
                holds: [{ ...hold, released: true }],
                accounts: [{ ...account, balance: account.balance + hold.amount }]
              }
            }
      }
    })
    .on(Noted, {
      ordered: true,
      touches: { pages: (m) => [m.page] },
      decide: (rows, m) => {
        switches.decide?.("Noted", m)
        return { put: { pages: [{ id: m.page, text: (rows.pages.get(m.page)?.text ?? "") + m.text }] } }
      }
    })
    .on(Report, {
      decide: (_rows, m) => ({
        send: [Reported.of({ account: m.account, figures: Array.from({ length: m.figures }, () => 1) })]
      })
    })
    .answers(Open, {
      touches: { accounts: (m) => [m.account] },
      decide: (rows, m) => {
        switches.decide?.("Open", m)
        const existing = rows.accounts.get(m.account)
        if (existing !== undefined) return { reply: { account: m.account, balance: existing.balance } }
        return {
          put: { accounts: [{ id: m.account, balance: m.balance, due_at: null }] },
          send: [Deposited.of({ account: m.account, amount: m.balance, balance: m.balance })],
          reply: { account: m.account, balance: m.balance }
        }
      }
    })
    .answers(Forget, {
      touches: { accounts: (m) => [m.account] },
      decide: () => ({ reply: null })
    })
    .due("accounts", {
      decide: (_rows, account, { id }) => {
        switches.decide?.("due", account)
        const amount = switches.interest?.(account.id) ?? 1
        return {
          put: {
            accounts: [{ ...account, balance: account.balance + Math.ceil(amount), due_at: null }],
            entries: [{ account: account.id, amount, cause: id }]
          }
        }
      }
    })

export interface Letter {
  readonly id?: string
  readonly partition?: number
  /** Headers to set, or to leave out with `undefined`. */
  readonly headers?: Readonly<Record<string, string | Uint8Array | ReadonlyArray<Uint8Array> | null | undefined>>
  readonly key?: Uint8Array | null
  readonly value?: Uint8Array | null
}

let offsets = 0n

/** The record that a topic would hold of the message; `letter` says how it differs from a sound one. */
export const record = (outgoing: Outgoing, letter: Letter = {}): BrokerRecord => {
  const { contract, payload } = outgoing
  const id = letter.id ?? outgoing.id ?? Bun.randomUUIDv7()
  // The contract's key function takes the payload that was made for it.
  const key = (contract as unknown as { key: (payload: object) => string }).key(payload)
  const headers: Record<string, string | Uint8Array | ReadonlyArray<Uint8Array> | null | undefined> = {
    id,
    ce_type: contract.type,
    correlation: outgoing.correlation ?? key,
    coordination: "orchestration",
    definition: outgoing.definition ?? undefined,
    schema_version: "1",
    ...letter.headers
  }
  const present = Object.entries(headers).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, typeof value === "string" ? Buffer.from(value) : value] as const]
  )
  return {
    topic: contract.topic.name,
    partition: letter.partition ?? 0,
    offset: offsets++,
    key: letter.key === undefined ? Buffer.from(key) : letter.key,
    value: letter.value === undefined ? Buffer.from(JSON.stringify(payload)) : letter.value,
    headers: Object.fromEntries(present)
  }
}

/** A UUIDv7 of another time. */
export const idDated = (timeMs: number): string => {
  const hex = Math.floor(timeMs).toString(16).padStart(12, "0")
  return `${hex.slice(0, 8)}-${hex.slice(8)}${Bun.randomUUIDv7().slice(13)}`
}

export const idOf = (record: BrokerRecord): string => String(record.headers["id"])
