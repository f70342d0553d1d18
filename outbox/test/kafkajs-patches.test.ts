/** Records are read by the patched decoder as by the original, whatever they hold. */
import { expect, test } from "bun:test"
import fc from "fast-check"
import encodeRecord from "kafkajs/src/protocol/recordBatch/record/v0/index.js"

interface Fields {
  readonly timestampDelta: number
  readonly key: string | null
  readonly headers: ReadonlyArray<readonly [name: string, value: string]>
}

/** The record without its length, as kafkajs hands it to its decoder; headers of one name may be several. */
const encoded = ({ timestampDelta, key, headers }: Fields): string => {
  const byName = Object.fromEntries(
    Map.groupBy(headers, ([name]) => name)
      .entries()
      .map(([name, pairs]) => [name, pairs.map(([, value]) => Buffer.from(value))])
  )
  const { buffer } = encodeRecord({ offsetDelta: 3, timestampDelta, key, value: "{}", headers: byName })
  let lengthBytes = 0
  while ((buffer[lengthBytes++] ?? 0) > 0x7f);
  return buffer.subarray(lengthBytes).toString("hex")
}

/** What is read of each record, in a process of its own: what is patched there stays patched. */
const read = (patched: boolean, records: ReadonlyArray<string>): ReadonlyArray<string> => {
  const script = `
    ${patched ? 'await import("./broker/kafkajs-patches.ts")' : ""}
    const { default: Decoder } = await import("kafkajs/src/protocol/decoder.js")
    const { default: decodeRecord } = await import("kafkajs/src/protocol/recordBatch/record/v0/decoder.js")
    const shown = (value) => Array.isArray(value) ? value.map(shown) : value === null ? null : value.toString("hex")
    for (const hex of JSON.parse(await Bun.stdin.text())) {
      const batch = { firstOffset: "5", firstTimestamp: "1795299485610" }
      const { headers, timestamp, offset, key, value } = decodeRecord(new Decoder(Buffer.from(hex, "hex")), batch)
      const named = Object.entries(headers).map(([name, value]) => [name, shown(value)])
      console.log(JSON.stringify({ timestamp, offset, key: shown(key), value: shown(value), headers: named }))
    }`
  const { stdout, stderr, exitCode } = Bun.spawnSync([process.execPath, "-e", script], {
    cwd: `${import.meta.dir}/..`,
    stdin: Buffer.from(JSON.stringify(records)),
    timeout: 60_000
  })
  if (exitCode !== 0) throw new Error(stderr.toString())
  return stdout.toString().trim().split("\n")
}

const names = fc
  .oneof(fc.constantFrom("id", "ce_type", "", "ä", "1"), fc.string({ unit: "grapheme", maxLength: 200 }))
  .filter((name) => !(name in {}) && name.isWellFormed())
const fields: fc.Arbitrary<Fields> = fc.record({
  timestampDelta: fc.oneof(
    fc.integer({ min: -10, max: 10 }),
    fc.constantFrom(2 ** 26, 2 ** 27 - 1, 2 ** 27, 2 ** 28, -(2 ** 27), -(2 ** 27) - 1, 2 ** 31 - 1),
    fc.integer()
  ),
  key: fc.option(fc.string()),
  headers: fc.array(fc.tuple(names, fc.string({ maxLength: 300 })), { maxLength: 20 })
})

test("reads what the original reads", () => {
  const records = fc.sample(fields, { numRuns: 3_000, seed: 1 }).map(encoded)
  // kafkajs itself writes no header without a value: its length, the last byte, is -1 then
  const empty = encoded({ timestampDelta: 0, key: "k", headers: [["traceparent", ""]] })
  records.push(empty.replace(/00$/, "01"))
  const [original, patched] = [read(false, records), read(true, records)]
  expect(patched).toHaveLength(records.length)
  expect(patched).toEqual(original)
  expect(JSON.parse(patched.at(-1) ?? "").headers).toEqual([["traceparent", null]])
})

test("a name that every object has something under is a header like any other", () => {
  const headers = ["__proto__", "toString", "toString", "constructor"].map((name, n) => [name, String(n)] as const)
  const [record] = read(true, [encoded({ timestampDelta: 0, key: null, headers: [...headers, ["id", "x"]] })])
  expect(JSON.parse(record ?? "").headers).toEqual([
    ["__proto__", "30"],
    ["toString", ["31", "32"]],
    ["constructor", "33"],
    ["id", "78"]
  ])
})
