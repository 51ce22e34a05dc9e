-- The emergency switches: pause, resume, and pg_fraud.enabled
CREATE SCHEMA pause;
SET search_path = pause, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TABLE tx (id int, amount numeric);
CREATE TABLE other (id int, amount numeric);
SELECT fraud.watch('tx'), fraud.watch('other');
SELECT fraud.add_rule('tx', 'big', 'amount > 500'), fraud.add_rule('other', 'big', 'amount > 500');

-- paused: rows are stored unjudged, marks cannot be forged meanwhile
SELECT fraud.pause('tx');
SELECT paused FROM fraud.watched WHERE target = 'tx'::regclass;
SELECT state FROM fraud.rules WHERE target = 'tx'::regclass;
INSERT INTO tx VALUES (1, 1000, true, 9, '{x}', 9) RETURNING *;
INSERT INTO other VALUES (1, 1000) RETURNING id, is_fraud;
UPDATE tx SET is_fraud = true WHERE id = 1;
SELECT is_fraud FROM tx;
SELECT fraud.resume('tx');
INSERT INTO tx VALUES (2, 1000) RETURNING id, is_fraud;
SELECT evaluated, fired FROM fraud.rules WHERE target = 'tx'::regclass;

-- undone with the transaction
BEGIN;
SELECT fraud.pause('tx');
INSERT INTO tx VALUES (3, 1000) RETURNING id, is_fraud;
ROLLBACK;
INSERT INTO tx VALUES (3, 1000) RETURNING id, is_fraud;

-- no lock on the table: pausing does not wait for one that is held
BEGIN;
LOCK TABLE tx IN ACCESS EXCLUSIVE MODE;
SELECT fraud.pause('tx');
SELECT count(*) FROM pg_locks WHERE relation = 'tx'::regclass AND pid = pg_backend_pid() AND mode <> 'AccessExclusiveLock'
   AND mode <> 'AccessShareLock';
ROLLBACK;

-- off for all tables, by the setting
SHOW pg_fraud.enabled;
SET pg_fraud.enabled = off;
INSERT INTO tx VALUES (4, 1000, true) RETURNING id, is_fraud;
INSERT INTO other VALUES (4, 1000, true) RETURNING id, is_fraud;
SELECT fraud.watch('tx', on_update => true);
UPDATE tx SET amount = 2000 WHERE id = 4;
SELECT id, is_fraud FROM tx WHERE id = 4;
RESET pg_fraud.enabled;
UPDATE tx SET amount = 3000 WHERE id = 4;
SELECT id, is_fraud, fraud_rules FROM tx WHERE id = 4;

-- for a superuser only
CREATE ROLE pause_user;
SET ROLE pause_user;
SET pg_fraud.enabled = off;
RESET ROLE;

-- what is not watched
CREATE TABLE unwatched (id int);
SELECT fraud.pause('unwatched');
SELECT fraud.resume('unwatched');

DROP SCHEMA pause CASCADE;
DROP ROLE pause_user;
