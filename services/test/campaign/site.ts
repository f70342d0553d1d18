/** What a campaign is played on: the stack behind its links, with an auditor that may be killed, too. */
import { join } from "node:path"
import { freePorts } from "../../../stack/ports.ts"
import { AUDITOR, auditorEnv, SERVICE_NAMES, SERVICES, startService, type Service } from "../../../stack/supervise.ts"
import { startStack, type Stack } from "../stack.ts"
import { makeLinks, type Links } from "./links.ts"

export interface Site {
  readonly stack: Stack
  readonly links: Links
  readonly auditor: Service
}

/** Shorter than usual, so that it has to act in a run of minutes. */
const audits = { AUDIT_GRACE_MS: "2000", AUDIT_EVERY_MS: "1000" }
const readyWithinMs = 120_000

export const startSite = async (ends: Array<() => unknown>, dir: string): Promise<Site> => {
  const links = await makeLinks()
  ends.push(() => links.close())
  const stack = await startStack(ends, { dir, tape: { slim: true }, ...links.options })
  await noteRepublished(stack)
  const { engines } = stack
  const [port = 0] = await freePorts([[]])
  const env = { ...auditorEnv(engines, port), ...audits }
  const auditor = await startService(AUDITOR.name, env, join(dir, "log", `${AUDITOR.name}.log`), {
    ledger: engines.ledger,
    script: AUDITOR.script,
    readyWithinMs
  })
  ends.push(() => auditor.stop())
  return { stack, links, auditor }
}

export const databases = SERVICE_NAMES.map((name) => SERVICES[name].database)

/** What the auditor publishes again comes out of turn; it forgets what it has seen, so a trigger takes it down. */
const noteRepublished = async (stack: Stack): Promise<void> => {
  for (const database of databases)
    await stack.database(database).unsafe(`
      create table campaign_republished (id uuid primary key);
      create function campaign_note_republished() returns trigger language plpgsql security definer as $$
      begin
        insert into campaign_republished values (new.id) on conflict do nothing;
        return new;
      end $$;
      create trigger campaign_note_republished after update of published_at on audit_exceptions
        for each row execute function campaign_note_republished()`)
}
