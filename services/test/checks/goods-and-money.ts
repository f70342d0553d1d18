/** Stock and money: nothing is there twice, and nothing is lost. */
import { by, repeated, sum, when, type Check } from "./check.ts"

/** Stock is what there was less what is reserved, and what is reserved is what the orders asked for. */
export const stock: Check = ({ orders, products, reservations }, { plan }) => {
  const reserved = new Map<string, number>()
  for (const { status, lines } of reservations) {
    if (status !== "RESERVED") continue
    for (const { productId, quantity } of lines) reserved.set(productId, (reserved.get(productId) ?? 0) + quantity)
  }
  const stored = by(products, ({ id }) => id)
  const placed = by(orders, ({ id }) => id)
  return [
    ...plan.products.flatMap(({ id, quantity }) => {
      const due = quantity - (reserved.get(id) ?? 0)
      const found = stored.get(id)?.quantity
      return when(found !== due || due < 0, `${id} has ${found} in stock, not ${due}`)
    }),
    ...reservations.flatMap(({ order_id, status, lines, total }) => {
      const asked = placed.get(order_id)?.items ?? []
      const fits =
        lines.length === asked.length &&
        lines.every(({ productId, quantity }, n) => asked[n]?.productId === productId && asked[n].quantity === quantity)
      const adds = total === sum(lines.map(({ quantity, price }) => quantity * price))
      return when(status === "RESERVED" && !(fits && adds), `the reservation of ${order_id} is not what was ordered`)
    }),
    ...repeated(reservations.map(({ order_id }) => order_id)).map((id) => `order ${id} has two reservations`)
  ]
}

/** Balances are what there was less what the approved orders cost. */
export const balances: Check = ({ orders, accounts }, { plan }) => {
  const stored = by(accounts, ({ user_id }) => user_id)
  const costs = new Map<string, number>()
  for (const { user_id, status, payment, total } of orders)
    if (status === "APPROVED" && payment.method === "account")
      costs.set(user_id, (costs.get(user_id) ?? 0) + (total ?? 0))
  return plan.accounts.flatMap(({ id, balance }) => {
    const paid = costs.get(id) ?? 0
    const found = stored.get(id)?.balance
    return when(found !== balance - paid, `account ${id} has ${found}, not ${balance} - ${paid}`)
  })
}

/** Each account's ledger has no gaps, adds up entry by entry, and ends at the account's balance. */
export const ledgers: Check = ({ accounts, ledger }) => {
  const entries = Map.groupBy(ledger, ({ user_id }) => user_id)
  const known = by(accounts, ({ user_id }) => user_id)
  const strangers = [...entries.keys()].filter((id) => !known.has(id))
  return [
    ...strangers.map((id) => `${id} has a ledger and no account`),
    ...accounts.flatMap(({ user_id, balance, position }) => {
      const own = (entries.get(user_id) ?? []).toSorted((a, b) => a.position - b.position)
      const gap = own.some((entry, n) => entry.position !== n + 1)
      const adds = own.every((entry, n) => entry.balance === (own[n - 1]?.balance ?? 0) + entry.amount)
      return [
        ...when(
          gap || own.length !== position,
          `the ledger of ${user_id} has gaps, or not the account's ${position} entries`
        ),
        ...when(!adds || own.at(-1)?.balance !== balance, `the ledger of ${user_id} does not add up to ${balance}`)
      ]
    })
  ]
}

/** An order is paid once at most, and given back once at most, to whom and as much as was paid. A deposit is made once. */
export const movements: Check = ({ ledger, payments }) => {
  const ofOrders = ledger.flatMap((entry) => (entry.order_id === null ? [] : [{ ...entry, order_id: entry.order_id }]))
  const paid = by(
    ofOrders.filter(({ kind }) => kind === "PAYMENT"),
    ({ order_id }) => order_id
  )
  const refunded = by(
    ofOrders.filter(({ kind }) => kind === "REFUND"),
    ({ order_id }) => order_id
  )
  const deposits = ledger.flatMap(({ deposit_id }) => (deposit_id === null ? [] : [deposit_id]))
  return [
    ...repeated(ofOrders.map(({ order_id, kind }) => `${kind} of order ${order_id}`)).map((what) => `two: ${what}`),
    ...repeated(deposits).map((id) => `two: deposit ${id}`),
    ...[...refunded.values()].flatMap(({ order_id, user_id, amount }) => {
      const payment = paid.get(order_id)
      return when(
        payment === undefined || payment.user_id !== user_id || payment.amount !== -amount,
        `the refund of order ${order_id} is not of its payment`
      )
    }),
    ...payments
      .filter(({ method }) => method === "account")
      .flatMap(({ order_id, status }) => [
        ...when(
          (status === "PROCESSED" || status === "REFUNDED") !== paid.has(order_id),
          `payment ${order_id} is ${status}, its ledger says otherwise`
        ),
        ...when(
          (status === "REFUNDED") !== refunded.has(order_id),
          `payment ${order_id} is ${status}, its refunds say otherwise`
        )
      ])
  ]
}

/** A card was charged once for each payment that stands, for its amount, and none is charged for any other. */
export const charged: Check = ({ payments, charges }) => {
  const kept = charges.filter(({ status }) => status === "CHARGED")
  const made = by(kept, ({ key }) => key)
  const standing = payments.filter(({ method, status }) => method === "card" && status === "PROCESSED")
  const due = new Set(standing.map(({ order_id }) => `charge:${order_id}`))
  return [
    ...standing.flatMap(({ order_id, amount }) =>
      when(
        made.get(`charge:${order_id}`)?.amount !== amount,
        `order ${order_id} is paid with a card that was not charged`
      )
    ),
    ...kept.flatMap(({ key, amount }) => when(!due.has(key), `${key} took ${amount} for nothing`)),
    ...repeated(charges.map(({ key }) => key)).map((key) => `two: ${key}`)
  ]
}

/** What the user service has heard of each balance is the newest there is. */
export const readModel: Check = ({ users, accounts }) => {
  const heard = by(users, ({ id }) => id)
  return accounts.flatMap(({ user_id, balance, position }) => {
    const user = heard.get(user_id)
    return when(
      user?.balance !== balance || user.position !== position,
      `account ${user_id} has ${balance} at ${position}, its user ${user?.balance} at ${user?.position}`
    )
  })
}
