import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { secretNames, setup } from "../setup.ts"
import { type Compose, connectorVariables, contract, type RuleName, rules, violations } from "./compose-rules.ts"

const root = join(import.meta.dir, "..", "..")
const read = (path: string): string => readFileSync(join(root, path), "utf8")

// Foreign edge: YAML has no type. What the rules look at is what this shape names, and they treat all of it as optional.
const load = (): Compose => Bun.YAML.parse(read("compose.yaml")) as Compose

const container = (compose: Compose, name: string) => {
  const found = compose.services[name]
  if (!found) throw new Error(`no container ${name}`)
  return found
}

test("compose.yaml breaks no rule", () => {
  expect(violations(load())).toEqual([])
})

describe("a rule reports what is planted", () => {
  const set =
    (name: string, changes: Partial<Compose["services"][string]>) =>
    (compose: Compose): void => {
      Object.assign(container(compose, name), changes)
    }
  const setVariable =
    (name: string, key: string, value: string) =>
    (compose: Compose): void => {
      const target = container(compose, name)
      target.environment = { ...target.environment, [key]: value }
    }
  const replace =
    (name: string, key: "command" | "entrypoint", from: string, to: string) =>
    (compose: Compose): void => {
      const target = container(compose, name)
      target[key] = (target[key] ?? []).map((word) => word.replace(from, to))
    }

  const planted: Record<RuleName, Record<string, (compose: Compose) => void>> = {
    "the containers are those of the system": {
      "one more": (compose) => void (compose.services["adminer"] = container(compose, "console")),
      "one less": (compose) => void delete compose.services["payment"]
    },
    "images are pinned, and ours is built here and never pulled": {
      latest: set("postgres", { image: "postgres:latest" }),
      "no tag": set("console", { image: "docker.redpanda.com/redpandadata/console" }),
      "another one's image": set("order", { image: "oven/bun:1.4.5-slim" }),
      "pulled by name": set("order", { pull_policy: "missing" }),
      "built twice": set("order", { build: "." })
    },
    "ports are published on loopback, and only those in the contract": {
      "open to all": set("user", { ports: ["8000:8000"] }),
      "open to all by address": set("user", { ports: ["0.0.0.0:8000:8000"] }),
      "the admin port": set("user", { ports: ["127.0.0.1:8000:8000", "127.0.0.1:9000:9000"] }),
      "Connect's REST API": set("connect", { ports: ["127.0.0.1:8083:8083"] }),
      "a wrong port": set("payment", { ports: ["127.0.0.1:8005:8004"] })
    },
    "no password is written down": {
      "in a variable": setVariable("postgres", "POSTGRES_PASSWORD", "postgres"),
      "in an address": setVariable("order", "DATABASE_URL", "postgres://orders:orders@postgres/orders"),
      "as a default": setVariable("order", "DATABASE", "${ORDERS_PASSWORD:-orders}"),
      "in a command": set("order", { command: ["sh", "-c", "PGPASSWORD=orders bun services/order/main.ts"] })
    },
    "a container gets its own passwords and nobody else's": {
      "a neighbour's": set("order", { secrets: ["orders_password", "payments_password"] }),
      "the superuser's": set("connect", { secrets: ["postgres_password"] }),
      none: set("user", { secrets: [] })
    },
    "setup makes every password": {
      "one that it doesn't": (compose) => void (compose.secrets["api_key"] = { file: "./secrets/api_key" }),
      "another file": (compose) => void (compose.secrets["users_password"] = { file: "./secrets/orders_password" })
    },
    "what runs on has a health check, is restarted and has time to stop": {
      "no check": (compose) => void delete container(compose, "redpanda").healthcheck,
      "stays down": set("connect", { restart: "no" }),
      "a job for ever": set("topics", { restart: "always" }),
      "killed at once": (compose) => void delete container(compose, "order").stop_grace_period
    },
    "jobs run before the services and are adopted by them": {
      orphan: (compose) => {
        for (const { service } of contract) delete container(compose, service).depends_on?.["topics"]
      },
      "started is not done": set("user", { depends_on: { provision: { condition: "service_started" } } }),
      "started is not healthy": set("console", { depends_on: { redpanda: { condition: "service_started" } } }),
      "connectors too early": set("connectors", { depends_on: { connect: { condition: "service_healthy" } } }),
      "one that is not here": (compose) => {
        const { depends_on } = container(compose, "order")
        set("order", { depends_on: { ...depends_on, nobody: { condition: "service_healthy" } } })(compose)
      }
    },
    "nothing runs as root, with capabilities or without limits": {
      root: set("order", { user: "root" }),
      "the image's user": (compose) => void delete container(compose, "connect").user,
      "root by number": set("postgres", { user: "0:0" }),
      capabilities: set("topics", { cap_drop: [] }),
      privileges: set("console", { security_opt: [] }),
      "writable root": set("payment", { read_only: false }),
      "no memory limit": (compose) => void delete container(compose, "order").mem_limit,
      socket: set("console", { volumes: ["/var/run/docker.sock:/var/run/docker.sock"] })
    },
    "only what publishes a port has a way out": {
      "a way out": set("connect", { networks: ["inside", "edge"] }),
      "not internal": (compose) => void (compose.networks["inside"] = {})
    },
    "programs and their variables are those of the contract": {
      "another program": set("connectors", { command: ["bun", "services/shell/connectors.ts"] }),
      "a neighbour's program": set("order", { command: ["bun", "services/user/main.ts"] }),
      "a neighbour's port": setVariable("order", "PORT", "8003"),
      "loopback inside": setVariable("order", "HOST", "127.0.0.1"),
      "a neighbour's password": setVariable("order", "DATABASE_PASSWORD_FILE", "/run/secrets/users_password"),
      "another broker": setVariable("topics", "BROKERS", "redpanda:19092"),
      "a card processor that nobody chose": setVariable("payment", "CARD_PROCESSOR_URL", "http://127.0.0.1:8010"),
      "a grace that nobody can choose": (compose) =>
        void delete container(compose, "auditor").environment?.["AUDIT_GRACE_MS"]
    },
    "Postgres decodes, has slots to spare and keeps its data": {
      "no decoding": replace("postgres", "command", "logical", "replica"),
      "no sender to spare": replace("postgres", "command", "max_wal_senders=12", "max_wal_senders=6"),
      "no slot to spare": replace("postgres", "command", "max_replication_slots=12", "max_replication_slots=6"),
      "unbounded WAL": replace("postgres", "command", "max_slot_wal_keep_size", "max_wal_size"),
      "the old folder": set("postgres", { volumes: ["postgres:/var/lib/postgresql/data"] })
    },
    "Redpanda acknowledges what is on disk and makes no topics by itself": {
      "dev-container": (compose) => void container(compose, "redpanda").command?.push("--mode", "dev-container"),
      "the mode rpk takes by itself": replace("redpanda", "command", "--unsafe-bypass-fsync=false", "--smp=1"),
      "write caching": replace("redpanda", "command", "default=disabled", "default=true"),
      "topics by typing error": replace("redpanda", "command", "enabled=false", "enabled=true"),
      "no volume": set("redpanda", { volumes: [] })
    },
    "the Connect worker is set up, and connectors see those variables of it that are theirs": {
      "everything visible": setVariable("connect", "CONNECT_CONFIG_PROVIDERS_ENV_PARAM_ALLOWLIST_PATTERN", ".*"),
      "one too few": setVariable("connect", "CONNECT_CONFIG_PROVIDERS_ENV_PARAM_ALLOWLIST_PATTERN", "POSTGRES_.*"),
      "another provider": setVariable("connect", "CONNECT_CONFIG_PROVIDERS", "file"),
      "producers by REST": setVariable("connect", "CONNECT_CONNECTOR_CLIENT_CONFIG_OVERRIDE_POLICY", "All"),
      "no password": replace("connect", "entrypoint", "REPLICATION_PASSWORD=", "PASSWORD="),
      "no slack": replace("connect", "entrypoint", "timerslack_ns", "comm"),
      "a child, not the process": replace("connect", "entrypoint", "exec ", "")
    }
  }

  for (const [rule, plants] of Object.entries(planted)) {
    test.each(Object.entries(plants))(`${rule}: %s`, (_, plant) => {
      const compose = structuredClone(load())

      plant(compose)

      expect(violations(compose).some((line) => line.startsWith(`${rule}: `))).toBe(true)
    })
  }

  test("and every rule is tried", () => {
    expect(Object.keys(planted).toSorted()).toEqual(Object.keys(rules).toSorted())
    expect(Object.values(planted).every((plants) => Object.keys(plants).length > 0)).toBe(true)
  })
})

