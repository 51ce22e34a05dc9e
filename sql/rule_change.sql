-- The life of a rule: added, altered, rolled back, dropped; versions and their authors
CREATE SCHEMA rule_change;
SET search_path = rule_change, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TABLE tx (id serial, amount numeric, city text);
SELECT fraud.watch('tx');
CREATE VIEW history AS
    SELECT name, version, action, mode, score, condition, description, on_error, changed_by = current_user AS by_me, actor
      FROM fraud.rule_versions WHERE table_name = 'rule_change.tx' ORDER BY id;
CREATE VIEW rules AS
    SELECT name, version, mode, score, condition, state FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;

-- Added with all options, by name
SELECT fraud.add_rule('tx', 'big', 'amount > 500');
SELECT fraud.add_rule('tx', 'town', 'city = ''X''', score => 0.5, mode => 'shadow', description => 'a town', on_error => 'fire');
SELECT * FROM rules;
INSERT INTO tx (amount, city) VALUES (501, 'X'), (500, 'X') RETURNING id, is_fraud, fraud_score, fraud_rules;

-- An existing name is refused, unless it is to be replaced
SELECT fraud.add_rule('tx', 'big', 'amount > 400');
SELECT fraud.add_rule('tx', 'big', 'amount > 400', replace => true);
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', replace => true);
-- Saved again as it is: no new version
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', replace => true);
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', score => 1.0, max_time_us => 0, replace => true);
SELECT count(*) FROM history WHERE name = 'fresh';
BEGIN;
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', description => 'told', replace => true);
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', replace => true);
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', max_share => 0.5, replace => true);
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', max_share => 0.5, replace => true);
SELECT fraud.add_rule('tx', 'fresh', 'amount >  1000000', max_share => 0.5, replace => true);
ROLLBACK;

-- Altered: what is not given stays
SELECT fraud.alter_rule('tx', 'town', mode => 'live');
SELECT fraud.alter_rule('tx', 'town', score => 1.5, description => 'the town');
SELECT fraud.alter_rule('tx', 'big', condition => 'amount > 450', mode => 'off');
INSERT INTO tx (amount, city) VALUES (500, 'Y'), (1, 'X') RETURNING id, is_fraud, fraud_score, fraud_rules;
SELECT * FROM rules;

-- Rolled back: an old version becomes the newest
SELECT fraud.rollback_rule('tx', 'big', 1);
SELECT * FROM rules WHERE name = 'big';
INSERT INTO tx (amount) VALUES (500), (501) RETURNING id, is_fraud;

-- Dropped, and brought back: numbers go on
SELECT fraud.drop_rule('tx', 'big');
INSERT INTO tx (amount) VALUES (501) RETURNING id, is_fraud;
SELECT fraud.rollback_rule('tx', 'big', 2);
INSERT INTO tx (amount) VALUES (401) RETURNING id, is_fraud;
SELECT fraud.drop_rule('tx', 'big');
SELECT fraud.add_rule('tx', 'big', 'amount > 999');
SELECT * FROM history;

-- Undone by a rollback, of a transaction and of a savepoint; seen within
BEGIN;
SELECT fraud.add_rule('tx', 'all', 'true');
INSERT INTO tx (amount) VALUES (1) RETURNING is_fraud, fraud_rules;
ROLLBACK;
INSERT INTO tx (amount) VALUES (1) RETURNING is_fraud, fraud_rules;
BEGIN;
SAVEPOINT s;
SELECT fraud.alter_rule('tx', 'big', condition => 'amount >= 1');
INSERT INTO tx (amount) VALUES (1) RETURNING is_fraud, fraud_rules;
ROLLBACK TO s;
INSERT INTO tx (amount) VALUES (1) RETURNING is_fraud, fraud_rules;
COMMIT;
SELECT version FROM rules WHERE name = 'big';

-- A change that changes nothing is no version
SELECT fraud.alter_rule('tx', 'big') = version AS same, fraud.alter_rule('tx', 'big', condition, score, mode) = version AS as_well FROM rules WHERE name = 'big';
SELECT fraud.alter_rule('tx', 'big', max_time_us => 0) = version AS same FROM rules WHERE name = 'big';

