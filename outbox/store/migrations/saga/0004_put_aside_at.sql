-- When a message was put aside: rows that were decided, or given up, go when the inbox forgets the message itself.
alter table saga_handovers add column put_aside_at timestamptz not null default now();
alter table saga_early add column put_aside_at timestamptz not null default now();

create index saga_handovers_by_age on saga_handovers using brin (put_aside_at);
create index saga_early_by_age on saga_early using brin (put_aside_at);
