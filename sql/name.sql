-- Names of tables in history and ledger, whatever the session sets
CREATE SCHEMA naming;
SET search_path = naming;
SET client_min_messages = warning;
CREATE TABLE pay (id int, amount numeric);
CREATE TABLE "Mine ""all" (id int, amount numeric);
SELECT fraud.watch('pay'), fraud.watch('"Mine ""all"');
SELECT fraud.add_rule('pay', 'big', 'amount > 100'), fraud.add_rule('"Mine ""all"', 'big', 'amount > 100');
-- a session that has all names quoted from the start
\c -
SET search_path = naming;
SET client_min_messages = warning;
SET quote_all_identifiers = on;
INSERT INTO pay VALUES (1, 500);
INSERT INTO "Mine ""all" VALUES (1, 500);
SELECT fraud.alter_rule('pay', 'big', score => 2);
SELECT fraud.is_fraud(p) FROM pay p;
SELECT is_fraud FROM fraud.check('naming.pay', '{"amount": 500}');
SELECT is_fraud FROM fraud.check('naming."Mine ""all"', '{"amount": 500}');
SELECT hits FROM fraud.backtest('pay', rule => 'big', version => 1);
SELECT rule, version, condition FROM fraud.alerts a, fraud.explain_alert(a.id) WHERE a.table_name ~ 'naming' ORDER BY a.id;
SELECT fraud.rollback_rule('pay', 'big', 1);
ALTER TABLE pay RENAME TO paid;
INSERT INTO paid VALUES (2, 500);
SELECT fraud.table_name('paid'), fraud.same_table('naming.pay');
CREATE ROLE naming_reader IN ROLE fraud_reader;
GRANT USAGE ON SCHEMA naming TO naming_reader;
GRANT SELECT ON paid TO naming_reader;
SET ROLE naming_reader;
SELECT table_name, transaction FROM fraud_api.alerts WHERE table_name ~ 'naming' ORDER BY id;
RESET ROLE;
SELECT fraud.unwatch('"Mine ""all"'), fraud.watch('"Mine ""all"');
DROP TABLE paid, "Mine ""all";
RESET quote_all_identifiers;
SELECT table_name, name, version, action FROM fraud.rule_versions WHERE table_name ~ 'naming' ORDER BY table_name, version;
SELECT table_name, transaction FROM fraud.alerts WHERE table_name ~ 'naming' ORDER BY id;
DROP SCHEMA naming CASCADE;
DROP ROLE naming_reader;
