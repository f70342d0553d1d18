create table shipments (
  order_id   text primary key,
  id         text not null unique,
  status     text not null check (status in ('CREATED', 'FAILED', 'CANCELLED')),
  reason     text,
  items      jsonb not null check (jsonb_array_length(items) <= 50),
  updated_at timestamptz not null,
  constraint shipments_of_something check (status = 'CANCELLED' or jsonb_array_length(items) > 0),
  constraint shipments_fail_for_a_reason check ((status = 'FAILED') = (reason is not null))
);

-- Products that the carrier does not carry, and what it says about them.
create table carrier_refusals (
  product_id text primary key check (product_id ~ '^[A-Za-z0-9_-]{1,64}$'),
  reason     text not null
);

-- Countries that the carrier does not go to.
create table carrier_countries (
  country text primary key check (country ~ '^[A-Z]{2}$'),
  reason  text not null
);

-- Failures on demand, for demonstrations and tests. The service may only read it.
create table failure_rules (
  step    text primary key,
  above   bigint check (above >= 0),
  percent int not null default 0 check (percent between 0 and 100),
  seed    text not null default ''
);
