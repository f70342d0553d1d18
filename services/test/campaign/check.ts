/** The checker as a process: `bun check.ts <folder>` judges what a campaign left in a folder, and writes verdict.json there. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { subscribers } from "../world.ts"
import type { Run, Snapshot } from "./dump.ts"
import { files } from "./files.ts"
import { readLines, type Event } from "./history.ts"
import type { Done } from "./nemesis.ts"
import type { Fault } from "./schedule.ts"
import { tableOf } from "./table.ts"
import { judge, type Verdict } from "./verdict.ts"
import { workloadOf } from "./workload.ts"

export const judgeFolder = (folder: string): Verdict => {
  // all of it was written by a process of the campaign
  const read = <A>(name: keyof typeof files): A => JSON.parse(readFileSync(join(folder, files[name]), "utf8")) as A
  const lines = <A>(name: keyof typeof files): ReadonlyArray<A> => readLines<A>(join(folder, files[name]))
  const run = read<Run>("run")
  const { plan, clients } = workloadOf(run.work)
  return judge({
    run,
    plan,
    patient: new Set(clients.flatMap(({ givesUp, order }) => (givesUp ? [] : [order.key]))),
    subscribers,
    schedule: read<ReadonlyArray<Fault>>("schedule"),
    done: lines<Done>("nemesis"),
    history: lines<Event>("history"),
    snapshot: read<Snapshot>("snapshot"),
    replayed: existsSync(join(folder, files.replayed)) ? read<Snapshot>("replayed") : null
  })
}

if (import.meta.main) {
  const folder = Bun.argv[2] ?? "."
  const verdict = judgeFolder(folder)
  writeFileSync(join(folder, files.verdict), `${JSON.stringify(verdict, null, 2)}\n`)
  console.log(tableOf(verdict))
  process.exit(Object.keys(verdict.violations).length > 0 ? 1 : verdict.void.length > 0 ? 3 : 0)
}
