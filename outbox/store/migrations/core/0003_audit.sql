-- What the auditor keeps of each row of the outbox: nothing, but for those that it did not see on their topic in time.

-- The auditor reads each row once, by its time. An index of ranges adds nothing to the WAL and 1 to 2 µs to a row of 12;
-- a btree took 66 bytes and 5 µs (2026-11-21, 330 bytes of payload, 200 rows a transaction).
create index outbox_by_time on outbox using brin (created_at) with (pages_per_range = 16, autosummarize = on);

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
  -- whoever writes waits for the drop, so it waits for nobody for long
  set local lock_timeout = '1s';
  -- first nobody but a transaction as old as the slot is kept out
  execute format('lock table %I in share mode', partition_name);
  select * into mark from audit_marks where slot = dropped;
  if mark.slot is null or mark.watermark < slot_end then return 'it was not audited to its end'; end if;
  if exists (select from audit_exceptions where created_at < slot_end) then return 'not all of it was seen'; end if;
  execute format('select count(*) from %I', partition_name) into held;
  if held <> mark.audited then return format('it holds %s rows, and %s were audited', held, mark.audited); end if;
  execute format('drop table %I', partition_name);
  return null;
end $$;

-- What has served its time, beside the outbox's partitions: the inbox's partitions outside the window in which its claims
-- are kept, claims of ids without a time that are older than the window, and idempotency keys after two days.
-- Answers how many partitions it dropped.
create function oncebox_drop_old() returns int
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  settings oncebox_settings;
  oldest bigint;
  partition_name text;
  dropped int := 0;
begin
  select * into strict settings from oncebox_settings;
  -- one slot more than is kept: a pass may have begun before the last slot's end
  oldest := floor(extract(epoch from clock_timestamp()) * 1000 / settings.slot_ms) - settings.inbox_slots - 1;
  set local lock_timeout = '1s';
  for partition_name in
    select relname
    from pg_class
    join pg_inherits on inhrelid = oid
    where inhparent = 'inbox'::regclass
      and relname ~ '^inbox_[0-9]+$'
      and substr(relname, 7)::bigint between 1 and oldest - 1
  loop
    execute format('drop table %I', partition_name);
    dropped := dropped + 1;
  end loop;
  delete from inbox
  where bucket = 0 and claimed_at < now() - (settings.inbox_slots + 1) * settings.slot_ms * interval '1 millisecond';
  delete from idempotency_keys where created_at < now() - interval '48 hours';
  return dropped;
end $$;

-- Rights of the auditor: it reads the outbox and writes its own tables.
create function oncebox_grant_auditor(auditor name) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
  execute format('grant usage on schema public to %I', auditor);
  execute format('grant select on outbox, oncebox_settings to %I', auditor);
  execute format('grant select, insert, update on audit_marks to %I', auditor);
  execute format('grant select, insert, update, delete on audit_exceptions to %I', auditor);
  execute format('grant execute on function oncebox_drop_outbox_slot(bigint, bigint) to %I', auditor);
  execute format('grant execute on function oncebox_drop_old() to %I', auditor);
end $$;

revoke execute on function oncebox_drop_outbox_slot(bigint, bigint) from public;
revoke execute on function oncebox_drop_old() from public;
revoke execute on function oncebox_grant_auditor(name) from public;
