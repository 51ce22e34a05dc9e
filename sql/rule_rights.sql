-- Whose rights a rule runs with: nobody's but the inserter's, and never a
-- superuser's because he looks at the rules
\set VERBOSITY terse
SET client_min_messages = error;
CREATE ROLE rights_owner;
CREATE ROLE rights_inserter;
CREATE SCHEMA rights AUTHORIZATION rights_owner;
GRANT USAGE ON SCHEMA rights TO rights_inserter;
SET ROLE rights_owner;
CREATE TABLE rights.payments (id int, tags text[], amount numeric);
GRANT INSERT, SELECT ON rights.payments TO rights_inserter;
RESET ROLE;
SELECT fraud.watch('rights.payments');
SELECT fraud.add_rule('rights.payments', 'tagged', 'tags = ''{a}''');
SELECT fraud.add_rule('rights.payments', 'luhn', 'fraud.luhn(amount::text)');
-- an inserter needs no right on anything of the extension
SET ROLE rights_inserter;
INSERT INTO rights.payments VALUES (1, '{a}', 18) RETURNING is_fraud, fraud_rules;
SELECT fraud.is_fraud(p) FROM rights.payments p;
SELECT * FROM fraud.rules;
-- a column becomes one whose literals run code: whose rights has it?
SET ROLE rights_owner;
CREATE FUNCTION rights.look(text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE INFO 'runs as %', current_user;
    RETURN true;
END $$;
CREATE DOMAIN rights.spying AS text CHECK (rights.look(VALUE));
ALTER TABLE rights.payments ALTER tags TYPE rights.spying[];
RESET ROLE;
\c -
SELECT name, state FROM fraud.rules WHERE target = 'rights.payments'::regclass ORDER BY name;
SELECT rows_seen FROM fraud.backtest('rights.payments', 'tags = ''{b}''');
INSERT INTO rights.payments (id) VALUES (2) RETURNING is_fraud;
\c -
SET ROLE rights_inserter;
INSERT INTO rights.payments (id) VALUES (3) RETURNING is_fraud;
RESET ROLE;
SET client_min_messages = error;
DROP SCHEMA rights CASCADE;
DROP ROLE rights_owner, rights_inserter;
