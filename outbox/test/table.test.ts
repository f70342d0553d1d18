import { beforeEach, describe, expect, test } from "bun:test"
import { Schema } from "effect"
import fc from "fast-check"
import { keyOf, NotLoaded, Table, WorkingSet } from "../table.ts"

const runs = { seed: Number(process.env["SEED"] ?? 20260301), numRuns: 1_000 }

const books = Table.make("books", {
  key: "isbn",
  row: { isbn: Schema.String, copies: Schema.Int, due_at: Schema.NullOr(Schema.Date) }
})
const shelves = Table.make("shelves", { key: "number", row: { number: Schema.Int, room: Schema.String } })
const loans = Table.log("loans", { key: "isbn", row: { isbn: Schema.String, reader: Schema.String } })
const prices = Table.reference("prices", { key: "isbn", row: { isbn: Schema.String, price: Schema.Int } })
const tables = { books, shelves, loans, prices }

const book = (isbn: string, copies: number) => ({ isbn, copies, due_at: null })

describe("a table", () => {
  test("knows its name, its key and its columns in order", () => {
    expect(books).toMatchObject({ name: "books", kind: "rows", key: "isbn", columns: ["isbn", "copies", "due_at"] })
    expect(prices).toMatchObject({ name: "prices", kind: "reference", key: "isbn", columns: ["isbn", "price"] })
    expect(loans).toMatchObject({ name: "loans", kind: "log", key: "isbn", columns: ["isbn", "reader"] })
  })

  test("tells a row's key as text", () => {
    expect(keyOf(shelves, { number: 12, room: "east" })).toBe("12")
  })

  test.each([
    ["a column is missing", { isbn: "a", copies: 1 }],
    ["a column is null that may not be", { ...book("a", 1), copies: null }],
    ["a value has another type", { ...book("a", 1), due_at: "2026-01-01T00:00:00Z" }]
  ])("refuses a row when %s", (_name, row) => {
    expect(() => books.decode(row)).toThrow()
  })

  test("drops columns that it does not name: the database may be a migration ahead", () => {
    expect(books.decode({ ...book("a", 1), shelf: 7 })).toEqual(book("a", 1))
  })

  test("takes as key only a column that it has", () => {
    // @ts-expect-error: there is no such column
    Table.make("books", { key: "id", row: { isbn: Schema.String } })
  })
})

describe("a working set", () => {
  let working = new WorkingSet(tables)
  let view = working.view()

  beforeEach(() => {
    working = new WorkingSet(tables)
    view = working.view()
    working.add(books, ["a", "b"], [book("a", 1)])
    working.add(shelves, ["1"], [])
  })

  test("shows what was loaded, and undefined for a row that was absent", () => {
    expect(view["books"]?.get("a")).toEqual(book("a", 1))
    expect(view["books"]?.get("b")).toBeUndefined()
  })

  test("says so when a row is read that was not loaded", () => {
    expect(() => view["books"]?.get('c"')).toThrow(new NotLoaded("books", 'c"').message)
    expect(new NotLoaded("books", 'c"').message).toBe('books "c\\"" was read but not named in touches')
    expect(() => view["loans"]?.get("a")).toThrow(NotLoaded)
  })

  test("tells which keys are still to load, each once", () => {
    expect(working.missing(books, ["a", "c", "b", "c"])).toEqual(["c"])
    expect(working.missing(shelves, [])).toEqual([])
  })

  test("finds a row under its key as text", () => {
    working.add(shelves, ["2"], [{ number: 2, room: "west" }])

    expect(view["shelves"]?.get("2")).toEqual({ number: 2, room: "west" })
  })

  test("refuses a stored row that the table can't read", () => {
    expect(() => working.add(books, ["c"], [{ isbn: "c" }])).toThrow()
  })

  test("shows what was put to whoever reads later, in the same view", () => {
    working.apply({ books: [book("a", 2), book("b", 9)] })

    expect(view["books"]?.get("a")).toEqual(book("a", 2))
    expect(view["books"]?.get("b")).toEqual(book("b", 9))
  })

  test("writes nothing when nothing was put", () => {
    expect(working.changes()).toEqual([])
  })

  test("inserts what was absent, updates what was there, appends to logs, table by table in their declared order", () => {
    working.apply({
      loans: [{ isbn: "a", reader: "x" }],
      shelves: [{ number: 1, room: "east" }],
      books: [book("b", 3)]
    })
    working.apply({ books: [book("a", 0)], loans: [{ isbn: "a", reader: "y" }] })

    expect(working.changes()).toEqual([
      { table: books, inserts: [book("b", 3)], updates: [book("a", 0)], changed: new Set(["copies"]) },
      { table: shelves, inserts: [{ number: 1, room: "east" }], updates: [], changed: new Set() },
      {
        table: loans,
        inserts: [
          { isbn: "a", reader: "x" },
          { isbn: "a", reader: "y" }
        ],
        updates: [],
        changed: new Set()
      }
    ])
  })

  test("writes no row that is left as it was loaded, and of the others the columns that differ", () => {
    const due = new Date("2026-11-21T12:00:00Z")
    const loaded = new WorkingSet({ books })
    loaded.add(books, ["a", "b"], [{ ...book("a", 1), due_at: due }, book("b", 1)])
    loaded.apply({ books: [{ ...book("a", 1), due_at: new Date(due) }, book("b", 2)] })

    expect(loaded.changes()).toEqual([
      { table: books, inserts: [], updates: [book("b", 2)], changed: new Set(["copies"]) }
    ])
  })

  test("writes a row once, as it was left at last", () => {
    working.apply({ books: [book("b", 1)] })
    working.apply({ books: [book("b", 2), book("a", 5)] })
    working.apply({ books: [book("b", 3)] })

    expect(working.changes()).toEqual([
      { table: books, inserts: [book("b", 3)], updates: [book("a", 5)], changed: new Set(["copies"]) }
    ])
  })

  test.each([
    ["a row was not loaded", { books: [book("a", 9), book("c", 9)] }, 'books "c" was read but not named'],
    ["a row does not fit its table", { books: [book("a", 9)], shelves: [{ number: 1 }] }, "room"],
    ["an entry does not fit its log", { books: [book("a", 9)], loans: [{ isbn: "a" }] }, "reader"],
    [
      "a table is none of the participant's",
      { books: [book("a", 9)], readers: [] },
      "put names readers, which is no table"
    ]
  ])("takes nothing of a put when %s", (_name, puts, message) => {
    expect(() => working.apply(puts)).toThrow(message)

    expect(view["books"]?.get("a")).toEqual(book("a", 1))
    expect(working.changes()).toEqual([])
  })

  test("shows the rows of a reference, and lets none of them be changed", () => {
    working.add(prices, ["a"], [{ isbn: "a", price: 12 }])

    expect(view["prices"]?.get("a")).toEqual({ isbn: "a", price: 12 })
    expect(() => working.apply({ books: [book("a", 9)], prices: [{ isbn: "a", price: 1 }] })).toThrow(
      "prices a is a reference and can't be changed"
    )
    expect(working.changes()).toEqual([])
  })

  test("refuses a table that is none of its own", () => {
    const strange = Table.make("strange", { key: "id", row: { id: Schema.String } })

    expect(() => working.missing(strange, ["a"])).toThrow("strange is no table of this participant")
  })
})

