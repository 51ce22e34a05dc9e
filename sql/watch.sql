-- Watching a table: marks, triggers, options, and what is refused
CREATE SCHEMA watch;
SET search_path = watch, public;
\set VERBOSITY default
\set SHOW_CONTEXT never

CREATE TABLE payments (id bigint, card text, amount numeric(12,2), happened timestamp, note text);
INSERT INTO payments VALUES (1, 'a', 100, '2024-01-01 10:00', 'before');
CREATE VIEW some_payments AS SELECT id, amount FROM payments;

-- dry_run says what would be done and does nothing
SELECT * FROM fraud.watch('payments', dry_run => true);
SELECT count(*) FROM pg_attribute WHERE attrelid = 'payments'::regclass AND attname = 'is_fraud';
SELECT count(*) FROM fraud.watched WHERE target = 'payments'::regclass;

-- nothing is rewritten: rows that are there stay where they are, unjudged
SELECT relfilenode AS before FROM pg_class WHERE oid = 'payments'::regclass \gset
SELECT fraud.watch('payments', event_time => 'happened', entity => 'card');
SELECT relfilenode = :before AS same_file FROM pg_class WHERE oid = 'payments'::regclass;
SELECT * FROM payments;
SELECT target, threshold, event_time, entity, amount, on_update, paused, watched_by = current_user AS by_me
  FROM fraud.watched WHERE target = 'payments'::regclass;
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'payments'::regclass ORDER BY tgname COLLATE "C";
SELECT attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
  FROM pg_attribute WHERE attrelid = 'payments'::regclass AND attnum > 5 ORDER BY attnum;

-- publications are named
SET client_min_messages = error;
CREATE TABLE published (id int);
CREATE PUBLICATION watch_pub FOR TABLE published;
SELECT * FROM fraud.watch('published', dry_run => true) AS line WHERE line LIKE '-- %';
DROP PUBLICATION watch_pub;
RESET client_min_messages;

-- the lock timeout was for watch alone
SHOW lock_timeout;

-- a second call keeps what it is not given
SELECT fraud.watch('payments', threshold => 2.5);
SELECT threshold, event_time, entity, amount, on_update FROM fraud.watched WHERE target = 'payments'::regclass;
SELECT fraud.watch('payments', on_update => true, amount => 'id');
SELECT threshold, event_time, entity, amount, on_update FROM fraud.watched WHERE target = 'payments'::regclass;
SELECT * FROM fraud.watch('payments', dry_run => true);

-- unwatch removes the triggers and keeps columns, rules and options
SELECT fraud.add_rule('payments', 'big', 'amount > 500', score => 3);
INSERT INTO payments VALUES (2, 'b', 1000, now(), 'judged');
SELECT fraud.unwatch('payments');
INSERT INTO payments VALUES (3, 'c', 1000, now(), 'not judged');
SELECT id, is_fraud, fraud_score, fraud_rules, fraud_alert_id IS NOT NULL AS alert FROM payments ORDER BY id;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'payments'::regclass;
SELECT count(*) FROM fraud.watched WHERE target = 'payments'::regclass;
SELECT name, state FROM fraud.rules WHERE target = 'payments'::regclass;
SELECT fraud.unwatch('payments');
SELECT fraud.add_rule('payments', 'other', 'amount > 1');

-- and watching again goes on with them
SELECT fraud.watch('payments');
INSERT INTO payments VALUES (4, 'd', 1000, now(), 'judged');
SELECT id, is_fraud FROM payments WHERE id = 4;
SELECT threshold, event_time, entity, amount, on_update FROM fraud.watched WHERE target = 'payments'::regclass;
SELECT name, state FROM fraud.rules WHERE target = 'payments'::regclass;

-- a column of that name that is the user's
CREATE TABLE mine (id int, is_fraud boolean);
SELECT fraud.watch('mine');
CREATE TABLE mine_too (id int, fraud_rules jsonb);
SELECT fraud.watch('mine_too');
SELECT count(*) FROM pg_attribute WHERE attrelid = 'mine_too'::regclass AND attname = 'is_fraud';

-- all of the marks, but not as they are to be
CREATE TABLE copied (LIKE payments);
ALTER TABLE copied ALTER fraud_score TYPE float8;
SELECT fraud.watch('copied');
ALTER TABLE copied ALTER fraud_score TYPE numeric(10,2);
SELECT fraud.watch('copied');
ALTER TABLE copied ALTER fraud_score TYPE numeric, ALTER fraud_alert_id SET NOT NULL;
SELECT fraud.watch('copied');
ALTER TABLE copied ALTER fraud_alert_id DROP NOT NULL;
SELECT fraud.watch('copied');
SELECT col_description('copied'::regclass, attnum) = note AS noted
  FROM pg_attribute, fraud.mark_columns() WHERE attrelid = 'copied'::regclass AND attname = name;
