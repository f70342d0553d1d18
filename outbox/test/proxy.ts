/** A TCP proxy between a client and its server, with which a test cuts, swallows and stops what passes. */
import { connect, createServer, type Socket } from "node:net"
import { within } from "../../stack/wait.ts"

/** What becomes of a piece on its way to the server. Cut means that the client's connection ends there and then. */
export type Fate = "forward" | "cut before" | "cut after"

export interface Proxy {
  readonly port: number
  /** Asked about every piece that a client sends. */
  fate: (piece: Buffer) => Fate
  /** From now on nothing passes on the connections that are open, in either direction; none of them is closed. */
  readonly stop: () => void
  /** How many connections were made so far. */
  readonly links: () => number
  readonly close: () => Promise<void>
}

interface Link {
  readonly client: Socket
  readonly server: Socket
  stopped: boolean
}

export const startProxy = async (to: { readonly host: string; readonly port: number }): Promise<Proxy> => {
  const links: Array<Link> = []
  const listener = createServer((client) => {
    const link: Link = { client, server: connect({ host: to.host, port: to.port }), stopped: false }
    links.push(link)
    client.setNoDelay()
    link.server.setNoDelay()
    client.on("data", (piece: Buffer) => {
      if (link.stopped) return
      const fate = proxy.fate(piece)
      if (fate !== "cut before") link.server.write(piece)
      if (fate === "forward") return
      link.stopped = true
      client.destroy()
      // what was forwarded is to be carried out: the server hears of the end after it, not instead of it
      link.server.end()
    })
    link.server.on("data", (piece: Buffer) => {
      if (!link.stopped) client.write(piece)
    })
    client.on("close", () => link.server.end())
    link.server.on("close", () => {
      if (!link.stopped) client.destroy()
    })
    for (const socket of [client, link.server]) socket.on("error", () => socket.destroy())
  })
  await new Promise<void>((resolve) => listener.listen({ host: "127.0.0.1", port: 0 }, resolve))
  const address = listener.address()
  const proxy: Proxy = {
    port: typeof address === "object" && address !== null ? address.port : 0,
    fate: () => "forward",
    stop: () => {
      for (const link of links) link.stopped = true
    },
    links: () => links.length,
    close: async () => {
      for (const { client, server } of links) {
        client.destroy()
        server.destroy()
      }
      await within("the proxy's end", 5_000, new Promise((resolve) => listener.close(resolve)))
    }
  }
  return proxy
}
