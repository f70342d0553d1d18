/**
 * `bun run setup`: makes the passwords that compose.yaml mounts, one file each in ./secrets; the stack and the embedded mode
 * make theirs by it too, in folders of their own.
 *
 * A password that is there is never replaced, so it may be run again at any time, also by two at once; a crash half way
 * leaves no empty or half-written file behind.
 *
 * Compose mounts these files as they are, with the owner and mode they have here, into containers whose users (bun 1000,
 * postgres 999, kafka 1001) are not the user who ran this. So the folder is what keeps others on this machine out (700)
 * and the files themselves can be read by whoever they are mounted for (644): a mount does not pass through the folder.
 */
import { randomBytes } from "node:crypto"
import { chmodSync, linkSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"

export const secretNames = [
  "postgres_password",
  "owner_password",
  "replication_password",
  "auditor_password",
  "users_password",
  "products_password",
  "orders_password",
  "sagas_password",
  "payments_password",
  "shipments_password"
] as const

export type Secret = (typeof secretNames)[number]

/** Makes what is missing in `directory` and returns the names of what it made. */
export const setup = (directory: string): ReadonlyArray<string> => {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  chmodSync(directory, 0o700)
  return secretNames.filter((name) => makeSecret(directory, name))
}

const makeSecret = (directory: string, name: string): boolean => {
  const file = join(directory, name)
  const draft = join(directory, `.${name}.${randomBytes(6).toString("hex")}`)
  let made = true
  try {
    // Hex: nothing that a shell, a URL, SQL or a properties file could read as something else.
    writeFileSync(draft, randomBytes(32).toString("hex"), { flag: "wx", flush: true })
    linkSync(draft, file) // unlike a rename, fails if there is one already
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error
    made = false
  } finally {
    rmSync(draft, { force: true })
  }
  const found = statSync(file)
  if (!found.isFile() || found.size === 0) throw new Error(`${file} holds no password: remove it and run setup again`)
  chmodSync(file, 0o644)
  return made
}

if (import.meta.main) {
  const made = setup(join(import.meta.dir, "..", "secrets"))
  console.log(`secrets/: ${made.length} made, ${secretNames.length - made.length} kept`)
  if (made.includes("postgres_password")) {
    console.log("A database volume from before has the old superuser password: `docker compose down -v` removes it.")
  }
}
