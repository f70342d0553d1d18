/** Proxies on every way between the processes: services and Connect on one side, Postgres and the broker on the other. */
import { startProxy, type Proxy } from "../../../outbox/test/proxy.ts"
import { freePorts } from "../../../stack/ports.ts"
import type { StackOptions } from "../stack.ts"
import type { LinkName } from "./schedule.ts"

export interface Links {
  readonly of: Readonly<Record<LinkName, Proxy>>
  /** How a stack is started so that all of it goes through them. */
  readonly options: Pick<StackOptions, "engines" | "env">
  readonly close: () => Promise<void>
}

/** The engines are not up yet: the proxies are told where they will be. */
export const makeLinks = async (): Promise<Links> => {
  const host = "127.0.0.1"
  const [postgres = 0, kafka = 0, forServices = 0, forConnect = 0] = await freePorts([[], [], [], []])
  const of = {
    "services-postgres": await startProxy({ host, port: postgres }),
    "services-broker": await startProxy({ host, port: forServices }),
    "connect-postgres": await startProxy({ host, port: postgres }),
    "connect-broker": await startProxy({ host, port: forConnect })
  }
  return {
    of,
    options: {
      engines: {
        ports: { postgres, kafka },
        // when a transaction was committed tells what order the messages of a key have to come in
        postgresSettings: { track_commit_timestamp: "on" },
        detours: {
          kafka: [
            { name: "SERVICES", port: forServices, advertisedPort: of["services-broker"].port },
            { name: "CONNECT", port: forConnect, advertisedPort: of["connect-broker"].port }
          ],
          connect: { brokers: `${host}:${of["connect-broker"].port}`, postgresPort: of["connect-postgres"].port }
        }
      },
      env: {
        DATABASE_PORT: String(of["services-postgres"].port),
        BROKERS: `${host}:${of["services-broker"].port}`
      }
    },
    close: async () => {
      await Promise.all(Object.values(of).map((proxy) => proxy.close()))
    }
  }
}
