/** Spoils JSON: what a client or a sender may put where a sound document was due, drawn from choices that a seed determines. */
import { gzipSync } from "node:zlib"
import { pickBy, pickOne, type Choices } from "../../../outbox/testing/simulation/choices.ts"

/** Text that stands for itself in a document, however little JSON it is. */
const marker = "raw text of a fuzz test"
const raw = (text: string) => ({ [marker]: text })

const write = (data: unknown): string =>
  JSON.stringify(data).replace(new RegExp(`\\{"${marker}":("(?:[^"\\\\]|\\\\.)*")\\}`, "g"), (_, text: string) =>
    JSON.parse(text)
  )

const nested = (levels: number, inner: string): string => "[".repeat(levels) + inner + "]".repeat(levels)
const nestedObjects = (levels: number, inner: string): string => '{"a":'.repeat(levels) + inner + "}".repeat(levels)

const numbers = [
  "1e400",
  "-1e400",
  "-0",
  "0.0",
  "1E+2",
  "1e-400",
  "12345678901234567890123",
  "9007199254740993",
  "2147483648",
  "0.1",
  "-1",
  "1.0",
  "1e3",
  "00",
  "0x1",
  "NaN",
  "Infinity",
  "-",
  "1.",
  ".5",
  `0.${"3".repeat(2e3)}`,
  "1e1000000"
]
const strings = [
  "",
  " ",
  "\0",
  "\ud800",
  "\udc00x",
  "﻿",
  "‮",
  "\u2028",
  "😀",
  "é",
  "\r\n",
  "",
  "__proto__",
  "constructor",
  "null",
  "NaN",
  "' or 1=1 --",
  "{}",
  "${x}",
  "../..",
  "%00",
  "\\u0000",
  "\\",
  '"',
  "{,}",
  "A".repeat(65),
  "a".repeat(201),
  "a".repeat(5e3),
  "00000000-0000-0000-0000-000000000000",
  "1970-01-01",
  "XX",
  "7"
]
const names = ["__proto__", "constructor", "toString", "hasOwnProperty", "", "\u0000", "\ud800", "length", "id", "x"]
const depths = [99, 100, 101, 500, 1_000, 8_000] as const

/** Anything but what is due. */
const oddValue = (choices: Choices): unknown =>
  pickBy<() => unknown>(choices, [
    [6, () => pickOne(choices, strings)],
    [6, () => raw(pickOne(choices, numbers))],
    [3, () => pickOne(choices, [null, true, false, 0, 1, -1])],
    [2, () => pickOne(choices, [[], {}, [[]], [null], { __proto__: null }])],
    [2, () => raw(pickOne(choices, [nested, nestedObjects])(pickOne(choices, depths), '"\\u0041"'))],
    [1, () => raw('{"__proto__":{"admin":true},"constructor":{"prototype":{"x":1}}}')],
    [1, () => Array.from({ length: 10 ** choices.pick(4) }, () => 7)],
    [1, () => Object.fromEntries(Array.from({ length: 300 }, (_, n) => [`f${n}`, n]))]
  ])()

const isContainer = (data: unknown): data is Record<string, unknown> => typeof data === "object" && data !== null

/** A copy with one place, however deep, changed by `change`. */
const changed = (
  choices: Choices,
  data: unknown,
  change: (container: Record<string, unknown>, name: string) => void
): unknown => {
  if (!isContainer(data)) return data
  const copy = Array.isArray(data) ? [...data] : { ...data }
  const container = copy as Record<string, unknown>
  const held = Object.keys(container)
  if (held.length === 0) return copy
  const name = pickOne(choices, held)
  if (isContainer(container[name]) && choices.pick(2) === 0) container[name] = changed(choices, container[name], change)
  else change(container, name)
  return copy
}

const flipped = (choices: Choices, bytes: Buffer): Buffer => {
  const copy = Buffer.from(bytes)
  for (let n = 0; n <= choices.pick(4) && copy.length > 0; n++) {
    const at = choices.pick(copy.length)
    copy[at] = (copy[at] ?? 0) ^ (1 << choices.pick(8))
  }
  return copy
}

// overlong, half of a surrogate pair in UTF-8, beyond Unicode, a lone continuation, U+0000, a BOM, an end in mid-character
const oddBytes = ["c080", "eda080", "f4908080", "bf", "00", "efbbbf", "e282", "ff", "c328", "f8888080"]
const inserted = (choices: Choices, bytes: Buffer): Buffer => {
  const at = pickOne(choices, [0, bytes.length, choices.pick(bytes.length + 1)])
  return Buffer.concat([bytes.subarray(0, at), Buffer.from(pickOne(choices, oddBytes), "hex"), bytes.subarray(at)])
}

const noise = (choices: Choices): Buffer =>
  Buffer.from(Array.from({ length: choices.pick(200) }, () => choices.pick(256)))

