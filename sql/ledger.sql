-- The ledger: one alert per fraud, in the transaction of the mark
CREATE SCHEMA ledger;
SET search_path = ledger, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TYPE pair AS (a int, b text);
CREATE TYPE mood AS ENUM ('calm', 'angry');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE tx (id int, amount numeric, at timestamp, gone int);
ALTER TABLE tx DROP COLUMN gone;
SELECT fraud.watch('tx', event_time => 'at');
SELECT fraud.add_rule('tx', 'big', 'amount > 500'), fraud.add_rule('tx', 'huge', 'amount > 5000', score => 2.5);

-- what an alert holds
INSERT INTO tx VALUES (1, 501, '2024-05-01 12:00'), (2, 5001.50, NULL), (3, 1, now());
SELECT a.id = tx.fraud_alert_id AS linked, a.table_name, a.transaction, a.rules, a.rule_versions, a.score,
       a.occurred_at AT TIME ZONE 'UTC' AS occurred, a.detected_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS now,
       a.source, a.kafka_topic, a.kafka_partition, a.kafka_offset, a.forward
  FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id ORDER BY a.id;
SELECT count(DISTINCT event_id) AS events, min(substr(event_id::text, 15, 1)) AS version
  FROM fraud.alerts WHERE table_name = 'ledger.tx';

-- its transaction is the top one, whatever the nesting
BEGIN;
SELECT pg_current_xact_id() AS me \gset
SAVEPOINT a;
SAVEPOINT b;
INSERT INTO tx VALUES (4, 600);
RELEASE a;
COMMIT;
SELECT a.xid = :'me'::xid8 AS same FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id WHERE tx.id = 4;

-- a rollback takes it along
SELECT count(*) AS alerts FROM fraud.alerts \gset
BEGIN;
INSERT INTO tx VALUES (5, 600);
SAVEPOINT a;
INSERT INTO tx VALUES (6, 600);
ROLLBACK TO a;
INSERT INTO tx VALUES (7, 600);
COMMIT;
BEGIN;
INSERT INTO tx VALUES (8, 600);
ROLLBACK;
SELECT transaction -> 'id' AS id FROM fraud.alerts WHERE table_name = 'ledger.tx' AND (transaction -> 'id')::int > 4 ORDER BY id;

-- versions are those that judged, though the rules change within the transaction
BEGIN;
INSERT INTO tx VALUES (10, 6000);
SELECT fraud.alter_rule('tx', 'big', score => 0.25);
INSERT INTO tx VALUES (11, 6000);
SELECT fraud.drop_rule('tx', 'huge');
SELECT fraud.alter_rule('tx', 'big', score => 9);
INSERT INTO tx VALUES (12, 6000);
COMMIT;
SELECT tx.id, a.rules, a.rule_versions, a.score FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id
 WHERE tx.id BETWEEN 10 AND 12 ORDER BY tx.id;

-- the row as jsonb: the same as to_jsonb without the marks, for all kinds of types
CREATE TABLE kinds (
    b bool, i2 int2, i4 int4, i8 int8, n numeric, f4 float4, f8 float8, t text, v varchar(10), c char(5), nm name,
    d date, ts timestamp, tz timestamptz, tm time, iv interval, j json, jb jsonb, u uuid, by bytea, ip inet,
    m mood, dom positive, p pair, ia int[], ta timestamptz[], r int4range, x bit(3), "odd ""name" int, nothing text,
    g int GENERATED ALWAYS AS (i4 + 1) STORED);
