/** What users test their participants and their sagas with. */
export { decidedAt, decideWith, type Decided, type Input } from "./decide.ts"
export { checkSaga, type CheckSagaOptions, type SagaCheck, type SagaFinding } from "./sagas/check.ts"
export { sagaRules, type SagaRule } from "./sagas/rules.ts"
