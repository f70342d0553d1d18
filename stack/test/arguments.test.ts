/** Every command with options tells how it is used: when it is asked, and when it is told what it does not know. */
import { expect, test } from "bun:test"
import { outputOf, withinMs } from "./command.ts"

const commands = [
  ["stack/main.ts", "bun run stack"],
  ["stack/load/main.ts", "bun run load"],
  ["stack/bench/main.ts", "bun run bench"],
  ["stack/demo.ts", "bun run demo"],
  ["stack/sagas.ts", "bun run sagas"],
  ["services/test/simulation/main.ts", "bun run simulate"],
  ["services/test/campaign/main.ts", "bun run campaign"],
  ["connectors/apply.ts", "bun connectors/apply.ts"]
] as const

for (const [script, called] of commands) {
  test(
    `${called} --help prints the usage`,
    async () => {
      const { out, err, code } = await outputOf(script, "--help")

      expect(out).toStartWith(called)
      expect([err, code]).toEqual(["", 0])
    },
    withinMs
  )

  test(
    `${called} refuses an option that there is not, and prints the usage`,
    async () => {
      const { out, err, code } = await outputOf(script, "--nonsense")

      expect(err).toStartWith("Unknown option '--nonsense'")
      expect(err).toContain(`\n\n${called}`)
      expect([out, code]).toEqual(["", 2])
    },
    withinMs
  )
}

// each line: what is typed, and what is said of it
test.each([
  ["sagas", "", "say what to do"],
  ["sagas", "prove", "there is no prove"],
  ["sagas", "check pay-last", "there is no saga pay-last"],
  ["bench", "hops", "there is no bench hops"],
  ["bench", "--margin much", "--margin must be a number from 0, such as 0.25, not much"],
  ["bench", "--margin=-1", "--margin must be a number from 0, such as 0.25, not -1"],
  ["load", "--rate 0", "--rate must be a number above 0, not 0"],
  ["load", "--replicas few", "--replicas must be a number from 1, not few"],
  ["load", "--definition pay-last", "--definition must be one of place-order, pay-first, not pay-last"]
])(
  "%s %s",
  async (name, typed, said) => {
    const called = `bun run ${name}`
    const script = commands.find((command) => command[1] === called)?.[0] ?? ""

    const { out, err, code } = await outputOf(script, ...typed.split(" ").filter((word) => word !== ""))

    expect(err).toStartWith(`${said}\n\n${called}`)
    expect([out, code]).toEqual(["", 2])
  },
  withinMs
)
