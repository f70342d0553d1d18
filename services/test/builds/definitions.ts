/** The next version of the shop's sagas, for tests in which builds of the orchestrator meet: place-order asks for a quote first. */
import type { SagaDefinition } from "oncebox"
import { definitions, payFirst, placeOrder } from "../../orchestrator/definitions.ts"
import type { OrderData } from "../../shell/order-context.ts"

const next = (definition: SagaDefinition<OrderData>, steps = definition.steps): SagaDefinition<OrderData> => ({
  ...definition,
  version: 2,
  pivot: steps.length - 1,
  steps
})

const quote = payFirst.steps.filter(({ name }) => name === "quote")

export const nextDefinitions = {
  "place-order": next(placeOrder, [...placeOrder.steps.slice(0, 1), ...quote, ...placeOrder.steps.slice(1)]),
  "pay-first": next(payFirst)
}

export const allDefinitions = [...Object.values(definitions), ...Object.values(nextDefinitions)]
