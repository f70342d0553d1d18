/**
 * A billing service with a table and transactions of its own adopts the outbox and the inbox, and nothing else.
 * The library's migrations and a table `invoices (id, total, paid)` are there. `DATABASE_URL=… bun outbox/examples/adopt.ts`
 */
import { Schema } from "effect"
import { Inbox, Outbox, Topic } from "oncebox"
import postgres from "postgres"

const InvoicePaid = Topic.events("invoices-events").message(
  "InvoicePaid",
  { invoiceId: Schema.String, total: Schema.Int },
  { key: "invoiceId" }
)
type Publish = (message: object) => Promise<void>
type Payment = { readonly id: string; readonly invoiceId: string; readonly amount: number }

const payTheWrongWay = async (sql: postgres.Sql, invoiceId: string, publish: Publish) => {
  await sql`update invoices set paid = total where id = ${invoiceId}`
  await publish({ type: "InvoicePaid", invoiceId })
}

// The right way: the message is a row of the same transaction. The relay publishes it after the commit, and only then.
const pay = (sql: postgres.Sql, invoiceId: string) =>
  sql.begin(async (transaction) => {
    const [invoice] = await transaction`update invoices set paid = total where id = ${invoiceId} returning total`
    if (invoice === undefined) throw new Error(`there is no invoice ${invoiceId}`)
    await Outbox.append(transaction, [InvoicePaid.of({ invoiceId, total: invoice["total"] })])
  })

// And on the way in: a message that is delivered twice is claimed once, together with what it changes.
const receive = (sql: postgres.Sql, payment: Payment) =>
  sql.begin(async (transaction) => {
    const fresh = await Inbox.claim(transaction, "billing", [payment.id])
    if (!fresh.has(payment.id)) return "seen before, nothing to do"
    await transaction`update invoices set paid = paid + ${payment.amount} where id = ${payment.invoiceId}`
    return "booked"
  })

const main = async (sql: postgres.Sql) => {
  await sql`insert into invoices (id, total, paid) values ('A', 100, 0), ('B', 100, 0), ('C', 100, 0)`
  const paid = async (id: string) => (await sql`select paid from invoices where id = ${id}`)[0]?.["paid"]
  const messages = async (id: string) => (await sql`select from outbox where key = ${id}`).length

  const crash: Publish = () => Promise.reject(new Error("killed between the two writes"))
  await payTheWrongWay(sql, "A", crash).catch((error: Error) => console.log(`two writes: ${error.message}`))
  console.log(`A: ${await paid("A")} of 100 paid, ${await messages("A")} messages: nobody will ever hear of it`)

  await pay(sql, "B")
  console.log(`B: ${await paid("B")} of 100 paid, ${await messages("B")} message in the same transaction`)

  const payment = { id: Bun.randomUUIDv7(), invoiceId: "C", amount: 40 }
  console.log(`payment for C: ${await receive(sql, payment)}`)
  console.log(`the same once more: ${await receive(sql, payment)}`)
  console.log(`C: ${await paid("C")} of 100 paid`)
}

const sql = postgres(process.env["DATABASE_URL"] ?? "", { onnotice: () => {} })
await main(sql).finally(() => sql.end())
