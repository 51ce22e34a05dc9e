-- The views and functions of fraud_api, as its readers see them
\set SHOW_CONTEXT never
CREATE SCHEMA api;
SET search_path = api, public;
SET client_min_messages = warning;
CREATE ROLE api_reader;
GRANT fraud_reader TO api_reader;
CREATE ROLE api_owner;
GRANT fraud_admin TO api_owner;
GRANT ALL ON SCHEMA api TO api_owner;

CREATE TABLE payments (id bigint PRIMARY KEY, amount numeric(12,2), at timestamptz);
COMMENT ON TABLE payments IS 'Card payments';
COMMENT ON COLUMN payments.amount IS 'Money';
CREATE TABLE transfers (id bigint PRIMARY KEY, status text, amount numeric(12,2), at timestamp);
CREATE TABLE plain (id bigint);
SELECT fraud.watch('payments', event_time => 'at');
SELECT fraud.watch('transfers', event_time => 'at');
SELECT fraud.watch('plain');
SELECT fraud.add_rule('payments', 'large', 'amount > 500', description => 'More than usual');
SELECT fraud.add_rule('transfers', 'large', 'amount > 500');
INSERT INTO payments SELECT g, g * 100, timestamptz '2026-01-01 00:00Z' + g * interval '15 s' FROM generate_series(1, 8) g;
INSERT INTO transfers SELECT g, 'new', g * 100, timestamp '2026-01-01 00:00' + g * interval '15 s' FROM generate_series(1, 8) g;

-- An alert is shown to those who may SELECT its table
SET ROLE api_reader;
SELECT count(*) FROM fraud_api.alerts;
RESET ROLE;
GRANT SELECT ON transfers TO fraud_reader;
SET ROLE api_reader;
SELECT DISTINCT table_name FROM fraud_api.alerts;
SELECT DISTINCT table_name FROM fraud.alerts;
RESET ROLE;
REVOKE SELECT ON transfers FROM fraud_reader;
GRANT SELECT (id, amount) ON transfers TO fraud_reader;
SET ROLE api_reader;
SELECT count(*) FROM fraud_api.alerts;
RESET ROLE;
REVOKE SELECT (id, amount) ON transfers FROM fraud_reader;

-- Exposing a table
SELECT fraud.expose('payments');
SELECT fraud.expose('payments');
SET ROLE api_reader;
SELECT id, amount, at AT TIME ZONE 'UTC' AS at, is_fraud, fraud_score, fraud_rules FROM fraud_api.payments WHERE id >= 5 ORDER BY id;
SELECT id, fraud_alert_id IS NOT NULL AS linked, status FROM fraud_api.payments_frauds ORDER BY id;
SELECT table_name, score, rules, rule_versions, transaction, status, reviewed_by, reviewed_at, note,
       occurred_at AT TIME ZONE 'UTC' AS occurred_at, detected_at <= now() AS detected, source, kafka_topic
FROM fraud_api.alerts;
SELECT array_agg(id) = array_agg(id ORDER BY id DESC) AS newest_first FROM fraud_api.alerts;
RESET ROLE;
SELECT c.relname, obj_description(c.oid, 'pg_class') AS comment,
       CASE WHEN current_setting('server_version_num')::int >= 150000
            THEN c.reloptions @> '{security_invoker=true}'
            ELSE pg_get_userbyid(c.relowner) = 'fraud_views' END AS secured
