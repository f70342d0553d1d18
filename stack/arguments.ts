/** How a command takes what it is told: asked for help it prints its usage, and what it doesn't know it refuses with it. */
import { text } from "./wait.ts"

/** What `parse` finds, or the end of the process: with 0 after `--help`, with 2 when it throws. */
export const argumentsOf = <A extends { readonly values: { readonly help?: boolean | undefined } }>(
  usage: string,
  parse: () => A
): A => {
  try {
    const given = parse()
    if (given.values.help !== true) return given
  } catch (cause) {
    console.error(`${text(cause)}\n\n${usage}`)
    process.exit(2)
  }
  console.log(usage)
  process.exit(0)
}
