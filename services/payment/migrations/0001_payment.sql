create table accounts (
  user_id         text primary key check (user_id ~ '^[A-Za-z0-9_-]{1,64}$'),
  opening_balance bigint not null check (opening_balance >= 0),
  balance         bigint not null check (balance >= 0),
  position        int not null check (position >= 0),
  opened_at       timestamptz not null,
  closed_at       timestamptz,
  constraint accounts_without_a_ledger_are_closed check (
    position >= 1 or (closed_at is not null and balance = 0 and opening_balance = 0)
  )
);

create table payments (
  order_id        text primary key,
  user_id         text,
  amount          bigint not null check (amount between 0 and 1000000000000),
  method          text not null check (method in ('account', 'card')),
  status          text not null check (
    status in ('PENDING', 'PROCESSED', 'FAILED', 'UNDOING', 'REFUNDING', 'REFUNDED', 'CANCELLED')
  ),
  reason          text,
  charge          text,
  balance         bigint,
  position        int,
  refund_balance  bigint,
  refund_position int,
  updated_at      timestamptz not null,
  constraint payments_of_somebody check (status = 'CANCELLED' or user_id is not null),
  constraint payments_fail_for_a_reason check ((status = 'FAILED') = (reason is not null)),
  constraint payments_moved_money check (
    (method = 'account' and status in ('PROCESSED', 'REFUNDED')) = (balance is not null)
    and (method = 'account' and status in ('PROCESSED', 'REFUNDED')) = (position is not null)
  ),
  constraint payments_gave_it_back check (
    (method = 'account' and status = 'REFUNDED') = (refund_balance is not null)
    and (method = 'account' and status = 'REFUNDED') = (refund_position is not null)
  ),
  constraint payments_wait_for_cards_only check (
    method = 'card' or status not in ('PENDING', 'UNDOING', 'REFUNDING')
  ),
  constraint payments_charged_a_card check (
    (charge is not null) = (method = 'card' and status in ('PROCESSED', 'REFUNDING', 'REFUNDED'))
  )
);

create table deposits (
  deposit_id text primary key,
  user_id    text not null,
  amount     bigint not null check (amount between 1 and 1000000000000),
  status     text not null check (status in ('MADE', 'REFUSED')),
  reason     text,
  balance    bigint,
  position   int,
  decided_at timestamptz not null,
  constraint deposits_refused_for_a_reason check ((status = 'REFUSED') = (reason is not null)),
  constraint deposits_moved_money check (
    (status = 'MADE') = (balance is not null)
    and (status = 'MADE') = (position is not null)
  )
);

-- Append-only. An account's balance is the balance of its highest position, and the sum of all its amounts.
create table ledger (
  user_id    text not null,
  position   int not null check (position >= 1),
  amount     bigint not null,
  kind       text not null check (kind in ('OPENING', 'DEPOSIT', 'PAYMENT', 'REFUND')),
  order_id   text,
  deposit_id text,
  balance    bigint not null check (balance >= 0),
  at         timestamptz not null,
  primary key (user_id, position),
  constraint ledger_opens_once check ((kind = 'OPENING') = (position = 1)),
  constraint ledger_of_an_order check ((kind in ('PAYMENT', 'REFUND')) = (order_id is not null)),
  constraint ledger_of_a_deposit check ((kind = 'DEPOSIT') = (deposit_id is not null)),
  constraint ledger_direction check (case kind when 'PAYMENT' then amount <= 0 else amount >= 0 end)
);

-- No order is paid twice, or given back twice, whatever the code does.
create unique index ledger_once_per_order
  on ledger (order_id, kind)
  where order_id is not null;

-- No deposit is made twice either.
create unique index ledger_once_per_deposit
  on ledger (deposit_id)
  where deposit_id is not null;

-- Failures on demand, for demonstrations and tests. The service may only read it.
create table failure_rules (
  step    text primary key,
  above   bigint check (above >= 0),
  percent int not null default 0 check (percent between 0 and 100),
  seed    text not null default ''
);
