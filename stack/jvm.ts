/** The command line of an engine that runs on Java. */
import { existsSync, writeFileSync } from "node:fs"
import { join } from "node:path"

/** Where the engines that run on Java are: see install.ts. */
export interface Engines {
  /** Jars of the broker and of Connect. */
  readonly lib: string
  /** Connect's `plugin.path`. */
  readonly plugins: string
  readonly java: string
  /** They end within minutes, as a test's do. */
  readonly brief?: boolean | undefined
  /** See archives.ts. */
  readonly archives?: { readonly folder: string; readonly use: "read" | "write" } | undefined
}

export interface JavaCommand {
  readonly engines: Engines
  readonly mainClass: string
  readonly args: readonly string[]
  readonly heapMb: number
  /** Gives its waits 2 ms of slack, on Linux. */
  readonly slack?: boolean | undefined
}

/** A file and its arguments, ready to spawn. */
export const javaCommand = (command: JavaCommand): { readonly file: string; readonly args: readonly string[] } => {
  const args = [
    ...archiveOptions(command),
    // Half of what a start costs is compiling, and most of what gets compiled in the first minutes is never hot.
    ...(command.engines.brief ? ["-XX:CompileThresholdScaling=3"] : []),
    `-Xms64m`,
    `-Xmx${command.heapMb}m`,
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    // No shared file in the temporary folder per process.
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    `-Dlog4j2.configurationFile=${join(import.meta.dir, "log4j2.properties")}`,
    "-cp",
    join(command.engines.lib, "*"),
    command.mainClass,
    ...command.args
  ]
  return command.slack && process.platform === "linux"
    ? { file: "/bin/sh", args: ["-c", SLACK, command.engines.java, ...args] }
    : { file: command.engines.java, args }
}

const archiveOptions = ({ engines: { archives }, mainClass }: JavaCommand): readonly string[] => {
  if (archives === undefined) return []
  const file = join(archives.folder, `${mainClass}.jsa`)
  if (archives.use === "write") return [`-XX:ArchiveClassesAtExit=${file}`]
  return existsSync(file) ? [`-XX:SharedArchiveFile=${file}`] : []
}

// Debezium's queue spins through the last fraction of a millisecond of each poll. With 2 ms of timer slack it oversleeps that
// fraction: an idle Connect at 10 ms polls costs 150-200 ms of CPU a second instead of 550 (2026-11-21, six connectors). A
// process may set this for itself without any capability, and its threads inherit it.
const SLACK = 'echo 2000000 > /proc/self/timerslack_ns 2>/dev/null; exec "$0" "$@"'

/** A Java properties file. */
export const writeProperties = (file: string, properties: Readonly<Record<string, string | number | boolean>>): void =>
  writeFileSync(
    file,
    Object.entries(properties)
      .map(([name, value]) => `${name}=${String(value).replaceAll("\\", "\\\\")}\n`)
      .join("")
  )
