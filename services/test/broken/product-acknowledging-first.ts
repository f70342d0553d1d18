/**
 * The product service with its offsets committed before its transactions. It dies at the worst moment: the first command
 * to reserve is acknowledged, and not decided yet.
 */
import { Effect, Exit, Scope } from "effect"
import { Broker, Choreography, run } from "oncebox"
import { service } from "../../product/main.ts"
import { product } from "../../product/product.ts"
import { ReserveProductCommand } from "../../product/contract.ts"
import { choreography } from "../../shell/choreography.ts"
import { Service } from "../../shell/service.ts"

const participant = Choreography.join(product, choreography)

const hasty = (broker: Broker["Service"]): Broker["Service"] => ({
  ...broker,
  subscribe: (options) =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { take, processed } = yield* Scope.provide(broker.subscribe(options), scope)
      return {
        processed: () => Effect.void,
        take: (limit) =>
          Effect.tap(take(limit), (records) =>
            Effect.gen(function* () {
              yield* processed(records)
              const types = records.map(({ headers }) => headers["ce_type"]?.toString())
              if (!types.includes(ReserveProductCommand.type)) return
              // commits what was acknowledged and leaves the group, so that nobody has to wait for the session's end
              yield* Scope.close(scope, Exit.void)
              process.kill(process.pid, "SIGKILL")
            })
          )
      }
    })
})

Service.main({
  ...service,
  run: (options) => run(participant, options).pipe(Effect.provideServiceEffect(Broker, Effect.map(Broker, hasty)))
})
