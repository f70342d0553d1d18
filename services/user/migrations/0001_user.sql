create table users (
  id         text primary key check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
  name       text not null check (char_length(name) between 1 and 200),
  email      text not null check (char_length(email) <= 254),
  balance    bigint check (balance >= 0),
  position   int not null check (position >= 0),
  status     text not null check (status in ('ACTIVE', 'CLOSED')),
  version    int not null check (version >= 1),
  created_at timestamptz not null,
  constraint users_balance_has_a_position check ((balance is null) = (position = 0))
);

create index users_listed
  on users (status, id);

-- What was asked of the payment service, and what came of it.
create table deposits (
  id         uuid primary key,
  user_id    text not null,
  amount     bigint not null check (amount between 1 and 1000000000000),
  status     text not null check (status in ('PENDING', 'MADE', 'REFUSED')),
  reason     text,
  created_at timestamptz not null,
  due_at     timestamptz,
  constraint deposits_refused_for_a_reason check ((status = 'REFUSED') = (reason is not null)),
  constraint deposits_pending_are_due check ((status = 'PENDING') = (due_at is not null))
);

create index deposits_due
  on deposits (due_at)
  where due_at is not null;
