-- What the auditor keeps of each row of the outbox: nothing, but for those that it did not see on their topic in time.

-- The auditor reads each row once, by its time. An index of ranges adds nothing to the WAL and 1 to 2 µs to a row of 12;
-- a btree took 66 bytes and 5 µs (2026-11-21, 330 bytes of payload, 200 rows a transaction).
-- Its ranges are summarised by oncebox_summarize_outbox.
create index outbox_by_time on outbox using brin (created_at) with (pages_per_range = 16);

-- How far the audit is, one row for each slot that it came to. Rows of the slot that were created before the watermark
-- were looked at, so many of them, and are on their topics or in audit_exceptions.
create table audit_marks (
  slot      bigint primary key,
  watermark timestamptz not null,
  audited   bigint not null default 0
);

-- Rows that were not seen on their topic in time, until they are.
create table audit_exceptions (
  id           uuid primary key,
  topic        text not null,
  created_at   timestamptz not null,
  noted_at     timestamptz not null default now(),
  -- how often it was published again, and when last
  attempts     int not null default 0,
  published_at timestamptz,
  due_at       timestamptz not null
);

create index audit_exceptions_due on audit_exceptions (due_at);

-- Claims of ids without a time are looked for by their age.
create index inbox_0_by_age on inbox_0 using brin (claimed_at);

-- Has the index by time know the ranges of a slot's partition, from `begun` on as far as they are full, a part at each call,
-- and answers where to go on. What it does not know is read from end to end by each look. Nothing else summarises: nothing
-- vacuums the outbox, and of what autosummarize asks for autovacuum takes 256 ranges a minute and forgets the rest.
create function oncebox_summarize_outbox(slot bigint, begun int) returns int
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  partition_of_slot regclass := to_regclass('outbox_' || slot);
  -- as outbox_by_time has it
  pages_per_range constant int := 16;
  ranges_at_once constant int := 1000;
  full_ranges int;
  index_by_time regclass;
begin
  if partition_of_slot is null then return begun; end if;
  full_ranges := pg_relation_size(partition_of_slot) / current_setting('block_size')::int / pages_per_range;
  full_ranges := least(full_ranges, begun + ranges_at_once);
  if full_ranges <= begun then return begun; end if;
  select indexrelid::regclass into strict index_by_time
  from pg_index
  join pg_inherits on inhrelid = indexrelid
  where indrelid = partition_of_slot and inhparent = 'outbox_by_time'::regclass;
  for n in begun .. full_ranges - 1 loop
    perform brin_summarize_range(index_by_time, n::bigint * pages_per_range);
  end loop;
  return full_ranges;
end $$;

-- Dropping a partition takes the lock of the whole table, and whoever writes queues behind a drop that waits for it. So a
-- drop waits for a tenth of a second at most, is tried again at the next look, and is all that its transaction does.

-- Drops the outbox's partition of a slot, and answers why not when something speaks against it: null when it is gone.
-- Its rows are counted: one that was committed below the watermark against all odds keeps the partition.
create function oncebox_drop_outbox_slot(dropped bigint, keep_ms bigint) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  settings oncebox_settings;
  partition_name text := 'outbox_' || dropped;
  slot_end timestamptz;
  mark audit_marks;
  held bigint;
begin
  select * into strict settings from oncebox_settings;
  slot_end := to_timestamp((dropped + 1) * settings.slot_ms / 1000.0);
  if to_regclass(partition_name) is null then return null; end if;
  if slot_end > clock_timestamp() - keep_ms * interval '1 millisecond' then return 'it is not old enough'; end if;
  -- nobody but a transaction as old as the slot waits for this lock or is kept out by it
  set local lock_timeout = '1s';
  execute format('lock table %I in share mode', partition_name);
  select * into mark from audit_marks where slot = dropped;
  if mark.slot is null or mark.watermark < slot_end then return 'it was not audited to its end'; end if;
  if exists (select from audit_exceptions where created_at < slot_end) then return 'not all of it was seen'; end if;
  execute format('select count(*) from %I', partition_name) into held;
  if held <> mark.audited then return format('it holds %s rows, and %s were audited', held, mark.audited); end if;
  -- everybody waits for this one
  set local lock_timeout = '100ms';
  execute format('drop table %I', partition_name);
  return null;
end $$;

-- What has served its time, beside the outbox's partitions, a part at each call: the oldest of the inbox's partitions
-- outside the window, and when there is none, claims of ids without a time that are older than the window,
-- idempotency keys after two days, and what an orchestrator has put aside and done with, when the inbox does not know the
-- message any more: no redelivery can want the row. Answers how many partitions it dropped: when it is none, the rest was done.
create function oncebox_drop_old() returns int
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  settings oncebox_settings;
  oldest bigint;
  forgotten timestamptz;
  partition_name text;
  aside text;
  rows_at_once constant int := 100000;
begin
  select * into strict settings from oncebox_settings;
  -- one slot more than is kept: a pass may have begun before the last slot's end
  oldest := floor(extract(epoch from clock_timestamp()) * 1000 / settings.slot_ms) - settings.inbox_slots - 1;
  select relname into partition_name
  from pg_class
  join pg_inherits on inhrelid = oid
  where inhparent = 'inbox'::regclass
    and relname ~ '^inbox_[0-9]+$'
    and substr(relname, 7)::bigint between 1 and oldest - 1
  order by substr(relname, 7)::bigint
  limit 1;
  if partition_name is not null then
    set local lock_timeout = '100ms';
    execute format('drop table if exists %I', partition_name);
    return 1;
  end if;
  forgotten := now() - (settings.inbox_slots + 1) * settings.slot_ms * interval '1 millisecond';
  delete from inbox_0
  where ctid = any(array(select ctid from inbox_0 where claimed_at < forgotten limit rows_at_once));
  delete from idempotency_keys
  where ctid = any(array(
    select ctid from idempotency_keys where created_at < now() - interval '48 hours' limit rows_at_once
  ));
  -- tables of an orchestrator's database only
  foreach aside in array array['saga_handovers', 'saga_early'] loop
    continue when to_regclass(aside) is null;
    execute format(
      'delete from %1$I
      where message_id in (
        select message_id from %1$I where put_aside_at < $1 and due_at is null limit 20000 for update skip locked
      )', aside) using forgotten;
  end loop;
  return 0;
end $$;

-- Rights of the auditor: it reads the outbox and writes its own tables.
create function oncebox_grant_auditor(auditor name) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
  execute format('grant usage on schema public to %I', auditor);
  execute format('grant select on outbox, oncebox_settings to %I', auditor);
  execute format('grant select, insert, update on audit_marks to %I', auditor);
  execute format('grant select, insert, update, delete on audit_exceptions to %I', auditor);
  execute format('grant execute on function oncebox_summarize_outbox(bigint, int) to %I', auditor);
  execute format('grant execute on function oncebox_drop_outbox_slot(bigint, bigint) to %I', auditor);
  execute format('grant execute on function oncebox_drop_old() to %I', auditor);
end $$;

revoke execute on function oncebox_summarize_outbox(bigint, int) from public;
revoke execute on function oncebox_drop_outbox_slot(bigint, bigint) from public;
revoke execute on function oncebox_drop_old() from public;
revoke execute on function oncebox_grant_auditor(name) from public;
