create table users (
  id         text primary key check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
  name       text not null check (char_length(name) between 1 and 200),
  email      text not null check (char_length(email) <= 254),
  balance    bigint check (balance >= 0),
  position   int not null check (position >= 0),
  created_at timestamptz not null,
  constraint users_balance_has_a_position check ((balance is null) = (position = 0))
);
