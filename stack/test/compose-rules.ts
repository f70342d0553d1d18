/** What must hold for compose.yaml. `violations` is empty for a good one; compose.test.ts also plants bad ones. */
import { usualPartitions } from "../../services/shell/topics.ts"
import { usualPace } from "../connect.ts"
import { secretNames } from "../setup.ts"

export interface Container {
  image?: string
  build?: string
  user?: string
  read_only?: boolean
  cap_drop?: Array<string>
  security_opt?: Array<string>
  mem_limit?: string
  pids_limit?: number
  stop_grace_period?: string
  restart?: string
  pull_policy?: string
  entrypoint?: Array<string>
  command?: Array<string>
  environment?: Record<string, string | number | null>
  secrets?: Array<string>
  ports?: Array<string>
  networks?: Array<string>
  volumes?: Array<string>
  tmpfs?: Array<string>
  depends_on?: Record<string, { condition: string }>
  healthcheck?: { test: Array<string> }
}

export interface Compose {
  services: Record<string, Container>
  secrets: Record<string, { file: string }>
  networks: Record<string, { internal?: boolean }>
}

/** The names, ports and databases of the six services. */
export const contract = [
  { service: "user", port: 8000, database: "users" },
  { service: "product", port: 8001, database: "products" },
  { service: "order", port: 8002, database: "orders" },
  { service: "orchestrator", port: 8003, database: "sagas" },
  { service: "payment", port: 8004, database: "payments" },
  { service: "shipment", port: 8005, database: "shipments" }
]

/** What connectors/*.json may ask the Connect worker for. */
export const connectorVariables = ["POSTGRES_HOST", "POSTGRES_PORT", "REPLICATION_PASSWORD", ...Object.keys(usualPace)]

const jobs: Record<string, string> = {
  provision: "services/shell/provision.ts",
  topics: "services/shell/topics.ts",
  connectors: "connectors/apply.ts"
}

/** Runs on, without a port for others. */
const auditor = { name: "auditor", program: "services/shell/auditor.ts" }

/** Everything else is one of the four engines. */
const engines: Record<string, RegExp> = {
  postgres: /^postgres:18(\.|$)/,
  redpanda: /\/redpanda:v26\.2\./,
  console: /\/console:v3\./,
  connect: /^quay\.io\/debezium\/connect:3\.6(\.|$)/
}

const publishedPorts: Record<string, string> = {
  redpanda: "19092:19092",
  console: "8080:8080",
  ...Object.fromEntries(contract.map(({ service, port }) => [service, `${port}:${port}`]))
}

/** Who may read which password. */
const passwords: Record<string, ReadonlyArray<string>> = {
  postgres: ["postgres_password"],
  provision: secretNames,
  connect: ["replication_password"],
  connectors: ["replication_password"],
  auditor: ["auditor_password", "replication_password"],
  ...Object.fromEntries(contract.map(({ service, database }) => [service, [`${database}_password`]]))
}

const database = { DATABASE_HOST: "postgres", DATABASE_PORT: "5432" }
const broker = "redpanda:9092"

/** The variables the programs read, of those that are not free to choose. */
const variables: Record<string, Record<string, string>> = {
  provision: { ...database, SECRETS_DIR: "/run/secrets" },
  topics: { BROKERS: broker, PARTITIONS: `\${PARTITIONS:-${usualPartitions}}`, REPLICATION_FACTOR: "1" },
  connectors: {
    ...database,
    CONNECT_URL: "http://connect:8083",
    REPLICATION_PASSWORD_FILE: "/run/secrets/replication_password"
  },
  auditor: {
    ...database,
    BROKERS: broker,
    PORT: "9006",
    ADMIN_PORT: "9006",
    DATABASE_PASSWORD_FILE: "/run/secrets/auditor_password",
    CONNECT_URL: "http://connect:8083",
    REPLICATION_PASSWORD_FILE: "/run/secrets/replication_password"
  },
  ...Object.fromEntries(
    contract.map(({ service, port, database: name }) => [
      service,
      {
        ...database,
        BROKERS: broker,
        HOST: "0.0.0.0",
        PORT: `${port}`,
        ADMIN_PORT: `${port + 1000}`,
        DATABASE_PASSWORD_FILE: `/run/secrets/${name}_password`
      }
    ])
  )
}

/** Those that whoever starts it may set, and need not. Null is Compose's word for that. */
const passedOn: Record<string, ReadonlyArray<string>> = {
  payment: ["CARD_PROCESSOR_URL"],
  auditor: ["AUDIT_GRACE_MS", "OUTBOX_KEEP_MS"]
}

