/** What is up in a stack's folder: written by its supervisor, read by whoever asks. */
import { readFileSync, renameSync, writeFileSync } from "node:fs"
import { connect } from "node:net"
import { join } from "node:path"
import { lives, readLedger } from "./ledger.ts"
import { within } from "./wait.ts"

export interface Row {
  readonly name: string
  readonly url: string
}

const LOOK_MS = 3_000

/** Written when everything is up, so its presence says so; a killed supervisor's is not believed. */
export const writeState = (dir: string, rows: readonly Row[]): void => {
  const file = join(dir, "state.json")
  writeFileSync(`${file}.new`, `${JSON.stringify({ supervisor: process.pid, rows }, null, 2)}\n`)
  renameSync(`${file}.new`, file)
}

export const readState = (dir: string): readonly Row[] | undefined => {
  try {
    const state: unknown = JSON.parse(readFileSync(join(dir, "state.json"), "utf8"))
    if (typeof state !== "object" || state === null || !("supervisor" in state) || !("rows" in state)) return undefined
    if (state.supervisor !== readLedger(dir).owner?.pid || !Array.isArray(state.rows)) return undefined
    return state.rows.filter(isRow)
  } catch {
    return undefined
  }
}

const isRow = (row: unknown): row is Row =>
  typeof row === "object" &&
  row !== null &&
  "name" in row &&
  "url" in row &&
  typeof row.name === "string" &&
  typeof row.url === "string"

/** A table of what runs. */
export const linesOf = (dir: string, rows: readonly Row[], state: (row: Row) => string): string[] => {
  const lines = [
    ["name", "url", "pid", "state"],
    ...rows.map((row) => [row.name, row.url, String(pidOf(dir, row.name) ?? "-"), state(row)])
  ]
  const widths = [0, 1, 2, 3].map((column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)))
  return lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd()
  )
}

/** How it stands, by its process and by what it answers. */
export const look = async (dir: string, row: Row): Promise<"up" | "not ready" | "down"> => {
  if (pidOf(dir, row.name) === undefined) return "down"
  const url = new URL(row.url)
  const path = row.name === "connect" ? "/health" : "/health/ready"
  const ready =
    url.protocol === "http:"
      ? fetch(new URL(path, url), { signal: AbortSignal.timeout(LOOK_MS) }).then((response) => response.ok)
      : accepts(url.hostname, Number(url.port))
  return (await within(row.name, LOOK_MS, ready).catch(() => false)) ? "up" : "not ready"
}

const accepts = (host: string, port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ host, port, timeout: LOOK_MS })
    const answer = (accepted: boolean) => () => {
      socket.destroy()
      resolve(accepted)
    }
    socket.once("connect", answer(true)).once("error", answer(false)).once("timeout", answer(false))
  })

const pidOf = (dir: string, name: string): number | undefined =>
  readLedger(dir).processes.find((entry) => entry.name === name && lives(entry))?.pid
