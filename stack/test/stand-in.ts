/** Stands in for a service, or for a supervisor that starts things and never ends. Misbehaves as its environment asks. */
import { join } from "node:path"
import { openLedger } from "../ledger.ts"
import { startPostgres } from "../postgres.ts"
import { startService } from "../supervise.ts"

const { PORT, BREAK, STUBBORN, ABANDON_DIR, POSTGRES_PORT } = process.env

if (BREAK !== undefined) {
  console.error(BREAK)
  process.exit(3)
}

if (ABANDON_DIR) {
  const ledger = await openLedger(ABANDON_DIR)
  await startPostgres({
    dataDir: join(ABANDON_DIR, "data", "postgres"),
    logFile: join(ABANDON_DIR, "postgres.log"),
    port: Number(POSTGRES_PORT),
    passwordFile: join(ABANDON_DIR, "password"),
    password: "abandoned",
    ledger
  })
  await startService("stand-in", { PORT: String(PORT), ABANDON_DIR: "" }, join(ABANDON_DIR, "stand-in.log"), {
    ledger,
    script: import.meta.path
  })
  console.log("ready")
  setInterval(() => {}, 60_000)
} else if (PORT !== undefined) {
  process.on("SIGTERM", () => {
    if (STUBBORN === undefined) process.exit(0)
  })
  Bun.serve({ hostname: "127.0.0.1", port: Number(PORT), fetch: () => new Response("ready") })
}
