/** The clients of a run: what they still want, what they were answered, and what they say when they are in doubt. */
import { requestInput } from "../../lanes/requests.ts"
import type { Outcome, RequestInput } from "../../pass/inputs.ts"
import { type Choices } from "./choices.ts"
import type { Fate, Node } from "./node.ts"
import type { ClientRequest } from "./scenario.ts"
import type { Trace } from "./trace.ts"
import type { Verdict } from "./verdict.ts"

/** The most requests of one pass, while faults befall the system and afterwards. */
const mostAtOnce = 4
const mostAtOnceHealed = 50

export class Clients {
  readonly replies = new Map<string, unknown>()
  /** The requests that are being decided. */
  private sending: ReadonlyArray<ClientRequest> = []

  constructor(
    private waiting: ReadonlyArray<ClientRequest>,
    private readonly nodes: ReadonlyArray<Node>,
    private readonly choices: Choices,
    private readonly newId: () => string,
    private readonly trace: Trace,
    private readonly verdict: Verdict
  ) {}

  get anyWaiting(): boolean {
    return this.waiting.length > 0
  }

  /** Everybody who still waits asks; no fault befalls them. */
  askAll(): void {
    while (this.anyWaiting) this.ask(() => "commits", mostAtOnceHealed)
  }

  /** Some clients of one participant ask, in one pass. */
  ask(fate: () => Fate, mostOfThem = mostAtOnce): void {
    const { to } = this.waiting[this.choices.pick(this.waiting.length)] ?? {}
    const most = 1 + this.choices.pick(mostOfThem)
    const asking = this.waiting.filter((request) => request.to === to).slice(0, most)
    this.send(asking, fate())
    // clients that are in doubt ask again
    if (this.choices.pick(5) === 1) this.send(asking, fate())
    const next = asking.flatMap((request) =>
      this.replies.has(request.idempotencyKey)
        ? (request.answered?.(this.replies.get(request.idempotencyKey), this.choices) ?? [])
        : [request]
    )
    this.waiting = [...this.waiting.filter((request) => !asking.includes(request)), ...next]
  }

  /** What this participant is being asked comes to another replica of it, by clients in doubt. */
  askAgain(): void {
    this.send(this.sending, "commits")
  }

  isAsking(node: Node): boolean {
    return this.sending[0]?.to === node.name
  }

  private send(asking: ReadonlyArray<ClientRequest>, fate: Fate): void {
    const node = this.nodes.find(({ name }) => name === asking[0]?.to)
    if (node === undefined) throw new Error(`there is no participant ${asking[0]?.to}`)
    const before = this.sending
    this.sending = asking
    const outcomes = node.request(
      asking.map((request) => this.inputOf(node, request)),
      fate
    )
    this.sending = before
    asking.forEach((request, index) => this.answered(request, outcomes?.[index]))
  }

  private inputOf({ build }: Node, asked: ClientRequest): RequestInput {
    const { request, payload, idempotencyKey, fingerprint, coordination, definition } = asked
    const entry = build.requests.get(request.type)
    if (entry === undefined) throw new Error(`${build.name} answers no ${request.type}`)
    return requestInput(entry, payload(this.newId), this.newId(), {
      idempotencyKey,
      fingerprint,
      ...(coordination === undefined ? {} : { coordination }),
      ...(definition === undefined ? {} : { definition })
    })
  }

  private answered({ to, request, idempotencyKey: key }: ClientRequest, outcome: Outcome | undefined): void {
    const said = outcome === undefined ? " (not answered)" : ""
    this.trace.note("client", to, `${request.type} ${key}${said}`, () => `${JSON.stringify(outcome)} `)
    if (outcome === undefined) return
    this.verdict.count("requests")
    if (outcome._tag !== "done") return void this.verdict.wrong.push(`${to} answered ${key} with ${outcome._tag}`)
    const earlier = this.replies.get(key)
    if (this.replies.has(key) && JSON.stringify(earlier) !== JSON.stringify(outcome.reply))
      this.verdict.wrong.push(`${to} answered ${key} in two ways: ${JSON.stringify(outcome.reply)}`)
    this.replies.set(key, outcome.reply)
  }
}
