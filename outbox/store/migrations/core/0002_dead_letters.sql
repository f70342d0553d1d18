-- How often a dead letter was redriven in vain, and whether it was discarded. A discarded one stays: its row is what
-- keeps a redelivery of the message from being decided, and it tells who discarded it and why.
alter table dead_letters
  add column redriven int not null default 0,
  add column discarded_at timestamptz,
  add column note text,
  add constraint dead_letters_note check (note is null or discarded_at is not null);

-- whether a message has to wait behind another is asked of parked ones only
drop index dead_letters_by_key;
create index dead_letters_by_key on dead_letters (consumer, topic, key) where discarded_at is null;
create index dead_letters_in_order on dead_letters (consumer, topic, "partition", "offset", message_id);
