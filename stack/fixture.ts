/** The goods and the people that demo and dev begin with. Money is in minor units: 2000 is 20.00. */
import { connect } from "oncebox"
import type { Embedded } from "./embedded.ts"

export interface FixtureProduct {
  readonly id: string
  readonly name: string
  readonly price: number
  readonly quantity: number
}

export interface FixtureUser {
  readonly id: string
  readonly name: string
  readonly email: string
  readonly balance: number
}

export const fixtureProducts: ReadonlyArray<FixtureProduct> = [
  { id: "1", name: "Teapot", price: 2000, quantity: 5 },
  { id: "2", name: "Kettle", price: 3000, quantity: 5 },
  { id: "3", name: "Samovar", price: 5000, quantity: 5 },
  { id: "4", name: "Fireworks", price: 1500, quantity: 5 }
]

/** The carrier does not take it: its shipment fails, after it was paid. */
export const refusedProduct = "4"

/** The carrier does not go there. */
export const refusedCountry = "AQ"

export const fixtureUsers: ReadonlyArray<FixtureUser> = [
  { id: "1", name: "Ada", email: "ada@example.org", balance: 10000 },
  { id: "2", name: "Grace", email: "grace@example.org", balance: 10000 },
  { id: "3", name: "Barbara", email: "barbara@example.org", balance: 20000 }
]

/** The address of a service. */
export const urlOf = (embedded: Embedded, name: string): string => {
  const url = embedded.urls.get(name)
  if (url === undefined) throw new Error(`there is no service ${name}`)
  return url
}

/** Creates what is not there yet, with a prefix to their ids when they are another tour's. */
export const loadFixture = async (embedded: Embedded, prefix = ""): Promise<void> => {
  const create = async (url: string, body: object): Promise<void> => {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(20_000)
    })
    if (response.status !== 201 && response.status !== 409) {
      throw new Error(`${url} answered ${response.status}: ${await response.text()}`)
    }
  }
  await Promise.all([
    ...fixtureProducts.map((product) =>
      create(`${urlOf(embedded, "product")}/products`, { ...product, id: prefix + product.id })
    ),
    ...fixtureUsers.map((user) => create(`${urlOf(embedded, "user")}/users`, { ...user, id: prefix + user.id }))
  ])
  const shipments = connect(embedded.owner("shipments"), { name: "fixture", max: 1 })
  try {
    await shipments`
      insert into carrier_refusals (product_id, reason)
      values (${prefix + refusedProduct}, 'dangerous goods')
      on conflict do nothing`
    await shipments`
      insert into carrier_countries (country, reason)
      values (${refusedCountry}, 'no road leads there')
      on conflict do nothing`
  } finally {
    await shipments.end({ timeout: 2 })
  }
}
