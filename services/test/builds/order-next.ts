/** The order service with an event that no other build knows: it tells of each order's end once more, in its own words. */
import { Choreography, run, type Outgoing } from "oncebox"
import { OrderApprovedEvent, OrderRejectedEvent, ordersEvents } from "../../order/contract.ts"
import { service } from "../../order/main.ts"
import { order } from "../../order/order.ts"
import { OrderId } from "../../shell/bounds.ts"
import { choreography } from "../../shell/choreography.ts"
import { Service } from "../../shell/service.ts"

const OrderEndedEvent = ordersEvents.message("OrderEndedEvent", { orderId: OrderId }, { key: "orderId" })

const ends = new Set([OrderApprovedEvent.type, OrderRejectedEvent.type])
const told = (sent: ReadonlyArray<Outgoing>): ReadonlyArray<Outgoing> =>
  sent.flatMap((message) =>
    ends.has(message.contract.type) && "orderId" in message.payload
      ? [message, { ...message, ...OrderEndedEvent.of({ orderId: String(message.payload.orderId) }) }]
      : [message]
  )

const known = Choreography.join(order, choreography)
const participant = {
  ...known,
  messages: new Map(
    [...known.messages].map(([contract, handler]): [typeof contract, typeof handler] => [
      contract,
      {
        ...handler,
        decide: (...given) => {
          const decision = handler.decide(...given)
          return { ...decision, send: told(decision.send ?? []) }
        }
      }
    ])
  )
}

Service.main({ ...service, run: (options) => run(participant, options) })
