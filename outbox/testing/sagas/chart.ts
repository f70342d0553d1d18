/** A saga as a Mermaid state chart: a state for each step and for each undoing, and the ends. */
import type { SagaDefinition } from "../../sagas/definition.ts"
import { hasEnded } from "../../sagas/tables.ts"
import type { Edge, Node } from "./explore.ts"
import { nameOf } from "./rules.ts"

const ends = ["COMPLETED", "COMPENSATED"]

/** Drawn from the edges that were walked, not from the definition. What only asks again is left out. */
export const chartOf = (
  definition: SagaDefinition,
  starts: ReadonlyArray<Node>,
  edges: ReadonlyArray<Edge>
): string => {
  const { steps } = definition
  const order = [
    ...steps.map((_, step) => nameOf(definition, { step, back: false })),
    ...steps.map((_, step) => nameOf(definition, { step, back: true })).toReversed(),
    ...ends
  ]
  const placeOf = ({ row, history }: Node) =>
    order.indexOf(hasEnded(row) ? row.state : nameOf(definition, history.awaited))
  const arrows = new Map<string, { readonly from: number; readonly to: number; readonly causes: Set<string> }>()
  for (const { from: before, to: after, told } of edges) {
    const [from, to] = [placeOf(before), placeOf(after)]
    if (from === to) continue
    const arrow = arrows.get(`${from} ${to}`) ?? { from, to, causes: new Set() }
    arrow.causes.add(typeof told === "string" ? "no answer" : told.contract.type)
    arrows.set(`${from} ${to}`, arrow)
  }
  const drawn = [...arrows.values()].toSorted((a, b) => a.from - b.from || a.to - b.to)
  const used = new Set([...starts.map(placeOf), ...drawn.flatMap(({ from, to }) => [from, to])])
  const id = (place: number) => idOf(order, place)
  const pivot = steps[definition.pivot]?.name
  const aliases = [...used]
    .toSorted((a, b) => a - b)
    .flatMap((place) => {
      const name = order[place] ?? ""
      const shown = name === pivot ? `${name} (pivot)` : name
      return shown === id(place) ? [] : [`state "${shown.replaceAll('"', "'")}" as ${id(place)}`]
    })
  return [
    "stateDiagram-v2",
    ...[
      ...aliases,
      ...new Set(starts.map((node) => `[*] --> ${id(placeOf(node))}`)),
      ...drawn.map(({ from, to, causes }) => `${id(from)} --> ${id(to)}: ${[...causes].join(", ")}`),
      ...ends.filter((end) => used.has(order.indexOf(end))).map((end) => `${end} --> [*]`)
    ].map((line) => `  ${line}`)
  ].join("\n")
}

/** Words that mean something in a chart. */
const reserved = /^(as|class|classDef|default|direction|end|fork|join|choice|note|state|stateDiagram|style)$/i

const idOf = (order: ReadonlyArray<string>, place: number): string => {
  const slug = (name: string | undefined): string => (name ?? "").replaceAll(/[^A-Za-z0-9]+/g, "_")
  const own = slug(order[place])
  const isTaken = order.some((name, other) => other !== place && slug(name) === own)
  return isTaken || reserved.test(own) || !/^[A-Za-z]/.test(own) ? `s${place}_${own}` : own
}
