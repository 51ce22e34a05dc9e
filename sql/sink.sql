-- Sinks: where alerts go, and how far they have come
SET client_min_messages = warning;
CREATE SCHEMA sink;
SET search_path = sink, public;
\set SHOW_CONTEXT never
CREATE TABLE payments (id int PRIMARY KEY, card text, amount numeric(12,2));
CREATE TABLE "Other Table" (id int);
SELECT count(*) FROM fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');

-- one of each kind; the mode that counts is kept
SELECT fraud.add_sink('warehouse', 'bigquery', '{"table": "my-project.fraud.payments"}', target => 'payments');
SELECT fraud.add_sink('topic', 'kafka', '{"topic": "fraud-alerts", "key": "transaction ->> ''card''"}');
SELECT fraud.add_sink('hook', 'webhook', '{"url": "https://example.com/hook?a=b", "secret": "hook", "concurrency": 4, "max_age": "2 days", "events": ["alert", "review"], "headers": {"X-Team": "fraud", "Authorization": {"secret": "hook-token"}}}', target => 'payments', start => 'earliest');
SELECT name, kind, target, options, state, position IS NOT NULL AS placed, lag_rows, sent, stopped_reason FROM fraud.sinks ORDER BY name;

-- options are checked when they are saved
SELECT fraud.add_sink('x', 'carrier pigeon', '{}');
SELECT fraud.add_sink('x', 'bigquery', '[]');
SELECT fraud.add_sink('x', 'bigquery', NULL);
SELECT fraud.add_sink('x', 'bigquery', '{}');
SELECT fraud.add_sink('x', 'bigquery', '{"table": 5}');
SELECT fraud.add_sink('x', 'bigquery', '{"table": "fraud.payments"}');
SELECT fraud.add_sink('x', 'bigquery', '{"table": "my-project.fraud.payments", "tabel": "y"}');
SELECT fraud.add_sink('x', 'bigquery', '{"table": "my-project.fraud.payments", "mode": "quick"}');
SELECT fraud.add_sink('x', 'bigquery', '{"table": "my-project.fraud.payments", "every": "60 s"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": ""}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "a topic"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "key": "card"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "value": "true) OR (true"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "value": "(SELECT 1)"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "value": "pg_read_file(''x'')"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "value": "id -- and"}');
SELECT fraud.add_sink('x', 'webhook', '{"url": "ftp://example.com"}');
SELECT fraud.add_sink('x', 'webhook', '{"url": "https://me:pw@example.com"}');
SELECT fraud.add_sink('x', 'webhook', '{"url": "https://example.com", "concurrency": 0}');
SELECT fraud.add_sink('x', 'webhook', '{"url": "https://example.com", "headers": {"webhook-id": "1"}}');
SELECT fraud.add_sink('x', 'webhook', '{"url": "https://example.com", "headers": {"X-A": "a\nb"}}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "events": []}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "events": ["alarm"]}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "max_age": "often"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t", "max_age": "-1 day"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t"}', start => 'yesterday');
SELECT fraud.add_sink('a name', 'kafka', '{"topic": "t"}');
SELECT fraud.add_sink(NULL, 'kafka', '{"topic": "t"}');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t"}', target => '"Other Table"');

-- a secret is named, never written, and never repeated
SELECT fraud.add_sink('x', 'webhook', '{"url": "https://example.com", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}');
SELECT fraud.add_sink('x', 'bigquery', '{"table": "my-project.fraud.payments", "credentials": "{\"type\": \"service_account\"}"}');
SELECT fraud.add_sink('x', 'bigquery', '{"table": "my-project.fraud.payments", "credentials": "../passwd"}');
SELECT fraud.add_sink('x', 'webhook', '{"url": "https://example.com", "headers": {"X-Api-Key": "s3cret"}}');

-- names are taken once
SELECT fraud.add_sink('topic', 'kafka', '{"topic": "t"}');
SELECT fraud.add_sink('topic', 'kafka', '{"topic": "other"}', replace => true);
SELECT options FROM fraud.sinks WHERE name = 'topic';

