/** The orchestrator with the next version of its sagas: those in flight may still run on the old one. */
import { run } from "oncebox"
import { definitions } from "../../orchestrator/definitions.ts"
import { service } from "../../orchestrator/main.ts"
import { orchestratorOf } from "../../orchestrator/orchestrator.ts"
import { Service } from "../../shell/service.ts"
import { nextDefinitions } from "./definitions.ts"

const participant = orchestratorOf(nextDefinitions, Object.values(definitions))

Service.main({ ...service, run: (options) => run(participant, options) })
