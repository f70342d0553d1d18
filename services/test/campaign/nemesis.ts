/** Carries a schedule of faults out on a running stack, and heals each of them. What it did and when is a log. */
import type { Sql } from "oncebox"
import { connectorConfig } from "../../../connectors/apply.ts"
import { signal } from "../../../stack/ledger.ts"
import type { Running } from "../../../stack/process.ts"
import type { Proxy } from "../../../outbox/test/proxy.ts"
import { SERVICE_NAMES, type Service, type ServiceName } from "../../../stack/supervise.ts"
import { text, until, within } from "../../../stack/wait.ts"
import { random } from "../orders.ts"
import { poisonFor } from "../poison.ts"
import { type Database, type Stack } from "../stack.ts"
import { groups, subscribers } from "../world.ts"
import type { Site } from "./site.ts"
import { type ClassName, type Fault } from "./schedule.ts"
import { asSuperuser } from "./superuser.ts"

/** A fault as it was carried out; times are of the clock. */
export interface Done extends Fault {
  readonly startedAt: number
  /** When what was killed was started again, what was stopped continued, what was held released. */
  readonly healedAt: number
  /** When its target said that it was ready, or the fault was over anyway. */
  readonly readyAt: number
  /** Why it could not be carried out as it should. */
  readonly failure: string | null
}

const healsWithinMs = 150_000
/** Somebody says something on each link in that time; if not, nothing is cut. */
const piecesWithinMs = 3_000

/** What the nemesis is let loose on. */
export interface Target extends Site {
  /** The planted bug: connectors that lose their offsets go on from now, and nothing makes up for what was before. */
  readonly skips: boolean
}

/** What a fault needs. `healed` is called when the nemesis has done its part. */
interface Act extends Target {
  readonly superuser: Sql
  readonly fault: Fault
  /** Of connectors, when the faults began. */
  readonly offsets: ReadonlyMap<string, ReadonlyArray<unknown>>
  readonly healed: () => void
  readonly next: () => number
}

/** Does it, heals it, and returns when the target is ready again. */
type Carry = (act: Act) => Promise<void>

const serviceOf = ({ stack, auditor, fault }: Act): Service => {
  if (fault.target === auditor?.name) return auditor
  const name = SERVICE_NAMES.find((known) => known === fault.target)
  if (name === undefined) throw new Error(`there is no service ${fault.target}`)
  return stack.service(name)
}

const lasting = ({ fault }: Act): Promise<void> => Bun.sleep(fault.lastsMs)

const killing =
  (what: (act: Act) => Running): Carry =>
  async (act) => {
    const target = what(act)
    await target.kill()
    await lasting(act)
    act.healed()
    await revived(target)
  }

/** Started again and again until it is ready: what it needs to start may be away, too. */
const revived = (target: Pick<Running, "name" | "restart">): Promise<void> =>
  until(`${target.name} back`, healsWithinMs, async () => {
    await target.restart()
    return true
  })

const stopping: Carry = async (act) => {
  const { pid } = serviceOf(act)
  signal(pid, "SIGSTOP")
  await lasting(act)
  signal(pid, "SIGCONT")
  act.healed()
}

const linkOf = ({ links, fault }: Act): Proxy => {
  const link = links.of.get(fault.target)
  if (link === undefined) throw new Error(`there is no link ${fault.target}`)
  return link
}

const onLink =
  (begin: (link: Proxy, act: Act) => void, end: (link: Proxy) => void): Carry =>
  async (act) => {
    const link = linkOf(act)
    begin(link, act)
    await lasting(act)
    end(link)
    act.healed()
  }

/**
 * All connections at once; or one of them, in the middle of what is said on it: before the server has heard a piece, or after,
 * so that its answer is lost. Of what services say to Postgres it is a piece with messages for the outbox, and its COMMIT.
 */
const cutting: Carry = async (act) => {
  const link = linkOf(act)
  const way = Math.floor(act.next() * 3)
  if (way > 0) await within("a piece to cut at", piecesWithinMs, cutAtPiece(act, link, way === 1)).catch(() => {})
  link.fate = () => "forward"
  if (way === 0) link.cut()
  act.healed()
}

