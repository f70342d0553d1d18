/** The admin app: for the operator of the machine, so it listens on loopback only. */
import { Effect } from "effect"
import { Hono } from "hono"
import { ParkReason, type LetterGroup } from "oncebox"
import { deadLetterRoutes } from "./dead-letters.ts"
import type { Edge } from "./edge.ts"
import { databaseWithin } from "./health.ts"
import { answer, makeApp } from "./http.ts"

export const makeAdminApp = (service: string, edge: Edge): Hono =>
  makeApp(
    edge,
    new Hono()
      .get(
        "/metrics",
        answer(function* (c) {
          const { counters, deadLetters } = edge.running
          // without its database a service still tells what it counted
          const parked = yield* deadLetters
            .groups()
            .pipe(
              Effect.timeout(databaseWithin),
              Effect.match({ onSuccess: (groups) => parkedNow(service, groups), onFailure: () => "" })
            )
          return c.text(metrics(service, counters()) + parked, 200, {
            "Content-Type": "text/plain; version=0.0.4; charset=utf-8"
          })
        })
      )
      .route("/dead-letters", deadLetterRoutes(edge))
  )

/** Counters in Prometheus' text format. */
const metrics = (service: string, counters: Readonly<Record<string, number>>): string =>
  Object.entries(counters)
    .map(([name, value]) => {
      const metric = `oncebox_${name.replaceAll(/[^A-Za-z0-9_]/g, "_")}_total`
      return `# TYPE ${metric} counter\n${metric}{service="${service}"} ${value}\n`
    })
    .join("")

/** How many messages are parked now, by reason: also where there are none, so that an alarm finds its series. */
const parkedNow = (service: string, groups: ReadonlyArray<LetterGroup>): string => {
  const counts = new Map(groups.map(({ reason, count }) => [reason, count]))
  const samples = ParkReason.literals.map(
    (reason) => `oncebox_dead_letters{service="${service}",reason="${reason}"} ${counts.get(reason) ?? 0}\n`
  )
  return `# TYPE oncebox_dead_letters gauge\n${samples.join("")}`
}
