-- The bridge's registry, locks and reports
\set SHOW_CONTEXT never
CREATE SCHEMA bridge;
SET search_path = bridge, public;
SET client_min_messages = warning;
CREATE TABLE payments (amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_source('bridged', 'topic', 'payments');

-- Keys of locks differ by source and partition, and stay the same
SELECT fraud.partition_key('a', 1) = fraud.partition_key('a', 1) AS same,
       fraud.partition_key('a', 1) = fraud.partition_key('a', 2) AS other_partition,
       fraud.partition_key('a/1', 2) = fraud.partition_key('a', 12) AS other_source,
       fraud.partition_key('1', 2) = fraud.sink_key('1/2') AS a_sink,
       fraud.partition_key(NULL, 1) IS NULL AS nothing;

-- Registry
SELECT fraud.register_bridge('00000000-0000-0000-0000-000000000001', 'host', 42, '0.1', '{ingest,forward}');
SELECT fraud.heartbeat('00000000-0000-0000-0000-000000000001', '{"rows": 5}') AS known,
       fraud.heartbeat('00000000-0000-0000-0000-000000000002') AS unknown;
SELECT instance, host, pid, version, parts, stats FROM fraud.bridge_instances;
SELECT fraud.heartbeat('00000000-0000-0000-0000-000000000001');
SELECT stats FROM fraud.bridge_instances;
-- one that ended without a word is forgotten when another comes
UPDATE fraud.bridge_instances SET heartbeat_at = now() - interval '61 minutes';
SELECT fraud.register_bridge('00000000-0000-0000-0000-000000000002', 'host', 43, '0.1', '{ingest}');
SELECT instance FROM fraud.bridge_instances;
SELECT fraud.register_bridge('00000000-0000-0000-0000-000000000002', 'other', 44, '0.1', '{ingest}');
SELECT instance, host, pid FROM fraud.bridge_instances;
SELECT fraud.register_bridge(NULL, 'other', 44, '0.1', '{ingest}');
SELECT fraud.register_bridge('00000000-0000-0000-0000-000000000003', 'h', 1, '0.1', '{sink}');
SELECT fraud.unregister_bridge('00000000-0000-0000-0000-000000000003');

-- What a source is doing
SELECT state FROM fraud.sources;
INSERT INTO fraud.offsets (source, kafka_topic, kafka_partition, first_offset, next_offset, owner, end_offset, end_seen_at)
VALUES ('bridged', 'topic', 0, 0, 10, '00000000-0000-0000-0000-000000000002', 15, now()),
       ('bridged', 'topic', 1, 0, 20, NULL, 20, now());
SELECT state, "position", lag FROM fraud.sources;
UPDATE fraud.offsets SET end_seen_at = now() - interval '31 s' WHERE kafka_partition = 1;
SELECT state, lag FROM fraud.sources;
UPDATE fraud.bridge_instances SET parts = '{forward}';
SELECT state FROM fraud.sources;
UPDATE fraud.bridge_instances SET parts = '{ingest}', heartbeat_at = now() - interval '11 s';
SELECT state FROM fraud.sources;
SELECT fraud.unregister_bridge('00000000-0000-0000-0000-000000000002');
SELECT state FROM fraud.sources;

-- Reports
SELECT fraud.report_source('bridged', false, 'broker away', NULL);
SELECT state, last_error, last_error_at IS NOT NULL AS at, statement FROM fraud.sources;
SELECT fraud.report_source('bridged', false, NULL, NULL);
SELECT state, last_error, last_error_at, statement FROM fraud.sources;
SELECT fraud.report_source('bridged', true, 'offset 5 of partition 0 is gone',
    $$SELECT fraud.set_position('bridged', 0, 'earliest', dry_run => false)$$);
SELECT state, last_error, statement FROM fraud.sources \gx
-- the statement that it names lets it go on
SELECT statement FROM fraud.sources \gexec
SELECT state, last_error, statement FROM fraud.sources;
SELECT fraud.report_source('bridged', true, 'every record fails', NULL);
SELECT state, last_error, statement FROM fraud.sources;
SELECT statement FROM fraud.sources \gexec
SELECT state, last_error, statement FROM fraud.sources;
SELECT fraud.report_source('no such', true, 'x', 'y');

-- Eviction: only who holds the lock and gives no sign of life
SELECT fraud.evict('bridged', 0, '10 s');
SELECT pg_try_advisory_lock(fraud.partition_key('bridged', 0));
UPDATE fraud.offsets SET owner = NULL;
SELECT fraud.evict('bridged', 0, '10 s') AS owner_unknown;
SELECT fraud.register_bridge('00000000-0000-0000-0000-000000000004', 'h', 1, '0.1', '{ingest}');
UPDATE fraud.offsets SET owner = '00000000-0000-0000-0000-000000000004';
SELECT fraud.evict('bridged', 0, '10 s') AS owner_alive;
SELECT fraud.evict('bridged', 1, '10 s') AS lock_free;
SELECT pg_backend_pid() AS pid \gset
\c -
SET search_path = bridge, public;
SET client_min_messages = warning;
SELECT pg_backend_pid() <> :pid AS another;

SELECT fraud.unregister_bridge('00000000-0000-0000-0000-000000000004');
SELECT fraud.drop_source('bridged', forget => true);
TRUNCATE fraud.position_changes;
SELECT fraud.unwatch('payments');
DROP SCHEMA bridge CASCADE;