const cutAtPiece = ({ fault: { target } }: Act, link: Proxy, before: boolean): Promise<void> =>
  new Promise((resolve) => {
    const fits = (piece: Buffer): boolean =>
      !target.endsWith("-postgres") || /Event|Command/.test(piece.toString("latin1"))
    link.fate = (piece) => {
      if (!fits(piece)) return "forward"
      link.fate = () => "forward"
      resolve()
      return before ? "cut before" : "cut after"
    }
  })

const terminating: Carry = async ({ superuser, fault, healed }) => {
  await until(`backends of ${fault.target} ended`, healsWithinMs, async () => {
    const ended = await superuser`
      select pg_terminate_backend(pid)
      from pg_stat_activity
      where datname = ${fault.target} and usename in (${`${fault.target}_service`}, 'oncebox_replication')`
    return ended.length > 0
  })
  healed()
}

const poisoning: Carry = async ({ stack, fault, healed }) => {
  const all = poisonFor(subscribers)
  const chosen = all[fault.seed % all.length]
  if (chosen === undefined) throw new Error("there is no poison")
  // the broker may be away for longer than its client tries
  await until("poison on its topic", healsWithinMs, async () => {
    await stack.tape.produce([chosen.record])
    return true
  })
  healed()
}

/** Some hundred records back, in each partition of the topics that the service reads. */
const rewinding: Carry = async (act) => {
  const { stack, fault, next } = act
  const service = serviceOf(act)
  await service.stop()
  const { group, topics } = groups.find((one) => one.group === (fault.target as ServiceName)) ?? {
    group: "",
    topics: []
  }
  try {
    await until(`group ${group} rewound`, healsWithinMs, () =>
      stack.tape.admin(async (admin) => {
        for (const { topic, partitions } of await admin.fetchOffsets({ groupId: group, topics: [...topics] })) {
          const back = partitions
            .filter(({ offset }) => Number(offset) > 0)
            .map(({ partition, offset }) => ({
              partition,
              offset: String(Math.max(0, Number(offset) - 10 - Math.floor(next() * 500)))
            }))
          if (back.length > 0) await admin.setOffsets({ groupId: group, topic, partitions: back })
        }
        return true
      })
    )
  } finally {
    act.healed()
    await revived(service)
  }
}

/** Connect may be down, or busy with a rebalance. Answers what it said. */
const rest = async (
  { engines }: Stack,
  method: "GET" | "PUT" | "POST" | "DELETE" | "PATCH",
  path: string,
  body?: object
): Promise<string> => {
  let said = ""
  await until(`${method} ${path}`, healsWithinMs, async () => {
    const response = await fetch(`${engines.connect.url}/connectors/${path}`, {
      method,
      ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(5_000)
    })
    said = await response.text()
    if (!response.ok) throw new Error(said)
    return true
  })
  return said
}

/** A connector whose offsets can be changed. */
const stopped = async (stack: Stack, name: string): Promise<void> => {
  await rest(stack, "PUT", `${name}/stop`)
  await until(`connector ${name} stopped`, healsWithinMs, async () =>
    (await rest(stack, "GET", `${name}/status`)).includes('"state":"STOPPED"')
  )
}

const restConnector: Carry = async (act) => {
  const { stack, fault, next, healed } = act
  if (next() < 0.5) {
    await rest(stack, "PUT", `${fault.target}/pause`)
    await lasting(act)
    await rest(stack, "PUT", `${fault.target}/resume`)
  } else await rest(stack, "POST", `${fault.target}/restart?includeTasks=true`)
  healed()
}

/** What Connect says of a connector's offsets; none before it has published something. */
const offsetsOf = async (stack: Stack, name: string): Promise<ReadonlyArray<unknown>> =>
  // what Connect answers
  (JSON.parse(await rest(stack, "GET", `${name}/offsets`)) as { readonly offsets: ReadonlyArray<unknown> }).offsets

