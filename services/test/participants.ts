/** The participants of all services, as their processes run them. */
import { Choreography } from "oncebox"
import { order } from "../order/order.ts"
import { orchestrator } from "../orchestrator/orchestrator.ts"
import { payment } from "../payment/payment.ts"
import { product } from "../product/product.ts"
import { choreography } from "../shell/choreography.ts"
import { shipment } from "../shipment/shipment.ts"
import { user } from "../user/user.ts"

export const participants = [
  user,
  Choreography.join(product, choreography),
  Choreography.join(order, choreography),
  orchestrator,
  Choreography.join(payment, choreography),
  Choreography.join(shipment, choreography)
] as const
