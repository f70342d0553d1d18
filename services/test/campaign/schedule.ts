/** What the nemesis does and when, as a function of a seed. The same seed gives the same schedule, not the same run. */
import { random } from "../orders.ts"
import { linkNames } from "./links.ts"

/** Which faults there are, of a thousand how many, how long each lasts, and what it is done to. */
const services = ["user", "product", "order", "orchestrator", "payment", "shipment"] as const
const processes = [...services, "auditor"] as const
const databases = ["users", "products", "orders", "sagas", "payments", "shipments"] as const

interface FaultClass {
  readonly perThousand: number
  /** From the fault to its healing; 0 is a moment. */
  readonly lastsMs: readonly [least: number, most: number]
  readonly targets: ReadonlyArray<string>
  /** How long its target may be busy after the healing: with starting, or with joining its group again. */
  readonly recoversMs: number
}

/** Longer than the 15 s after which a silent member's partitions go to others. */
const beyondSessionMs = [16_000, 18_000] as const

export const faultClasses = {
  "kill service": { perThousand: 300, lastsMs: [200, 1_500], targets: processes, recoversMs: 8_000 },
  "cut link": { perThousand: 100, lastsMs: [0, 0], targets: linkNames, recoversMs: 0 },
  "terminate backends": { perThousand: 110, lastsMs: [0, 0], targets: databases, recoversMs: 0 },
  "black hole": { perThousand: 75, lastsMs: [1_000, 5_000], targets: linkNames, recoversMs: 1_000 },
  latency: { perThousand: 75, lastsMs: [1_000, 8_000], targets: linkNames, recoversMs: 0 },
  "short stop": { perThousand: 110, lastsMs: [1_000, 4_000], targets: processes, recoversMs: 0 },
  poison: { perThousand: 45, lastsMs: [0, 0], targets: ["topics"], recoversMs: 0 },
  "rewind group": { perThousand: 40, lastsMs: [0, 0], targets: services, recoversMs: 8_000 },
  "connector over REST": { perThousand: 40, lastsMs: [1_000, 4_000], targets: databases, recoversMs: 2_000 },
  "stop beyond session": { perThousand: 40, lastsMs: beyondSessionMs, targets: services, recoversMs: 8_000 },
  "kill connect": { perThousand: 15, lastsMs: [200, 1_000], targets: ["connect"], recoversMs: 12_000 },
  "kill broker": { perThousand: 15, lastsMs: [200, 1_000], targets: ["kafka"], recoversMs: 10_000 },
  "kill postgres": { perThousand: 15, lastsMs: [200, 1_000], targets: ["postgres"], recoversMs: 3_000 },
  "connector offsets": { perThousand: 20, lastsMs: [0, 0], targets: databases, recoversMs: 5_000 }
} as const satisfies Readonly<Record<string, FaultClass>>

export type ClassName = keyof typeof faultClasses
export const classNames = Object.keys(faultClasses) as ReadonlyArray<ClassName>
const classOf = (name: ClassName): FaultClass => faultClasses[name]

export interface Fault {
  readonly id: number
  readonly class: ClassName
  readonly target: string
  /** Since the phase of faults began. */
  readonly atMs: number
  readonly lastsMs: number
  /** For what else is left to chance. */
  readonly seed: number
}

/** How many of each class: by their shares, one of each at least, as many as asked for together. */
export const mixOf = (count: number): ReadonlyMap<ClassName, number> => {
  const total = classNames.reduce((sum, name) => sum + classOf(name).perThousand, 0)
  const mix = new Map(
    classNames.map((name) => [name, Math.max(1, Math.floor((count * classOf(name).perThousand) / total))])
  )
  const sum = (): number => [...mix.values()].reduce((all, one) => all + one, 0)
  const most = classNames.toSorted((a, b) => classOf(b).perThousand - classOf(a).perThousand)
  for (let n = 0; sum() !== count; n = (n + 1) % most.length) {
    const name = most[n]
    if (name === undefined) break
    const now = mix.get(name) ?? 0
    if (sum() < count) mix.set(name, now + 1)
    else if (now > 1) mix.set(name, now - 1)
    else if ([...mix.values()].every((each) => each <= 1)) throw new Error(`at least ${classNames.length} faults`)
  }
  return mix
}

