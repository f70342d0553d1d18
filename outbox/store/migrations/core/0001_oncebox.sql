-- The library's tables. Run by the owner of the database; services get their rights from oncebox_grant().

-- How wide a time slot of outbox and inbox is, and for how many past slots the inbox keeps its claims.
-- Changing slot_ms later would make partitions overlap: it is fixed by the first migration.
create table oncebox_settings (
  only_row    boolean primary key default true check (only_row),
  slot_ms     bigint not null check (slot_ms >= 1000),
  inbox_slots int not null check (inbox_slots between 1 and 400)
);

insert into oncebox_settings (slot_ms, inbox_slots)
values (
  coalesce(nullif(current_setting('oncebox.slot_ms', true), ''), '86400000')::bigint,
  coalesce(nullif(current_setting('oncebox.inbox_slots', true), ''), '8')::int
);

-- Insert-only: Debezium reads the inserts from the WAL. No index: nobody looks a row up.
create table outbox (
  id             uuid not null,
  topic          text not null,
  key            text not null,
  type           text not null,
  payload        jsonb not null,
  correlation    text not null,
  causation      text,
  coordination   text not null,
  definition     text,
  traceparent    text,
  schema_version int not null,
  created_at     timestamptz not null default now(),
  -- below a topic's max.message.bytes of 1 MiB, or one row would block the stream for good
  constraint outbox_payload_size check (pg_column_size(payload) <= 900000)
) partition by range (created_at);

create publication outbox for table outbox with (publish = 'insert', publish_via_partition_root = true);

-- Who has seen which message. The bucket is computed from the id, so an id always meets the same partition.
create table inbox (
  message_id uuid not null,
  consumer   text not null,
  bucket     int not null,
  claimed_at timestamptz not null default now()
) partition by list (bucket);

create table dead_letters (
  consumer    text not null,
  message_id  uuid not null,
  topic       text not null,
  "partition" int not null,
  "offset"    bigint not null,
  key         text,
  type        text,
  reason      text not null,
  detail      text not null,
  record_key  bytea,
  headers     jsonb not null,
  value       bytea,
  parked_at   timestamptz not null default now(),
  primary key (consumer, message_id)
);

create index dead_letters_by_key on dead_letters (consumer, topic, key);

create table idempotency_keys (
  key         text primary key,
  fingerprint text not null,
  reply       jsonb,
  created_at  timestamptz not null default now()
);

create index idempotency_keys_by_age on idempotency_keys using brin (created_at);

-- What is to be called outside, and what came of it. A call is due when it was asked for, when the lease of whoever
-- took it is over, and when it is to be tried again; never once it is done. Done calls stay: a call that is asked for
-- again must not be a new one.
create table calls (
  -- the idempotency key that the other side is given
  id           text primary key,
  kind         text not null,
  key          text not null,
  request      jsonb not null,
  -- known once it is done, or when it is known and could not be decided
  result       jsonb,
  attempt      int not null default 0,
  due_at       timestamptz default now(),
  done_at      timestamptz,
  -- of the last attempt that came to no result
  last_error   text,
  correlation  text,
  causation    text,
  coordination text not null,
  definition   text,
  traceparent  text,
  asked_at     timestamptz not null default now(),
  constraint calls_id check (id = kind || ':' || key and kind not like '%:%'),
  constraint calls_are_due_until_done check ((due_at is null) = (done_at is not null)),
  constraint calls_are_done_with_a_result check (done_at is null or result is not null),
  -- asking for something else under a key sets -1: that is how it is refused
  constraint calls_one_request_per_key check (attempt >= 0)
);

create index calls_due on calls (kind, due_at) where due_at is not null;

-- Makes the partitions of the current time slot and of the three after it, and those that the inbox still keeps.
-- A table is made first and attached then: attaching does not keep writers out, creating in place would.
-- Rows are only ever added, and gone with their partition within days: there is nothing to vacuum, and nobody needs statistics.
-- Of the inbox's partition 0 they are deleted.
create function oncebox_prepare_partitions() returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  settings oncebox_settings;
  current_slot bigint;
  slot bigint;
  partition_name text;
begin
  select * into strict settings from oncebox_settings;
  current_slot := floor(extract(epoch from clock_timestamp()) * 1000 / settings.slot_ms);
  -- two replicas may find the same partition missing
  perform pg_advisory_xact_lock(hashtext('oncebox_prepare_partitions'));
  for slot in select current_slot - 1 + n from generate_series(0, 4) n loop
    partition_name := 'outbox_' || slot;
    if to_regclass(partition_name) is null then
      execute format('create table %I (like outbox including defaults including constraints) with (autovacuum_enabled = off)', partition_name);
      execute format('alter table outbox attach partition %I for values from (%L) to (%L)', partition_name,
        to_timestamp(slot * settings.slot_ms / 1000.0), to_timestamp((slot + 1) * settings.slot_ms / 1000.0));
    end if;
  end loop;
  for slot in select 0 union all select current_slot + n from generate_series(-settings.inbox_slots, 3) n loop
    partition_name := 'inbox_' || slot;
    if to_regclass(partition_name) is null then
      execute format('create table %I (like inbox including defaults, primary key (message_id, consumer)) with (autovacuum_enabled = %s)',
        partition_name, slot = 0);
      execute format('alter table inbox attach partition %I for values in (%s)', partition_name, slot);
    end if;
  end loop;
end $$;

-- Rights of a service: it appends to the outbox and can take nothing back.
create function oncebox_grant(service name, replication name) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
  execute format('grant usage on schema public to %I, %I', service, replication);
  execute format('grant select on oncebox_settings to %I', service);
  execute format('grant select, insert on outbox, inbox, idempotency_keys to %I', service);
  execute format('grant select, insert, update on calls to %I', service);
  execute format('grant select, insert, update, delete on dead_letters to %I', service);
  execute format('grant execute on function oncebox_prepare_partitions() to %I', service);
  execute format('grant select on outbox to %I', replication);
end $$;

revoke execute on function oncebox_prepare_partitions() from public;
revoke execute on function oncebox_grant(name, name) from public;

select oncebox_prepare_partitions();
