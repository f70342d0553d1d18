/** The orchestrator between two versions of its sagas: it has both and starts the old one. */
import { run } from "oncebox"
import { definitions } from "../../orchestrator/definitions.ts"
import { service } from "../../orchestrator/main.ts"
import { orchestratorOf } from "../../orchestrator/orchestrator.ts"
import { Service } from "../../shell/service.ts"
import { nextDefinitions } from "./definitions.ts"

const participant = orchestratorOf(definitions, Object.values(nextDefinitions))

Service.main({ ...service, run: (options) => run(participant, options) })