describe("the files around compose.yaml", () => {
  test("the connectors folder in the image is the one that is applied, for every database, asking only for what it may see", () => {
    const files = readdirSync(join(root, "connectors")).filter((name) => name.endsWith(".json"))
    const asked = files.flatMap((name) =>
      [...read(`connectors/${name}`).matchAll(/\$\{env:([^}]*)\}/g)].map((hit) => hit[1])
    )

    expect(read("Dockerfile")).toContain("COPY connectors connectors")
    expect(files).toHaveLength(contract.length)
    expect([...new Set(asked)].toSorted()).toEqual(connectorVariables.toSorted())
  })

  test("the image has one exact Bun, of the line that runs this test, runs as bun and takes the lockfile as it is", () => {
    const dockerfile = read("Dockerfile")

    const bases = [...dockerfile.matchAll(/^FROM (\S+)/gm)].map((hit) => hit[1])
    expect(new Set(bases).size).toBe(1)
    expect(bases[0]).toMatch(/^oven\/bun:\d+\.\d+\.\d+-slim$/)
    expect(bases[0]).toStartWith(`oven/bun:${Bun.version.split(".").slice(0, 2).join(".")}.`)
    expect(dockerfile).toMatch(/bun install --frozen-lockfile --production/)
    expect(dockerfile.trimEnd().split("\n").at(-1)).toBe("USER bun")
  })

  test("what the image copies is let in, and the passwords are not", () => {
    const lines = read(".dockerignore")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"))
    const copied = [...read("Dockerfile").matchAll(/^COPY (?!--)(.+) \S+$/gm)].flatMap(
      (hit) => hit[1]?.split(" ") ?? []
    )

    expect(lines[0]).toBe("*")
    expect(lines.some((line) => line.startsWith("!") && line.includes("secrets"))).toBe(false)
    expect(
      [...new Set(copied.map((path) => `!${path.split("/")[0]}`))].filter((path) => !lines.includes(path))
    ).toEqual([])
  })

  test("the console reads the broker and the worker of this file, with keys of its version 3", () => {
    const settings = Bun.YAML.parse(read("stack/console.yaml"))

    expect(settings).toEqual({
      kafka: { brokers: ["redpanda:9092"] },
      kafkaConnect: { enabled: true, clusters: [{ name: "debezium", url: "http://connect:8083" }] },
      analytics: { enabled: false }
    })
  })
})