-- The person behind a gateway is kept; nonsense there does no harm
SET request.jwt.claims = '{"sub": "alice@example.com"}';
SELECT fraud.alter_rule('tx', 'big', score => 2);
SET request.jwt.claims = 'not json';
SELECT fraud.alter_rule('tx', 'big', score => 3);
RESET request.jwt.claims;
SELECT version, actor FROM history WHERE name = 'big' ORDER BY version DESC LIMIT 2;

-- Refused
SELECT fraud.add_rule('tx', '', 'true');
SELECT fraud.add_rule('tx', NULL, 'true');
SELECT fraud.add_rule('tx', 'r', NULL);
SELECT fraud.add_rule('tx', 'r', 'true', score => 'NaN');
SELECT fraud.add_rule('tx', 'r', 'true', score => 'Infinity');
SELECT fraud.add_rule('tx', 'r', 'true', mode => 'on');
SELECT fraud.add_rule('tx', 'r', 'true', on_error => 'ignore');
SELECT fraud.alter_rule('tx', 'nobody', score => 1);
SELECT fraud.drop_rule('tx', 'nobody');
SELECT fraud.rollback_rule('tx', 'big', 99);
SELECT fraud.rollback_rule('tx', 'big', 5);
CREATE TABLE unwatched (id int);
SELECT fraud.add_rule('unwatched', 'r', 'true');
SELECT fraud.add_rule('no_table', 'r', 'true');
SELECT count(*) FROM rules WHERE name = 'r';

-- DDL under a rule: broken, warned about, left out; mended by DDL or by alter_rule
SELECT fraud.alter_rule('tx', 'town', condition => 'city = ''X'' AND amount > 0');
ALTER TABLE tx RENAME COLUMN city TO town;
SELECT name, state, error FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;
INSERT INTO tx (amount, town) VALUES (1000, 'X') RETURNING is_fraud, fraud_rules;
INSERT INTO tx (amount, town) VALUES (1, 'X') RETURNING is_fraud, fraud_rules;
ALTER TABLE tx RENAME COLUMN town TO city;
INSERT INTO tx (amount, city) VALUES (1, 'X') RETURNING is_fraud, fraud_rules;
ALTER TABLE tx ALTER COLUMN amount TYPE text;
INSERT INTO tx (amount, city) VALUES ('1000', 'X') RETURNING is_fraud, fraud_rules;
SELECT name, state, error FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;
-- a broken rule may be switched off, but not saved as it is
SELECT fraud.add_rule('tx', 'fresh', 'amount > 1000000', replace => true);
SELECT fraud.alter_rule('tx', 'fresh', mode => 'off');
SELECT fraud.alter_rule('tx', 'big', score => 1);
SELECT fraud.alter_rule('tx', 'big', condition => 'amount::numeric > 999');
INSERT INTO tx (amount, city) VALUES ('1000', 'X'), ('10 euros', 'X') RETURNING is_fraud, fraud_rules;
ALTER TABLE tx DROP COLUMN city;
INSERT INTO tx (amount) VALUES ('1000') RETURNING is_fraud, fraud_rules;
SELECT name, state, evaluated, failed FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;

-- ANALYZE and an index change nothing
ANALYZE tx;
CREATE INDEX ON tx (id);
INSERT INTO tx (amount) VALUES ('1000') RETURNING is_fraud, fraud_rules;

-- A rule that fails on a row costs no row
CREATE TABLE halves (id int, divisor numeric);
SELECT fraud.watch('halves');
SELECT fraud.add_rule('halves', 'clear', '1 / divisor > 0.5'),
       fraud.add_rule('halves', 'fire', '2 / divisor > 1000', on_error => 'fire'),
       fraud.add_rule('halves', 'plain', 'id = 3');
COPY halves (id, divisor) FROM stdin;
1	4
2	0
3	0
4	1
5	\N
\.
SELECT id, is_fraud, fraud_score, fraud_rules FROM halves ORDER BY id;
SELECT name, evaluated, fired, failed FROM fraud.rules WHERE target = 'halves'::regclass ORDER BY name;
-- in a transaction of its own troubles
BEGIN;
SAVEPOINT a;
INSERT INTO halves VALUES (6, 0);
ROLLBACK TO a;
INSERT INTO halves VALUES (7, 0);
COMMIT;
SELECT id, is_fraud, fraud_rules FROM halves WHERE id > 5 ORDER BY id;
SELECT name, evaluated, fired, failed FROM fraud.rules WHERE target = 'halves'::regclass ORDER BY name;