-- options are merged; null takes one away
SELECT fraud.alter_sink('topic', '{"max_age": "1 hour", "key": "event_id"}');
SELECT fraud.alter_sink('topic', '{"max_age": null}', target => 'payments');
SELECT options, target FROM fraud.sinks WHERE name = 'topic';
SELECT fraud.alter_sink('topic', '{"topic": null}');
SELECT fraud.alter_sink('topic', '{"url": "https://example.com"}');
SELECT fraud.alter_sink('nothing', '{}');

-- what is in the ledger lies behind a sink that begins at the latest
INSERT INTO payments SELECT g, 'c', 499 + g FROM generate_series(1, 3) AS g;
SELECT name, lag_rows, lag_seconds >= 0 AS aged FROM fraud.sinks ORDER BY name;
SELECT fraud.add_sink('late', 'kafka', '{"topic": "t"}', target => 'payments');
SELECT fraud.add_sink('early', 'kafka', '{"topic": "t"}', target => 'payments', start => 'earliest');
SELECT name, lag_rows FROM fraud.sinks WHERE name IN ('early', 'late') ORDER BY name;

-- pause, resume, resume from an alert
SELECT fraud.pause_sink('early');
SELECT state FROM fraud.sinks WHERE name = 'early';
SELECT fraud.resume_sink('early');
SELECT state, lag_rows FROM fraud.sinks WHERE name = 'early';
SELECT fraud.resume_sink('late', (SELECT max(id) FROM fraud.alerts WHERE table_name = 'sink.payments'));
SELECT lag_rows FROM fraud.sinks WHERE name = 'late';
SELECT fraud.resume_sink('nothing');

-- in another database system a sink stops, and says how to go on
SELECT fraud.open_sink('late');
UPDATE fraud.sink_cursor SET system_identifier = 1 WHERE sink = 'late';
SELECT fraud.open_sink('late');
SELECT state, regexp_replace(stopped_reason, 'this is [0-9]+', 'this is N') AS reason,
       regexp_replace(stopped_hint, '[0-9]+', 'N') AS hint FROM fraud.sinks WHERE name = 'late';
\set VERBOSITY terse
SELECT fraud.resume_sink('late');
\set VERBOSITY default
-- the statement of the hint does it
DO $$ DECLARE h text; BEGIN SELECT stopped_hint INTO h FROM fraud.sinks WHERE name = 'late'; EXECUTE h; END $$;
SELECT state, stopped_reason, lag_rows FROM fraud.sinks WHERE name = 'late';
SELECT fraud.open_sink('late');
-- on another timeline it goes on where it was, once told to
UPDATE fraud.sink_cursor SET timeline = 77 WHERE sink = 'late';
SELECT fraud.open_sink('late');
SELECT regexp_replace(stopped_reason, 'this is [0-9]+', 'this is N') AS reason, stopped_hint FROM fraud.sinks WHERE name = 'late';
SELECT fraud.resume_sink('late');
SELECT fraud.open_sink('late');

-- rows of a restored ledger: their xids lie ahead, and are not taken for new
INSERT INTO fraud.alerts (id, event_id, xid, table_name, transaction, rules, rule_versions, score, detected_at)
VALUES (nextval('fraud.alerts_id_seq'), gen_random_uuid(), '999999999999', 'sink.payments', '{}', '{}', '{}', 1, now());
SELECT fraud.adopt_ledger();
SELECT fraud.adopt_ledger();
SELECT count(*) FROM fraud.alerts WHERE xid >= '999999999999';

-- the bridge's reports
SELECT fraud.report_sink('late', false, 'it is slow');
SELECT state, last_error FROM fraud.sinks WHERE name = 'late';
SELECT fraud.report_sink('late', true, 'no more', 'do this');
SELECT state, last_error, stopped_reason, stopped_hint FROM fraud.sinks WHERE name = 'late';

