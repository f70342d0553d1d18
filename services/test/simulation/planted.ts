/** Bugs that are planted, one at a time, to see that the simulator finds them. */
import { Effect } from "effect"
import type { SagaRow } from "oncebox"
import type { Scenario } from "oncebox/testing"
import type { Caller } from "../../../outbox/calls/caller.ts"
import type { AnyContract } from "../../../outbox/message.ts"
import type { AnyHandler } from "../../../outbox/participant.ts"
import type { StoreLane, Transaction } from "../../../outbox/store/store.ts"
import { keyOf, WorkingSet } from "../../../outbox/table.ts"
import { Node } from "../../../outbox/testing/simulation/node.ts"
import type { AnyParticipant } from "../../../outbox/testing/simulation/scenario.ts"
import { ApproveOrderCommand, OrderRejectedEvent } from "../../order/contract.ts"
import { CancelOrder } from "../../order/order.ts"
import { definitions } from "../../orchestrator/definitions.ts"
import { PaymentProcessedEvent, ProcessPaymentCommand, RefundPaymentCommand } from "../../payment/contract.ts"
import {
  CancelProductReservationCommand,
  ProductReservationCancelledEvent,
  ProductReservedEvent,
  ReserveProductCommand
} from "../../product/contract.ts"
import { CancelShipmentCommand, CreateShipmentCommand } from "../../shipment/contract.ts"

/** Changes the sound scenario, or the code in place: then it answers what changes it back. */
export type Bug = { readonly scenario: (sound: Scenario) => Scenario } | { readonly patch: () => () => void }

type Change = (participant: AnyParticipant) => AnyParticipant
type Wrap = (handler: AnyHandler, participant: AnyParticipant) => AnyHandler

const at = (name: string, change: Change): Bug => ({
  scenario: (sound) => ({
    ...sound,
    participants: sound.participants.map((participant) =>
      participant.name === name ? change(participant) : participant
    )
  })
})

const on = (name: string, contract: object, wrap: Wrap): Bug =>
  at(name, (participant) => {
    const known = contract as AnyContract
    const handler = participant.messages.get(known)
    if (handler === undefined) throw new Error(`${name} does not handle ${known.type}`)
    return { ...participant, messages: new Map(participant.messages).set(known, wrap(handler, participant)) }
  })

const onAll = (name: string, wrap: Wrap): Bug =>
  at(name, (participant) => ({
    ...participant,
    messages: new Map([...participant.messages].map(([contract, handler]) => [contract, wrap(handler, participant)])),
    timers: new Map([...participant.timers].map(([table, handler]) => [table, wrap(handler, participant)]))
  }))

type Row = Readonly<Record<string, unknown>>
type Decide = AnyHandler["decide"]

const deciding =
  (decide: (inner: Decide) => Decide): Wrap =>
  (handler) => ({ ...handler, decide: decide(handler.decide) })

/** The decision sees rows of a table as `see` has them. */
const seeing = (table: string, see: (row: Row | undefined) => Row | undefined): Wrap =>
  deciding((inner) => (rows, payload, context) => {
    const get = (key: string) => see(rows[table]?.get(key) as Row | undefined)
    return inner({ ...rows, [table]: { get } } as typeof rows, payload, context)
  })

const sendingNot = (contract: object): Wrap =>
  deciding((inner) => (rows, payload, context) => {
    const decision = inner(rows, payload, context)
    return { ...decision, send: (decision.send ?? []).filter((outgoing) => outgoing.contract !== contract) }
  })

const onStore = (wrap: (lane: StoreLane) => StoreLane): Bug => ({ scenario: (sound) => ({ ...sound, store: wrap }) })

const opening = (change: (transaction: Transaction, asked: Parameters<StoreLane["begin"]>[0]) => Transaction): Bug =>
  onStore((lane) => ({
    begin: (asked) => Effect.map(lane.begin(asked), (transaction) => change(transaction, asked))
  }))

/** Replaces a method for as long as the bug is planted. */
const patching = <T extends object>(target: T, name: keyof T, method: (original: never) => unknown): Bug => ({
  patch: () => {
    const original = target[name]
    target[name] = method(original as never) as T[keyof T]
    return () => {
      target[name] = original
    }
  }
})

const stepsOf = ({ definition }: Pick<SagaRow, "definition">) => {
  const found = Object.values(definitions).find(({ name }) => name === definition)
  if (found === undefined) throw new Error(`there is no definition ${definition}`)
  return found.steps
}

/** The saga, standing where it would take this message for an answer. */
const awaiting = (contract: object, from: ReadonlyArray<string>): Wrap =>
  seeing("sagas", (row) => {
    if (row === undefined || !from.includes(String(row["state"]))) return row
    const step = stepsOf(row as unknown as SagaRow).find(({ success }) => (success as object) === contract)
    return step === undefined ? row : { ...row, state: "RUNNING", step: step.name }
  })

