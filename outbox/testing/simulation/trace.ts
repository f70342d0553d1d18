/** What happened in a run: a digest that tells two runs apart, and lines from which a sequence diagram is drawn. */
import type { BrokerRecord } from "../../broker/broker.ts"

export interface TraceLine {
  /** Milliseconds since the run's beginning. */
  readonly at: number
  readonly from: string
  readonly to: string
  readonly text: string
  /** What it is about, such as an order's id, or a text that names it; empty when it is everybody's. */
  readonly correlation: string
}

export class Trace {
  readonly lines: Array<TraceLine> = []
  private hash = 0n

  /** Keeps lines only when told to: a run that failed is played again with them. */
  constructor(
    private readonly keeps: boolean,
    private readonly elapsed: () => number
  ) {}

  get digest(): string {
    return this.hash.toString(16).padStart(16, "0")
  }

  digested(text: string): void {
    this.hash = Bun.hash.wyhash(text, this.hash)
  }

  note(from: string, to: string, text: string, correlation = () => ""): void {
    this.digested(`${from} ${to} ${text}`)
    if (this.keeps) this.lines.push({ at: this.elapsed(), from, to, text, correlation: correlation() })
  }

  record(to: string, record: BrokerRecord, outcome: string): void {
    const header = (name: string): string => String(record.headers[name] ?? "")
    const said = outcome === "done" ? "" : ` (${outcome})`
    this.note(header("ce_source"), to, `${header("ce_type")}${said}`, () => header("correlation"))
  }
}

const quoted = (text: string): string => text.replaceAll(/[;#\n]/g, " ").replaceAll(":", " ")

const uuids = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g

/** A Mermaid sequence diagram of the lines: of those about an id that the texts name, and of what befell everybody. */
export const sequenceDiagram = (lines: ReadonlyArray<TraceLine>, about: ReadonlyArray<string> = []): string => {
  const ids = about.flatMap((text) => text.match(uuids) ?? [])
  const shown = lines.filter(
    ({ correlation }) => ids.length === 0 || correlation === "" || ids.some((id) => correlation.includes(id))
  )
  const names = [...new Set(shown.flatMap(({ from, to }) => [from, to]))]
  return [
    "sequenceDiagram",
    ...names.map((name) => `  participant ${name}`),
    ...shown.map(({ at, from, to, text }) =>
      from === to ? `  Note over ${to}: ${at} ms ${quoted(text)}` : `  ${from}->>${to}: ${quoted(text)} (${at} ms)`
    ),
    ""
  ].join("\n")
}
