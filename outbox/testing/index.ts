/** What users test their participants with. */
export { decidedAt, decideWith, type Decided, type Input } from "./decide.ts"
