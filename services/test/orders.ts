/**
 * A seeded mix of orders, each with the outcome that it must come to whatever happens on the way, and clients that place
 * them: through both entries, with an Idempotency-Key, some of them several times at once, all of them until they are answered.
 */
import type { Coordination } from "oncebox"
import { random } from "oncebox/testing"
import { text, until } from "../../stack/wait.ts"
import type { DefinitionName, PaymentMethod } from "../shell/bounds.ts"
import type { Stack } from "./stack.ts"

export { random }

export interface Stocked {
  readonly id: string
  readonly price: number
  readonly quantity: number
}

export interface Account {
  readonly id: string
  readonly balance: number
}

export type Outcome =
  | { readonly status: "APPROVED" }
  | { readonly status: "REJECTED"; readonly reason: string }
  /** Approved, or rejected because its user cancelled it: whoever was first. */
  | { readonly status: "RACING" }
  /** Approved while there is stock, then OUT_OF_STOCK: which of them gets it is open, how many do is not. */
  | { readonly status: "FIRST_COME" }

export interface Planned {
  /** The client's Idempotency-Key. */
  readonly key: string
  readonly entry: "order" | "orchestrator"
  readonly body: {
    readonly userId: string
    readonly items: ReadonlyArray<{ readonly productId: string; readonly quantity: number }>
    readonly coordination?: Coordination
    readonly definition?: DefinitionName
    readonly payment?: PaymentMethod
  }
  readonly outcome: Outcome
  /** How often the client sends the same request. */
  readonly posts: number
}

export interface Plan {
  /** All ids of the plan begin with it, and no others. */
  readonly prefix: string
  readonly products: ReadonlyArray<Stocked>
  /** Products that the carrier does not carry. */
  readonly refused: ReadonlyArray<string>
  readonly accounts: ReadonlyArray<Account>
  readonly orders: ReadonlyArray<Planned>
}

type Kind =
  | "single"
  | "several"
  | "first come"
  | "sold out"
  | "partly sold out"
  | "unknown product"
  | "unknown user"
  | "poor"
  | "refused"

/** In twenty orders. */
const shares: Readonly<Record<Kind, number>> = {
  single: 5,
  several: 4,
  "first come": 3,
  "sold out": 1,
  "partly sold out": 1,
  "unknown product": 1,
  "unknown user": 1,
  poor: 2,
  refused: 2
}
const inTwenty = Object.entries(shares).flatMap(([kind, share]) => Array.from({ length: share }, () => kind as Kind))

/** Every style and definition; the first is what an order gets that does not say. */
export const styles: ReadonlyArray<Pick<Planned["body"], "coordination" | "definition">> = [
  {},
  { coordination: "orchestration", definition: "pay-first" },
  { coordination: "choreography", definition: "place-order" },
  { coordination: "choreography", definition: "pay-first" }
]

/** Orders of all outcomes and styles, some of them paid with a card, for users and products of `name`, which must have no other ones. */
export const planOf = (name: string, count: number, seed: number): Plan => {
  const prefix = `${name}_`
  const next = random(seed)
  const upTo = (most: number): number => 1 + Math.floor(next() * most)
  const pick = <A>(list: ReadonlyArray<A>): A => {
    const found = list[Math.floor(next() * list.length)]
    if (found === undefined) throw new Error("an empty list")
    return found
  }
  const stocked = (id: string, quantity: number): Stocked => ({ id: prefix + id, price: 100 * upTo(50), quantity })
  // few enough that orders meet at the same rows
  const plenty = Array.from({ length: 6 }, (_, n) => stocked(`plenty${n}`, 1_000_000))
  const last = stocked("last", Math.ceil((count * shares["first come"]) / 40))
  const gone = stocked("gone", 0)
  const heavy = stocked("heavy", 1_000_000)
  const rich = Array.from({ length: 10 }, (_, n) => ({ id: `${prefix}rich${n}`, balance: 1_000_000_000 }))
  const poor = Array.from({ length: 3 }, (_, n) => ({ id: `${prefix}poor${n}`, balance: 33 * n }))

  const some = (product: Stocked) => ({ productId: product.id, quantity: upTo(3) })
  const rejected = (reason: string): Outcome => ({ status: "REJECTED", reason })
  const approved: Outcome = { status: "APPROVED" }
  const make = (kind: Kind): Pick<Planned, "body" | "outcome"> => {
    const user = pick(rich)
    const order = (items: Planned["body"]["items"], outcome: Outcome, userId = user.id) => ({
      body: { userId, items },
      outcome
    })
    const first = Math.floor(next() * 3)
    const several = plenty.slice(first, first + 1 + upTo(3)).map(some)
    switch (kind) {
      case "single":
        return order([some(pick(plenty))], approved)
      case "several":
        return order(next() < 0.5 ? several : several.toReversed(), approved)
      case "first come":
        return order([{ productId: last.id, quantity: 1 }], { status: "FIRST_COME" })
      case "sold out":
        return order([some(gone)], rejected("OUT_OF_STOCK"))
      case "partly sold out":
        return order([...several, some(gone)], rejected("OUT_OF_STOCK"))
      case "unknown product":
        return order([some(pick(plenty)), { productId: `${prefix}nothing`, quantity: 1 }], rejected("PRODUCT_UNKNOWN"))
      case "unknown user":
        return order(several, rejected("USER_UNKNOWN"), `${prefix}nobody${upTo(5)}`)
      case "poor":
        return order(several, rejected("INSUFFICIENT_FUNDS"), pick(poor).id)
      case "refused":
        return order([...several, some(heavy)], rejected("SHIPMENT_REFUSED"))
    }
  }
  const kinds = Array.from({ length: count }, (_, n) => inTwenty[n % inTwenty.length] ?? "single")
  for (let n = kinds.length - 1; n > 0; n--) {
    const other = Math.floor(next() * (n + 1))
    const [a, b] = [kinds[n], kinds[other]]
    if (a !== undefined && b !== undefined) [kinds[n], kinds[other]] = [b, a]
  }
  return {
    prefix,
    products: [...plenty, last, gone, heavy],
    refused: [heavy.id],
    accounts: [...rich, ...poor],
    orders: kinds.map((kind, n) => ({
      ...inStyle(make(kind), styles[n % styles.length], next() < 0.3 && kind !== "poor" ? `card${n}` : undefined),
      key: `${prefix}${n}`,
      entry: next() < 0.5 ? "order" : "orchestrator",
      posts: next() < 0.2 ? 3 : 1
    }))
  }
}

