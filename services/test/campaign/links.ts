/** A proxy on each way between the processes: each service, and Connect, on one side, Postgres and the broker on the other. */
import { startProxy, type Proxy } from "../../../outbox/test/proxy.ts"
import { freePorts } from "../../../stack/ports.ts"
import { SERVICE_NAMES } from "../../../stack/supervise.ts"
import type { StackOptions } from "../stack.ts"

const clients = [...SERVICE_NAMES, "connect"] as const
type Client = (typeof clients)[number]

export type LinkName = `${Client}-postgres` | `${Client}-broker`

export const linkNames: ReadonlyArray<LinkName> = clients.flatMap((client) => [
  `${client}-postgres` as const,
  `${client}-broker` as const
])

export interface Links {
  readonly of: ReadonlyMap<string, Proxy>
  /** How a stack is started so that all of it goes through them. */
  readonly options: Pick<StackOptions, "engines" | "env">
  readonly close: () => Promise<void>
}

const host = "127.0.0.1"

/** The engines are not up yet: the proxies are told where they will be. */
export const makeLinks = async (): Promise<Links> => {
  const [postgres = 0, kafka = 0, ...listeners] = await freePorts([[], [], ...clients.map(() => [])])
  const ways = await Promise.all(
    clients.map(async (client, n) => {
      const port = listeners[n] ?? 0
      const toPostgres = await startProxy({ host, port: postgres })
      const toBroker = await startProxy({ host, port })
      return { client, port, toPostgres, toBroker }
    })
  )
  const of = new Map<LinkName, Proxy>(
    ways.flatMap(({ client, toPostgres, toBroker }) => [
      [`${client}-postgres`, toPostgres] as const,
      [`${client}-broker`, toBroker] as const
    ])
  )
  const way = (client: Client) => {
    const found = ways.find((one) => one.client === client)
    if (found === undefined) throw new Error(`there is no way from ${client}`)
    return { postgresPort: found.toPostgres.port, brokers: `${host}:${found.toBroker.port}` }
  }
  return {
    of,
    options: {
      engines: {
        ports: { postgres, kafka },
        // when a transaction was committed tells what order the messages of a key have to come in
        // and a connector that reads the table begins with its first row
        postgresSettings: { track_commit_timestamp: "on", synchronize_seqscans: "off" },
        detours: {
          kafka: ways.map(({ client, port, toBroker }) => ({
            name: client.toUpperCase(),
            port,
            advertisedPort: toBroker.port
          })),
          connect: way("connect")
        }
      },
      env: (name) => {
        const { postgresPort, brokers } = way(name)
        return { DATABASE_PORT: String(postgresPort), BROKERS: brokers }
      }
    },
    close: async () => {
      await Promise.all([...of.values()].map((proxy) => proxy.close()))
    }
  }
}

/** Lets everything pass as it comes. */
export const release = (link: Proxy): void => {
  link.release()
  link.latencyMs = 0
  link.fate = () => "forward"
}
