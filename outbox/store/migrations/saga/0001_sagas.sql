-- The orchestrator's tables: what each saga is at, and every step it took.

create table sagas (
  id           text primary key,
  definition   text not null,
  version      int not null,
  state        text not null check (state in ('RUNNING', 'COMPENSATING', 'COMPLETED', 'COMPENSATED')),
  step         text not null,
  attempt      int not null check (attempt >= 1),
  position     int not null check (position >= 0),
  coordination text not null,
  seen         jsonb not null,
  data         jsonb not null,
  reason       text,
  deadline     timestamptz,
  due_at       timestamptz,
  started_at   timestamptz not null,
  ended_at     timestamptz,
  check ((state in ('COMPLETED', 'COMPENSATED')) = (ended_at is not null)),
  check ((ended_at is null) = (deadline is not null)),
  check ((ended_at is null) = (due_at is not null))
)
-- a step changes no indexed column: with room on the page its update touches no index
with (fillfactor = 70);

create index sagas_due on sagas (due_at) where due_at is not null;

create table saga_log (
  saga_id    text not null,
  position   int not null,
  at         timestamptz not null,
  state      text not null,
  step       text not null,
  attempt    int not null,
  cause_type text not null,
  cause_id   text,
  asked_type text,
  asked_id   text,
  reason     text,
  primary key (saga_id, position)
);
