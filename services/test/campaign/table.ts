/** The verdict as people read it. */
import type { Verdict } from "./verdict.ts"

export const tableOf = ({ violations, void: shows, classes, counts }: Verdict): string => {
  const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`.padStart(8)
  const wrong = Object.entries(violations)
  return [
    `${"fault".padEnd(22)}${"planned".padStart(8)}${"done".padStart(6)}   recovery: p50     p95     max`,
    ...classes.map(
      ({ class: name, planned, done, recovery }) =>
        `${name.padEnd(22)}${String(planned).padStart(8)}${String(done).padStart(6)}     ${
          recovery === null ? "–" : `${seconds(recovery.p50)}${seconds(recovery.p95)}${seconds(recovery.max)}`
        }`
    ),
    `${"all".padEnd(22)}${String(classes.reduce((sum, { planned }) => sum + planned, 0)).padStart(8)}${String(
      classes.reduce((sum, { done }) => sum + done, 0)
    ).padStart(6)}`,
    "",
    ...Object.entries(counts).map(([what, count]) => `${String(count).padStart(8)}  ${what}`),
    "",
    ...wrong.flatMap(([check, lines]) => [`✗ ${check}`, ...lines.map((line) => `    ${line}`)]),
    ...shows.map((why) => `○ ${why}`),
    wrong.length > 0
      ? `${wrong.length} checks found violations`
      : shows.length > 0
        ? "no violations, but the run is void"
        : "no violations"
  ].join("\n")
}
