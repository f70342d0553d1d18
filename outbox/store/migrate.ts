/**
 * Migrations: numbered .sql files, forward only; all that a run finds missing is one transaction, so a file that fails
 * leaves nothing. Run by the owner of the database.
 *
 * Several processes may run them at once: they take turns. A file that was run is never run again; one that was
 * changed since stops the migration, because two databases would differ and nobody would know.
 */
import { readdir, readFile } from "node:fs/promises"
import { basename, join } from "node:path"
import type { Sql } from "./connection.ts"

/** A folder of `NNNN_name.sql` files under a name of its own, such as the library's or a service's. */
export interface MigrationSource {
  readonly name: string
  readonly folder: string
}

/** The library's tables, for every participant. */
const core: MigrationSource = { name: "oncebox", folder: join(import.meta.dirname, "migrations", "core") }

/** The tables of an orchestrator. */
const saga: MigrationSource = { name: "oncebox-saga", folder: join(import.meta.dirname, "migrations", "saga") }

/** A migration was changed after it had been run, or is not numbered, or twice. */
export class MigrationRefused extends Error {
  override readonly name = "MigrationRefused"
}

/** Runs what is missing, in the order of the sources and their numbers. Answers what it ran. */
const run = async (
  owner: Sql,
  sources: ReadonlyArray<MigrationSource>,
  settings: { readonly slotMs?: number; readonly inboxSlots?: number } = {}
): Promise<ReadonlyArray<string>> => {
  const files = (await Promise.all(sources.map(filesOf))).flat()
  return owner.begin(async (transaction) => {
    // one migrator at a time; the others find everything done
    await transaction`select pg_advisory_xact_lock(hashtext('oncebox_migrations'))`
    await transaction`select set_config('oncebox.slot_ms', ${String(settings.slotMs ?? "")}, true)`
    await transaction`select set_config('oncebox.inbox_slots', ${String(settings.inboxSlots ?? "")}, true)`
    await transaction`
      create table if not exists oncebox_migrations (
        name     text primary key,
        checksum text not null,
        run_at   timestamptz not null default now()
      )`
    const done = new Map(
      (await transaction<Array<{ name: string; checksum: string }>>`select name, checksum from oncebox_migrations`).map(
        (row) => [row.name, row.checksum]
      )
    )
    const ran: Array<string> = []
    for (const { name, text } of files) {
      const checksum = new Bun.CryptoHasher("sha256").update(text).digest("hex")
      const known = done.get(name)
      if (known === checksum) continue
      if (known !== undefined)
        throw new MigrationRefused(`${name} was changed after it had been run: put it back and write a new migration`)
      await transaction.unsafe(text)
      await transaction`insert into oncebox_migrations (name, checksum) values (${name}, ${checksum})`
      ran.push(name)
    }
    return ran
  })
}

const filesOf = async ({
  name,
  folder
}: MigrationSource): Promise<ReadonlyArray<{ readonly name: string; readonly text: string }>> => {
  const names = (await readdir(folder)).filter((file) => file.endsWith(".sql")).sort()
  const stray = names.find((file) => !/^\d{4}_.+\.sql$/.test(file))
  if (stray !== undefined)
    throw new MigrationRefused(`${folder} has ${stray}: its name does not begin with four digits and _`)
  const numbers = names.map((file) => file.split("_", 1)[0])
  if (new Set(numbers).size !== numbers.length) throw new MigrationRefused(`${folder} has two migrations of one number`)
  return Promise.all(
    names.map(async (file) => ({ name: `${name}/${basename(file)}`, text: await readFile(join(folder, file), "utf8") }))
  )
}

export const Migrations = { core, saga, run }
