-- Why a row is fraud
CREATE SCHEMA explaining;
SET search_path = explaining;
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE TABLE payments (
    id bigint, amount numeric(12,2), country text, ratio float8, happened timestamptz, via "char",
    tags text[], doc jsonb, n int, doubled numeric GENERATED ALWAYS AS (amount * 2) STORED);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500 AND country IN (''NZ'', ''AU'')', score => 1.5);
SELECT fraud.add_rule('payments', 'shady', 'ratio > 0.5 OR tags && ''{x}''', mode => 'shadow');
SELECT fraud.add_rule('payments', 'idle', 'n = 1', mode => 'off');
SELECT fraud.add_rule('payments', 'typed', 'doc @> ''{"a": 1}'' AND happened < now()');
SELECT fraud.add_rule('payments', 'gen', 'doubled > 10');
SELECT fraud.add_rule('payments', 'fails', '1 / n > 0');
SELECT fraud.add_rule('payments', 'evaded', '1 / n > 0', on_error => 'fire');
SELECT fraud.add_rule('payments', 'always', 'true');
INSERT INTO payments VALUES
    (1, 600, 'NZ', 0.1, '2026-01-01 10:00Z', 'w', '{a,b}', '{"a": 1, "b": [2]}', 0),
    (2, 1, NULL, 'NaN', NULL, NULL, NULL, NULL, NULL);
SELECT id, e.* FROM payments p, fraud.explain(p) e ORDER BY id, rule;
-- the same row before it is stored
SELECT rule, fired, observed FROM fraud.explain(jsonb_populate_record(NULL::payments, '{"amount": 7, "country": "FR", "doubled": 14}')) WHERE rule IN ('large', 'gen');
-- a changed rule is explained as it is now
SELECT fraud.alter_rule('payments', 'large', condition => 'amount > 5000');
SELECT rule, version, fired, condition FROM payments p, fraud.explain(p) WHERE id = 1 AND rule = 'large';
-- a broken rule says nothing
ALTER TABLE payments RENAME n TO m;
SELECT rule, fired, observed FROM payments p, fraud.explain(p) WHERE id = 1 ORDER BY rule;
-- nothing is counted
SELECT DISTINCT evaluated FROM fraud.rules WHERE target = 'payments'::regclass AND mode <> 'off';
-- errors
SELECT * FROM fraud.explain(ROW(1, 2));
CREATE TABLE other (a int);
SELECT * FROM fraud.explain(ROW(1)::other);
SELECT rule FROM payments p, fraud.explain(p) WHERE id = 1 AND rule = 'large' LIMIT 1;
-- it is for those who may read the table
CREATE ROLE explaining_reader IN ROLE fraud_reader;
GRANT USAGE ON SCHEMA explaining TO explaining_reader;
SET ROLE explaining_reader;
SELECT rule FROM fraud.explain(jsonb_populate_record(NULL::payments, '{"amount": 600}'));
RESET ROLE;
GRANT SELECT ON payments TO explaining_reader;
SET ROLE explaining_reader;
SELECT rule, fired FROM fraud.explain(jsonb_populate_record(NULL::payments, '{"amount": 6000, "country": "NZ"}')) WHERE rule = 'large';
RESET ROLE;
SET client_min_messages = error;
DROP SCHEMA explaining CASCADE;
DROP ROLE explaining_reader;
DELETE FROM fraud.rule_failures;