describe("a column of times", () => {
  const day = new Date("2026-11-21T12:00:00Z")
  const columns = {
    at: Schema.Date,
    perhaps: Schema.NullOr(Schema.Date),
    text: Schema.NullOr(Schema.String),
    either: Schema.Union([Schema.Date, Schema.String]),
    three: Schema.Union([Schema.Date, Schema.Null, Schema.String]),
    late: Schema.NullOr(Schema.Date).check(Schema.makeFilter((time) => time === null || time >= day))
  }
  const row = { id: "a", at: day, perhaps: null, text: null, either: "soon", three: "soon", late: null }
  const times = Table.make("times", { key: "id", row: { id: Schema.String, ...columns } })

  test("takes times, and null where it may be", () => {
    const good = [row, { ...row, perhaps: day, text: "x", either: day, three: null, late: day }]

    expect(good.map(times.decode)).toEqual(good)
  })

  test.each([
    ["at", "2026-11-21T12:00:00Z"],
    ["at", 0],
    ["at", {}],
    ["at", null],
    ["perhaps", {}],
    ["perhaps", undefined],
    ["text", day],
    ["either", null],
    ["three", 1],
    ["late", new Date(0)]
  ])("refuses in %s: %p", (column, value) => {
    expect(() => times.decode({ ...row, [column]: value })).toThrow(column)
  })

  test("is written when it is another time", () => {
    const working = new WorkingSet({ times })
    working.add(times, ["a"], [row])
    working.apply({ times: [{ ...row, at: new Date(0) }] })

    expect(working.changes()).toEqual([
      { table: times, inserts: [], updates: [{ ...row, at: new Date(0) }], changed: new Set(["at"]) }
    ])
  })
})

test("after any puts, good and bad, it writes what a plain map of rows would hold", () => {
  const keys = ["a", "b", "c", "d"]
  const puts = fc.array(
    fc.record({
      rows: fc.array(fc.record({ key: fc.constantFrom(...keys), copies: fc.integer() }), { maxLength: 4 }),
      // a row of a key that was never loaded spoils the whole put
      bad: fc.boolean()
    })
  )

  fc.assert(
    fc.property(fc.subarray(keys), puts, (stored, all) => {
      const before = new Map(stored.map((key) => [key, book(key, 0)]))
      const model = new Map(before)
      const put = new Set<string>()
      const working = new WorkingSet(tables)
      working.add(books, keys, [...before.values()])

      for (const { rows, bad } of all) {
        const good = rows.map(({ key, copies }) => book(key, copies))
        if (bad) expect(() => working.apply({ books: [...good, book("z", 1)] })).toThrow(NotLoaded)
        else {
          working.apply({ books: good })
          for (const row of good) model.set(row.isbn, row)
          for (const { isbn } of good) put.add(isbn)
        }
      }

      const sorted = (rows: ReadonlyArray<object> = []) =>
        [...rows].sort((a, b) => (keyOf(books, a) < keyOf(books, b) ? -1 : 1))
      const left = (isStored: boolean) =>
        keys.filter((key) => put.has(key) && before.has(key) === isStored).map((key) => model.get(key))
      const [changes] = working.changes()
      expect(sorted(changes?.inserts) as unknown).toEqual(left(false))
      expect(sorted(changes?.updates) as unknown).toEqual(left(true))
      for (const key of keys) expect(working.view()["books"]?.get(key) as unknown).toEqual(model.get(key))
    }),
    runs
  )
})
