/** The payment service without the fence of its refunds: what was given back already looks as if it had only been paid. */
import { Choreography, run } from "oncebox"
import { cardCallers } from "../../payment/card.ts"
import { service } from "../../payment/main.ts"
import { payment } from "../../payment/payment.ts"
import { RefundPaymentCommand } from "../../payment/contract.ts"
import { choreography } from "../../shell/choreography.ts"
import { Service } from "../../shell/service.ts"
import { seeing } from "./rows.ts"

const participant = seeing(Choreography.join(payment, choreography), RefundPaymentCommand.type, (rows) => ({
  ...rows,
  payments: {
    get: (key) => {
      const row = rows["payments"]?.get(key)
      return row !== undefined && "status" in row && row.status === "REFUNDED" ? { ...row, status: "PROCESSED" } : row
    }
  }
}))

Service.main({
  ...service,
  run: (options, { cardProcessorUrl }) => run(participant, { ...options, callers: cardCallers(cardProcessorUrl) })
})
