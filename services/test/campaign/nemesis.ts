/** Carries a schedule of faults out on a running stack, and heals each of them. What it did and when is a log. */
import { signal } from "../../../stack/ledger.ts"
import type { Running } from "../../../stack/process.ts"
import type { Proxy } from "../../../outbox/test/proxy.ts"
import { SERVICE_NAMES, type Service, type ServiceName } from "../../../stack/supervise.ts"
import { text, until, within } from "../../../stack/wait.ts"
import { random } from "../orders.ts"
import { poisonFor } from "../poison.ts"
import { groups, subscribers } from "../world.ts"
import { healsWithinMs, type Act, type Carry, type Target } from "./carry.ts"
import { losingOffsets, offsetsOf, restConnector, skipping } from "./connector-faults.ts"
import type { ClassName, Fault } from "./schedule.ts"
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

/** Somebody says something on each link in that time; if not, all of it is cut. */
const piecesWithinMs = 3_000

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
  const atPiece = way > 0 && (await cutAtPiece(act, link, way === 1))
  if (!atPiece) link.cut()
  act.healed()
}

/** Answers whether anything was said that fits. */
const cutAtPiece = async ({ fault: { target } }: Act, link: Proxy, before: boolean): Promise<boolean> => {
  const fits = (piece: Buffer): boolean =>
    !target.endsWith("-postgres") || /Event|Command/.test(piece.toString("latin1"))
  const { promise: cut, resolve } = Promise.withResolvers<void>()
  link.fate = (piece) => {
    if (!fits(piece)) return "forward"
    link.fate = () => "forward"
    resolve()
    return before ? "cut before" : "cut after"
  }
  try {
    await within("a piece to cut at", piecesWithinMs, cut)
    return true
  } catch {
    return false
  } finally {
    link.fate = () => "forward"
  }
}

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