FROM pg_class c WHERE relnamespace = 'fraud_api'::regnamespace AND relname LIKE 'payments%' ORDER BY 1;
SELECT attname, col_description(attrelid, attnum) FROM pg_attribute
WHERE attrelid = 'fraud_api.payments_frauds'::regclass AND attnum > 0 ORDER BY attnum;
-- a column added later is shown when exposed again, rights and views last
CREATE VIEW dependent AS SELECT id, status FROM fraud_api.payments_frauds;
GRANT SELECT ON fraud_api.payments TO api_owner;
ALTER TABLE payments ADD COLUMN city text;
SELECT fraud.expose('payments');
SELECT city FROM fraud_api.payments_frauds WHERE id = 6;
SELECT attname FROM pg_attribute WHERE attrelid = 'fraud_api.payments_frauds'::regclass AND attnum > 7 ORDER BY attnum;
SELECT has_table_privilege('api_owner', 'fraud_api.payments', 'SELECT');
-- one that has another name now makes the views anew
ALTER TABLE payments RENAME city TO town;
SELECT fraud.expose('payments');
DROP VIEW dependent;
SELECT fraud.expose('payments');
SELECT town FROM fraud_api.payments_frauds WHERE id = 6;
-- and back
SELECT fraud.unexpose('payments');
SELECT to_regclass('fraud_api.payments'), to_regclass('fraud_api.payments_frauds'), has_table_privilege('fraud_reader', 'payments', 'SELECT');
SELECT fraud.unexpose('payments');
SELECT fraud.expose('payments');
-- a partitioned table
CREATE TABLE parted (id int, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE parted_2026 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
SELECT fraud.watch('parted', event_time => 'at');
SELECT fraud.add_rule('parted', 'all', 'true');
INSERT INTO parted VALUES (1, '2026-06-01Z');
SELECT fraud.expose('parted');
SET ROLE api_reader;
SELECT id, status FROM fraud_api.parted_frauds;
SELECT transaction_count, fraud_count FROM fraud_api.windows('parted', '1 day');
SELECT DISTINCT table_name FROM fraud_api.alerts ORDER BY 1;
RESET ROLE;
-- a table that has a status of its own
SELECT fraud.expose('transfers');
SELECT status, alert_status FROM fraud_api.transfers_frauds WHERE id = 6;
-- what cannot be exposed
CREATE TABLE unwatched (id int);
SELECT fraud.expose('unwatched');
CREATE TABLE alerts (id int);
SELECT fraud.watch('alerts');
SELECT fraud.expose('alerts');
CREATE TABLE mine (id int);
SELECT fraud.watch('mine');
CREATE VIEW fraud_api.mine AS SELECT id FROM mine WHERE is_fraud;
SELECT fraud.expose('mine');
SELECT fraud.unexpose('mine');
CREATE SCHEMA api_other;
CREATE TABLE api_other.payments (id int);
SELECT fraud.watch('api_other.payments');
SELECT fraud.expose('api_other.payments');
SELECT fraud_api.check('payments', '{"amount": 600}');
SELECT fraud_api.windows('payments', '1 minute');
DROP SCHEMA api_other CASCADE;
CREATE TABLE a_table_with_a_name_so_long_that_its_view_would_need_more_b (id int);
SELECT fraud.watch('a_table_with_a_name_so_long_that_its_view_would_need_more_b');
SELECT fraud.expose('a_table_with_a_name_so_long_that_its_view_would_need_more_b');
SET ROLE api_owner;
SELECT fraud.expose('payments');
RESET ROLE;
SET ROLE api_reader;
SELECT fraud.expose('payments');
RESET ROLE;

-- A table that has another name or schema now keeps its alerts
ALTER TABLE payments RENAME TO paid;
SET ROLE api_reader;
SELECT DISTINCT table_name FROM fraud_api.alerts ORDER BY 1;
SELECT transaction_count FROM fraud_api.windows('paid', '1 day');
RESET ROLE;
SELECT fraud.expose('paid');
SELECT relname FROM pg_class WHERE relnamespace = 'fraud_api'::regnamespace AND relname ~ '^pa[iy]' ORDER BY 1;
CREATE SCHEMA api_archive;
ALTER TABLE paid SET SCHEMA api_archive;
INSERT INTO api_archive.paid VALUES (99, 999, '2026-02-01Z');
ALTER SCHEMA api_archive RENAME TO api_elsewhere;
SET ROLE api_reader;
SELECT DISTINCT table_name FROM fraud_api.alerts WHERE table_name <> 'api.parted' ORDER BY 1;
RESET ROLE;
ALTER TABLE api_elsewhere.paid SET SCHEMA api;
DROP SCHEMA api_elsewhere;
ALTER TABLE paid RENAME TO payments;
DELETE FROM payments WHERE id = 99;
DELETE FROM fraud.alerts WHERE table_name = 'api_archive.paid';
SELECT fraud.expose('payments');

-- Row security on a table hides its alerts from those it binds
ALTER TABLE payments ENABLE ROW LEVEL SECURITY;
CREATE POLICY one ON payments TO fraud_reader USING (id = 6);
SET ROLE api_reader;
SELECT id FROM fraud_api.payments;
SELECT DISTINCT table_name FROM fraud_api.alerts;
SELECT id, status FROM fraud_api.payments_frauds;
RESET ROLE;
ALTER TABLE payments DISABLE ROW LEVEL SECURITY;

-- Rules and their counters
SET ROLE api_reader;
SELECT id > 0 AS has_id, target, name, version, mode, score, condition, description, state,
       evaluated, fired, failed FROM fraud_api.rules WHERE target LIKE 'api.%' ORDER BY id;
SELECT target, name, evaluated, fired, share, failed, last_fired_at <= clock_timestamp() AS has_fired
FROM fraud_api.rule_stats WHERE target LIKE 'api.%' ORDER BY id;
RESET ROLE;

-- Sources, bridges and dead letters
SELECT fraud.add_source('api', 'topic', 'payments');
SELECT fraud.register_bridge('00000000-0000-0000-0000-000000000001', 'host', 42, '0.1', '{ingest}');
INSERT INTO fraud.dead_letters (source, kafka_topic, kafka_partition, kafka_offset, key, value, headers, stage, sqlstate, reason)
VALUES ('api', 'topic', 0, 7, 'card', '{"amount": "x"}', '[["h", "eA=="]]', 'map', '22P02', 'invalid amount');
SET ROLE api_reader;
SELECT name, topic, target, state, "position", lag, last_error, statement FROM fraud_api.sources;
SELECT host, pid, version, parts, state FROM fraud_api.bridge_status;
SELECT source, kafka_offset, key, value, headers, stage, sqlstate, reason FROM fraud_api.dead_letters;
SELECT key FROM fraud.dead_letters;
SELECT fraud.dead_letter_part(id, 'value') FROM fraud.dead_letters;
SET ROLE fraud_admin;
SELECT convert_from(key, 'UTF8'), convert_from(value, 'UTF8') FROM fraud_api.dead_letters;
SET ROLE fraud_operator;
SELECT convert_from(key, 'UTF8'), convert_from(value, 'UTF8') FROM fraud_api.dead_letters;
RESET ROLE;
UPDATE fraud.bridge_instances SET heartbeat_at = now() - interval '11 s';
SELECT state FROM fraud_api.bridge_status;

-- A decision without a row
SET ROLE api_reader;
SELECT is_fraud, score, rules FROM fraud_api.check('payments', '{"amount": 600}');
SELECT is_fraud, score, rules FROM fraud_api.check('api.payments', '{"amount": 500}');
SELECT is_fraud FROM fraud_api.check('payments', '{"amount": "many"}');
SELECT is_fraud FROM fraud_api.check('no such', '{}');

-- Windows
SELECT window_start AT TIME ZONE 'UTC' AS window_start, window_end - window_start AS length,
       transaction_count, total_amount, min_amount, max_amount, fraud_count
FROM fraud_api.windows('payments', '1 minute');
SELECT window_start AT TIME ZONE 'UTC' AS window_start, transaction_count
FROM fraud_api.windows('api.payments', '1 minute', '2026-01-01T00:00:30Z', '2026-01-01T00:02:00Z');
RESET ROLE;
-- the same for times without a zone, whatever the session's zone
SET TimeZone = 'Asia/Tokyo';
SELECT window_start AT TIME ZONE 'UTC' AS window_start, transaction_count, total_amount, fraud_count
FROM fraud_api.windows('transfers', '1 minute', '2026-01-01T00:00:30Z');
RESET TimeZone;
-- exactly a GROUP BY
INSERT INTO payments SELECT 1000 + g, g % 700, timestamptz '2025-12-31 23:00Z' + g * interval '7.3 s' FROM generate_series(1, 3000) g;
INSERT INTO payments VALUES (9999, 5, NULL), (9998, NULL, '2026-01-01 00:00Z');
SELECT count(*) FROM (
    SELECT window_start, transaction_count, total_amount, min_amount, max_amount, fraud_count
    FROM fraud_api.windows('payments', '10 s')
    EXCEPT
    SELECT date_bin('10 s', at, '1970-01-01Z'), count(*), sum(amount), min(amount), max(amount), count(*) FILTER (WHERE is_fraud)
    FROM payments WHERE at IS NOT NULL GROUP BY 1) difference;
SELECT sum(transaction_count) FROM fraud_api.windows('payments', '10 s');
CREATE TABLE counted (id int, at date);
SELECT fraud.watch('counted', event_time => 'at');
INSERT INTO counted VALUES (1, '2026-01-01'), (2, '2026-01-01'), (3, '2026-01-02'),
    -- in no window
    (4, 'infinity'), (5, '-infinity'), (6, '294277-01-01'), (7, '5000000-01-01'), (8, NULL);
SELECT window_start AT TIME ZONE 'UTC' AS window_start, transaction_count, total_amount
FROM fraud_api.windows('counted', '1 day');
SELECT fraud_api.windows('plain', '1 minute');
SELECT fraud_api.windows('no such', '1 minute');
SELECT fraud_api.windows('payments', '1 month');
SELECT fraud_api.windows('payments', '0');
SELECT fraud_api.windows('payments', NULL);
-- of a table that the reader may not read
CREATE TABLE closed (id int, at timestamptz);
SELECT fraud.watch('closed', event_time => 'at');
SET ROLE api_reader;
SELECT fraud_api.windows('closed', '1 minute');
RESET ROLE;

-- A table that is no longer watched keeps its alerts
SELECT fraud.unwatch('payments');
SET ROLE api_reader;
SELECT DISTINCT table_name FROM fraud_api.alerts ORDER BY 1;
RESET ROLE;

-- Alerts of a table that is gone are left to administrators, also when
-- another has its name
DROP TABLE transfers CASCADE;
CREATE TABLE transfers (id int);
GRANT SELECT ON transfers TO fraud_reader;
SET ROLE api_reader;
SELECT count(*) FROM fraud_api.alerts WHERE table_name = 'api.transfers';
SET ROLE fraud_admin;
SELECT count(*) FROM fraud_api.alerts WHERE table_name = 'api.transfers';
RESET ROLE;

SELECT fraud.drop_source('api', forget => true);
SELECT fraud.unregister_bridge('00000000-0000-0000-0000-000000000001');
TRUNCATE fraud.dead_letters, fraud.alerts, fraud.reviews;
DROP SCHEMA api CASCADE;
SELECT count(*) FROM fraud.exposed_tables;
DROP ROLE api_reader, api_owner;