SELECT fraud.watch('kinds');
SELECT fraud.add_rule('kinds', 'all', 'true');
SET TimeZone = 'UTC';
SET IntervalStyle = postgres;
INSERT INTO kinds VALUES
    (true, -1, 2, 3000000000000, 123456789012345678901234567890.12, 1.5, 0.1, 'text "quoted" \ and €', 'v', 'c', 'n',
     '2024-02-29', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56+02', '12:00', '1 day 02:03', '{"b": 1,   "a": [1,2]}',
     '{"x": {"y": [1, null, "z"]}}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\xdead', '10.0.0.1', 'angry', 5, (1, 'two'),
     '{1,NULL,3}', '{2024-01-01 00:00+00}', '[1,5)', B'101', 7),
    (false, 0, -2147483648, 0, 'NaN', 'Infinity', '-Infinity', '', '', '', '', '-infinity', 'infinity', '-infinity', '24:00', '-1 mon',
     'null', '"scalar"', NULL, '', '::1', 'calm', NULL, NULL, '{}', '{}', 'empty', NULL, NULL),
    (NULL, NULL, NULL, NULL, -0.000, '-0', 1e300, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '3', '[]', NULL, NULL, NULL, NULL, NULL,
     (NULL, NULL), '{{1,2},{3,4}}', NULL, '(,)', NULL, 0);
SELECT a.transaction = to_jsonb(k) - '{is_fraud,fraud_score,fraud_rules,fraud_alert_id}'::text[] AS same
  FROM kinds AS k JOIN fraud.alerts AS a ON a.id = k.fraud_alert_id ORDER BY a.id;
SELECT a.id - min(a.id) OVER () AS nth, count(*) AS keys, bool_and(a.transaction -> e.key = e.value) AS found
  FROM kinds AS k JOIN fraud.alerts AS a ON a.id = k.fraud_alert_id,
       jsonb_each(to_jsonb(k) - '{is_fraud,fraud_score,fraud_rules,fraud_alert_id}'::text[]) AS e
 GROUP BY a.id ORDER BY 1;
SELECT a.transaction -> 'n' AS n, a.transaction -> 'tz' AS tz, a.transaction -> 'p' AS p, a.transaction -> 'g' AS g
  FROM kinds AS k JOIN fraud.alerts AS a ON a.id = k.fraud_alert_id ORDER BY a.id LIMIT 1;
RESET TimeZone;
RESET IntervalStyle;

-- what jsonb cannot hold, or a cast that fails, costs no row
CREATE TYPE weird AS ENUM ('fine', 'not');
CREATE FUNCTION weird_json(weird) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF $1 = 'not' THEN RAISE EXCEPTION 'not'; END IF;
    RETURN to_json('is ' || $1::text);
END $$;
CREATE CAST (weird AS json) WITH FUNCTION weird_json(weird);
CREATE TABLE odd (id int, j json, w weird);
SELECT fraud.watch('odd');
SELECT fraud.add_rule('odd', 'all', 'true');
INSERT INTO odd VALUES (1, '{"a": 1}', 'fine'), (2, '"\u0000"', 'fine'), (3, '{"a": 3}', 'not');
SELECT transaction FROM fraud.alerts WHERE table_name = 'ledger.odd' ORDER BY id;

-- one that leads to other frauds, in the middle of an alert: each has its own
CREATE TYPE leads AS ENUM ('on');
CREATE TABLE further (id int, note text);
CREATE TABLE led (id int, note text, l leads);
SELECT fraud.watch('further'), fraud.watch('led');
SELECT fraud.add_rule('further', 'all', 'true', score => 2), fraud.add_rule('led', 'all', 'true');
CREATE FUNCTION leads_json(leads) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger.further SELECT g, repeat('y', 1000) FROM generate_series(1, 100) AS g;
    RETURN '"on"';
END $$;
CREATE CAST (leads AS json) WITH FUNCTION leads_json(leads);
INSERT INTO led SELECT g, repeat('x', 1000), 'on' FROM generate_series(1, 3) AS g;
SELECT fraud.load_packed('led', '{l,id}', 'Ltt', string_agg('\x01020000006f6e000101000000310000'::bytea, ''))
  FROM generate_series(1, 150);
SELECT table_name, count(*), count(DISTINCT event_id), min(rules::text), max(score), max(length(transaction ->> 'note')) AS length, max(transaction ->> 'l') AS l
  FROM fraud.alerts WHERE table_name IN ('ledger.led', 'ledger.further') GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM (TABLE further UNION ALL SELECT id, note, is_fraud, fraud_score, fraud_rules, fraud_alert_id FROM led) AS t
  LEFT JOIN fraud.alerts AS a ON a.id = t.fraud_alert_id WHERE a.id IS NULL;
