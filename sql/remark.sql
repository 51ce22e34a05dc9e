-- Stored rows judged again by today's rules
CREATE SCHEMA remark;
SET search_path = remark, public;
\set SHOW_CONTEXT never
SET client_min_messages = notice;

CREATE ROLE remark_owner;
GRANT ALL ON SCHEMA remark TO remark_owner;
CREATE TABLE tx (id int PRIMARY KEY, amount numeric, at timestamptz, note text);
ALTER TABLE tx OWNER TO remark_owner;
INSERT INTO tx SELECT g, g, '2024-01-01 00:00Z'::timestamptz + g * interval '1 day', 'old' FROM generate_series(1, 100) AS g;
SET client_min_messages = warning;
SELECT fraud.watch('tx', event_time => 'at');
SELECT fraud.add_rule('tx', 'big', 'amount > 95'), fraud.add_rule('tx', 'weak', 'amount > 90', score => 0.5);
SET client_min_messages = notice;
INSERT INTO tx VALUES (101, 101, '2024-05-01 00:00Z', 'new');
CREATE VIEW marks AS SELECT is_fraud, fraud_score, fraud_rules, count(*), count(fraud_alert_id) AS alerts FROM tx GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT * FROM marks;

-- it commits, so it cannot be part of a transaction
BEGIN;
CALL fraud.remark('tx');
ROLLBACK;
DO $$ BEGIN CALL fraud.remark('remark.tx'); END $$;

-- rows that were there are judged for the first time
CALL fraud.remark('tx');
SELECT * FROM marks;
SELECT count(*), bool_or(forward) AS forward FROM fraud.alerts WHERE table_name = 'remark.tx' AND transaction ->> 'note' = 'old';
SELECT transaction -> 'id' AS id, rules, rule_versions, score, occurred_at = tx.at AS its_time
  FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id WHERE tx.id = 96;
-- and again: nothing changes
CALL fraud.remark('tx');
SELECT count(*) FROM fraud.alerts WHERE table_name = 'remark.tx';

-- another rule: some are cleared, their alerts stay, one is caught
SELECT fraud.alter_rule('tx', 'big', condition => 'amount > 98 OR id = 7');
CALL fraud.remark('tx', forward => true);
SELECT * FROM marks;
SELECT count(*) FROM fraud.alerts WHERE table_name = 'remark.tx';
SELECT a.transaction -> 'id' AS id, r.status, r.reviewed_by = current_user AS by_me, r.actor, r.note
  FROM fraud.reviews AS r JOIN fraud.alerts AS a ON a.id = r.alert_id WHERE a.table_name = 'remark.tx' ORDER BY a.id;
SELECT forward, rule_versions FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id WHERE tx.id = 7;

-- within bounds of the event time: since inclusive, until exclusive
SELECT fraud.alter_rule('tx', 'big', condition => 'true');
CALL fraud.remark('tx', since => '2024-01-11 00:00Z', until => '2024-01-13 00:00Z');
SELECT id FROM tx WHERE is_fraud AND id < 90 ORDER BY id;
CALL fraud.remark('tx', until => '2024-01-03 00:00Z');
SELECT id FROM tx WHERE is_fraud AND id < 90 ORDER BY id;

-- now() is the row's event time
SELECT fraud.alter_rule('tx', 'big', condition => 'at < now() - interval ''1 minute'' OR id = 50');
CALL fraud.remark('tx');
SELECT id FROM tx WHERE is_fraud ORDER BY id;

-- in batches, each committed
SELECT fraud.alter_rule('tx', 'big', condition => 'id = 51 OR id = 100');
SET client_min_messages = warning;
CALL fraud.remark('tx', batch => 1);
SET client_min_messages = notice;
SELECT count(DISTINCT a.xid) FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id WHERE tx.id IN (51, 100);

-- a rule that fails on some rows
SELECT fraud.alter_rule('tx', 'big', condition => '1 / (amount - 10) = 1', on_error => 'fire');
CALL fraud.remark('tx');
SELECT id, fraud_rules FROM tx WHERE is_fraud ORDER BY id;

-- the counters tell of rows as they arrive: remark does not count
SELECT name, evaluated FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;

-- triggers of the table run with its owner's rights, never the caller's
CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.is_fraud THEN
        RAISE NOTICE 'row % is updated by %', NEW.id, current_user;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER who BEFORE UPDATE ON tx FOR EACH ROW EXECUTE FUNCTION who();
SELECT fraud.alter_rule('tx', 'big', condition => 'id = 60');
CALL fraud.remark('tx');
-- what they try beyond that fails
CREATE OR REPLACE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET LOCAL search_path = public; SET ROLE NONE; RETURN NEW; END $$;
SELECT fraud.alter_rule('tx', 'big', condition => 'id = 61');
CALL fraud.remark('tx');
-- nor can they use the moment to forge another row's marks
CREATE OR REPLACE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.id = 61 THEN UPDATE remark.tx SET is_fraud = true, fraud_alert_id = 1 WHERE id = 62; END IF;
    RETURN NEW;
END $$;
CALL fraud.remark('tx');
SELECT id FROM tx WHERE is_fraud ORDER BY id;
-- one that keeps rows from being updated
CREATE OR REPLACE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
SELECT fraud.alter_rule('tx', 'big', condition => 'id = 63');
CALL fraud.remark('tx');
SELECT id FROM tx WHERE is_fraud ORDER BY id;
DROP TRIGGER who ON tx;

-- partitions
SET client_min_messages = warning;
CREATE TABLE parts (id int, amount numeric) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 (amount numeric, id int);
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20);
INSERT INTO parts SELECT g, g FROM generate_series(1, 19) AS g;
SELECT fraud.watch('parts');
SELECT fraud.add_rule('parts', 'some', 'amount IN (5, 15)');
SET client_min_messages = notice;
CALL fraud.remark('parts');
SELECT tableoid::regclass AS part, id, is_fraud, fraud_alert_id IS NOT NULL AS alert FROM parts WHERE id IN (4, 5, 14, 15) ORDER BY id;

-- a trigger of the user's that catches an error within the update
CREATE FUNCTION catches() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    RETURN NEW;
END $$;
CREATE TRIGGER catches BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION catches();
SET client_min_messages = warning;
SELECT fraud.alter_rule('parts', 'some', condition => 'amount IN (4, 15)');
SET client_min_messages = notice;
CALL fraud.remark('parts');
SELECT tableoid::regclass AS part, id, is_fraud, fraud_alert_id IS NOT NULL AS alert FROM parts WHERE id IN (4, 5, 14, 15) ORDER BY id;

-- refused
CALL fraud.remark(NULL);
CALL fraud.remark('parts', since => now());
CALL fraud.remark('parts', batch => 0);
CREATE TABLE unwatched (id int);
CALL fraud.remark('unwatched');
CREATE ROLE remark_user;
GRANT USAGE ON SCHEMA remark, fraud TO remark_user;
SET ROLE remark_user;
CALL fraud.remark('parts');
RESET ROLE;
REVOKE USAGE ON SCHEMA fraud FROM remark_user;

SET client_min_messages = error;
DROP SCHEMA remark CASCADE;
DROP ROLE remark_owner, remark_user;
