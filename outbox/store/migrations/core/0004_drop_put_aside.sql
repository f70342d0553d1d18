-- As before, and what an orchestrator has put aside and done with, when the inbox does not know the message any more: no
-- redelivery can want the row. So many rows at most in each of its tables; the next look takes the rest.
create or replace function oncebox_drop_old() returns int
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  settings oncebox_settings;
  oldest bigint;
  forgotten timestamptz;
  partition_name text;
  aside text;
  dropped int := 0;
begin
  select * into strict settings from oncebox_settings;
  -- one slot more than is kept: a pass may have begun before the last slot's end
  oldest := floor(extract(epoch from clock_timestamp()) * 1000 / settings.slot_ms) - settings.inbox_slots - 1;
  forgotten := now() - (settings.inbox_slots + 1) * settings.slot_ms * interval '1 millisecond';
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
  delete from inbox where bucket = 0 and claimed_at < forgotten;
  delete from idempotency_keys where created_at < now() - interval '48 hours';
  -- tables of an orchestrator's database only
  foreach aside in array array['saga_handovers', 'saga_early'] loop
    continue when to_regclass(aside) is null;
    execute format(
      'delete from %1$I
      where message_id in (
        select message_id from %1$I where put_aside_at < $1 and due_at is null limit 20000 for update skip locked
      )', aside) using forgotten;
  end loop;
  return dropped;
end $$;