-- and the session keeps its settings
SELECT fraud.add_rule('further', 'dated', $$CASE WHEN length(note) < 40 THEN note::timestamptz > '2026-01-05 10:00+00' END$$);
SET timezone_abbreviations = 'India';
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'German';
INSERT INTO led VALUES (4, '', 'on');
INSERT INTO led VALUES (5, '', 'on');
SELECT '2026-01-05 10:00+00'::timestamptz, '2026-01-05 10:00 IST'::timestamptz;
RESET DateStyle;
RESET TimeZone;
RESET timezone_abbreviations;

-- values that are too long for a row's JSON are left out, the row and its alert stay
CREATE TABLE long (id int, t text, j json, b bytea, short text);
SELECT fraud.watch('long');
SELECT fraud.add_rule('long', 'all', 'true');
INSERT INTO long VALUES (1, repeat('x', 64 * 1024 * 1024), NULL, NULL, 'one value'),
    (2, repeat('x', 40000000), '{"a": 1}', convert_to(repeat('y', 15000000), 'UTF8'), 'together'),
    (3, 'x', '3', convert_to(repeat('y', 34000000), 'UTF8'), 'as text');
SELECT transaction FROM fraud.alerts WHERE table_name = 'ledger.long' ORDER BY id;
DROP TABLE long;

-- the ledger changes, or fails, under a transaction that writes alerts
CREATE TABLE steady (id int);
SELECT fraud.watch('steady');
SELECT fraud.add_rule('steady', 'all', 'true');
BEGIN;
SAVEPOINT a;
INSERT INTO steady VALUES (1);
ROLLBACK TO a;
INSERT INTO steady VALUES (2);
CREATE INDEX steady_alerts ON fraud.alerts ((transaction ->> 'id')) WHERE table_name = 'ledger.steady';
INSERT INTO steady VALUES (3), (4);
SAVEPOINT b;
SELECT setval('fraud.alerts_id_seq', (SELECT max(id) FROM fraud.alerts) - 1) IS NULL AS moved_back;
\set VERBOSITY sqlstate
INSERT INTO steady VALUES (5);
\set VERBOSITY default
ROLLBACK TO b;
SELECT setval('fraud.alerts_id_seq', (SELECT max(id) FROM fraud.alerts)) IS NULL AS put_right;
INSERT INTO steady VALUES (6);
DROP INDEX fraud.steady_alerts;
INSERT INTO steady SELECT generate_series(7, 300);
COMMIT;
SET enable_seqscan = off;
SELECT count(*), min((transaction ->> 'id')::int), max((transaction ->> 'id')::int),
       count(*) FILTER (WHERE a.id = s.fraud_alert_id AND s.id::text = transaction ->> 'id') AS linked
  FROM steady AS s JOIN fraud.alerts AS a ON a.id = s.fraud_alert_id;
RESET enable_seqscan;

-- event times of other types
CREATE TABLE days (id int, day date);
SELECT fraud.watch('days', event_time => 'day');
SELECT fraud.add_rule('days', 'all', 'true');
INSERT INTO days VALUES (1, '2024-02-29'), (2, 'infinity'), (3, NULL), (4, '294500-01-01');
SELECT occurred_at AT TIME ZONE 'UTC' AS occurred FROM fraud.alerts WHERE table_name = 'ledger.days' ORDER BY id;