/** When undoing begins, the step in flight is taken for undone already. */
const skippingInFlight: Wrap = (handler, participant) => ({
  ...handler,
  decide: (rows, payload, context) => {
    const decision = handler.decide(rows, payload, context)
    const row = decision.put?.["sagas"]?.[0] as SagaRow | undefined
    const before = row && (rows["sagas"]?.get(row.id) as SagaRow | undefined)
    if (row?.state !== "COMPENSATING" || before?.state !== "RUNNING" || row.coordination === "choreography")
      return decision
    const undone = stepsOf(row).find(({ name }) => name === row.step)?.undo?.done
    const next = undone && participant.messages.get(undone)
    if (next === undefined) return decision
    const after = next.decide({ ...rows, sagas: { get: () => row } } as typeof rows, { orderId: row.id }, context)
    const log = [...(decision.put?.["saga_log"] ?? []), ...(after.put?.["saga_log"] ?? [])]
    return { ...after, put: { ...after.put, saga_log: log } }
  }
})

/** Rows that somebody else inserted meanwhile are updated. */
const upserting =
  (transaction: Transaction): Transaction["commit"] =>
  (writes) =>
    transaction.commit(writes).pipe(
      Effect.catchTag("KeyTaken", () => {
        const loads = writes.changes.flatMap(({ table, inserts }) =>
          table.kind === "log" ? [] : [{ table, keys: inserts.map((row) => keyOf(table, row)) }]
        )
        return Effect.flatMap(transaction.load(loads), (found) => {
          const there = new Set(
            loads.flatMap(({ table }, n) => (found[n] ?? []).map((row) => `${table.name} ${keyOf(table, row)}`))
          )
          const changes = writes.changes.map((change) => {
            const taken = (row: object): boolean => there.has(`${change.table.name} ${keyOf(change.table, row)}`)
            return change.table.kind === "log"
              ? change
              : {
                  ...change,
                  inserts: change.inserts.filter((row) => !taken(row)),
                  updates: [...change.updates, ...change.inserts.filter(taken)]
                }
          })
          return transaction.commit({ ...writes, changes })
        })
      })
    )

/** Keyed by attempt: the processor takes each for a charge of its own. */
const keyedByAttempt = (caller: Caller): Caller => ({
  ...caller,
  carry: (request, attempt) =>
    caller.carry(request, { ...attempt, idempotencyKey: `${attempt.idempotencyKey}:${attempt.attempt}` })
})

type Working = { get: (table: object, key: string) => unknown; of: (table: object) => Map<string, { stored: unknown }> }

