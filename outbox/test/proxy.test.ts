/** The proxy does to a connection what it says, and loses nothing of what it only holds or delays. */
import { expect, test } from "bun:test"
import { connect, createServer, type Socket } from "node:net"
import { until, within } from "../../stack/wait.ts"
import { startProxy, type Proxy } from "./proxy.ts"

/** Returns when a round trip through a proxy of its own is over: what began before it, and is not kept, has arrived. */
type Barrier = () => Promise<void>

/** Has a client talk through a proxy to a server that sends back whatever it is sent. */
const talking = async (
  body: (proxy: Proxy, client: Socket, heard: () => string, barrier: Barrier) => Promise<void>
): Promise<void> => {
  const server = createServer((socket) => void socket.on("error", () => socket.destroy()).pipe(socket))
  await new Promise<void>((resolve) => server.listen({ host: "127.0.0.1", port: 0 }, resolve))
  const address = server.address()
  const to = { host: "127.0.0.1", port: typeof address === "object" && address !== null ? address.port : 0 }
  const proxy = await startProxy(to)
  const client = connect({ host: "127.0.0.1", port: proxy.port })
  let said = ""
  client.on("data", (piece) => void (said += String(piece)))
  client.on("error", () => client.destroy())
  const barrier: Barrier = async () => {
    const other = await startProxy(to)
    const socket = connect({ host: "127.0.0.1", port: other.port })
    try {
      // each way takes as long as that of whoever is not kept; the second begins when the first is over
      for (const piece of ["1", "2"]) {
        const back = new Promise((resolve) => socket.once("data", resolve))
        socket.write(piece)
        await within("the round trip", 5_000, back)
      }
    } finally {
      socket.destroy()
      await other.close()
    }
  }
  try {
    await body(proxy, client, () => said, barrier)
  } finally {
    client.destroy()
    await proxy.close()
    server.close()
  }
}

const hears = (heard: () => string, what: string): Promise<void> =>
  until(`"${what}" heard, not "${heard()}"`, 5_000, () => heard() === what, 1)

test("what is held arrives, in its order, when it is released", () =>
  talking(async (proxy, client, heard, barrier) => {
    client.write("a")
    await hears(heard, "a")

    proxy.hold()
    client.write("b")
    client.write("c")
    const later = connect({ host: "127.0.0.1", port: proxy.port })
    let other = ""
    later.on("data", (piece) => void (other += String(piece)))
    later.write("x")
    await barrier()
    expect([heard(), other]).toEqual(["a", ""])

    proxy.release()
    await hears(heard, "abc")
    await hears(() => other, "x")
    later.destroy()
  }))

test("delayed pieces come later, and none overtakes another when the delay ends", () =>
  talking(async (proxy, client, heard) => {
    proxy.latencyMs = 60
    const since = performance.now()
    client.write("a")
    await until("the piece at the proxy", 5_000, () => performance.now() - since > 20)
    proxy.latencyMs = 0
    client.write("b")

    await hears(heard, "ab")
    expect(performance.now() - since).toBeGreaterThan(55)
  }))

test("a cut ends the connections that are open, and no later ones", () =>
  talking(async (proxy, client, heard) => {
    client.write("a")
    await hears(heard, "a")

    const closed = new Promise((resolve) => client.once("close", resolve))
    proxy.cut()
    await within("the end of the connection", 5_000, closed)
    const later = connect({ host: "127.0.0.1", port: proxy.port })
    let other = ""
    later.on("data", (piece) => void (other += String(piece)))
    later.write("x")
    await hears(() => other, "x")
    later.destroy()
  }))
