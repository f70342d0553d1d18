/** The orchestrator: runs the saga of every order, and watches those that are choreographed. */
import { Schema } from "effect"
import {
  Orchestrator,
  Request,
  Saga,
  type Participant,
  type SagaDefinition,
  type SagaRow,
  type SagaTables
} from "oncebox"
import { OrderCreatedEvent, OrderView, type OrderStatus } from "../order/contract.ts"
import { DefinitionName } from "../shell/bounds.ts"
import { OrderData, ordered, OrderRequest } from "../shell/order-context.ts"
import { definitions } from "./definitions.ts"

export const StartOrder = Request.make("StartOrder", {
  payload: OrderRequest.fields,
  reply: OrderView
})

const startedByOrder = (definition: SagaDefinition<OrderData>) =>
  Saga.startedBy({
    on: OrderCreatedEvent,
    when: (order) => order.definition === definition.name,
    definition,
    after: "create",
    data: ordered
  })

/** An orchestrator whose new sagas run on these definitions; those in flight may run on others, too. */
export const orchestratorOf = (
  current: typeof definitions,
  others: ReadonlyArray<SagaDefinition<OrderData>> = []
): Participant<SagaTables> =>
  Orchestrator.make("orchestrator", [...Object.values(current), ...others], {
    starts: Object.values(current).map(startedByOrder)
  }).answers(StartOrder, {
    touches: { sagas: ({ orderId }) => [orderId] },
    decide: ({ sagas }, { orderId, coordination, definition, ...order }, context) => {
      const earlier = sagas.get(orderId)
      if (earlier !== undefined) return { reply: orderView(earlier) }
      const data = ordered(order)
      const started = {
        id: orderId,
        definition,
        state: "RUNNING",
        data,
        reason: null,
        started_at: context.now
      } as const
      return {
        ...Saga.start(current[definition], orderId, data, { ...context, coordination }),
        reply: orderView({ ...started, coordination })
      }
    }
  })

export const orchestrator = orchestratorOf(definitions)

const definitionName = Schema.decodeUnknownSync(DefinitionName)

const runningOn = Saga.registryOf("orchestrator", Object.values(definitions))

/**
 * The definition that a saga runs on; for one that has ended on a version that is gone, today's of its name. Undefined while
 * it runs on a version that this build does not have.
 */
export const definitionOf = (
  saga: Pick<SagaRow, "definition" | "version" | "state">
): SagaDefinition<OrderData> | undefined =>
  saga.state === "RUNNING" || saga.state === "COMPENSATING"
    ? runningOn(saga)
    : definitions[definitionName(saga.definition)]

const statusOf: Readonly<Record<SagaRow["state"], OrderStatus>> = {
  RUNNING: "CREATED",
  COMPENSATING: "CANCELLING",
  COMPLETED: "APPROVED",
  COMPENSATED: "REJECTED"
}

// all versions of all definitions know the same of an order
const orderData = Schema.decodeUnknownSync(OrderData)

/** An order as HTTP shows it, by what its saga knows of it. */
export const orderView = (
  saga: Pick<SagaRow, "id" | "definition" | "state" | "data" | "reason" | "coordination" | "started_at">
): OrderView => {
  const { userId, items, payment, lines, total } = orderData(saga.data)
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
    definition: definitionName(saga.definition),
    createdAt: saga.started_at.toISOString()
  }
}