/** Settings of the Connect worker that correctness or latency rests on. */
const worker: Record<string, string> = {
  BOOTSTRAP_SERVERS: broker,
  OFFSET_FLUSH_INTERVAL_MS: "1000",
  CONNECT_SCHEDULED_REBALANCE_MAX_DELAY_MS: "0",
  CONNECT_CONNECTOR_CLIENT_CONFIG_OVERRIDE_POLICY: "None",
  CONNECT_PRODUCER_ENABLE_IDEMPOTENCE: "true",
  CONNECT_PRODUCER_LINGER_MS: "0",
  CONNECT_CONFIG_PROVIDERS: "env",
  CONNECT_CONFIG_PROVIDERS_ENV_CLASS: "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
  POSTGRES_HOST: database.DATABASE_HOST,
  POSTGRES_PORT: database.DATABASE_PORT,
  // free to choose, and the same as the stack's unless they are chosen
  ...Object.fromEntries(Object.entries(usualPace).map(([name, usual]) => [name, `\${${name}:-${usual}}`]))
}

/** What the image allows and still guards its data: see the comments in compose.yaml. */
const writableRoot = ["redpanda"]

type Rule = (compose: Compose) => ReadonlyArray<string>

const forEach =
  (check: (name: string, container: Container, compose: Compose) => ReadonlyArray<string | false>): Rule =>
  (compose) =>
    Object.entries(compose.services).flatMap(([name, container]) =>
      check(name, container, compose).flatMap((problem) => (problem === false ? [] : [`${name}: ${problem}`]))
    )

const only = (condition: boolean, problem: string): string | false => condition && problem
const same = (left: ReadonlyArray<string>, right: ReadonlyArray<string>): boolean =>
  left.toSorted().join() === right.toSorted().join()
const isJob = (name: string): boolean => name in jobs
const isService = (name: string): boolean => name === auditor.name || contract.some(({ service }) => service === name)
const isOurs = (name: string): boolean => isJob(name) || isService(name)
const programOf = (name: string): string =>
  jobs[name] ?? (name === auditor.name ? auditor.program : `services/${name}/main.ts`)
const words = (container: Container): string =>
  [...(container.entrypoint ?? []), ...(container.command ?? [])].join(" ")

const differences = (container: Container, wanted: Record<string, string>): ReadonlyArray<string | false> =>
  Object.entries(wanted).map(([key, value]) =>
    only(`${container.environment?.[key]}` !== value, `${key} is not ${value}`)
  )

