/**
 * What must be true once all is quiet, as pure functions over what was read from the databases and the topics. Each
 * answers with what is wrong; nothing is the good answer.
 */
import type { Check, Expected, World } from "./checks/check.ts"
import { balances, charged, ledgers, movements, readModel, stock } from "./checks/goods-and-money.ts"
import { delivered, letters, records } from "./checks/messages.ts"
import { histories, outcomes, sagaLogs, sagas, states, terminal } from "./checks/orders.ts"

export const checks = {
  terminal,
  outcomes,
  stock,
  balances,
  ledgers,
  movements,
  charged,
  states,
  histories,
  sagas,
  sagaLogs,
  readModel,
  delivered,
  letters,
  records
} as const satisfies Readonly<Record<string, Check>>

/** What is wrong, by the check that says so; empty when nothing is. */
export const violations = (
  world: World,
  expected: Expected
): Readonly<Partial<Record<keyof typeof checks, ReadonlyArray<string>>>> =>
  Object.fromEntries(
    Object.entries(checks).flatMap(([name, check]) => {
      const wrong = check(world, expected)
      return wrong.length === 0 ? [] : [[name, wrong.slice(0, 20)]]
    })
  )
