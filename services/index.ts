/** The six services, and the topics between them. */
import type { Topic } from "oncebox"
import * as orderContract from "./order/contract.ts"
import * as paymentContract from "./payment/contract.ts"
import * as productContract from "./product/contract.ts"
import * as shipmentContract from "./shipment/contract.ts"
import * as userContract from "./user/contract.ts"
import { service as orchestrator } from "./orchestrator/main.ts"
import { service as order } from "./order/main.ts"
import { service as payment } from "./payment/main.ts"
import { service as product } from "./product/main.ts"
import { service as shipment } from "./shipment/main.ts"
import { service as user } from "./user/main.ts"

export const services = [user, product, order, orchestrator, payment, shipment] as const

/** Every topic that a contract names. */
export const topicNames: ReadonlyArray<string> = [
  ...new Set(
    [orderContract, productContract, paymentContract, shipmentContract, userContract]
      .flatMap((contract) => Object.values<object>(contract))
      .filter((value): value is Topic => "catalogue" in value)
      .flatMap(({ name, choreographyName }) => [name, choreographyName])
  )
]
