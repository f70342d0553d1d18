/** The product service without inbox and without fence: it takes every message for a new one, and every order too. */
import { Effect } from "effect"
import { Choreography, run, Store } from "oncebox"
import { service } from "../../product/main.ts"
import { product } from "../../product/product.ts"
import { ReserveProductCommand } from "../../product/contract.ts"
import { choreography } from "../../shell/choreography.ts"
import { Service } from "../../shell/service.ts"
import { seeing } from "./rows.ts"

const participant = seeing(Choreography.join(product, choreography), ReserveProductCommand.type, (rows) => ({
  ...rows,
  reservations: { get: () => undefined }
}))

const forgetful = (store: Store["Service"]): Store["Service"] => ({
  ...store,
  lane: (name, tables) =>
    Effect.map(store.lane(name, tables), ({ begin }) => ({
      begin: (opening) =>
        Effect.map(begin(opening), (transaction) => ({
          ...transaction,
          claimed: new Set(opening.claims.map(({ id }) => id))
        }))
    }))
})

Service.main({
  ...service,
  run: (options) => run(participant, options).pipe(Effect.provideServiceEffect(Store, Effect.map(Store, forgetful)))
})