const inStyle = <A extends Pick<Planned, "body">>(
  planned: A,
  style: (typeof styles)[number] = {},
  card: string | undefined = undefined
): A => ({
  ...planned,
  body: { ...planned.body, ...style, ...(card === undefined ? {} : { payment: { method: "card", card } }) }
})

/** An answered request. */
export interface Answer {
  readonly status: number
  readonly body: Readonly<Record<string, unknown>>
}

const answersWithinMs = 90_000

export const post = async (
  url: string,
  body: object,
  headers: Readonly<Record<string, string>> = {}
): Promise<Answer> => {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(40_000)
  })
  // What a service of ours answers is an object; the expectations find out what is in it.
  return { status: response.status, body: (await response.json()) as Answer["body"] }
}

/** Sends the request until it is answered: a service may be down, or not know yet what became of it. */
export const persistently = async (send: () => Promise<Answer>): Promise<Answer> => {
  let answer: Answer | undefined
  await until("an answer", answersWithinMs, async () => {
    const given = await send()
    if (given.status >= 500) throw new Error(`${given.status} ${JSON.stringify(given.body)}`)
    answer = given
    return true
  })
  if (answer === undefined) throw new Error("no answer")
  return answer
}

/** Makes the plan's products and users, and tells the carrier what it refuses. */
export const prepare = async (stack: Stack, plan: Plan): Promise<void> => {
  const make = async (url: string, body: Stocked | Account, more: object): Promise<void> => {
    const { status, body: said } = await persistently(async () => {
      const answer = await post(url, { ...body, ...more, name: body.id }, { "idempotency-key": body.id })
      // asked once more, the answer waits for the user's account once more
      if (answer.status === 202) throw new Error("the account is not open yet")
      return answer
    })
    if (status !== 201) throw new Error(`${url} answered ${status} ${JSON.stringify(said)}`)
  }
  const shipments = stack.database("shipments")
  await Promise.all([
    ...plan.products.map((product) => make(`${stack.service("product").url}/products`, product, {})),
    ...plan.accounts.map((account) =>
      make(`${stack.service("user").url}/users`, account, { email: `${account.id}@example.org` })
    ),
    ...plan.refused.map(
      (id) => shipments`insert into carrier_refusals (product_id, reason) values (${id}, 'too heavy')`
    )
  ])
}

/** Places one order as its client does and answers the order's id. All answers of one client must name the same order. */
export const place = async (stack: Stack, { entry, key, body, posts }: Planned): Promise<string> => {
  const url = `${stack.service(entry).url}/orders`
  const answers = await Promise.all(
    Array.from({ length: posts }, () => persistently(() => post(url, body, { "idempotency-key": key })))
  )
  const ids = new Set(
    answers.map(({ status, body: said }) => {
      if (status !== 202 || typeof said["id"] !== "string")
        throw new Error(`${url} answered ${key} with ${status} ${JSON.stringify(said)}`)
      return said["id"]
    })
  )
  const [id, ...others] = ids
  if (id === undefined || others.length > 0)
    throw new Error(`${key} was answered with the orders ${[...ids].join(", ")}`)
  return id
}

export interface Placing {
  /** Orders that were answered so far, by id. */
  readonly placed: ReadonlyMap<string, Planned>
  /** Returns when so many were answered, in all. */
  readonly reached: (count: number) => Promise<void>
  /** Returns when all were answered. */
  readonly done: Promise<void>
}

/** Places orders in their turn, `inFlight` at a time. */
export const placeAll = (
  stack: Stack,
  orders: ReadonlyArray<Planned>,
  inFlight = 16,
  answered: (id: string, planned: Planned) => void = () => {}
): Placing => {
  const placed = new Map<string, Planned>()
  const queue = orders.values()
  let failure: unknown
  const client = async (): Promise<void> => {
    for (const planned of queue) {
      const id = await place(stack, planned)
      placed.set(id, planned)
      answered(id, planned)
    }
  }
  const done = Promise.all(Array.from({ length: inFlight }, client)).then(() => {})
  done.catch((cause: unknown) => {
    failure = cause
  })
  return {
    placed,
    done,
    reached: (count) =>
      until(`${count} orders placed`, answersWithinMs, () => {
        if (failure !== undefined) throw new Error(text(failure))
        return placed.size >= Math.min(count, orders.length)
      })
  }
}
