create table products (
  id         text primary key check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
  name       text not null check (char_length(name) between 1 and 200),
  price      bigint not null check (price between 1 and 100000000),
  quantity   bigint not null check (quantity >= 0),
  status     text not null check (status in ('ACTIVE', 'DISCONTINUED')),
  version    int not null check (version >= 1),
  created_at timestamptz not null
);

create index products_listed
  on products (status, id);

-- What an order has of the stock. A row without lines refuses the order for good.
create table reservations (
  order_id   text primary key,
  status     text not null check (status in ('RESERVED', 'FAILED', 'CANCELLED')),
  lines      jsonb not null check (jsonb_array_length(lines) <= 50),
  total      bigint not null check (total between 0 and 1000000000000),
  reason     text,
  product_id text,
  updated_at timestamptz not null,
  constraint reservations_hold_something check (status <> 'RESERVED' or jsonb_array_length(lines) > 0),
  constraint reservations_fail_for_a_reason check ((status = 'FAILED') = (reason is not null)),
  constraint reservations_failed_hold_nothing check (status <> 'FAILED' or jsonb_array_length(lines) = 0)
);

-- Failures on demand, for demonstrations and tests. The service may only read it.
create table failure_rules (
  step    text primary key,
  above   bigint check (above >= 0),
  percent int not null default 0 check (percent between 0 and 100),
  seed    text not null default ''
);
