-- Messages of choreographed sagas that were read before the one that starts the saga: they are looked at again, for some
-- minutes. A row that was decided, or given up, stays until the inbox forgets the message itself (oncebox_drop_old).
create table saga_early (
  message_id   text primary key,
  saga_id      text not null,
  topic        text not null,
  type         text not null,
  payload      jsonb not null,
  attempt      int not null,
  due_at       timestamptz,
  put_aside_at timestamptz not null default now()
);

create index saga_early_due on saga_early (due_at) where due_at is not null;
create index saga_early_by_age on saga_early using brin (put_aside_at);
