-- Counters: exact for what is committed
CREATE SCHEMA counter;
SET search_path = counter, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TABLE tx (id int, amount numeric);
SELECT fraud.watch('tx');
SELECT fraud.add_rule('tx', 'big', 'amount > 500'), fraud.add_rule('tx', 'even', 'id % 2 = 0', mode => 'shadow'),
       fraud.add_rule('tx', 'silent', 'amount > 500', mode => 'off'), fraud.add_rule('tx', 'wrong', '1 / (amount - 13) > 0 AND id < 0');
CREATE VIEW counts AS
    SELECT name, evaluated, fired, failed, last_fired_at IS NOT NULL AS has_fired, mean_time_us > 0 AS timed
      FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;
SELECT * FROM counts;

-- seen at commit, not before
BEGIN;
INSERT INTO tx SELECT g, g FROM generate_series(1, 1000) AS g;
SELECT * FROM counts;
COMMIT;
SELECT * FROM counts;
SELECT count(*) FILTER (WHERE is_fraud) AS frauds, count(*) FILTER (WHERE amount > 500) AS big FROM tx;

-- rollbacks count nothing: transactions, savepoints, blocks with exceptions
BEGIN; INSERT INTO tx VALUES (1001, 501); ROLLBACK;
BEGIN;
INSERT INTO tx VALUES (1002, 501);
SAVEPOINT a;
INSERT INTO tx VALUES (1003, 501), (1004, 501);
SAVEPOINT b;
INSERT INTO tx VALUES (1005, 501);
RELEASE b;
ROLLBACK TO a;
SAVEPOINT c;
INSERT INTO tx VALUES (1006, 501);
SAVEPOINT d;
INSERT INTO tx VALUES (1007, 501);
ROLLBACK TO d;
RELEASE c;
INSERT INTO tx VALUES (1008, 13);
COMMIT;
SELECT * FROM counts;
DO $$
BEGIN
    FOR i IN 1 .. 10 LOOP
        BEGIN
            INSERT INTO tx VALUES (i, 1000);
            IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
END $$;
SELECT * FROM counts;
-- a statement that fails
INSERT INTO tx SELECT g, 1000 / (5 - g) FROM generate_series(1, 10) AS g;
SELECT * FROM counts;

-- a prepared transaction counts when it is committed
BEGIN; INSERT INTO tx VALUES (2000, 600); PREPARE TRANSACTION 'counter 1';
BEGIN; INSERT INTO tx VALUES (2001, 600); PREPARE TRANSACTION 'counter 2';
SELECT * FROM counts WHERE name = 'big';
COMMIT PREPARED 'counter 1';
ROLLBACK PREPARED 'counter 2';
SELECT * FROM counts WHERE name = 'big';

-- one row for each transaction and table, folded into totals
SELECT fraud.fold_counters() >= 0 AS folded;
SELECT count(*) FROM fraud.rule_deltas;
SELECT * FROM counts;
INSERT INTO tx VALUES (1, 1), (2, 2), (3, 3);
SELECT * FROM counts WHERE name = 'big';
SELECT fraud.fold_counters() >= 0 AS folded;
SELECT fraud.fold_counters();
SELECT * FROM counts WHERE name = 'big';

-- a fold that is rolled back loses nothing
INSERT INTO tx VALUES (1, 1);
BEGIN; SELECT fraud.fold_counters() >= 0 AS folded; ROLLBACK;
SELECT * FROM counts WHERE name = 'big';

-- counters go on over versions, and go with the rule
SELECT fraud.alter_rule('tx', 'big', condition => 'amount > 100');
INSERT INTO tx VALUES (1, 101);
SELECT * FROM counts WHERE name = 'big';
SELECT fraud.drop_rule('tx', 'big');
SELECT fraud.add_rule('tx', 'big', 'amount > 100');
SELECT * FROM counts WHERE name = 'big';

-- a trigger that inserts elsewhere: each table counts for itself
CREATE TABLE copy_of (id int, amount numeric);
SELECT fraud.watch('copy_of');
SELECT fraud.add_rule('copy_of', 'any', 'true');
CREATE FUNCTION copy_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO copy_of VALUES (NEW.id, NEW.amount); RETURN NULL; END $$;
CREATE TRIGGER copy_row AFTER INSERT ON tx FOR EACH ROW EXECUTE FUNCTION copy_row();
INSERT INTO tx SELECT g, 1 FROM generate_series(1, 5) AS g;
SELECT name, evaluated, fired FROM fraud.rules WHERE target IN ('tx'::regclass, 'copy_of'::regclass) ORDER BY name;

-- a fold forgets failures of rules that are 30 days old
SELECT count(*) FROM fraud.rule_failures WHERE table_name = 'counter.tx';
UPDATE fraud.rule_failures SET failed_at = now() - interval '30 days 1 minute'
 WHERE table_name = 'counter.tx' AND id = (SELECT min(id) FROM fraud.rule_failures WHERE table_name = 'counter.tx');
UPDATE fraud.rule_failures SET failed_at = now() - interval '29 days'
 WHERE table_name = 'counter.tx' AND id = (SELECT max(id) FROM fraud.rule_failures WHERE table_name = 'counter.tx');
SELECT fraud.fold_counters() >= 0 AS folded;
SELECT count(*), min(failed_at) < now() - interval '28 days' AS old_one_kept FROM fraud.rule_failures WHERE table_name = 'counter.tx';

DROP SCHEMA counter CASCADE;
DELETE FROM fraud.rule_failures WHERE table_name = 'counter.tx';
SELECT fraud.fold_counters() >= 0 AS folded;
SELECT count(*) FROM fraud.rule_counters AS c WHERE NOT EXISTS (SELECT FROM fraud.rule_config AS r WHERE r.id = c.rule);
