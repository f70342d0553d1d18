create table orders (
  id           uuid primary key,
  user_id      text not null,
  items        jsonb not null check (jsonb_array_length(items) between 1 and 50),
  lines        jsonb check (jsonb_array_length(lines) between 1 and 50),
  total        bigint check (total between 0 and 1000000000000),
  payment      jsonb not null,
  country      text,
  status       text not null check (status in ('CREATED', 'CANCELLING', 'APPROVED', 'REJECTED')),
  reason       text,
  coordination text not null check (coordination in ('orchestration', 'choreography')),
  definition   text not null check (definition in ('place-order', 'pay-first')),
  created_at   timestamptz not null,
  archived_at  timestamptz,
  due_at       timestamptz,
  constraint orders_priced_when_approved check (
    (status = 'APPROVED') = (lines is not null)
    and (status = 'APPROVED') = (total is not null)
  ),
  constraint orders_rejected_for_a_reason check (status <> 'REJECTED' or reason is not null),
  constraint orders_open_are_not_archived check (status in ('APPROVED', 'REJECTED') or archived_at is null),
  constraint orders_ended_are_not_due check (status in ('CREATED', 'CANCELLING') or due_at is null)
);

create index orders_due
  on orders (due_at)
  where due_at is not null;

create index orders_of_user
  on orders (user_id, id);

-- An order comes to each status once: the key is a fence of its own.
create table orders_history (
  order_id uuid not null,
  status   text not null check (status in ('CREATED', 'CANCELLING', 'APPROVED', 'REJECTED')),
  reason   text,
  at       timestamptz not null,
  primary key (order_id, status)
);
