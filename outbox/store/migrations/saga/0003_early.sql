-- Messages of choreographed sagas that were read before the one that starts the saga: they are looked at again, for some
-- minutes. A row that was decided, or given up, stays.
create table saga_early (
  message_id text primary key,
  saga_id    text not null,
  topic      text not null,
  type       text not null,
  payload    jsonb not null,
  attempt    int not null,
  due_at     timestamptz
);

create index saga_early_due on saga_early (due_at) where due_at is not null;
