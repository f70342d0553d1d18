/** The admin app: for the operator of the machine, so it listens on loopback only. */
import { Effect } from "effect"
import { Hono } from "hono"
import { ParkReason, type LetterGroup } from "oncebox"
import { deadLetterRoutes } from "./dead-letters.ts"
import type { Edge } from "./edge.ts"
import { databaseWithin } from "./health.ts"
import { answer, makeApp } from "./http.ts"

/** What a service measures when it is asked, by name, such as `sagas_stuck`; it fails when it can't tell. */
export type Gauges = Effect.Effect<Readonly<Record<string, number>>, unknown>

/** Gauges that can't be told are left out: the counters are wanted most when the database is in trouble. */
export const makeAdminApp = (service: string, edge: Edge, gauges: Gauges = Effect.succeed({})): Hono =>
  makeApp(
    edge,
    new Hono()
      .get(
        "/metrics",
        answer(function* (c) {
          const { counters, deadLetters } = edge.running
          const measured = yield* Effect.orElseSucceed(gauges, () => ({}))
          const parked = yield* deadLetters
            .groups()
            .pipe(
              Effect.timeout(databaseWithin),
              Effect.match({ onSuccess: (groups) => parkedNow(service, groups), onFailure: () => "" })
            )
          return c.text(metrics(service, counters(), measured) + parked, 200, {
            "Content-Type": "text/plain; version=0.0.4; charset=utf-8"
          })
        })
      )
      .route("/dead-letters", deadLetterRoutes(edge))
  )

/** Counters and gauges in Prometheus' text format. */
const metrics = (
  service: string,
  counters: Readonly<Record<string, number>>,
  gauges: Readonly<Record<string, number>>
): string =>
  [
    ...Object.entries(counters).map(([name, value]) => line(service, `${name}_total`, "counter", value)),
    ...Object.entries(gauges).map(([name, value]) => line(service, name, "gauge", value))
  ].join("")

const line = (service: string, name: string, type: "counter" | "gauge", value: number): string => {
  const metric = `oncebox_${name.replaceAll(/[^A-Za-z0-9_]/g, "_")}`
  return `# TYPE ${metric} ${type}\n${metric}{service="${service}"} ${value}\n`
}

/** How many messages are parked now, by reason: also where there are none, so that an alarm finds its series. */
const parkedNow = (service: string, groups: ReadonlyArray<LetterGroup>): string => {
  const counts = new Map(groups.map(({ reason, count }) => [reason, count]))
  const samples = ParkReason.literals.map(
    (reason) => `oncebox_dead_letters{service="${service}",reason="${reason}"} ${counts.get(reason) ?? 0}\n`
  )
  return `# TYPE oncebox_dead_letters gauge\n${samples.join("")}`
}
