/** A TCP proxy between a client and its server, with which a test cuts, swallows, stops and delays what passes. */
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
  /** Ends all connections that are open, at both ends at once. */
  readonly cut: () => void
  /** From now on nothing passes, in either direction, on connections of now or of later; nothing is lost of it. */
  readonly hold: () => void
  /** Lets what is held pass. */
  readonly release: () => void
  /** How much later each piece arrives, in milliseconds. */
  latencyMs: number
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
  const open = new Set<Link>()
  let held = false
  /** Pieces arrive in the order in which they came, whatever the latency was then. */
  const writer = (socket: Socket): ((piece: Buffer) => void) => {
    const late: Array<Buffer> = []
    return (piece) => {
      if (proxy.latencyMs === 0 && late.length === 0) return void socket.write(piece)
      late.push(piece)
      setTimeout(() => {
        const first = late.shift()
        if (first !== undefined && !socket.destroyed) socket.write(first)
      }, proxy.latencyMs)
    }
  }
  const pauseOrResume = ({ client, server }: Link): void => {
    for (const socket of [client, server]) {
      if (held) socket.pause()
      else socket.resume()
    }
  }
  const listener = createServer((client) => {
    const link: Link = { client, server: connect({ host: to.host, port: to.port }), stopped: false }
    links.push(link)
    open.add(link)
    const [toServer, toClient] = [writer(link.server), writer(client)]
    client.setNoDelay()
    link.server.setNoDelay()
    client.on("data", (piece: Buffer) => {
      if (link.stopped) return
      const fate = proxy.fate(piece)
      if (fate !== "cut before") toServer(piece)
      if (fate === "forward") return
      link.stopped = true
      client.destroy()
      // what was forwarded is to be carried out: the server hears of the end after it, not instead of it
      link.server.end()
    })
    link.server.on("data", (piece: Buffer) => {
      if (!link.stopped) toClient(piece)
    })
    if (held) pauseOrResume(link)
    client.on("close", () => link.server.end())
    link.server.on("close", () => {
      open.delete(link)
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
    cut: () => {
      // the client's end follows
      for (const { server } of open) server.destroy()
    },
    hold: () => {
      held = true
      open.forEach(pauseOrResume)
    },
    release: () => {
      held = false
      open.forEach(pauseOrResume)
    },
    latencyMs: 0,
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
