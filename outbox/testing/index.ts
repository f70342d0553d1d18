/** What users test their participants, their sagas and whole systems with. */
export { decidedAt, decideWith, type Decided, type Input } from "./decide.ts"
export { pickBy, pickOne, type Choices } from "./simulation/choices.ts"
export { faultNames, type FaultName } from "./simulation/faults.ts"
export type { ClientRequest, Plan, Quiet, Scenario } from "./simulation/scenario.ts"
export { replay, simulate, type Failure, type Simulated, type SimulationOptions } from "./simulation/simulate.ts"
export { sequenceDiagram, type TraceLine } from "./simulation/trace.ts"
export { checkSaga, type CheckSagaOptions, type SagaCheck, type SagaFinding } from "./sagas/check.ts"
export { sagaRules, type SagaRule } from "./sagas/rules.ts"
