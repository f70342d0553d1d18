/** The orchestrator with deadlines of an hour: what is lost is not asked for again within a test. */
import { payFirst, placeOrder } from "../../orchestrator/definitions.ts"
import { service } from "../../orchestrator/main.ts"
import { Service } from "../../shell/service.ts"

for (const definition of [placeOrder, payFirst]) {
  for (const patient of [definition, ...definition.steps]) Object.assign(patient, { deadlineMs: 3_600_000 })
}

Service.main(service)