describe("setup", () => {
  const folder = mkdtempSync(join(tmpdir(), "oncebox-secrets-"))
  afterAll(() => rmSync(folder, { recursive: true }))
  const contents = (directory: string) => secretNames.map((name) => readFileSync(join(directory, name), "utf8"))
  const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)

  test("makes every password once, each its own, in a folder closed to others", () => {
    const directory = join(folder, "once")
    const umask = process.umask(0o077)

    const first = setup(directory)
    process.umask(umask)
    const before = contents(directory)
    const second = setup(directory)

    expect(first).toEqual(secretNames)
    expect(second).toEqual([])
    expect(contents(directory)).toEqual(before)
    expect(new Set(before).size).toBe(secretNames.length)
    expect(before.every((password) => /^[0-9a-f]{64}$/.test(password))).toBe(true)
    expect(mode(directory)).toBe("700")
    expect(secretNames.map((name) => mode(join(directory, name)))).toEqual(secretNames.map(() => "644"))
    expect(readdirSync(directory).toSorted()).toEqual(secretNames.toSorted())
  })

  test("keeps a password that is there and refuses an empty one", () => {
    const directory = join(folder, "kept")
    setup(directory)
    writeFileSync(join(directory, "users_password"), "mine")
    rmSync(join(directory, "sagas_password"))

    expect(setup(directory)).toEqual(["sagas_password"])
    expect(readFileSync(join(directory, "users_password"), "utf8")).toBe("mine")

    writeFileSync(join(directory, "users_password"), "")
    expect(() => setup(directory)).toThrow("holds no password")
  })
})

describe("Compose itself", () => {
  const run = (command: ReadonlyArray<string>, input = "") => {
    const { exitCode, stderr } = Bun.spawnSync([...command], { cwd: root, stdin: Buffer.from(input), timeout: 60_000 })
    return { ok: exitCode === 0, stderr: stderr.toString() }
  }
  const works = (command: ReadonlyArray<string>): boolean =>
    Bun.which(command[0] ?? "") !== null && run([...command, "version"]).ok

  const named = process.env["COMPOSE_BIN"]
  const compose = named ? [named] : [["docker", "compose"], ["docker-compose"]].find(works)
  if (!compose)
    console.warn(
      "NOT CHECKED: no docker compose here, so nothing has read compose.yaml but our own rules. COMPOSE_BIN names one."
    )

  test.skipIf(!compose)("accepts the file, with and without profiles", () => {
    for (const profiles of [[], ["--profile", "*"]]) {
      expect(run([...(compose ?? []), "-f", "compose.yaml", ...profiles, "config", "-q"])).toEqual({
        ok: true,
        stderr: ""
      })
    }
  })

  test.skipIf(!compose)("and would not accept a broken one", () => {
    const broken = load()
    container(broken, "order").depends_on = { nobody: { condition: "service_healthy" } }

    const { ok, stderr } = run(
      [...(compose ?? []), "--project-directory", root, "-f", "-", "config", "-q"],
      JSON.stringify(broken)
    )

    expect(ok).toBe(false)
    expect(stderr).toContain("nobody")
  })
})