-- a mode is changed between two batches
SELECT fraud.add_sink('moded', 'bigquery', '{"table": "p-1.d.t", "mode": "load", "every": "1 hour"}');
SELECT fraud.alter_sink('moded', '{"mode": "storage_write", "every": null}');
UPDATE fraud.sink_cursor SET batch = '00000000-0000-0000-0000-000000000001', batch_first_id = 7 WHERE sink = 'moded';
\set VERBOSITY default
SELECT fraud.alter_sink('moded', '{"mode": "load"}');
\set VERBOSITY terse
SELECT fraud.add_sink('moded', 'bigquery', '{"table": "p-1.d.t"}', replace => true);
SELECT fraud.alter_sink('moded', '{"table": "p-1.d.u", "mode": "storage_write"}');
BEGIN;
SELECT fraud.resume_sink('moded', 7);
SELECT fraud.alter_sink('moded', '{"mode": "load"}');
COMMIT;
SELECT s.options, c.batch, c.last_id FROM fraud.sink_config AS s JOIN fraud.sink_cursor AS c ON c.sink = s.name WHERE s.name = 'moded';
SELECT fraud.drop_sink('moded');

-- who may do what
CREATE ROLE regress_sink_operator;
CREATE ROLE regress_sink_reader;
CREATE ROLE regress_sink_bridge;
GRANT fraud_operator TO regress_sink_operator;
GRANT fraud_reader TO regress_sink_reader;
GRANT fraud_bridge TO regress_sink_bridge;
SET ROLE regress_sink_operator;
SELECT fraud.drop_sink('early');
SELECT name FROM fraud.sinks ORDER BY name;
UPDATE fraud.sink_cursor SET last_id = 0;
SELECT fraud.report_sink('late', false, 'x');
SELECT fraud.place_sink('late', 1);
SET ROLE regress_sink_reader;
SELECT name FROM fraud.sinks ORDER BY name;
SELECT fraud.drop_sink('late');
SELECT fraud.add_sink('x', 'kafka', '{"topic": "t"}');
SELECT * FROM fraud.sink_cursor;
SET ROLE regress_sink_bridge;
SELECT count(*) FROM fraud.sink_config;
UPDATE fraud.sink_cursor SET attempts = 0 WHERE sink = 'late';
UPDATE fraud.sink_config SET options = '{}';
DELETE FROM fraud.sink_failures;
SELECT fraud.drop_sink('late');
SELECT fraud.open_sink('late');
RESET ROLE;

SELECT fraud.drop_sink(name) FROM fraud.sinks ORDER BY name;
SELECT fraud.drop_sink('late');
SELECT count(*) FROM fraud.sink_cursor;
DELETE FROM fraud.alerts WHERE table_name LIKE 'sink.%';
DROP SCHEMA sink CASCADE;
DROP ROLE regress_sink_operator, regress_sink_reader, regress_sink_bridge;

-- An alert as JSON is what json_build_object makes of it
SELECT fraud.alert_json(id, event_id, table_name, detected_at, occurred_at, score, rules, transaction)
       IS NOT DISTINCT FROM json_build_object('id', id, 'event_id', event_id, 'table', table_name,
           'detected_at', detected_at, 'occurred_at', occurred_at, 'score', score, 'rules', rules,
           'transaction', transaction)::text AS same
  FROM (VALUES
    (1::bigint, '00000000-0000-0000-0000-000000000001'::uuid, 'public.payments', '2026-01-02 03:04:05.678901+00'::timestamptz,
     '2026-01-02 03:04:05+02'::timestamptz, 1.50::numeric, '{large}'::text[], '{"a": 1.10, "b": [null, {"c": "é"}]}'::jsonb),
    (-9223372036854775808, 'ffffffff-ffff-ffff-ffff-ffffffffffff', E'public."a\"b\\c\n"', 'infinity',
     '0044-03-15 12:00:00 BC', 'NaN', E'{"a\\"b",NULL,"é\u0001",""}', '{}'),
    (9223372036854775807, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (0, '00000000-0000-0000-0000-000000000000', '', '-infinity', '294276-12-31 23:59:59.999999+00',
     -1e-30, '{}', '"a scalar"')) AS v (id, event_id, table_name, detected_at, occurred_at, score, rules, transaction);
-- A page ends where its values become too large, but never before its first
SELECT array_agg(i) FROM (SELECT i FROM generate_series(1, 5) AS i WHERE fraud.page_fits(i * 10, 60)) AS p;
SELECT array_agg(i) FROM (SELECT i FROM generate_series(1, 5) AS i WHERE fraud.page_fits(i * 100, 60)) AS p;
SELECT array_agg(i) FROM (SELECT i FROM generate_series(1, 3) AS i WHERE fraud.page_fits(NULL, 0)) AS p;
