/**
 * Who may know whom: ARCHITECTURE.md's directions, read off the import statements. Types count as much as values.
 * Tests and examples may import what they like.
 */
import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { basename, dirname, join, normalize } from "node:path"

interface SourceFile {
  readonly path: string
  readonly text: string
}
type Rule = (files: ReadonlyArray<SourceFile>) => ReadonlyArray<string>

const root = join(import.meta.dir, "..", "..")
const isExempt = (path: string): boolean => /(^|\/)(test|examples|node_modules)\//.test(path)

const repository: ReadonlyArray<SourceFile> = ["outbox", "services"]
  .flatMap((folder) => [...new Bun.Glob(`${folder}/**/*.{ts,sql}`).scanSync({ cwd: root })])
  .filter((path) => !isExempt(path))
  .map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }))

const withoutComments = (text: string): string =>
  text.replace(/^\s*\/\*[\s\S]*?\*\//gm, "").replace(/(^|\s)(\/\/|--\s).*$/gm, "$1")

const statements = /^\s*(?:import|export)\s+(?:[\w$*{},\s]+?\sfrom\s+)?["']([^"']+)["']/gm
const calls = /\b(?:import|require)\s*\(\s*["']([^"']+)["']/g

/** What a file imports: paths from the root for files of ours, names for packages. */
const importsOf = ({ path, text }: SourceFile): ReadonlyArray<string> => {
  const code = withoutComments(text)
  return [...code.matchAll(statements), ...code.matchAll(calls)].map(([, specifier = ""]) =>
    specifier.startsWith(".") ? normalize(join(dirname(path), specifier)) : specifier
  )
}

/** A rule about single imports: for a file that `of` takes, what it may import. */
const importing =
  (of: RegExp, may: (target: string, path: string) => boolean): Rule =>
  (files) =>
    files
      .filter(({ path }) => path.endsWith(".ts") && of.test(path))
      .flatMap((file) =>
        importsOf(file)
          .filter((target) => !may(target, file.path) || isExempt(target))
          .map((target) => `${file.path} imports ${target}`)
      )

const isOf = (target: string, name: string): boolean => target === name || target.startsWith(`${name}/`)
const isOurs = (target: string): boolean => /^(outbox|services|stack|connectors|\.\.)(\/|$)/.test(target)
const literals = /`[^`]*`|"[^"\n]*"|'[^'\n]*'/g

const rules = {
  "a service knows other services by their contracts, the shell, oncebox and effect; hono only at its edge": importing(
    /^services\/(?!shell\/)[^/]+\/.*\.ts$/,
    (target, path) => {
      if (isOurs(target))
        return (
          isOf(target, dirname(path)) ||
          isOf(target, "services/shell") ||
          /^services\/[^/]+\/contract\.ts$/.test(target)
        )
      if (isOf(target, "hono")) return basename(path) === "http.ts"
      if (target === "node:path") return basename(path) === "main.ts"
      return target === "oncebox" || isOf(target, "effect")
    }
  ),
  "the shell knows services by their list and their contracts": importing(/^services\/shell\//, (target, path) =>
    isOurs(target)
      ? isOf(target, "services/shell") ||
        target === "services/index.ts" ||
        (path === "services/shell/watchdog.ts" && target === "connectors/apply.ts") ||
        /^services\/[^/]+\/contract\.ts$/.test(target)
      : ["oncebox", "effect", "hono"].some((name) => isOf(target, name)) || target.startsWith("node:")
  ),
  "the list of services knows their contracts and how they are composed": importing(
    /^services\/[^/]+\.ts$/,
    (target) =>
      /^services\/[^/]+\/(contract|main)\.ts$/.test(target) || isOf(target, "services/shell") || target === "oncebox"
  ),
  "the library knows no service, no stack and no hono; one file knows postgres and the broker's adapter kafkajs":
    importing(/^outbox\//, (target, path) => {
      if (isOurs(target))
        return isOf(target, "outbox") && (!isOf(target, "outbox/testing") || isOf(path, "outbox/testing"))
      if (isOf(target, "postgres")) return path === "outbox/store/connection.ts"
      if (isOf(target, "kafkajs")) return /^outbox\/broker\/kafka(-offsets|js-patches)?\.ts$/.test(path)
      return isOf(target, "effect") || target.startsWith("node:")
    }),
  "messages and tables are leaves": importing(/^outbox\/(message|table)\.ts$/, (target) => !isOurs(target)),
  "ports, their adapters and delivery know nothing of what runs on them": importing(
    /^outbox\/(store|broker|delivery)\//,
    (target) =>
      !isOurs(target) || /^outbox\/(store|broker|delivery)\/|^outbox\/(hash|message|table|telemetry)\.ts$/.test(target)
  ),
  "no files of the library import each other in a circle": (files) => circlesOf(files),
  "a service's code opens no transaction": (files) =>
    inServices(files, (code) => (/\.\s*begin\s*\(/.test(code) ? ["begins a transaction"] : [])),
  "a service's code names no table of the library's": (files) =>
    inServices(files, (code, path) => {
      const texts = path.endsWith(".sql") ? [code] : (code.match(literals) ?? [])
      const names = /\b(outbox|inbox|calls|dead_letters|idempotency_keys|oncebox_\w+)\b/gi
      return texts.flatMap((text) => [...text.matchAll(names)].map(([name]) => `names ${name}`))
    }),
  "a service's main.ts has forty lines at most": (files) =>
    inServices(files, (_code, path, text) => {
      const lines = text.trimEnd().split("\n").length
      return basename(path) === "main.ts" && lines > 40 ? [`has ${lines} lines`] : []
    })
} satisfies Record<string, Rule>

const inServices = (
  files: ReadonlyArray<SourceFile>,
  look: (code: string, path: string, text: string) => ReadonlyArray<string>
): ReadonlyArray<string> =>
  files
    .filter(({ path }) => /^services\/(?!shell\/)[^/]+\//.test(path))
    .flatMap(({ path, text }) => look(withoutComments(text), path, text).map((found) => `${path} ${found}`))

const circlesOf: Rule = (files) => {
  const graph = new Map(files.filter(({ path }) => isOf(path, "outbox")).map((file) => [file.path, importsOf(file)]))
  const done = new Set<string>()
  const circles: Array<string> = []
  const visit = (path: string, trail: ReadonlyArray<string>): void => {
    if (trail.includes(path)) circles.push([...trail.slice(trail.indexOf(path)), path].join(" → "))
    if (done.has(path) || trail.includes(path)) return
    for (const target of graph.get(path) ?? []) visit(target, [...trail, path])
    done.add(path)
  }
  for (const path of graph.keys()) visit(path, [])
  return circles
}

describe("in this repository", () => {
  test.each(Object.entries(rules))("%s", (_name, rule) => {
    expect(rule(repository)).toEqual([])
  })

  test("there is something to look at", () => {
    const importers = (name: string) =>
      repository.filter((file) => importsOf(file).some((target) => isOf(target, name)))

    expect(importers("postgres").map(({ path }) => path)).toEqual(["outbox/store/connection.ts"])
    expect(
      importers("kafkajs")
        .map(({ path }) => path)
        .toSorted()
    ).toEqual(["outbox/broker/kafka-offsets.ts", "outbox/broker/kafka.ts", "outbox/broker/kafkajs-patches.ts"])
    expect(importers("oncebox").length).toBeGreaterThan(10)
    expect(repository.filter(({ path }) => path.endsWith(".sql")).length).toBeGreaterThan(5)
    expect(importsOf({ path: "outbox/store/postgres.ts", text: repositoryText("outbox/store/postgres.ts") })).toContain(
      "outbox/store/connection.ts"
    )
  })
})

const repositoryText = (path: string): string => repository.find((file) => file.path === path)?.text ?? ""

// each line: the file, what is planted in it, and what the rule says
const planted: Readonly<
  Record<keyof typeof rules, ReadonlyArray<readonly [path: string, text: string, found: string]>>
> = {
  "a service knows other services by their contracts, the shell, oncebox and effect; hono only at its edge": [
    ["services/order/order.ts", 'import { taken } from "../product/product.ts"', "imports services/product/product.ts"],
    [
      "services/order/order.ts",
      'import type { Product } from "../product/product.ts"',
      "imports services/product/product.ts"
    ],
    ["services/order/order.ts", 'export * from "../product/queries.ts"', "imports services/product/queries.ts"],
    [
      "services/order/order.ts",
      'const p = await import("../product/product.ts")',
      "imports services/product/product.ts"
    ],
    ["services/order/order.ts", 'import {\n  a,\n  type B\n} from "../index.ts"', "imports services/index.ts"],
    ["services/order/order.ts", 'import { Pass } from "../../outbox/pass/pass.ts"', "imports outbox/pass/pass.ts"],
    ["services/order/order.ts", 'import { until } from "../../stack/wait.ts"', "imports stack/wait.ts"],
    ["services/order/order.ts", 'import { Hono } from "hono"', "imports hono"],
    ["services/order/queries.ts", 'import { bodyLimit } from "hono/body-limit"', "imports hono/body-limit"],
    ["services/order/queries.ts", 'import postgres from "postgres"', "imports postgres"],
    ["services/order/http.ts", 'import { Kafka } from "kafkajs"', "imports kafkajs"],
    ["services/order/http.ts", 'import "node:fs"', "imports node:fs"],
    ["services/order/order.ts", 'import { given } from "./test/given.ts"', "imports services/order/test/given.ts"]
  ],
  "the shell knows services by their list and their contracts": [
    ["services/shell/http.ts", 'import { order } from "../order/order.ts"', "imports services/order/order.ts"],
    [
      "services/shell/http.ts",
      'import type { Queries } from "../order/queries.ts"',
      "imports services/order/queries.ts"
    ],
    ["services/shell/server.ts", 'import { Kafka } from "kafkajs"', "imports kafkajs"],
    ["services/shell/server.ts", 'import { runPass } from "../../outbox/pass/pass.ts"', "imports outbox/pass/pass.ts"]
  ],
  "the list of services knows their contracts and how they are composed": [
    ["services/index.ts", 'import { order } from "./order/order.ts"', "imports services/order/order.ts"]
  ],
  "the library knows no service, no stack and no hono; one file knows postgres and the broker's adapter kafkajs": [
    ["outbox/runtime.ts", 'import { order } from "../services/order/order.ts"', "imports services/order/order.ts"],
    ["outbox/lanes/topics.ts", 'import { until } from "../../stack/wait.ts"', "imports stack/wait.ts"],
    ["outbox/runtime.ts", 'import { Hono } from "hono"', "imports hono"],
    ["outbox/store/postgres.ts", 'import type postgres from "postgres"', "imports postgres"],
    ["outbox/runtime.ts", 'import { Kafka } from "kafkajs"', "imports kafkajs"],
    ["outbox/runtime.ts", 'import Queue from "kafkajs/src/network/index.js"', "imports kafkajs/src/network/index.js"],
    ["outbox/runtime.ts", 'import { decideWith } from "./testing/index.ts"', "imports outbox/testing/index.ts"],
    ["outbox/runtime.ts", 'import { bank } from "./test/bank.ts"', "imports outbox/test/bank.ts"],
    ["outbox/runtime.ts", 'import { x } from "left-pad"', "imports left-pad"]
  ],
  "messages and tables are leaves": [
    ["outbox/message.ts", 'import { Table } from "./table.ts"', "imports outbox/table.ts"],
    ["outbox/table.ts", 'import type { StoreError } from "./store/store.ts"', "imports outbox/store/store.ts"]
  ],
  "ports, their adapters and delivery know nothing of what runs on them": [
    ["outbox/store/memory.ts", 'import { parkedKey } from "../pass/pass.ts"', "imports outbox/pass/pass.ts"],
    ["outbox/broker/kafka.ts", 'import type { Reader } from "../lanes/decode.ts"', "imports outbox/lanes/decode.ts"]
  ],
  "no files of the library import each other in a circle": [["outbox/a.ts", 'import "./a.ts"', "→ outbox/a.ts"]],
  "a service's code opens no transaction": [
    ["services/order/queries.ts", "await sql.begin(async (transaction) => {})", "begins a transaction"],
    ["services/order/queries.ts", "await sql\n  .begin (work)", "begins a transaction"]
  ],
  "a service's code names no table of the library's": [
    ["services/order/queries.ts", "await sql`select id from outbox`", "names outbox"],
    ["services/order/queries.ts", "await sql`\n  insert into inbox (message_id) values (${id})`", "names inbox"],
    ["services/order/queries.ts", 'await sql.unsafe("delete from dead_letters")', "names dead_letters"],
    ["services/order/queries.ts", "await sql`select result from calls`", "names calls"],
    ["services/order/migrations/0002_fast.sql", "create index on Outbox (id);", "names Outbox"]
  ],
  "a service's main.ts has forty lines at most": [["services/order/main.ts", "//\n".repeat(41), "has 41 lines"]]
}

describe("a planted violation is found:", () => {
  const cases = Object.entries(planted).flatMap(([name, plants]) =>
    plants.map(([path, text, found]) => [
      `${path} with ${text.trim().split("\n").join(" ").slice(0, 60)}`,
      name,
      path,
      text,
      found
    ])
  )

  test.each(cases)("%s", (_title, name, path, text, found) => {
    const rule = Object.entries(rules).find(([rule]) => rule === name)?.[1]

    const violations = rule?.([{ path: path ?? "", text: text ?? "" }])

    expect(violations).toEqual([expect.stringMatching(new RegExp(`^${path}.* ${found}$`))])
  })

  test("a circle over several files, types included", () => {
    const files = [
      { path: "outbox/a.ts", text: 'import { b } from "./lanes/b.ts"' },
      { path: "outbox/lanes/b.ts", text: 'import type { C } from "../store/c.ts"' },
      { path: "outbox/store/c.ts", text: 'export { a } from "../a.ts"' },
      { path: "outbox/d.ts", text: 'import { a } from "./a.ts"' }
    ]

    expect(circlesOf(files)).toEqual(["outbox/a.ts → outbox/lanes/b.ts → outbox/store/c.ts → outbox/a.ts"])
  })
})

test("what only looks like a violation is none", () => {
  const text = [
    '/** Not an import: import { order } from "../order/order.ts", nor is the `outbox` a table here. */',
    '// import { order } from "../order/order.ts"; sql.begin(); `select from inbox`',
    'import { OrderCreatedEvent } from "../order/contract.ts"',
    'import { Id } from "../shell/bounds.ts"',
    'import type { Queries } from "./queries.ts"',
    'import { Schema } from "effect"',
    'import { Table } from "oncebox"',
    "export const products = Table.make(`products`)"
  ].join("\n")

  for (const rule of Object.values(rules)) expect(rule([{ path: "services/product/product.ts", text }])).toEqual([])
})
