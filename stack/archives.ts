/**
 * Class data archives: what the engines' Java would load and verify anew at each start, kept in a file by the first one (JEP 350).
 * With them the engines take about a quarter less time to start. Without them, or with one that doesn't fit, they start all the same.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import { startConnect } from "./connect.ts"
import type { Engines } from "./jvm.ts"
import { startKafka } from "./kafka.ts"
import { freePorts } from "./ports.ts"
import { text } from "./wait.ts"

/** Runs the broker and Connect once, and keeps what they loaded. Returns the engines as they are to be started from now on. */
export const withArchives = async (engines: Engines, target: string, log: (line: string) => void): Promise<Engines> => {
  if (!existsSync(target)) await writeArchives(engines, target, log)
  return { ...engines, archives: { folder: target, use: "read" } }
}

const writeArchives = async (engines: Engines, target: string, log: (line: string) => void): Promise<void> => {
  log("preparing the engines (about half a minute, once)")
  const dir = mkdtempSync(`${target}.unfinished-`)
  const archives = join(dir, "archives")
  mkdirSync(archives)
  try {
    await runOnce({ ...engines, archives: { folder: archives, use: "write" } }, dir)
  } catch (cause) {
    // What is missing is not tried again at every start.
    log(`the engines will start a little slower: ${text(cause)}`)
  }
  try {
    renameSync(archives, target)
  } catch (cause) {
    // Another process was faster; what it put there is as good.
    if (!existsSync(target)) throw cause
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Java writes an archive as it ends. */
const runOnce = async (engines: Engines, dir: string): Promise<void> => {
  const [port = 0, controllerPort = 0, connectPort = 0, postgresPort = 0] = await freePorts([[], [], [], []])
  const kafka = await startKafka({
    engines,
    dataDir: join(dir, "data"),
    propertiesFile: join(dir, "kafka.properties"),
    logFile: join(dir, "kafka.log"),
    port,
    controllerPort
  })
  try {
    const connect = await startConnect({
      engines,
      propertiesFile: join(dir, "connect.properties"),
      logFile: join(dir, "connect.log"),
      port: connectPort,
      brokers: `127.0.0.1:${port}`,
      // No connector runs, so nobody asks for it.
      postgres: { host: "127.0.0.1", port: postgresPort },
      replicationPassword: ""
    })
    await connect.stop()
  } finally {
    await kafka.stop()
  }
}
