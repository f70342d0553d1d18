/** Settings, read once from the environment. What is missing or bad stops the start with one line that says what. */
import { readFileSync } from "node:fs"
import { Coordination } from "oncebox"
import { DefinitionName } from "./bounds.ts"
import { Config, Effect, Option, Redacted, Schema, SchemaIssue } from "effect"

export interface Settings {
  readonly database: { readonly host: string; readonly port: number; readonly password: Redacted.Redacted<string> }
  readonly brokers: ReadonlyArray<string>
  /** The address to listen on. */
  readonly host: string
  readonly port: number
  /** Always on loopback. */
  readonly adminPort: number
  readonly orders: OrderSettings
  /** Who charges cards; without one they are not taken. */
  readonly cardProcessorUrl: string | undefined
}

/** What orders may ask for, and what they get when they don't. */
export interface OrderSettings {
  /** Whether services listen to each other's events, for orders that are choreographed. */
  readonly choreography: boolean
  readonly coordination: Coordination
  readonly definition: DefinitionName
}

/** The environment says something that can't be used. */
export class BadSettings extends Schema.TaggedError<BadSettings>()("BadSettings", { message: Schema.String }) {}

const Brokers = Schema.String.check(
  Schema.isPattern(/^[\w.-]+:\d{1,5}(,[\w.-]+:\d{1,5})*$/, { expected: "host:port, or several with commas between" })
)

export const setting = {
  brokers: Config.schema(Brokers, "BROKERS").pipe(Config.map((brokers): ReadonlyArray<string> => brokers.split(","))),
  databaseHost: Config.NonEmptyString("DATABASE_HOST"),
  databasePort: Config.Port("DATABASE_PORT")
}

const orders: Config.Config<OrderSettings> = Config.all({
  choreography: Config.Boolean("CHOREOGRAPHY").pipe(Config.withDefault(true)),
  coordination: Config.schema(Coordination, "ORDER_COORDINATION").pipe(Config.withDefault("orchestration" as const)),
  definition: Config.schema(DefinitionName, "ORDER_DEFINITION").pipe(Config.withDefault("place-order" as const))
})

/** Reads settings from the environment. */
export const readConfig = <A>(config: Config.Config<A>): Effect.Effect<A, BadSettings> =>
  Effect.suspend(() => config).pipe(
    Effect.mapError(
      ({ cause }) => new BadSettings({ message: isSchemaError(cause) ? told(cause.issue) : cause.message })
    )
  )

/** A service's settings; ports are the service's own unless the environment names others. */
export const readSettings = (defaults: {
  readonly port: number
  readonly adminPort: number
}): Effect.Effect<Settings, BadSettings> =>
  Effect.gen(function* () {
    const { databaseHost, databasePort, password, passwordFile, ...rest } = yield* readConfig(
      Config.all({
        ...setting,
        orders,
        cardProcessorUrl: Config.option(Config.URL("CARD_PROCESSOR_URL")).pipe(
          Config.map((url) => Option.getOrUndefined(url)?.href.replace(/\/$/, ""))
        ),
        password: Config.option(Config.Redacted("DATABASE_PASSWORD")),
        passwordFile: Config.option(Config.NonEmptyString("DATABASE_PASSWORD_FILE")),
        host: Config.NonEmptyString("HOST").pipe(Config.withDefault("127.0.0.1")),
        port: Config.Port("PORT").pipe(Config.withDefault(defaults.port)),
        adminPort: Config.Port("ADMIN_PORT").pipe(Config.withDefault(defaults.adminPort))
      })
    )
    const database = { host: databaseHost, port: databasePort, password: yield* oneOf(password, passwordFile) }
    return { database, ...rest }
  })

/** A secret from a file, without the line's end. */
export const readSecret = (file: string): Effect.Effect<Redacted.Redacted<string>, BadSettings> =>
  Effect.try({
    try: () => readFileSync(file, "utf8").replace(/\r?\n$/, ""),
    catch: (cause) => new BadSettings({ message: `secret ${file} can't be read: ${String(cause)}` })
  }).pipe(
    Effect.flatMap((secret) =>
      secret === ""
        ? Effect.fail(new BadSettings({ message: `secret ${file} is empty` }))
        : Effect.succeed(Redacted.make(secret))
    )
  )

const oneOf = (
  password: Option.Option<Redacted.Redacted<string>>,
  file: Option.Option<string>
): Effect.Effect<Redacted.Redacted<string>, BadSettings> => {
  if (Option.isSome(password) === Option.isSome(file)) {
    const message = "DATABASE_PASSWORD or DATABASE_PASSWORD_FILE must be set, and not both"
    return Effect.fail(new BadSettings({ message }))
  }
  return Option.isSome(file) ? readSecret(file.value) : Effect.fromOption(password).pipe(Effect.orDie)
}

const isSchemaError = (cause: unknown): cause is Schema.SchemaError => Schema.isSchemaError(cause)

/** `PORT: Expected a value between 1 and 65535` */
const told = (issue: SchemaIssue.Issue): string =>
  format(issue)
    .issues.map(({ path, message }) => `${(path ?? []).map(String).join(".")}: ${message}`)
    .join("; ")

const format = SchemaIssue.makeFormatterStandardSchemaV1({
  // whatever the environment says is a text, so what is none is not there, or empty
  leafHook: (issue) =>
    issue._tag === "InvalidType" && issue.ast._tag === "String" ? "it is not set" : SchemaIssue.defaultLeafHook(issue)
})
