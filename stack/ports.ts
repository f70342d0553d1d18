/** Loopback ports that were free a moment ago. */
import { randomInt } from "node:crypto"
import { createServer, type Server } from "node:net"

// Below the range from which Linux (32768) and macOS (49152) take the ports of outgoing connections. A port inside it can be
// taken by any client while its engine is down, even by a client of that very engine that retries and meets itself.
const LOWEST = 15_000
const HIGHEST = 32_000
const ATTEMPTS = 200

/** As many different free ports as `wishes` has entries; of each entry's wishes the first that is free is granted. */
export const freePorts = async (wishes: ReadonlyArray<ReadonlyArray<number | undefined>>): Promise<number[]> => {
  const held: Server[] = []
  const ports: number[] = []
  try {
    for (const wish of wishes) {
      const { port, server } = await hold(wish.filter((port) => port !== undefined))
      held.push(server)
      ports.push(port)
    }
    return ports
  } finally {
    await Promise.all(held.map((server) => new Promise((resolve) => server.close(resolve))))
  }
}

const hold = async (wishes: readonly number[]): Promise<{ port: number; server: Server }> => {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const port = wishes[attempt] ?? randomInt(LOWEST, HIGHEST)
    const server = await listen(port)
    if (server) return { port, server }
  }
  throw new Error(`no free port between ${LOWEST} and ${HIGHEST} in ${ATTEMPTS} attempts`)
}

const listen = (port: number): Promise<Server | undefined> =>
  new Promise((resolve) => {
    const server = createServer()
    server.once("error", () => resolve(undefined))
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => resolve(server))
  })
