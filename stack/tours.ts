/** What `bun run demo` shows: tours, each a few orders with the ends that they must come to. */
import { fixtureProducts, refusedCountry, refusedProduct } from "./fixture.ts"

export interface Scene {
  readonly title: string
  readonly userId: string
  readonly items: ReadonlyArray<{ readonly productId: string; readonly quantity: number }>
  readonly coordination?: "choreography"
  readonly definition?: "pay-first"
  readonly country?: string
  /** Paid with a card, which leaves the account alone. */
  readonly payment?: { readonly method: "card"; readonly card: string }
  /** APPROVED, or the reason why it is rejected. */
  readonly ends: string
}

export interface Tour {
  readonly about: string
  readonly scenes: ReadonlyArray<Scene>
  /** How often each message is delivered. */
  readonly deliveries?: number
  /** The payment service is stopped before the orders are placed, and started again when they wait for it. */
  readonly outage?: boolean
  /** Many orders in both styles, of which some fail by rules. */
  readonly sideBySide?: boolean
}

const samovar: Scene = {
  title: "Ada buys a samovar",
  userId: "1",
  items: [{ productId: "3", quantity: 1 }],
  ends: "APPROVED"
}
const tooDear: Scene = {
  title: "Ada buys a samovar and two kettles more: 110.00, which she does not have",
  userId: "1",
  items: [
    { productId: "3", quantity: 1 },
    { productId: "2", quantity: 2 }
  ],
  ends: "INSUFFICIENT_FUNDS"
}
const tooMany: Scene = {
  title: "Barbara buys six teapots of five",
  userId: "3",
  items: [{ productId: "1", quantity: 6 }],
  ends: "OUT_OF_STOCK"
}
const refused: Scene = {
  title: "Grace buys fireworks, which the carrier does not take",
  userId: "2",
  items: [{ productId: refusedProduct, quantity: 2 }],
  ends: "SHIPMENT_REFUSED"
}
const tooFar: Scene = {
  title: "Barbara sends two teapots to Antarctica, where the carrier does not go",
  userId: "3",
  items: [{ productId: "1", quantity: 2 }],
  country: refusedCountry,
  ends: "COUNTRY_REFUSED"
}
const unknown: Scene = {
  title: "Grace buys a kettle, which does not exist under that id",
  userId: "2",
  items: [{ productId: "99", quantity: 1 }],
  ends: "PRODUCT_UNKNOWN"
}

const choreographed = (scene: Scene): Scene => ({ ...scene, coordination: "choreography" })
const byCard = (scene: Scene): Scene => ({
  ...scene,
  title: `${scene.title}; paid with a card`,
  payment: { method: "card", card: "card-1" }
})
const payFirst = (scene: Scene): Scene => ({ ...scene, title: `${scene.title}; paid first`, definition: "pay-first" })

export const tours = {
  all: { about: "five orders that end in five ways", scenes: [samovar, tooDear, tooMany, refused, unknown] },
  approve: {
    about: "an order that succeeds, and one that pays before it reserves",
    scenes: [samovar, payFirst(samovar)]
  },
  reject: { about: "orders that fail at their first step: there is nothing to undo", scenes: [tooMany, unknown] },
  rollback: {
    about: "orders that fail late: what was done is undone, in reverse",
    scenes: [tooDear, refused, tooFar, payFirst({ ...tooMany, items: [{ productId: "1", quantity: 6 }] })]
  },
  choreography: {
    about: "nobody is asked: each service goes by the others' events",
    scenes: [samovar, tooDear, payFirst(samovar), payFirst(refused)].map(choreographed)
  },
  card: {
    about: "a card processor outside takes the money, and gives it back",
    scenes: [byCard(samovar), byCard(refused), choreographed(byCard(refused))]
  },
  outage: {
    about: "the payment service is down: orders wait for it, and none is lost",
    scenes: [
      samovar,
      tooDear,
      choreographed({ ...samovar, userId: "3", title: "Barbara buys a samovar, by choreography" })
    ],
    outage: true
  },
  styles: { about: "60 orders in each style, some of which fail by rules", scenes: [], sideBySide: true },
  duplicates: {
    about: "every message is delivered three times",
    scenes: [samovar, tooDear, refused, choreographed({ ...refused, title: `${refused.title}; by choreography` })],
    deliveries: 3
  }
} as const satisfies Readonly<Record<string, Tour>>

/** What an order costs whose products are all there. */
export const priceOf = ({ items }: Scene): number =>
  items.reduce(
    (total, { productId, quantity }) =>
      total + quantity * (fixtureProducts.find(({ id }) => id === productId)?.price ?? 0),
    0
  )
