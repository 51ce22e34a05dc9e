-- An error in a rule points into the rule's own text, wherever it is met
\set SHOW_CONTEXT never
CREATE SCHEMA positions;
SET search_path = positions;
CREATE TABLE payments (id bigint, amount numeric, country text);
SET client_min_messages = warning;
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'r', 'amont > 500');
SELECT fraud.add_rule('payments', 'r', 'amount > 500 AND contry = ''FR''');
SELECT fraud.add_rule('payments', 'r', 'amount >');
SELECT fraud.add_rule('payments', 'r', '*');
SELECT fraud.add_rule('payments', 'r', 'country = ''FR'' AND amount > (SELECT 1)');
SELECT fraud.add_rule('payments', 'r', 'amount > 1
  AND country = 5');
SELECT fraud.add_rule('payments', 'r', 'amount > ''12x''');
SELECT fraud.add_rule('payments', 'r', 'amount > random()');
SELECT fraud.add_rule('payments', 'r', 'country = "FR"');
-- an error met when constants are computed has no place, but names the rule's text
\set SHOW_CONTEXT errors
DO $$ BEGIN PERFORM fraud.add_rule('positions.payments', 'r', 'amount > 1 AND 1 / 0 = 1');
EXCEPTION WHEN division_by_zero THEN
    DECLARE context text; BEGIN
        GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
        RAISE WARNING '%: %', SQLERRM, split_part(context, E'\n', 1);
    END;
END $$;
\set SHOW_CONTEXT never
-- the same from a function, whose own statements are not blamed
DO $$ BEGIN PERFORM fraud.add_rule('positions.payments', 'r', 'true AND amont > 1'); END $$;
-- when changed
SELECT fraud.add_rule('payments', 'r', 'amount > 500');
SELECT fraud.alter_rule('payments', 'r', condition => 'amount > 500 OR x');
SELECT name, version, condition FROM fraud.rules WHERE target = 'payments'::regclass;
-- when a row arrives and the rule does not compile any more: the insert goes through,
-- and nothing points into its text
ALTER TABLE payments RENAME COLUMN amount TO total;
INSERT INTO payments VALUES (1, 1000, 'FR') RETURNING is_fraud;
SELECT name, state, error FROM fraud.rules WHERE target = 'payments'::regclass;
-- a poisoned search_path neither changes a rule nor is found by it
ALTER TABLE payments RENAME COLUMN total TO amount;
CREATE SCHEMA evil;
CREATE FUNCTION evil.never(numeric, numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR evil.> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = evil.never);
CREATE FUNCTION evil.never(numeric, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR evil.> (LEFTARG = numeric, RIGHTARG = int, FUNCTION = evil.never);
SET search_path = evil, pg_catalog, positions;
SELECT 1000::numeric > 500 AS poisoned;
INSERT INTO payments VALUES (2, 1000, 'FR') RETURNING is_fraud;
SELECT fraud.add_rule('positions.payments', 's', 'amount > 900', score => 2);
INSERT INTO payments VALUES (3, 1000, 'FR') RETURNING is_fraud, fraud_rules;
SET search_path = positions;
INSERT INTO payments VALUES (4, 1000, 'FR') RETURNING is_fraud, fraud_rules;
-- nor do settings that change how text is read
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET transform_null_equals = on;
SELECT fraud.add_rule('payments', 'n', 'country = NULL');
SELECT fraud.add_rule('payments', 'e', E'country = \'a\\\\b\'');
SELECT condition FROM fraud.rules WHERE name = 'e';
INSERT INTO payments VALUES (5, 1, NULL) RETURNING is_fraud, fraud_rules;
INSERT INTO payments VALUES (6, 1, E'a\\b') RETURNING is_fraud, fraud_rules;
-- or how it is printed
SELECT fraud.add_rule('payments', 'q', 'format(''%I'', country) = ''fr''');
SET quote_all_identifiers = on;
INSERT INTO payments VALUES (8, 1, 'fr') RETURNING is_fraud, fraud_rules, format('%I', country);
RESET quote_all_identifiers;
RESET standard_conforming_strings;
RESET transform_null_equals;
INSERT INTO payments VALUES (7, 1, 'a\\b') RETURNING is_fraud, fraud_rules;
SET client_min_messages = error;
DROP SCHEMA positions, evil CASCADE;
