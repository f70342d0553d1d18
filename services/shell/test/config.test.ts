import { describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ConfigProvider, Effect, Redacted } from "effect"
import { readSettings } from "../config.ts"

const ports = { port: 8002, adminPort: 9002 }

const read = (env: Readonly<Record<string, string>>) =>
  readSettings(ports).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))))

const good = {
  DATABASE_HOST: "db",
  DATABASE_PORT: "5432",
  DATABASE_PASSWORD: "s3cret",
  BROKERS: "one:9092,two:9092"
}

const orders = { choreography: true, coordination: "orchestration", definition: "place-order" } as const

test("settings come from the environment, ports and address by default from the service", async () => {
  const { database, ...rest } = await Effect.runPromise(read(good))

  expect(rest).toEqual({
    brokers: ["one:9092", "two:9092"],
    host: "127.0.0.1",
    ...ports,
    orders,
    cardProcessorUrl: undefined
  })
  expect(Redacted.value(database.password)).toBe("s3cret")
  expect(JSON.stringify(database)).not.toContain("s3cret")
})

test("a password may lie in a file", async () => {
  const folder = mkdtempSync(join(tmpdir(), "oncebox-"))
  try {
    const file = join(folder, "password")
    writeFileSync(file, "from file\n")
    const { DATABASE_PASSWORD: _, ...others } = good

    const { database } = await Effect.runPromise(read({ ...others, DATABASE_PASSWORD_FILE: file }))

    expect(Redacted.value(database.password)).toBe("from file")
  } finally {
    rmSync(folder, { recursive: true })
  }
})

describe("the start is stopped by", () => {
  const bad: ReadonlyArray<readonly [Readonly<Record<string, string>>, string]> = [
    [{ DATABASE_HOST: "" }, "DATABASE_HOST: it is not set"],
    [{ DATABASE_PORT: "" }, "DATABASE_PORT: it is not set"],
    [{ DATABASE_PORT: "x" }, "DATABASE_PORT"],
    [{ DATABASE_PORT: "99999" }, "DATABASE_PORT"],
    [{ DATABASE_PASSWORD: "" }, "DATABASE_PASSWORD"],
    [{ DATABASE_PASSWORD_FILE: "/run/secrets/x" }, "not both"],
    [{ DATABASE_PASSWORD: "", DATABASE_PASSWORD_FILE: "/does/not/exist" }, "/does/not/exist"],
    [{ BROKERS: "one" }, "BROKERS"],
    [{ BROKERS: "" }, "BROKERS: it is not set"],
    [{ BROKERS: "one:9092," }, "BROKERS"],
    [{ ORDER_DEFINITION: "pay-last" }, 'ORDER_DEFINITION: Expected "place-order" | "pay-first"'],
    [{ PORT: "-1" }, "PORT"],
    [{ ADMIN_PORT: "nine" }, "ADMIN_PORT"]
  ]
  for (const [change, named] of bad) {
    test(JSON.stringify(change), async () => {
      const { message } = await Effect.runPromise(Effect.flip(read({ ...good, ...change })))

      expect(message).toContain(named)
      expect(message).not.toContain("s3cret")
    })
  }
})
