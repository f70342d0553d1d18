/** A service with a bug: PLANTED names it. The bugs of the simulator are planted in the same way, on real engines. */
import { Effect } from "effect"
import { Broker, Choreography, run, Store, type Participant, type Tables } from "oncebox"
import { shop } from "../simulation/shop.ts"
import type { Opening, StoreLane, Transaction } from "../../../outbox/store/store.ts"
import type { AnyParticipant } from "../../../outbox/testing/simulation/scenario.ts"
import { planted as simulated } from "../simulation/planted.ts"
import { order } from "../../order/order.ts"
import { service as orderService } from "../../order/main.ts"
import { orchestrator } from "../../orchestrator/orchestrator.ts"
import { service as orchestratorService } from "../../orchestrator/main.ts"
import { cardCallers } from "../../payment/card.ts"
import { payment } from "../../payment/payment.ts"
import { service as paymentService } from "../../payment/main.ts"
import { product } from "../../product/product.ts"
import { service as productService } from "../../product/main.ts"
import { choreography } from "../../shell/choreography.ts"
import { Service } from "../../shell/service.ts"
import { plants } from "./plants.ts"

type Wrap<A> = (sound: A) => A

const services = {
  order: { service: orderService, participant: order },
  orchestrator: { service: orchestratorService, participant: orchestrator },
  payment: { service: paymentService, participant: payment },
  product: { service: productService, participant: product }
} as const

/** Acknowledges what it takes before it is decided. */
const hasty: Wrap<Broker["Service"]> = (broker) => ({
  ...broker,
  subscribe: (options) =>
    Effect.map(broker.subscribe(options), ({ take, processed }) => ({
      processed: () => Effect.void,
      take: (limit) => Effect.tap(take(limit), processed)
    }))
})

/** A store whose commits are others. */
const committing =
  (other: (transaction: Transaction, opening: Opening, begin: StoreLane["begin"]) => Transaction["commit"]) =>
  (store: Store["Service"]): Store["Service"] => ({
    ...store,
    lane: (name, tables) =>
      Effect.map(store.lane(name, tables), ({ begin }) => ({
        begin: (opening) =>
          Effect.map(begin(opening), (transaction) => ({
            ...transaction,
            commit: other(transaction, opening, begin)
          }))
      }))
  })

/** Goes on as if what could not be written had been. */
const swallowing = committing(
  (transaction) => (writes) => Effect.catchTag(transaction.commit(writes), "StoreUnavailable", () => Effect.void)
)

/** Writes what is to be sent in a transaction of its own, after the other one; when that fails, nobody hears of it. */
const writingTwice = committing(
  (transaction, { consumer }, begin) =>
    (writes) =>
      Effect.gen(function* () {
        yield* transaction.commit({ ...writes, outbox: [] })
        if (writes.outbox.length === 0) return
        const nothing = { claims: [], unpark: [], parking: [], parkedKeys: [], due: undefined, loads: [] }
        yield* begin({ consumer, ...nothing }).pipe(
          Effect.flatMap((second) => second.commit({ changes: [], outbox: writes.outbox, calls: [], parked: [] })),
          Effect.ignore
        )
      })
)

const same = <A>(sound: A): A => sound

const main = (name: string): void => {
  const plant = plants[name]
  if (plant?.service === undefined) throw new Error(`no service has the bug ${name}`)
  const { service, participant } = services[plant.service]
  const bug = simulated[plant.simulated ?? ""]
  const spoil = (sound: AnyParticipant) => {
    const scenario = { ...shop(1), participants: [sound] }
    const { participants, store } = bug !== undefined && "scenario" in bug ? bug.scenario(scenario) : scenario
    // the simulator's bugs change handlers, not the shape of a participant
    return { spoilt: participants[0] as unknown as Participant<Tables>, store }
  }
  const sound = participant as unknown as AnyParticipant
  const { spoilt, store: wrapLane = same } = spoil(sound)
  // in both styles it is the same decision; what is joined knows nothing of what was changed, but for its reactions
  const reactions = plant.service === "orchestrator" ? [] : choreography
  const reacting = [...Choreography.join(spoilt, reactions).messages].filter(
    ([contract]) => !spoilt.messages.has(contract)
  )
  const broken = {
    ...spoilt,
    messages: new Map([...spoilt.messages, ...reacting]),
    topics: Choreography.join(spoilt, reactions).topics
  }
  const forgetful: Wrap<Store["Service"]> = (store) => ({
    ...store,
    lane: (lane, tables) => Effect.map(store.lane(lane, tables), (sound) => wrapLane(sound, service.name))
  })
  const onStore = name === "errors are swallowed" ? swallowing : name === "dual write" ? writingTwice : forgetful
  const onBroker = name === "offsets committed before the pass" ? hasty : same
  Service.main({
    ...service,
    run: (options, { cardProcessorUrl }) =>
      run(broken, { ...options, callers: plant.service === "payment" ? cardCallers(cardProcessorUrl) : [] }).pipe(
        Effect.provideServiceEffect(Broker, Effect.map(Broker, onBroker)),
        Effect.provideServiceEffect(Store, Effect.map(Store, onStore))
      )
  })
}

main(process.env["PLANTED"] ?? "")
