-- Answers that come late on demand, by an hour at most.
alter table failure_rules
  add column delay_ms int check (delay_ms between 1 and 3600000);

-- Commands that are put aside until then. A row that was decided stays: whoever asks again is answered at once.
create table delayed_commands (
  order_id     text primary key,
  payload      jsonb not null,
  coordination text not null,
  definition   text,
  due_at       timestamptz
);

create index delayed_commands_due on delayed_commands (due_at) where due_at is not null;
