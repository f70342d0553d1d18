/** `bun run dev`: the six services in one process, on their own ports, until Ctrl-C. What was done stays for the next time. */
import { join } from "node:path"
import { Effect } from "effect"
import { cardProcessor, startEmbedded } from "./embedded.ts"
import { loadFixture } from "./fixture.ts"
import { runTool } from "./tool.ts"

const dev = Effect.gen(function* () {
  const cardProcessorUrl = yield* cardProcessor
  const dir = join(import.meta.dirname, "..", ".stack", "dev")
  const embedded = yield* startEmbedded({ dir, ports: "own", cardProcessorUrl })
  yield* Effect.promise(() => loadFixture(embedded))
  for (const [name, url] of embedded.urls) console.log(`${name.padEnd(13)} ${url}`)
  console.log(`
Products 1 to 4 and users 1 to 3 are there. Place an order and wait for its outcome:

  curl -s localhost:8002/orders -H 'content-type: application/json' -H 'prefer: wait=5' \\
    -d '{"userId":"3","items":[{"productId":"2","quantity":1}]}'

Ctrl-C stops everything; the data stays in .stack/dev.`)
  return yield* Effect.never
})

runTool(dev)