/** They are gone, or what they were when the faults began. */
const losingOffsets: Carry = async ({ stack, fault: { target: name }, offsets, next, healed }) => {
  const earlier = offsets.get(name) ?? []
  try {
    await stopped(stack, name)
    if (earlier.length === 0 || next() < 0.5) await rest(stack, "DELETE", `${name}/offsets`)
    else await rest(stack, "PATCH", `${name}/offsets`, { offsets: earlier })
  } finally {
    await rest(stack, "PUT", `${name}/resume`)
    healed()
  }
}

/** The planted bug: the slot is made anew and begins where the log is then, and no snapshot makes up for what was before. */
const skipping: Carry = async ({ stack, superuser, fault, healed }) => {
  const name = fault.target
  const config = connectorConfig(name)
  const slot = config["slot.name"] ?? ""
  await stopped(stack, name)
  await rest(stack, "DELETE", `${name}/offsets`)
  await rest(stack, "PUT", `${name}/config`, { ...config, name, "snapshot.mode": "no_data" })
  await until(`slot ${slot} dropped`, 30_000, async () => {
    await superuser`select pg_drop_replication_slot(${slot})`
    return true
  })
  const sql = stack.database(name as Database)
  const count = async (): Promise<number> =>
    (await sql<Array<{ n: number }>>`select count(*)::int as n from outbox`)[0]?.n ?? 0
  const before = await count()
  await until("a message that nobody reads", healsWithinMs, async () => (await count()) > before)
  await rest(stack, "PUT", `${name}/resume`)
  healed()
}

const carries: Readonly<Record<ClassName, Carry>> = {
  "kill service": killing(serviceOf),
  "kill connect": killing(({ stack }) => stack.engines.connect),
  "kill broker": killing(({ stack }) => stack.engines.kafka),
  "kill postgres": killing(({ stack }) => stack.engines.postgres),
  "short stop": stopping,
  "stop beyond session": stopping,
  "cut link": cutting,
  "black hole": onLink(
    (link) => link.hold(),
    (link) => link.release()
  ),
  latency: onLink(
    (link, { next }) => {
      link.latencyMs = 20 + Math.round(next() * 280)
    },
    (link) => {
      link.latencyMs = 0
    }
  ),
  "terminate backends": terminating,
  poison: poisoning,
  "rewind group": rewinding,
  "connector over REST": restConnector,
  "connector offsets": losingOffsets
}

/** Carries all of it out, each fault at its time, or as soon as its target is ready again. Returns when all are healed. */
export const unleash = async (
  target: Target,
  faults: ReadonlyArray<Fault>,
  log: (done: Done) => void
): Promise<void> => {
  const superuser = asSuperuser(target.stack)
  const offsets = new Map<string, ReadonlyArray<unknown>>()
  for (const name of new Set(faults.flatMap((fault) => (fault.class === "connector offsets" ? [fault.target] : []))))
    offsets.set(name, await offsetsOf(target.stack, name))
  const began = Date.now()
  // one after the other for each target
  const busy = new Map<string, Promise<void>>()
  for (const fault of faults) {
    await Bun.sleep(Math.max(0, began + fault.atMs - Date.now()))
    const before = busy.get(fault.target) ?? Promise.resolve()
    busy.set(
      fault.target,
      before.then(async () => log(await carryOut({ ...target, superuser, offsets, fault })))
    )
  }
  await Promise.all(busy.values())
  await superuser.end({ timeout: 1 })
}

const carryOut = async (given: Omit<Act, "healed" | "next">): Promise<Done> => {
  const { fault, skips } = given
  const startedAt = Date.now()
  let healedAt: number | undefined
  let failure: string | null = null
  const healed = (): void => void (healedAt ??= Date.now())
  try {
    const carry = skips && fault.class === "connector offsets" ? skipping : carries[fault.class]
    const carrying = carry({ ...given, healed, next: random(fault.seed) })
    await within(`${fault.class} of ${fault.target}`, healsWithinMs, carrying)
  } catch (cause) {
    failure = text(cause)
  }
  const readyAt = Date.now()
  return { ...fault, startedAt, healedAt: healedAt ?? readyAt, readyAt, failure }
}