-- A change that was rolled back leaves nothing to the next one, which is given
-- the same version
CREATE TABLE undone (amount numeric);
SELECT fraud.watch('undone', threshold => 3);
SELECT fraud.add_rule('undone', 'big', 'amount > 100');
INSERT INTO undone VALUES (500) RETURNING is_fraud, fraud_score;
BEGIN;
SELECT fraud.alter_rule('undone', 'big', score => 5);
INSERT INTO undone VALUES (500) RETURNING is_fraud, fraud_score;
ROLLBACK;
SELECT fraud.alter_rule('undone', 'big', score => 2);
INSERT INTO undone VALUES (500) RETURNING is_fraud, fraud_score;
BEGIN;
SELECT fraud.alter_rule('undone', 'big', mode => 'shadow');
INSERT INTO undone VALUES (500) RETURNING is_fraud, fraud_score;
ROLLBACK;
SELECT fraud.alter_rule('undone', 'big', score => 4);
INSERT INTO undone VALUES (500) RETURNING is_fraud, fraud_score;

-- A table that is renamed keeps its rules' history
CREATE TABLE before (id int, amount numeric);
SELECT fraud.watch('before');
SELECT fraud.add_rule('before', 'big', 'amount > 100');
SELECT fraud.alter_rule('before', 'big', condition => 'amount > 200');
SELECT fraud.add_rule('before', 'gone', 'amount < 0'), fraud.drop_rule('before', 'gone');
INSERT INTO before VALUES (1, 500);
ALTER TABLE before RENAME TO after;
INSERT INTO after VALUES (2, 600);
SELECT a.transaction ->> 'id' AS id, a.table_name, e.rule, e.version, e.condition, e.current_version, e.observed
  FROM fraud.alerts a, fraud.explain_alert(a.id) e WHERE a.table_name IN ('rule_change.before', 'rule_change.after') ORDER BY a.id;
SELECT field, old, new FROM fraud.rule_diff('after', 'big') WHERE field IN ('version', 'condition');
SELECT hits FROM fraud.backtest('after', rule => 'big', version => 1);
SELECT fraud.alter_rule('after', 'big', condition => 'amount > 300');
SELECT field, old, new FROM fraud.rule_diff('after', 'big') WHERE field IN ('version', 'condition');
SELECT fraud.rollback_rule('after', 'big', 1), fraud.rollback_rule('after', 'gone', 1);
CREATE SCHEMA rule_change_else;
ALTER TABLE after SET SCHEMA rule_change_else;
SELECT fraud.rollback_rule('rule_change_else.after', 'big', 2);
SELECT table_name, name, version, action, condition FROM fraud.rule_versions WHERE table_name ~ '^rule_change(_else)?.(before|after)$' ORDER BY id;
SELECT a.transaction ->> 'id' AS id, e.version, e.condition, e.current_version
  FROM fraud.alerts a, fraud.explain_alert(a.id) e WHERE a.table_name ~ '^rule_change.(before|after)$' ORDER BY a.id;
-- and the changes that wait
SELECT fraud.watch('rule_change_else.after', approval => true);
SELECT fraud.alter_rule('rule_change_else.after', 'big', score => 3);
ALTER TABLE rule_change_else.after RENAME TO last;
SELECT fraud.alter_rule('rule_change_else.last', 'big', score => 4);
SELECT table_name, action, score, status FROM fraud.rule_proposals WHERE table_name ~ '^rule_change' ORDER BY id;
ALTER TABLE rule_change_else.last RENAME TO lasting;
CREATE ROLE rule_change_other IN ROLE fraud_admin;
GRANT USAGE ON SCHEMA rule_change_else TO rule_change_other;
SET ROLE rule_change_other;
SELECT fraud.approve_rule('rule_change_else.lasting', 'big');
RESET ROLE;
SELECT name, version, score FROM fraud.rules WHERE target = 'rule_change_else.lasting'::regclass ORDER BY name;
DROP SCHEMA rule_change_else CASCADE;
DROP ROLE rule_change_other;
DELETE FROM fraud.rule_proposals WHERE table_name ~ '^rule_change';

DROP SCHEMA rule_change CASCADE;
