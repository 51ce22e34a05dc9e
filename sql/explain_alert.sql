-- Why a row became an alert: also after the rules have changed
CREATE SCHEMA explain_alert;
SET search_path = explain_alert, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TABLE tx (id int, amount numeric, city text, "Odd name" int, note text,
                 doubled numeric GENERATED ALWAYS AS (amount * 2) STORED);
SELECT fraud.watch('tx');
SELECT fraud.add_rule('tx', 'big', 'amount > 500 AND city <> ''home''', description => 'far and large'),
       fraud.add_rule('tx', 'odd', '"Odd name" = 7', score => 0.5),
       fraud.add_rule('tx', 'twice', 'doubled > 2000'),
       fraud.add_rule('tx', 'always', 'true', score => 0),
       fraud.add_rule('tx', 'shadow', 'amount > 1', mode => 'shadow');
SELECT name, columns FROM fraud.rule_versions WHERE table_name = 'explain_alert.tx' ORDER BY name;
INSERT INTO tx (id, amount, city, "Odd name", note) VALUES (1, 1001, 'away', 7, 'long text'), (2, 600, NULL, 7, NULL), (3, 600, 'away', NULL, NULL);

-- changed, dropped, renamed since
SELECT fraud.alter_rule('tx', 'big', condition => 'amount > 10000');
SELECT fraud.drop_rule('tx', 'odd');
ALTER TABLE tx RENAME COLUMN city TO town;
SELECT tx.id, e.rule, e.version, e.score, e.condition, e.description, e.current_version, e.observed
  FROM tx, fraud.explain_alert(tx.fraud_alert_id) AS e ORDER BY tx.id, e.rule;
SELECT count(*) FROM fraud.explain_alert(-1);
SELECT count(*) FROM fraud_api.explain_alert((SELECT fraud_alert_id FROM tx WHERE id = 1));

-- nobody learns of alerts that he may not see
CREATE ROLE explain_reader;
GRANT fraud_reader TO explain_reader;
SELECT fraud_alert_id AS alert FROM tx WHERE id = 1 \gset
SET ROLE explain_reader;
SELECT count(*) FROM fraud.explain_alert(:alert);
RESET ROLE;
GRANT USAGE ON SCHEMA explain_alert TO explain_reader;
GRANT SELECT ON tx TO explain_reader;
SET ROLE explain_reader;
SELECT count(*) FROM fraud.explain_alert(:alert);
RESET ROLE;

DROP SCHEMA explain_alert CASCADE;
DROP ROLE explain_reader;
