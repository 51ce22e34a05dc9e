-- Kafka sources: what may be declared, and what becomes of it
\set SHOW_CONTEXT never
CREATE SCHEMA source;
SET search_path = source, public;
SET client_min_messages = warning;

CREATE TABLE payments (
    transaction_id bigserial PRIMARY KEY,
    city text,
    amount numeric(12,2),
    occurred_at timestamptz,
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED);
CREATE TABLE keyless (amount numeric);
CREATE TABLE taken (amount numeric, kafka_offset text);
CREATE TABLE unwatched (amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.watch('keyless');
SELECT fraud.watch('taken');

-- A source adds its columns to the table and lets the bridge write
SELECT fraud.add_source('payments', 'payment-transactions', 'payments',
    mapping => '{"occurred_at": "/timestamp", "city": {"path": "/location/city~1town", "required": true}}');
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'payments'::regclass AND attname LIKE 'kafka%' ORDER BY attnum;
SELECT p, has_table_privilege('fraud_bridge', 'payments', p)
FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p;
SELECT has_sequence_privilege('fraud_bridge', 'payments_transaction_id_seq', 'USAGE'),
       has_schema_privilege('fraud_bridge', 'source', 'USAGE');
SELECT name, topic, target, mapping, start, on_conflict, fraud_topic, legit_topic,
       dead_letter_topic, state, "position", lag, last_error, statement, changed_by = current_user AS mine
FROM fraud.sources \gx

-- A name is taken once; options not given keep their values
SELECT fraud.add_source('payments', 'payment-transactions', 'payments');
SELECT fraud.add_source('payments', 'payment-transactions', 'payments',
    on_conflict => 'update', fraud_topic => 'frauds', replace => true);
SELECT mapping <> '{}' AS kept, on_conflict, fraud_topic FROM fraud.sources;
SELECT p, has_table_privilege('fraud_bridge', 'payments', p)
FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p;
SELECT fraud.alter_source('payments', start => '2026-01-31 12:00+02', legit_topic => 'legit');
SELECT start, on_conflict, fraud_topic, legit_topic FROM fraud.sources;
SELECT fraud.alter_source('payments', start => '2026-01-31 12:00', fraud_topic => '');
SELECT start, fraud_topic, legit_topic FROM fraud.sources;
SET TimeZone = 'America/New_York';
SELECT fraud.alter_source('payments', start => '2026-01-31 12:00');
SELECT start FROM fraud.sources;
RESET TimeZone;
SELECT fraud.alter_source('payments', mapping => '{"city": "@headers/city", "amount": {"required": false},
    "occurred_at": {"path": "/~0time", "format": "epoch_ms"}, "transaction_id": "@offset"}');
SELECT fraud.alter_source('payments', mapping => '{}', start => 'latest');

-- Tables
SELECT fraud.add_source('x', 'topic', 'unwatched');
SELECT fraud.add_source('x', 'topic', 'taken');
SELECT fraud.add_source('x', 'topic', 'keyless', on_conflict => 'ignore');
SELECT fraud.add_source('x', 'topic', 'keyless', on_conflict => 'merge');
SELECT fraud.add_source('x', 'topic', 'keyless');
SELECT fraud.add_source(NULL, 'topic', 'keyless');
SELECT fraud.add_source('', 'topic', 'keyless');
SELECT fraud.add_source(E'a\nb', 'topic', 'keyless');

-- Topics
SELECT fraud.add_source('y', 'bad topic', 'keyless');
SELECT fraud.add_source('y', '..', 'keyless');
SELECT fraud.add_source('y', repeat('t', 249), 'keyless');
SELECT fraud.alter_source('y', legit_topic => repeat('t', 250));
SELECT fraud.alter_source('y', fraud_topic => repeat('t', 249));
SELECT fraud.alter_source('y', fraud_topic => 'same', legit_topic => 'same');
SELECT fraud.drop_source('y');

-- Mappings
SELECT fraud.alter_source('x', mapping => '["amount"]');
SELECT fraud.alter_source('x', mapping => '{"no_such": "/amount"}');
SELECT fraud.alter_source('payments', mapping => '{"doubled": "/amount"}');
SELECT fraud.alter_source('x', mapping => '{"is_fraud": "/fraud"}');
SELECT fraud.alter_source('x', mapping => '{"kafka_offset": "@offset"}');
SELECT fraud.alter_source('x', mapping => '{"amount": "amount"}');
SELECT fraud.alter_source('x', mapping => '{"amount": "/a~2"}');
SELECT fraud.alter_source('x', mapping => '{"amount": "@value"}');
SELECT fraud.alter_source('x', mapping => '{"amount": "@headers/"}');
SELECT fraud.alter_source('x', mapping => '{"amount": 5}');
SELECT fraud.alter_source('x', mapping => '{"amount": {"path": 5}}');
SELECT fraud.alter_source('x', mapping => '{"amount": {"required": "yes"}}');
SELECT fraud.alter_source('x', mapping => '{"amount": {"fromat": "epoch_s"}}');
SELECT fraud.alter_source('x', mapping => '{"amount": {"format": "epoch_s"}}');
SELECT fraud.alter_source('payments', mapping => '{"occurred_at": {"format": "iso"}}');
SELECT mapping FROM fraud.sources ORDER BY name;

-- Starts
SELECT fraud.alter_source('x', start => 'yesteryear');
SELECT fraud.alter_source('x', start => 'infinity');
SELECT fraud.alter_source('x', start => '5');

-- Pausing
SELECT fraud.pause_source('x');
SELECT name, state, statement FROM fraud.sources ORDER BY name;
SELECT fraud.resume_source('x');
SELECT name, state, statement FROM fraud.sources ORDER BY name;
SELECT fraud.pause_source('no such');
SELECT fraud.resume_source('no such');
SELECT fraud.alter_source('no such', start => 'latest');

-- Positions: an operator says from where, and sees first what that means
SELECT * FROM fraud.set_position('x', 0, 100, dry_run => true);
SELECT count(*) FROM fraud.offsets;
SELECT * FROM fraud.set_position('x', 0, 100, dry_run => false);
UPDATE fraud.offsets SET owner = '00000000-0000-0000-0000-000000000001', end_offset = 150,
    last_offset = 99, last_hash = 'x', last_timestamp = 1, cluster_id = 'here';
SELECT new_position, effect FROM fraud.set_position('x', 0, '90', dry_run => true);
SELECT new_position, effect FROM fraud.set_position('x', 0, 160, dry_run => true);
SELECT new_position, effect FROM fraud.set_position('x', 0, 100, dry_run => true);
SELECT first_offset, next_offset, owner IS NULL AS free, last_offset, requested_position FROM fraud.offsets;
SELECT * FROM fraud.set_position('x', 0, 90, dry_run => false);
SELECT first_offset, next_offset, owner IS NULL AS free, last_offset, last_hash, requested_position FROM fraud.offsets;
SELECT * FROM fraud.set_position('x', 0, 'earliest', dry_run => false);
SELECT * FROM fraud.set_position('x', 1, '2026-01-31 12:00', dry_run => false);
SELECT kafka_partition, kafka_topic, first_offset, next_offset, requested_position FROM fraud.offsets ORDER BY 1;
SELECT "position" FROM fraud.sources WHERE name = 'x';
SELECT * FROM fraud.set_position('x', 0, 110, dry_run => false);
SELECT kafka_partition, first_offset, next_offset, requested_position FROM fraud.offsets ORDER BY 1;
SELECT fraud.set_position('x', 0, -1, dry_run => false);
SELECT fraud.set_position('x', -1, 0, dry_run => false);
SELECT fraud.set_position('x', 0, 'somewhere', dry_run => false);
SELECT fraud.set_position('x', 0, NULL::text, dry_run => false);
SELECT fraud.set_position('x', 0, '99999999999999999999', dry_run => false);
SELECT fraud.set_position('no such', 0, 0, dry_run => false);

-- Another cluster
SELECT fraud.accept_cluster('x', 'there');
SELECT DISTINCT cluster_id FROM fraud.offsets;
SELECT fraud.accept_cluster('no such', 'there');
SELECT fraud.accept_cluster('x', '');
SELECT kafka_partition, action, old_value, new_value, changed_by = current_user AS mine
FROM fraud.position_changes ORDER BY id;

-- A source goes on where one of its name ended; another topic is another log
SELECT fraud.alter_source('x', topic => 'other');
SELECT fraud.drop_source('x');
SELECT count(*) FROM fraud.offsets;
SELECT fraud.drop_source('x');
SELECT fraud.add_source('x', 'other', 'keyless');
SELECT fraud.drop_source('x', forget => true);
SELECT count(*) FROM fraud.offsets;
SELECT fraud.add_source('x', 'other', 'keyless');

-- Dead letters go back to the bridge once
INSERT INTO fraud.dead_letters (source, kafka_topic, kafka_partition, kafka_offset, value,
    stage, sqlstate, reason, truncated)
VALUES ('x', 'other', 0, 7, '{', 'decode', '22032', 'unexpected end', false),
       ('x', 'other', 0, 8, '{', 'decode', '54000', 'too large', true),
       ('gone', 'other', 0, 9, '{', 'decode', '22032', 'unexpected end', false);
SELECT min(id) AS id FROM fraud.dead_letters \gset
SELECT fraud.replay(:id);
SELECT replay_requested_at IS NOT NULL AS requested FROM fraud.dead_letters WHERE id = :id;
UPDATE fraud.dead_letters SET replayed_at = '2026-01-01' WHERE id = :id;
\set VERBOSITY terse
SELECT set_config('source.id', :'id', false) = :'id' AS ok;
DO $$
BEGIN
    PERFORM fraud.replay(current_setting('source.id')::bigint);
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RAISE WARNING 'replayed already';
END $$;
DO $$
BEGIN
    PERFORM fraud.replay(current_setting('source.id')::bigint + 1);
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RAISE WARNING 'truncated';
END $$;
DO $$
BEGIN
    PERFORM fraud.replay(current_setting('source.id')::bigint + 2);
EXCEPTION WHEN undefined_object THEN
    RAISE WARNING '%', sqlerrm;
END $$;
SELECT fraud.replay(0);
\set VERBOSITY default

-- What reads into a table or sends its frauds goes with it, and nothing else
SELECT fraud.add_sink('keyless', 'kafka', '{"topic": "frauds"}', target => 'keyless');
SELECT fraud.add_sink('every', 'kafka', '{"topic": "frauds"}');
INSERT INTO fraud.sink_streams (sink, stream, batch_offset, batch_rows) VALUES ('keyless', '', 0, 0);
SET client_min_messages = notice;
DROP TABLE keyless;
SET client_min_messages = warning;
SELECT name FROM fraud.sources;
SELECT name, target, lag_rows >= 0 AS lag FROM fraud.sinks;
SELECT sink FROM fraud.sink_cursor UNION ALL SELECT sink FROM fraud.sink_streams;
SELECT fraud.drop_sink('every');

SELECT fraud.drop_source('payments', forget => true);
TRUNCATE fraud.position_changes, fraud.dead_letters;
SELECT fraud.unwatch(t) FROM unnest('{payments,taken}'::regclass[]) t;
DROP SCHEMA source CASCADE;