const escapedAll = (text: string): string =>
  text.replace(/"((?:[^"\\]|\\.)*)"/g, (quoted) => {
    const held: unknown = JSON.parse(quoted)
    return `"${[...String(held)].map((one) => [...Array(one.length).keys()].map((n) => `\\u${one.charCodeAt(n).toString(16).padStart(4, "0")}`).join("")).join("")}"`
  })

/** How a document is spoilt, and how often. Some of them leave it as sound as it was. */
const spoils: ReadonlyArray<
  readonly [weight: number, sort: string, spoil: (choices: Choices, data: object) => Buffer]
> = [
  [6, "cut", (choices, data) => cut(choices, Buffer.from(write(data)))],
  [6, "flipped", (choices, data) => flipped(choices, Buffer.from(write(data)))],
  [4, "odd bytes", (choices, data) => inserted(choices, Buffer.from(write(data)))],
  [1, "noise", (choices) => noise(choices)],
  [14, "odd value", (choices, data) => text(odd(choices, data))],
  [5, "odd values", (choices, data) => text(odd(choices, odd(choices, odd(choices, data))))],
  [5, "missing", (choices, data) => text(changed(choices, data, (container, name) => void delete container[name]))],
  [5, "more", (choices, data) => more(choices, data)],
  [3, "__proto__", (_choices, data) => Buffer.from(`{"__proto__":${write(data)}}`)],
  [2, "constructor", (_choices, data) => Buffer.from(`{"constructor":{"prototype":${write(data)}}}`)],
  [2, "deep", (choices, data) => deep(choices, data)],
  [3, "twice", (choices, data) => twice(choices, data)],
  [3, "another whole", (choices, data) => whole(choices, data)],
  [2, "syntax", (choices, data) => syntax(choices, write(data))],
  [2, "escaped", (_choices, data) => Buffer.from(escapedAll(write(data)))],
  [1, "UTF-16", (_choices, data) => Buffer.from(write(data), "utf16le")],
  [1, "zipped", (_choices, data) => gzipSync(write(data))]
]

const text = (data: unknown): Buffer => Buffer.from(write(data))
const odd = (choices: Choices, data: unknown) =>
  changed(choices, data, (container, name) => void (container[name] = oddValue(choices)))
const cut = (choices: Choices, bytes: Buffer): Buffer => bytes.subarray(0, choices.pick(Math.max(bytes.length, 1)))

const more = (choices: Choices, data: object): Buffer => {
  const field = `${JSON.stringify(pickOne(choices, names))}:${write(oddValue(choices))}`
  return Buffer.from(`{${field},${write(data).slice(1)}`)
}

const deep = (choices: Choices, data: object): Buffer => {
  // above some ten thousand levels what walks through all of it runs out of stack
  const levels = pickOne(choices, [...depths, ...depths, ...depths, 30_000, 100_000])
  const inner = pickOne(choices, ["", "1", '"\\u0041"', write(data)])
  const value = levels > 10_000 || choices.pick(2) === 0 ? nested(levels, inner) : nestedObjects(levels, inner || "1")
  return Buffer.from(choices.pick(2) === 0 ? value : `{"more":${value},${write(data).slice(1)}`)
}

const twice = (choices: Choices, data: object): Buffer => {
  const field = pickOne(choices, Object.keys(data).length === 0 ? ["x"] : Object.keys(data))
  const again = `${JSON.stringify(field)}:${write(oddValue(choices))}`
  const sound = write(data)
  return Buffer.from(choices.pick(2) === 0 ? `{${again},${sound.slice(1)}` : `${sound.slice(0, -1)},${again}}`)
}

const whole = (choices: Choices, data: object): Buffer =>
  text(
    pickBy<unknown>(choices, [
      [3, oddValue(choices)],
      [1, [data]],
      [1, write(data)],
      [1, []],
      [1, {}],
      [1, null]
    ])
  )

const syntax = (choices: Choices, sound: string): Buffer =>
  Buffer.from(
    pickOne(choices, [
      "",
      " ",
      sound.replaceAll('"', "'"),
      `${sound},`,
      `${sound}${sound}`,
      `/* */${sound}`,
      `${sound.slice(0, -1)},}`,
      sound.replaceAll(":", "="),
      ` \n\t${sound}\r\n `,
      `${" ".repeat(2e4)}${sound}`,
      `\u00a0${sound}`
    ])
  )

export interface Spoilt {
  readonly sort: string
  readonly bytes: Buffer
}

/** The document, spoilt in one way. */
export const spoilt = (choices: Choices, data: object): Spoilt => {
  const [sort, spoil] = pickBy(
    choices,
    spoils.map(([weight, name, make]) => [weight, [name, make] as const] as const)
  )
  return { sort, bytes: spoil(choices, data) }
}
