/** The memory store keeps the promises about calls to the outside. */
import { callsSuite } from "./calls-suite.ts"
import { memoryWorld } from "./worlds.ts"

callsSuite("the memory store", memoryWorld("till"))