-- provenance: what the bridge says of its transaction
CREATE TABLE stream (id int, amount numeric, kafka_partition int, kafka_offset bigint);
SELECT fraud.watch('stream');
SELECT fraud.add_rule('stream', 'all', 'true');
BEGIN;
INSERT INTO stream VALUES (1, 1, 0, 100);
SELECT fraud.begin_batch('payments', 'tx-topic', 0, 'cluster-1');
INSERT INTO stream VALUES (2, 1, 0, 101), (3, 1, 7, 102), (4, 1, 0, NULL), (5, 1, NULL, 103);
SELECT fraud.begin_batch('payments', 'tx-topic', 1, 'cluster-1');
COPY stream (id, amount, kafka_partition, kafka_offset) FROM stdin;
6	1	1	101
\.
SAVEPOINT a;
SELECT fraud.begin_batch('other', 'other-topic', 2, 'cluster-2');
INSERT INTO stream VALUES (7, 1, 2, 5);
RELEASE a;
INSERT INTO stream VALUES (8, 1, 2, 6);
SAVEPOINT b;
SELECT fraud.begin_batch('third', 'third-topic', 3, 'cluster-3');
INSERT INTO stream VALUES (12, 1, 3, 9);
-- alerts so far, of Kafka's rows; without those that are undone
SELECT fraud.end_batch(false);
ROLLBACK TO b;
SELECT fraud.end_batch(false);
INSERT INTO stream VALUES (9, 1, 2, 7);
COMMIT;
SELECT fraud.end_batch(false);
INSERT INTO stream VALUES (10, 1, 2, 8);
SELECT s.id, a.source, a.kafka_topic, a.kafka_partition, a.kafka_offset, substr(a.event_id::text, 15, 1) AS version
  FROM stream AS s JOIN fraud.alerts AS a ON a.id = s.fraud_alert_id ORDER BY s.id;
-- the same record gives the same event
SELECT a.event_id = encode(
           set_byte(set_byte(h, 6, get_byte(h, 6) & 15 | 128), 8, get_byte(h, 8) & 63 | 128), 'hex')::uuid AS as_documented
  FROM stream AS s JOIN fraud.alerts AS a ON a.id = s.fraud_alert_id,
       substr(sha256('pg_fraud\000cluster-1\000tx-topic\0000\000101'::bytea), 1, 16) AS h
 WHERE s.id = 2;
BEGIN;
SELECT fraud.begin_batch('payments', 'tx-topic', 0, 'cluster-1');
INSERT INTO stream VALUES (11, 99, 0, 101);
COMMIT;
SELECT count(DISTINCT a.event_id) FROM stream AS s JOIN fraud.alerts AS a ON a.id = s.fraud_alert_id WHERE s.id IN (2, 11);

-- rows of Kafka's that are stored unjudged leave verdicts, by ranges; in other
-- transactions there is nothing to keep
SELECT fraud.pause('stream');
BEGIN;
INSERT INTO stream VALUES (20, 1, 0, 200);
SELECT fraud.begin_batch('payments', 'tx-topic', 0, 'cluster-1');
INSERT INTO stream VALUES (21, 1, 0, 201), (22, 1, 0, 205), (23, 1, 7, 206), (24, 1, 0, NULL);
SELECT fraud.begin_batch('payments', 'tx-topic', 1, 'cluster-1');
COPY stream (id, amount, kafka_partition, kafka_offset) FROM stdin;
25	1	1	7
26	1	1	8
\.
-- what was said of a record by itself does not hold
INSERT INTO fraud.verdicts VALUES ('payments', 1, 7, 8, true);
SELECT fraud.end_batch(true);
SELECT fraud.end_batch(true);
COMMIT;
SELECT fraud.resume('stream');
BEGIN;
SELECT fraud.begin_batch('payments', 'tx-topic', 2, 'cluster-1');
SET LOCAL pg_fraud.enabled = off;
INSERT INTO stream VALUES (27, 1, 2, 1);
SET LOCAL pg_fraud.enabled = on;
INSERT INTO stream VALUES (28, 1, 2, 2);
SET LOCAL pg_fraud.enabled = off;
INSERT INTO stream VALUES (29, 1, 2, 3), (30, 1, 2, 4);
SELECT fraud.end_batch(true);
COMMIT;
SELECT fraud.end_batch(true);
SELECT * FROM fraud.verdicts ORDER BY kafka_partition, kafka_offset;
DELETE FROM fraud.verdicts;

-- append-only: to read is all that anybody is granted
SELECT r, has_table_privilege(r, 'fraud.alerts', 'INSERT, UPDATE, DELETE, TRUNCATE') AS may_write,
       has_sequence_privilege(r, 'fraud.alerts_id_seq', 'USAGE, UPDATE') AS may_draw
  FROM unnest('{fraud_reader,fraud_analyst,fraud_admin,fraud_operator,fraud_bridge}'::text[]) AS r ORDER BY r;

DROP SCHEMA ledger CASCADE;
