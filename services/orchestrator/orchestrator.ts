/** The orchestrator: runs the saga of every order, and watches those that are choreographed. */
import { Schema } from "effect"
import { Orchestrator, Request, Saga, type SagaDefinition, type SagaRow } from "oncebox"
import { OrderCreatedEvent, OrderView, type OrderStatus } from "../order/contract.ts"
import { DefinitionName } from "../shell/bounds.ts"
import { ordered, OrderRequest, type OrderData } from "../shell/order-context.ts"
import { definitions, payFirst, placeOrder } from "./definitions.ts"

export const StartOrder = Request.make("StartOrder", {
  payload: OrderRequest.fields,
  reply: OrderView
})

const startedByOrder = (definition: typeof placeOrder) =>
  Saga.startedBy({
    on: OrderCreatedEvent,
    when: (order) => order.definition === definition.name,
    definition,
    after: "create",
    data: ordered
  })

export const orchestrator = Orchestrator.make("orchestrator", [placeOrder, payFirst], {
  starts: [startedByOrder(placeOrder), startedByOrder(payFirst)]
}).answers(StartOrder, {
  touches: { sagas: ({ orderId }) => [orderId] },
  decide: ({ sagas }, { orderId, coordination, definition, ...order }, context) => {
    const earlier = sagas.get(orderId)
    if (earlier !== undefined) return { reply: orderView(earlier) }
    const data = ordered(order)
    const reply = orderView({
      id: orderId,
      definition,
      version: definitions[definition].version,
      state: "RUNNING",
      data,
      reason: null,
      coordination,
      started_at: context.now
    })
    return { ...Saga.start(definitions[definition], orderId, data, { ...context, coordination }), reply }
  }
})

const definitionName = Schema.decodeUnknownSync(DefinitionName)

const runningOn = Saga.registryOf("orchestrator", Object.values(definitions))

/** The definition that a saga runs on; for one that has ended on a version that is gone, today's of its name. */
export const definitionOf = (
  saga: Pick<SagaRow, "id" | "definition" | "version" | "state">
): SagaDefinition<OrderData> =>
  saga.state === "RUNNING" || saga.state === "COMPENSATING"
    ? runningOn(saga)
    : definitions[definitionName(saga.definition)]

const statusOf: Readonly<Record<SagaRow["state"], OrderStatus>> = {
  RUNNING: "CREATED",
  COMPENSATING: "CANCELLING",
  COMPLETED: "APPROVED",
  COMPENSATED: "REJECTED"
}

/** An order as HTTP shows it, by what its saga knows of it. */
export const orderView = (
  saga: Pick<SagaRow, "id" | "definition" | "version" | "state" | "data" | "reason" | "coordination" | "started_at">
): OrderView => {
  const definition = definitionName(saga.definition)
  const { userId, items, payment, lines, total } = definitionOf(saga).decode(saga.data)
  return {
    id: saga.id,
    sagaId: saga.id,
    userId,
    items: lines ?? items,
    total,
    payment,
    status: statusOf[saga.state],
    reason: saga.reason,
    coordination: saga.coordination,
    definition,
    createdAt: saga.started_at.toISOString()
  }
}