export const rules = {
  "the containers are those of the system": (compose) => {
    const wanted = [
      ...Object.keys(engines),
      ...Object.keys(jobs),
      auditor.name,
      ...contract.map(({ service }) => service)
    ]
    return same(Object.keys(compose.services), wanted) ? [] : [`they are ${Object.keys(compose.services).join()}`]
  },

  "images are pinned, and ours is built here and never pulled": forEach((name, { image = "", build, pull_policy }) => [
    only(!isOurs(name) && !engines[name]?.test(image), `unexpected image ${image}`),
    only(isOurs(name) && image !== "oncebox:local", `unexpected image ${image}`),
    only(isOurs(name) && pull_policy !== (name === "provision" ? "build" : "never"), "may be pulled"),
    only((build === ".") !== (name === "provision"), "provision alone builds")
  ]),

  "ports are published on loopback, and only those in the contract": forEach((name, { ports = [] }) => [
    only(!ports.every((port) => port.startsWith("127.0.0.1:")), "a port is open to others"),
    only(
      !same(
        ports.map((port) => port.replace("127.0.0.1:", "")),
        name in publishedPorts ? [`${publishedPorts[name]}`] : []
      ),
      `publishes ${ports.join()}`
    )
  ]),

  "no password is written down": forEach((_, container) => [
    ...Object.entries(container.environment ?? {}).map(([key, value]) =>
      only(/passw|secret|token/i.test(key) && !`${value}`.startsWith("/run/secrets"), `${key} is not a file`)
    ),
    only(/:\/\/[^/\s"]*:[^/\s"@]*@/.test(JSON.stringify(container)), "an address holds a password"),
    only(/passw\w*=(?!"?\$\$\(cat \/run\/secrets\/)/i.test(words(container)), "a command holds a password"),
    only(/(?<!\$)\$\{?\w*passw/i.test(JSON.stringify(container)), "a password comes from Compose's environment")
  ]),

  "a container gets its own passwords and nobody else's": forEach((name, { secrets = [] }) => [
    only(!same(secrets, passwords[name] ?? []), `gets ${secrets.join()}`)
  ]),

  "setup makes every password": ({ secrets }) => [
    ...(same(Object.keys(secrets), secretNames) ? [] : [`compose knows ${Object.keys(secrets).join()}`]),
    ...Object.entries(secrets).flatMap(([name, { file }]) => (file === `./secrets/${name}` ? [] : [`${name}: ${file}`]))
  ],

  "what runs on has a health check, is restarted and has time to stop": forEach((name, container) => [
    only(!isJob(name) && !container.healthcheck, "no health check"),
    only(!isJob(name) && container.restart !== "unless-stopped", "is not restarted"),
    only(isJob(name) && container.restart !== "no", "a job is restarted"),
    only(!container.stop_grace_period, "no time to stop")
  ]),

  "jobs run before the services and are adopted by them": forEach((name, { depends_on = {} }, compose) => [
    ...(isService(name) ? Object.keys(jobs) : []).map((job) =>
      only(depends_on[job]?.condition !== "service_completed_successfully", `does not wait for ${job}`)
    ),
    ...(name === "connectors" ? ["provision", "topics"] : []).map((job) =>
      only(depends_on[job]?.condition !== "service_completed_successfully", `does not wait for ${job}`)
    ),
    ...Object.entries(depends_on).map(([other, { condition }]) =>
      only(!isJob(other) && condition !== "service_healthy", `does not wait for ${other} to be healthy`)
    ),
    ...Object.keys(depends_on).map((other) =>
      only(!(other in compose.services), `waits for ${other}, which is not here`)
    )
  ]),

  "nothing runs as root, with capabilities or without limits": forEach((name, container) => [
    only(!container.user || /^(root|0)(:|$)/.test(container.user), "runs as root"),
    only(container.cap_drop?.join() !== "ALL", "keeps capabilities"),
    only(!container.security_opt?.includes("no-new-privileges:true"), "may gain privileges"),
    only(container.read_only !== true && !writableRoot.includes(name), "has a writable root"),
    only(!container.mem_limit || !container.pids_limit, "has no limits"),
    only(JSON.stringify(container).includes("docker.sock"), "holds the Docker socket")
  ]),

  "only what publishes a port has a way out": (compose) => [
    ...(compose.networks["inside"]?.internal === true ? [] : ["inside is not internal"]),
    ...forEach((name, { networks = [] }) => [
      only(!same(networks, name in publishedPorts ? ["inside", "edge"] : ["inside"]), `is on ${networks.join()}`)
    ])(compose)
  ],

  "programs and their variables are those of the contract": forEach((name, container) => [
    only(isOurs(name) && words(container) !== `bun ${programOf(name)}`, `runs ${words(container)}`),
    ...differences(container, variables[name] ?? {}),
    ...(passedOn[name] ?? []).map((key) => only(container.environment?.[key] !== null, `${key} is not passed on`))
  ]),

  "Postgres decodes, has slots to spare and keeps its data": forEach((name, container) => {
    const setting = (key: string): string => new RegExp(`-c ${key}=(\\w+)`).exec(words(container))?.[1] ?? ""
    return name !== "postgres"
      ? []
      : [
          only(setting("wal_level") !== "logical", "wal_level"),
          only(Number(setting("max_replication_slots")) <= contract.length, "too few slots"),
          only(Number(setting("max_wal_senders")) <= contract.length, "too few senders"),
          only(setting("max_slot_wal_keep_size") === "", "a lost connector fills the disk"),
          only(
            !container.volumes?.includes("postgres:/var/lib/postgresql"),
            "the volume is not where 18 keeps its data"
          )
        ]
  }),

  "Redpanda acknowledges what is on disk and makes no topics by itself": forEach((name, container) =>
    name !== "redpanda"
      ? []
      : [
          only(/dev-container/.test(words(container)), "dev-container mode"),
          ...[
            "--unsafe-bypass-fsync=false",
            "--set redpanda.write_caching_default=disabled",
            "--set redpanda.auto_create_topics_enabled=false",
            `internal://${broker},`
          ].map((option) => only(!words(container).includes(option), `lacks ${option}`)),
          only(!container.volumes?.includes("redpanda:/var/lib/redpanda/data"), "keeps no data")
        ]
  ),

  "the Connect worker is set up, and connectors see those variables of it that are theirs": forEach(
    (name, container) => {
      if (name !== "connect") return []
      const allowed = new RegExp(
        `^(?:${container.environment?.["CONNECT_CONFIG_PROVIDERS_ENV_PARAM_ALLOWLIST_PATTERN"] ?? ".*"})$`
      )
      const visible = [...Object.keys(container.environment ?? {}), ...connectorVariables, "PATH", "HOSTNAME"]
      return [
        ...differences(container, worker),
        only(
          !same([...new Set(visible.filter((key) => allowed.test(key)))], connectorVariables),
          `shows ${allowed.source}`
        ),
        only(
          !/REPLICATION_PASSWORD="\$\$\(cat \/run\/secrets\/replication_password\)"/.test(words(container)),
          "no password"
        ),
        only(!/timerslack_ns/.test(words(container)), "no timer slack"),
        only(!words(container).endsWith("exec /docker-entrypoint.sh start"), "does not become the image's entrypoint")
      ]
    }
  )
} satisfies Record<string, Rule>

export type RuleName = keyof typeof rules

/** One line for each breach, beginning with the rule. */
export const violations = (compose: Compose): ReadonlyArray<string> =>
  Object.entries<Rule>(rules).flatMap(([name, rule]) => rule(compose).map((problem) => `${name}: ${problem}`))