/** Faults come in the first part of each window; the rest of it is left alone, so that progress can be seen. */
export const windowMs = 30_000
const faultyMs = 21_500
const mostAtOnce = 3
const attempts = 2_000

/** So long the phase of faults must be at least, for so many of them. */
export const secondsFor = (count: number): number => Math.ceil((count * 2_000) / windowMs) * (windowMs / 1_000)

export const schedule = (seed: number, count: number, seconds: number): ReadonlyArray<Fault> =>
  scheduleOf(mixOf(count), seed, seconds)

export const scheduleOf = (
  mix: ReadonlyMap<ClassName, number>,
  seed: number,
  seconds: number
): ReadonlyArray<Fault> => {
  const next = random(seed)
  const windows = Math.floor((seconds * 1_000) / windowMs)
  const placed: Array<Fault> = []
  const wanted = [...mix].flatMap(([name, count]) => Array.from({ length: count }, () => name))
  // those that last longest find their place first
  wanted.sort((a, b) => classOf(b).lastsMs[1] - classOf(a).lastsMs[1])
  for (const [id, name] of wanted.entries()) {
    const { lastsMs, targets } = classOf(name)
    const fault = attempt(() => {
      const lasts = Math.round(lastsMs[0] + next() * (lastsMs[1] - lastsMs[0]))
      const atMs = Math.floor(next() * windows) * windowMs + Math.floor(next() * Math.max(faultyMs - lasts, 1))
      const target = targets[Math.floor(next() * targets.length)] ?? ""
      const found: Fault = { id, class: name, target, atMs, lastsMs: lasts, seed: Math.floor(next() * 2 ** 31) }
      return fits(found, placed) ? found : undefined
    })
    if (fault === undefined) throw new Error(`${wanted.length} faults don't fit into ${seconds} s`)
    placed.push(fault)
  }
  return placed.toSorted((a, b) => a.atMs - b.atMs).map((fault, at) => ({ ...fault, id: at + 1 }))
}

const attempt = <A>(make: () => A | undefined): A | undefined => {
  for (let n = 0; n < attempts; n++) {
    const made = make()
    if (made !== undefined) return made
  }
  return undefined
}

const endOf = ({ atMs, lastsMs }: Fault): number => atMs + lastsMs
const busyUntil = (fault: Fault): number => endOf(fault) + classOf(fault.class).recoversMs

/** What is used by more than one target: who does something to a connector needs Connect, and Connect needs the broker. */
const resourceOf = ({ class: name, target }: Fault): string =>
  name === "kill connect" || name === "kill broker" || name === "connector over REST" || name === "connector offsets"
    ? "connect"
    : target

const fits = (fault: Fault, others: ReadonlyArray<Fault>): boolean => {
  const meeting = others.filter((other) => other.atMs <= endOf(fault) && fault.atMs <= endOf(other))
  const same = others.filter(
    (other) => resourceOf(other) === resourceOf(fault) && busyUntil(fault) + busyUntil(other) > fault.atMs + other.atMs
  )
  return (
    meeting.length < mostAtOnce && same.every((other) => other.atMs > busyUntil(fault) || fault.atMs > busyUntil(other))
  )
}

/** The share of a time in which no fault is under way. */
export const quietShare = (
  spans: ReadonlyArray<{ readonly from: number; readonly to: number }>,
  from: number,
  to: number
): number => {
  let reached = from
  let quiet = 0
  for (const span of spans.toSorted((a, b) => a.from - b.from)) {
    quiet += Math.max(0, Math.min(span.from, to) - reached)
    reached = Math.max(reached, span.to)
  }
  return (quiet + Math.max(0, to - reached)) / (to - from)
}

export const spanOf = (fault: Fault) => ({ from: fault.atMs, to: endOf(fault) })
