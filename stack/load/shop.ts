/** What is ordered, what should come of it, and whether stock and money add up afterwards. */
import { random as randomOf } from "oncebox/testing"
import { Hopeless, text, until } from "../wait.ts"

/** Where the system answers. Orders go to its replicas in turn. */
export interface Addresses {
  readonly orders: ReadonlyArray<string>
  readonly product: string
  readonly user: string
}

export interface ShopOptions {
  readonly at: Addresses
  /** The same seed gives the same mix in the same order. */
  readonly seed: number
  readonly coordination: "orchestration" | "choreography"
  readonly definition: "place-order" | "pay-first"
}

interface Product {
  readonly id: string
  readonly price: number
  readonly quantity: number
}
interface User {
  readonly id: string
  readonly balance: number
}

/** An order to be placed. */
export interface Planned {
  readonly body: object
  readonly approved: boolean
  readonly product: Product
  readonly user: User
}

export interface Shop {
  /** Makes a product and a user, and answers when the first order of the one by the other is approved. */
  readonly first: () => Promise<void>
  /** Makes the rest. */
  readonly prepare: () => Promise<void>
  readonly plan: () => Planned
  /** Places it and answers its id. */
  readonly place: (order: Planned) => Promise<string>
  readonly approved: (order: Planned) => void
  /** What does not add up, of stock and money. */
  readonly errors: () => Promise<ReadonlyArray<string>>
  /** Numbers in [0, 1), from the shop's seed. */
  readonly random: () => number
}

const answersWithinMs = 60_000
const createsWithinMs = 120_000
const balancesWithinMs = 15_000
/** Of the first order: the services may be joining their groups. */
const endsWithinSeconds = 30

const post = (url: string, body: object, headers: Readonly<Record<string, string>> = {}): Promise<Response> =>
  fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(answersWithinMs)
  })

const created = (url: string, thing: Product | User, more: object = {}): Promise<void> =>
  until(`${thing.id} at ${url}`, createsWithinMs, async () => {
    const response = await post(url, { ...thing, name: thing.id, ...more }, { "idempotency-key": thing.id })
    const said = await response.text()
    if (response.status === 201) return true
    // a user whose account is not open yet: asked once more, the answer waits for it once more
    if (response.status === 202) return false
    throw new Hopeless(`${url} answered ${response.status}: ${said}`)
  })

/** What our own service answers, in the form that its contract promises. */
const read = async <A>(url: string): Promise<A> =>
  (await (await fetch(url, { signal: AbortSignal.timeout(answersWithinMs) })).json()) as A

/** One order in twenty asks for a product that is sold out, one in ten comes from a user without money. */
export const makeShop = ({ at, seed, coordination, definition }: ShopOptions): Shop => {
  const random = randomOf(seed)
  const run = Date.now().toString(36)
  const products: ReadonlyArray<Product> = Array.from({ length: 50 }, (_, n) => ({
    id: `p${n}-${run}`,
    price: 1_000 + n,
    quantity: 1_000_000_000
  }))
  const soldOut: Product = { id: `gone-${run}`, price: 1_000, quantity: 0 }
  const users: ReadonlyArray<User> = Array.from({ length: 500 }, (_, n) => ({
    id: `u${n}-${run}`,
    balance: 1_000_000_000_000
  }))
  const poor: User = { id: `poor-${run}`, balance: 0 }
  const sold = new Map<string, number>()
  const paid = new Map<string, number>()
  const add = (to: Map<string, number>, id: string, amount: number) => to.set(id, (to.get(id) ?? 0) + amount)
  const pick = <A>(list: ReadonlyArray<A>): A => list[Math.floor(random() * list.length)] as A
  const approved: Shop["approved"] = ({ product, user }) => {
    add(sold, product.id, 1)
    add(paid, user.id, product.price)
  }
  const make = (someProducts: ReadonlyArray<Product>, someUsers: ReadonlyArray<User>) =>
    Promise.all([
      ...someProducts.map((one) => created(`${at.product}/products`, one)),
      ...someUsers.map((one) => created(`${at.user}/users`, one, { email: `${one.id}@example.org` }))
    ])
  const bodyOf = (user: User, product: Product): object => ({
    userId: user.id,
    items: [{ productId: product.id, quantity: 1 }],
    coordination,
    definition
  })
  let placed = 0

  return {
    random,
    first: async () => {
      const [[product], [user]] = [products, users]
      if (product === undefined || user === undefined) return
      await make([product], [user])
      const body = bodyOf(user, product)
      const response = await post(`${at.orders[0]}/orders`, body, { prefer: `wait=${endsWithinSeconds}` })
      const said = await response.text()
      if (!said.includes('"APPROVED"')) throw new Error(`the first order was not approved: ${response.status} ${said}`)
      approved({ body, approved: true, product, user })
    },
    prepare: async () => {
      await make([...products.slice(1), soldOut], [...users.slice(1), poor])
    },
    plan: () => {
      const dice = random()
      const user = dice < 0.1 ? poor : pick(users)
      const product = dice >= 0.1 && dice < 0.15 ? soldOut : pick(products)
      return { body: bodyOf(user, product), approved: user !== poor && product !== soldOut, product, user }
    },
    place: async ({ body }) => {
      const response = await post(`${at.orders[placed++ % at.orders.length]}/orders`, body)
      if (response.status !== 202) throw new Error(`${response.status} ${await response.text()}`)
      return ((await response.json()) as { readonly id: string }).id
    },
    approved,
    errors: async () => {
      const errors: Array<string> = []
      const check = (what: string, url: string, of: "quantity" | "balance", expected: number) => {
        let seen: number | undefined
        // a user's balance follows the payment by an event
        return until(what, balancesWithinMs, async () => {
          seen = (await read<{ quantity?: number; balance?: number }>(url))[of]
          return seen === expected
        }).catch((error: unknown) => errors.push(`${what} is ${seen}, expected ${expected} (${text(error)})`))
      }
      await Promise.all([
        ...products.map(({ id, quantity }) =>
          check(`stock of ${id}`, `${at.product}/products/${id}`, "quantity", quantity - (sold.get(id) ?? 0))
        ),
        ...users.map(({ id, balance }) =>
          check(`balance of ${id}`, `${at.user}/users/${id}`, "balance", balance - (paid.get(id) ?? 0))
        )
      ])
      return errors
    }
  }
}