export const planted: Readonly<Record<string, Bug>> = {
  "no inbox": opening((transaction, { claims }) => ({ ...transaction, claimed: new Set(claims.map(({ id }) => id)) })),
  "no fence: a reservation asked twice is made twice": on(
    "product",
    ReserveProductCommand,
    seeing("reservations", () => undefined)
  ),
  "no fence: a payment asked twice is taken twice": on(
    "payment",
    ProcessPaymentCommand,
    seeing("payments", () => undefined)
  ),
  "no tombstone: an undo that comes first leaves nothing": on(
    "product",
    CancelProductReservationCommand,
    deciding((inner) => (rows, payload, context) => {
      const decision = inner(rows, payload, context)
      const { orderId } = payload as { readonly orderId: string }
      return rows["reservations"]?.get(orderId) === undefined ? { ...decision, put: {} } : decision
    })
  ),
  "offsets committed before the pass": patching(
    Node.prototype,
    "decide",
    (original: Node["decide"]) =>
      function (this: Node, ...given: Parameters<Node["decide"]>) {
        for (const reading of this.readings) reading.committed = reading.position
        return original.apply(this, given) ?? []
      }
  ),
  "a late reply is accepted": on("orchestrator", ProductReservedEvent, awaiting(ProductReservedEvent, ["RUNNING"])),
  "a forward step after undoing began": on(
    "orchestrator",
    PaymentProcessedEvent,
    awaiting(PaymentProcessedEvent, ["COMPENSATING"])
  ),
  "an ended saga goes on": on(
    "orchestrator",
    ProductReservedEvent,
    awaiting(ProductReservedEvent, ["COMPENSATED", "COMPLETED"])
  ),
  "the step in flight is not undone": onAll("orchestrator", skippingInFlight),
  "a refund asked twice is made twice": on(
    "payment",
    RefundPaymentCommand,
    seeing("payments", (row) =>
      row?.["status"] === "REFUNDED" && row["method"] === "account" ? { ...row, status: "PROCESSED" } : row
    )
  ),
  "no refund at all": onAll("orchestrator", sendingNot(RefundPaymentCommand)),
  "the shipment's undo is not sent": onAll("orchestrator", sendingNot(CancelShipmentCommand)),
  "the undo of another step": onAll(
    "orchestrator",
    deciding((inner) => (rows, payload, context) => {
      const decision = inner(rows, payload, context)
      const send = (decision.send ?? []).map((outgoing) =>
        (outgoing.contract as object) === CancelProductReservationCommand
          ? { ...outgoing, contract: RefundPaymentCommand as unknown as AnyContract }
          : outgoing
      )
      return { ...decision, send }
    })
  ),
  "an undo too many: what is confirmed is asked for as a step": on(
    "orchestrator",
    ProductReservationCancelledEvent,
    deciding((inner) => (rows, payload, context) => {
      const decision = inner(rows, payload, context)
      const { orderId } = payload as { readonly orderId: string }
      const saga = rows["sagas"]?.get(orderId) as SagaRow | undefined
      const ship = saga && stepsOf(saga).find(({ name }) => name === "ship")
      if (saga?.coordination !== "orchestration" || ship === undefined) return decision
      const ask = ship.ask({ id: saga.id, data: saga.data } as never)
      return { ...decision, send: [...(decision.send ?? []), { ...ask, correlation: saga.id }] }
    })
  ),
  "a saga's timer is lost": at("orchestrator", (participant) => ({ ...participant, timers: new Map() })),
  "an order's timer is lost": at("order", (participant) => ({ ...participant, timers: new Map() })),
  "a lost update within a batch": patching(
    WorkingSet.prototype as unknown as Working,
    "get",
    () =>
      function (this: Working, table: object, key: string) {
        return this.of(table).get(key)?.stored
      }
  ),
  "the order within a batch is lost": patching(
    Node.prototype,
    "decide",
    (original: Node["decide"]) =>
      function (this: Node, records: Parameters<Node["decide"]>[0], fate: Parameters<Node["decide"]>[1]) {
        return original.call(this, records.toReversed(), fate)
      }
  ),
  "cancelling wins over what was approved": at("order", (participant) => {
    const entry = participant.requests.get(CancelOrder.type)
    if (entry === undefined) throw new Error("orders can't be cancelled")
    const approvedIsOpen = seeing("orders", (row) =>
      row?.["status"] === "APPROVED" ? { ...row, status: "CREATED" } : row
    )
    const handler = approvedIsOpen(entry.handler, participant)
    return { ...participant, requests: new Map(participant.requests).set(CancelOrder.type, { ...entry, handler }) }
  }),
  "approving wins over what was cancelled": on(
    "order",
    ApproveOrderCommand,
    seeing("orders", (row) => (row?.["status"] === "CANCELLING" ? { ...row, status: "CREATED" } : row))
  ),
  "a call outside is keyed by its attempt": {
    scenario: (sound) => ({
      ...sound,
      plan: (choices) => {
        const plan = sound.plan(choices)
        return { ...plan, callers: { payment: (plan.callers?.["payment"] ?? []).map(keyedByAttempt) } }
      }
    })
  },
  "poison takes its batch with it": patching(
    Node.prototype,
    "decide",
    (original: Node["decide"]) =>
      function (this: Node, ...given: Parameters<Node["decide"]>) {
        const outcomes = original.apply(this, [given[0], "commits"])
        const [poisoned] = (outcomes ?? []).filter(([, { _tag }]) => _tag === "parked")
        if (poisoned === undefined) return outcomes
        for (const [record, { _tag }] of outcomes ?? [])
          if (_tag === "done") this.database.inbox.get(this.name)?.delete(String(record.headers["id"]))
        return outcomes
      }
  ),
  "an absent row is written over": onStore((lane) => ({
    begin: (asked) =>
      Effect.map(lane.begin(asked), (transaction) => ({ ...transaction, commit: upserting(transaction) }))
  })),
  "an answer is not kept under its key": opening((transaction, { loads }) => ({
    ...transaction,
    rows: transaction.rows.map((rows, index) => (loads[index]?.table.name === "idempotency_keys" ? [] : rows))
  })),
  "a saga goes on with the version that a build has": onAll(
    "orchestrator",
    seeing("sagas", (row) => (row === undefined ? row : { ...row, version: 1 }))
  ),
  "what was handed over to a build is left there": {
    scenario: (sound) => ({
      ...sound,
      laterBuilds: (sound.laterBuilds ?? []).map((build) => ({
        ...build,
        timers: new Map([...build.timers].filter(([table]) => table !== "saga_handovers"))
      }))
    })
  },
  "what comes before its saga is dropped": onAll(
    "orchestrator",
    deciding((inner) => (rows, payload, context) => {
      const decision = inner(rows, payload, context)
      const { saga_early: _dropped, ...put } = decision.put ?? {}
      return { ...decision, put }
    })
  ),
  "a choreographed refund is forgotten": at("payment", (participant) => {
    const messages = new Map(participant.messages)
    messages.delete(OrderRejectedEvent as unknown as AnyContract)
    return { ...participant, messages }
  }),
  "a shipment asked again goes out again, after its undo": on(
    "shipment",
    CreateShipmentCommand,
    seeing("shipments", (row) => (row?.["status"] === "CANCELLED" ? undefined : row))
  ),
  "old news of a balance is taken for new": on(
    "user",
    PaymentProcessedEvent,
    seeing("users", (row) => (row === undefined ? row : { ...row, position: 0 }))
  )
}