DROP TABLE copied;

-- what cannot be watched
SELECT fraud.watch('some_payments');
SELECT fraud.watch('fraud.alerts');
SELECT fraud.watch('pg_catalog.pg_class');
SELECT fraud.watch('no_such_table');
CREATE TEMP TABLE short_lived (id int);
SELECT fraud.watch('short_lived');
CREATE TABLE parent (id int);
CREATE TABLE child () INHERITS (parent);
SELECT fraud.watch('parent');
CREATE MATERIALIZED VIEW sums AS SELECT sum(amount) FROM payments;
SELECT fraud.watch('sums');

-- options that cannot be
SELECT fraud.watch('mine', threshold => 0);
SELECT fraud.watch('mine', threshold => 'NaN');
CREATE TABLE options (id int, amount text, "When" timestamptz, day date);
SELECT fraud.watch('options', event_time => 'happened');
SELECT fraud.watch('options', event_time => 'id');
SELECT fraud.watch('options', amount => 'amount');
SELECT fraud.watch('options', entity => 'nobody');
SELECT fraud.watch('options', event_time => 'When', entity => 'amount');
SELECT event_time, entity, amount FROM fraud.watched WHERE target = 'options'::regclass;

-- names that need quotes
CREATE SCHEMA "Odd schema";
CREATE TABLE "Odd schema"."Pay""ments" (id int, "Amount in €" numeric);
SELECT fraud.watch('"Odd schema"."Pay""ments"', amount => 'Amount in €');
SELECT fraud.add_rule('"Odd schema"."Pay""ments"', 'rule "1"', '"Amount in €" > 5');
INSERT INTO "Odd schema"."Pay""ments" VALUES (1, 5), (2, 6);
SELECT id, is_fraud, fraud_rules FROM "Odd schema"."Pay""ments" ORDER BY id;
SELECT table_name, rules FROM fraud.alerts WHERE table_name LIKE '%Odd%';
SELECT target FROM fraud.watched WHERE target::text LIKE '%Odd%';

-- a renamed table stays watched under its new name
ALTER TABLE payments RENAME TO transfers;
INSERT INTO transfers VALUES (5, 'e', 1000, now(), 'renamed');
SELECT id, is_fraud FROM transfers WHERE id = 5;
SELECT a.table_name FROM fraud.alerts AS a JOIN transfers AS t ON t.fraud_alert_id = a.id WHERE t.id = 5;
SELECT target, version FROM fraud.rules WHERE name = 'big';
SELECT fraud.alter_rule('transfers', 'big', score => 4);

-- a column with a role renamed
ALTER TABLE transfers RENAME COLUMN happened TO occurred;
INSERT INTO transfers VALUES (6, 'f', 1000, now(), 'no time');
SELECT a.occurred_at FROM fraud.alerts AS a JOIN transfers AS t ON t.fraud_alert_id = a.id WHERE t.id = 6;
SELECT fraud.watch('transfers', event_time => 'occurred');
ALTER TABLE transfers ADD COLUMN more int;

-- a dropped table is forgotten; its history stays
DROP TABLE transfers CASCADE;
DROP SCHEMA "Odd schema" CASCADE;
SELECT target FROM fraud.watched WHERE fraud.table_name(target) LIKE 'watch.%' ORDER BY target::text;
SELECT name FROM fraud.rules WHERE fraud.table_name(target) LIKE 'watch.%';
SELECT table_name, name, version, action FROM fraud.rule_versions
 WHERE table_name LIKE 'watch.%' OR table_name LIKE '%Odd%' ORDER BY id;
SELECT count(*) > 0 AS alerts_stay FROM fraud.alerts WHERE table_name LIKE 'watch.%';

-- a mark's column lost: rows are stored all the same
CREATE TABLE lossy (id int);
SELECT fraud.watch('lossy');
SELECT fraud.add_rule('lossy', 'all', 'id > 0');
ALTER TABLE lossy DROP COLUMN fraud_score;
INSERT INTO lossy (id) VALUES (1);
SELECT fraud.watch('lossy');
INSERT INTO lossy (id) VALUES (2);
SELECT id, is_fraud, fraud_score FROM lossy ORDER BY id;

-- no rules at all: judged, and not fraud
CREATE TABLE bare (id int);
SELECT fraud.watch('bare');
INSERT INTO bare VALUES (1);
SELECT * FROM bare;

-- a lock timeout of the session stays
CREATE TABLE slow (id int);
SET lock_timeout = '10s';
SELECT fraud.watch('slow');
SHOW lock_timeout;
RESET lock_timeout;

SET client_min_messages = error;
DROP SCHEMA watch CASCADE;
