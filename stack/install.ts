/**
 * Brings the engines that come from Maven Central (broker, Kafka Connect, the Debezium connector) onto this machine, once.
 *
 * They are kept under `.stack/engines/<hash of pom.xml>`. The folder appears by a rename when all of it is there: a run that is
 * cut short leaves nothing that a later one could take for an installation. Alone: `bun stack/install.ts`.
 */
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs"
import { join, resolve } from "node:path"
import { withArchives } from "./archives.ts"
import type { Engines } from "./jvm.ts"
import { startOf } from "./ledger.ts"

class NotInstallable extends Error {}

const REPOSITORY = resolve(import.meta.dir, "..")
const POM = join(import.meta.dir, "pom.xml")
const UNFINISHED = ".unfinished-"
const OLDEST_JAVA = 17
const DOWNLOAD_WITHIN_MS = 10 * 60_000

/** Where the engines are; downloads them first if they are not there yet. */
export const installEngines = async (log: (line: string) => void = () => {}): Promise<Engines> => {
  const java = process.env["JAVA_HOME"] ? join(process.env["JAVA_HOME"], "bin", "java") : "java"
  const said = (await output(java, ["-version"])) ?? ""
  const version = versionIn(said)
  const home = join(REPOSITORY, ".stack", "engines")
  const target = join(home, hashOf(readFileSync(POM)))
  const missing = [
    ...(version === undefined || version < OLDEST_JAVA ? [javaMissing(version)] : []),
    ...(!existsSync(target) && (await output("mvn", ["-v"])) === undefined
      ? ["Maven (mvn): downloads the pinned engines."]
      : [])
  ]
  if (missing.length > 0) throw new NotInstallable(howToGet(missing))
  if (!existsSync(target)) await download(home, target, log)
  const engines = { lib: join(target, "lib"), plugins: join(target, "plugins"), java }
  return withArchives(engines, join(target, `archives-${hashOf(said)}`), log)
}

const hashOf = (content: string | Buffer): string => createHash("sha256").update(content).digest("hex").slice(0, 12)

const download = async (home: string, target: string, log: (line: string) => void): Promise<void> => {
  mkdirSync(home, { recursive: true })
  const unfinished = join(home, `${UNFINISHED}${process.pid}`)
  for (const name of readdirSync(home)) {
    const pid = name.startsWith(UNFINISHED) ? Number(name.slice(UNFINISHED.length)) : undefined
    if (pid !== undefined && (pid === process.pid || startOf(pid) === undefined))
      rmSync(join(home, name), { recursive: true, force: true })
  }
  log("downloading the engines (about 80 MB, once)")
  try {
    const mvn = Bun.spawn(["mvn", "-q", "-B", "-C", "-f", POM, `-Dengines.dir=${unfinished}`, "package"], {
      stdout: "pipe",
      stderr: "inherit",
      timeout: DOWNLOAD_WITHIN_MS
    })
    const said = await new Response(mvn.stdout).text()
    if ((await mvn.exited) !== 0) throw new NotInstallable(`Maven could not download the engines:\n${said.trim()}`)
    rmSync(join(unfinished, "target"), { recursive: true, force: true })
    try {
      renameSync(unfinished, target)
    } catch (cause) {
      // Another process was faster; what it put there is the same.
      if (!existsSync(target)) throw cause
    }
  } finally {
    rmSync(unfinished, { recursive: true, force: true })
  }
}

const versionIn = (said: string): number | undefined => {
  const version = said.match(/version "(?:1\.)?(\d+)/)?.[1]
  return version === undefined ? undefined : Number(version)
}

const javaMissing = (version: number | undefined): string =>
  `Java ${OLDEST_JAVA} or newer: runs the broker and Kafka Connect${version === undefined ? "" : ` (found Java ${version})`}.`

const howToGet = (missing: readonly string[]): string =>
  [
    "The stack needs, and does not find on this machine:",
    ...missing.map((line) => `  - ${line}`),
    "To get them:",
    "  Debian, Ubuntu   sudo apt-get install maven openjdk-17-jre-headless   (or a newer one)",
    "  macOS            brew install openjdk@17 maven   (then put openjdk's bin folder on PATH, or set JAVA_HOME)"
  ].join("\n")

/** What a short command says, or undefined when it is not there or fails. */
const output = async (file: string, args: readonly string[]): Promise<string | undefined> => {
  try {
    const child = Bun.spawn([file, ...args], { stdout: "pipe", stderr: "pipe", timeout: 30_000 })
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    return (await child.exited) === 0 ? out + err : undefined
  } catch {
    return undefined
  }
}

if (import.meta.main) {
  try {
    const { lib } = await installEngines(console.log)
    console.log(`engines are in ${resolve(lib, "..")}`)
  } catch (cause) {
    console.error(cause instanceof NotInstallable ? cause.message : cause)
    process.exit(1)
  }
}
