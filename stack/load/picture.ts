/**
 * Draws what was measured: `bun stack/load/picture.ts LABEL=FILE ... > picture.svg`. A file has a line of JSON for each run, as
 * `bun run load --json` writes it. Throughput against orders in flight, and latency against the rate of arrival, both with
 * axes whose steps double.
 */
import { readFileSync } from "node:fs"
import type { Report } from "./report.ts"

export interface Curve {
  readonly label: string
  readonly runs: ReadonlyArray<Pick<Report, "load" | "sagasPerSecond" | "latencyMs">>
}

interface Point {
  readonly x: number
  readonly y: number
}
interface Line {
  readonly label: string
  readonly points: ReadonlyArray<Point>
  readonly dashed: boolean
}
interface Chart {
  readonly title: string
  readonly xTitle: string
  readonly yTitle: string
  readonly lines: ReadonlyArray<Line>
}

const colors = ["#0b6e4f", "#b5482a", "#2f5d9b", "#8a6d1d", "#6b3fa0", "#555555"]
const size = { width: 460, height: 320, left: 64, right: 16, top: 36, bottom: 92 }

export const drawPicture = (curves: ReadonlyArray<Curve>): string => {
  const charts: ReadonlyArray<Chart> = [
    {
      title: "Throughput",
      xTitle: "orders in flight",
      yTitle: "sagas/s",
      lines: curves.map(({ label, runs }) => ({
        label,
        dashed: false,
        points: pointsOf(runs.map(({ load, sagasPerSecond }) => [load.inFlight, sagasPerSecond] as const))
      }))
    },
    {
      title: "Latency, p50 and p99 (dashed)",
      xTitle: "orders a second",
      yTitle: "ms",
      lines: curves.flatMap(({ label, runs }) =>
        (["p50", "p99"] as const).map((which) => ({
          label,
          dashed: which === "p99",
          points: pointsOf(runs.map(({ load, latencyMs }) => [load.rate, latencyMs[which]] as const))
        }))
      )
    }
  ]
  const labels = curves.map(({ label }) => label)
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${2 * size.width} ${size.height}" font-family="sans-serif" font-size="12">`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    ...charts.flatMap((chart, index) => [
      `<g transform="translate(${index * size.width} 0)">`,
      ...draw(chart, labels),
      "</g>"
    ]),
    "</svg>",
    ""
  ].join("\n")
}

/** Of several runs at one x the median. */
const pointsOf = (pairs: ReadonlyArray<readonly [number | undefined, number]>): ReadonlyArray<Point> => {
  const byX = Map.groupBy(
    pairs.flatMap(([x, y]) => (x === undefined ? [] : [{ x, y }])),
    ({ x }) => x
  )
  return [...byX]
    .map(([x, points]) => {
      const sorted = points.map(({ y }) => y).toSorted((a, b) => a - b)
      return { x, y: sorted[Math.floor((sorted.length - 1) / 2)] ?? 0 }
    })
    .toSorted((one, other) => one.x - other.x)
}

const draw = ({ title, xTitle, yTitle, lines }: Chart, labels: ReadonlyArray<string>): ReadonlyArray<string> => {
  const points = lines.flatMap((line) => line.points)
  const { left, right, top, bottom, width, height } = size
  const x = scaleOf(
    points.map((point) => point.x),
    left,
    width - right
  )
  const y = scaleOf(
    points.map((point) => point.y),
    height - bottom,
    top
  )
  const text = (atX: number, atY: number, said: string, more = "") =>
    `<text x="${round(atX)}" y="${round(atY)}" ${more}>${escaped(said)}</text>`
  return [
    text(left, 20, title, 'font-weight="bold"'),
    ...x.steps.flatMap((step) => [
      `<line x1="${round(x.at(step))}" y1="${top}" x2="${round(x.at(step))}" y2="${height - bottom}" stroke="#e4e4e4"/>`,
      text(x.at(step), height - bottom + 16, String(step), 'text-anchor="middle"')
    ]),
    ...y.steps.flatMap((step) => [
      `<line x1="${left}" y1="${round(y.at(step))}" x2="${width - right}" y2="${round(y.at(step))}" stroke="#e4e4e4"/>`,
      text(left - 6, y.at(step) + 4, String(step), 'text-anchor="end"')
    ]),
    text((left + width - right) / 2, height - bottom + 34, xTitle, 'text-anchor="middle"'),
    text(
      14,
      (top + height - bottom) / 2,
      yTitle,
      `text-anchor="middle" transform="rotate(-90 14 ${(top + height - bottom) / 2})"`
    ),
    ...lines.flatMap(({ label, points: own, dashed }) => {
      const color = colors[labels.indexOf(label) % colors.length]
      const path = own.map((point) => `${round(x.at(point.x))},${round(y.at(point.y))}`).join(" ")
      const dash = dashed ? ' stroke-dasharray="5 4"' : ""
      return own.length === 0
        ? []
        : [
            `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"${dash}/>`,
            ...own.map(
              (point) => `<circle cx="${round(x.at(point.x))}" cy="${round(y.at(point.y))}" r="3" fill="${color}"/>`
            )
          ]
    }),
    ...labels.flatMap((label, index) => {
      const [atX, atY] = [left + (index % 3) * 130, height - bottom + 56 + Math.floor(index / 3) * 18]
      return [
        `<rect x="${atX}" y="${atY - 9}" width="10" height="10" fill="${colors[index % colors.length]}"/>`,
        text(atX + 15, atY, label)
      ]
    })
  ]
}

/** From the power of two below the least value to the one above the greatest. */
const scaleOf = (values: ReadonlyArray<number>, from: number, to: number) => {
  const positive = values.filter((value) => value > 0)
  const first = Math.floor(Math.log2(Math.min(...positive, 2 ** 20)))
  const last = Math.max(first + 1, Math.ceil(Math.log2(Math.max(...positive, 1))))
  return {
    at: (value: number): number =>
      from + ((Math.log2(Math.max(value, 2 ** first)) - first) / (last - first)) * (to - from),
    steps: Array.from({ length: last - first + 1 }, (_, n) => 2 ** (first + n))
  }
}

const round = (value: number): number => Number(value.toFixed(1))

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

if (import.meta.main) {
  const curves = Bun.argv.slice(2).map((argument): Curve => {
    const [label = "", file = ""] = argument.split("=")
    const lines = readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => line !== "")
    // as the load tool wrote them
    return { label, runs: lines.map((line) => JSON.parse(line) as Report) }
  })
  process.stdout.write(drawPicture(curves))
}
