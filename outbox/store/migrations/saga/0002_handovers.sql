-- Messages that a build read which does not have the version that their saga runs on: a build that has it decides them.
-- A row that was decided stays until the inbox forgets the message itself (oncebox_drop_old).
create table saga_handovers (
  message_id   text primary key,
  saga_id      text not null,
  topic        text not null,
  type         text not null,
  payload      jsonb not null,
  due_at       timestamptz,
  put_aside_at timestamptz not null default now()
);

create index saga_handovers_due on saga_handovers (due_at) where due_at is not null;
create index saga_handovers_by_age on saga_handovers using brin (put_aside_at);
