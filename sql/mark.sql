-- Marks: set on every way in, forged on none
CREATE SCHEMA mark;
SET search_path = mark, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TYPE mood AS ENUM ('calm', 'angry');
CREATE DOMAIN money_amount AS numeric(14,2) CHECK (VALUE >= 0);
CREATE TABLE tx (
    id       int PRIMARY KEY,
    amount   money_amount,
    state    mood DEFAULT 'calm',
    tags     text[],
    "Weird ""name" text,
    details  jsonb,
    doubled  numeric GENERATED ALWAYS AS (amount * 2) STORED
);
SELECT fraud.watch('tx');
SELECT fraud.add_rule('tx', 'big', 'amount > 500'),
       fraud.add_rule('tx', 'angry', 'state = ''angry''', score => 0.4),
       fraud.add_rule('tx', 'tagged', 'tags @> ARRAY[''x'']', score => 0.6),
       fraud.add_rule('tx', 'quoted', '"Weird ""name" = ''w'''),
       fraud.add_rule('tx', 'inside', 'details ->> ''risk'' = ''high'''),
       fraud.add_rule('tx', 'doubled', 'doubled = 84');
CREATE VIEW marks AS SELECT id, is_fraud, fraud_score, fraud_rules, fraud_alert_id IS NOT NULL AS alert FROM tx ORDER BY id;

-- every type, one row each; scores add up to the threshold
INSERT INTO tx (id, amount, state, tags, "Weird ""name", details) VALUES
    (1, 500, 'calm', '{a}', 'v', '{"risk": "low"}'),
    (2, 500.01, 'calm', NULL, NULL, NULL),
    (3, 1, 'angry', NULL, NULL, NULL),
    (4, 1, 'angry', '{y,x}', NULL, NULL),
    (5, 1, 'calm', NULL, 'w', NULL),
    (6, 1, 'calm', NULL, NULL, '{"risk": "high"}'),
    (7, 42, 'calm', NULL, NULL, NULL),
    (8, NULL, NULL, NULL, NULL, NULL),
    (9, 501, 'angry', '{x}', 'w', '{"risk": "high"}');
SELECT * FROM marks;

-- RETURNING shows the marks
INSERT INTO tx (id, amount) VALUES (10, 1000) RETURNING id, doubled, is_fraud, fraud_rules;

-- COPY, INSERT ... SELECT, a view, a prepared statement
COPY tx (id, amount, state) FROM stdin;
20	1	calm
21	501	calm
\.
INSERT INTO tx (id, amount) SELECT 30 + g, g * 500 FROM generate_series(1, 2) AS g;
CREATE VIEW way_in AS SELECT id AS number, amount AS money FROM tx;
INSERT INTO way_in VALUES (40, 600);
PREPARE add_tx(int, numeric) AS INSERT INTO tx (id, amount) VALUES ($1, $2);
EXECUTE add_tx(50, 1);
EXECUTE add_tx(51, 700);
SELECT * FROM marks WHERE id >= 20;

-- a rule made between two executions of a prepared statement counts
SELECT fraud.add_rule('tx', 'low', 'amount < 2');
EXECUTE add_tx(52, 1);
SELECT fraud.drop_rule('tx', 'low');
EXECUTE add_tx(53, 1);
SELECT * FROM marks WHERE id IN (52, 53);

-- ON CONFLICT: a row that is not stored leaves no alert
SELECT count(*) AS alerts FROM fraud.alerts WHERE table_name = 'mark.tx' \gset
INSERT INTO tx (id, amount) VALUES (1, 9999) ON CONFLICT DO NOTHING;
SELECT count(*) = :alerts AS no_orphan FROM fraud.alerts WHERE table_name = 'mark.tx';
-- and an upsert keeps the marks, whatever it proposes
INSERT INTO tx (id, amount) VALUES (1, 9999) ON CONFLICT (id) DO UPDATE
   SET amount = excluded.amount, is_fraud = excluded.is_fraud, fraud_alert_id = excluded.fraud_alert_id;
SELECT amount FROM tx WHERE id = 1;
SELECT * FROM marks WHERE id = 1;
SELECT count(*) = :alerts AS no_orphan FROM fraud.alerts WHERE table_name = 'mark.tx';

-- MERGE, where the server has it; both warn that marks are not changed
SET client_min_messages = error;
SELECT current_setting('server_version_num')::int >= 150000 AS has_merge \gset
\if :has_merge
MERGE INTO tx USING (VALUES (1, 1), (45, 800), (46, 1)) AS s(id, amount) ON tx.id = s.id
    WHEN MATCHED THEN UPDATE SET amount = s.amount, is_fraud = true
    WHEN NOT MATCHED THEN INSERT (id, amount) VALUES (s.id, s.amount);
\else
UPDATE tx SET amount = 1, is_fraud = true WHERE id = 1;
INSERT INTO tx (id, amount) VALUES (45, 800), (46, 1);
\endif
SET client_min_messages = warning;
SELECT * FROM marks WHERE id IN (1, 45, 46);

-- forged marks: overwritten by INSERT and COPY
INSERT INTO tx (id, amount, is_fraud, fraud_score, fraud_rules, fraud_alert_id)
VALUES (60, 1, true, 99, '{forged}', 1), (61, 1000, false, 0, NULL, NULL);
COPY tx (id, amount, is_fraud, fraud_score, fraud_rules, fraud_alert_id) FROM stdin;
62	1	t	99	{forged}	1
63	1000	f	0	\N	\N
\.
SELECT * FROM marks WHERE id BETWEEN 60 AND 63;

-- kept by UPDATE, with one warning for the statement
UPDATE tx SET is_fraud = false, fraud_rules = NULL WHERE id IN (61, 63);
UPDATE tx SET is_fraud = true WHERE id = 60;
UPDATE tx SET fraud_alert_id = 1 WHERE id = 60;
UPDATE tx SET fraud_score = fraud_score, amount = amount + 1 WHERE id = 60;
UPDATE tx SET amount = 2000 WHERE id = 60;
SELECT * FROM marks WHERE id BETWEEN 60 AND 63;
SET client_min_messages = notice;
UPDATE tx SET is_fraud = NULL WHERE id = 61;
SET client_min_messages = warning;

-- the user's own triggers come first: what they make of the row is judged
CREATE FUNCTION raise_amount() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.amount := NEW.amount * 1000; RETURN NEW; END $$;
CREATE TRIGGER zzz_raise BEFORE INSERT ON tx FOR EACH ROW WHEN (NEW.id = 70) EXECUTE FUNCTION raise_amount();
INSERT INTO tx (id, amount) VALUES (70, 1);
SELECT * FROM marks WHERE id = 70;
SELECT transaction -> 'amount' AS amount, transaction -> 'doubled' AS doubled
  FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id WHERE tx.id = 70;
-- one that skips the row leaves nothing
CREATE FUNCTION skip_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER aaa_skip BEFORE INSERT ON tx FOR EACH ROW WHEN (NEW.id = 71) EXECUTE FUNCTION skip_row();
INSERT INTO tx (id, amount) VALUES (71, 1000);
SELECT count(*) FROM tx WHERE id = 71;

-- on_update: judges updates too, adds fraud and never clears it
SELECT fraud.watch('tx', on_update => true);
UPDATE tx SET amount = 3000 WHERE id = 50;
UPDATE tx SET amount = 1 WHERE id = 51;
UPDATE tx SET state = 'angry' WHERE id = 53;
SELECT * FROM marks WHERE id BETWEEN 50 AND 53;
SELECT a.rules, a.transaction -> 'amount' AS amount FROM fraud.alerts AS a JOIN tx ON a.id = tx.fraud_alert_id WHERE tx.id = 50;
INSERT INTO tx (id, amount) VALUES (20, 5000) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount;
SELECT * FROM marks WHERE id = 20;
UPDATE tx SET amount = 6000, is_fraud = false WHERE id = 3;
SELECT * FROM marks WHERE id = 3;
SELECT fraud.watch('tx', on_update => false);
UPDATE tx SET amount = 7000 WHERE id = 52;
SELECT * FROM marks WHERE id = 52;

-- every mark has its alert, every alert its mark
SELECT count(*) FROM tx FULL JOIN (SELECT * FROM fraud.alerts WHERE table_name = 'mark.tx') AS a ON a.id = tx.fraud_alert_id
 WHERE tx.is_fraud IS DISTINCT FROM (a.id IS NOT NULL) AND (tx.is_fraud OR a.id IS NOT NULL);

-- nothing that a session sets changes a verdict
CREATE TABLE clocks (id int, at timestamptz, local timestamp, f float8, b bytea, span interval, d date);
SELECT fraud.watch('clocks');
SELECT fraud.add_rule('clocks', 'hour', 'extract(hour FROM at) = 3'),
       fraud.add_rule('clocks', 'as_text', 'at::text = ''2024-03-01 03:30:00+00'''),
       fraud.add_rule('clocks', 'as_local', 'local > ''2024-03-01 04:00+00''::timestamptz'),
       fraud.add_rule('clocks', 'digits', 'f::text = ''0.30000000000000004'''),
       fraud.add_rule('clocks', 'bytes', 'b::text = ''\x6162'''),
       fraud.add_rule('clocks', 'spans', 'span::text = ''1 day 02:00:00'''),
       fraud.add_rule('clocks', 'day', 'd = ''01/02/2024''::date'),
       fraud.add_rule('clocks', 'is_null', 'f = NULL');
CREATE FUNCTION add_clock(id int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO clocks VALUES (id, '2024-03-01 03:30Z', '2024-03-01 05:00', 0.1::float8 + 0.2::float8, 'ab', make_interval(days => 1, hours => 2),
                               make_date(2024, 1, 2))
$$;
SELECT add_clock(1);
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = 0;
SET bytea_output = 'escape';
SET transform_null_equals = on;
CREATE OPERATOR mark.= (LEFTARG = float8, RIGHTARG = float8, FUNCTION = float8ne);
CREATE OPERATOR mark.= (LEFTARG = text, RIGHTARG = text, FUNCTION = textne);
SET search_path = mark, pg_catalog, public;
SELECT add_clock(2);
\c -
SET client_min_messages = warning;
SET search_path = mark, pg_catalog, public;
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = -3;
SET bytea_output = 'escape';
SET transform_null_equals = on;
SELECT add_clock(3);
SHOW TimeZone;
SHOW DateStyle;
RESET ALL;
SET client_min_messages = warning;
SELECT id, fraud_rules FROM mark.clocks ORDER BY id;
SELECT DISTINCT transaction - 'id' AS transaction FROM fraud.alerts WHERE table_name = 'mark.clocks';

-- rows of logical replication: judged where the triggers are made to fire
CREATE TABLE replicated (id int, amount numeric);
SELECT fraud.watch('replicated');
SELECT fraud.add_rule('replicated', 'large', 'amount > 500');
SET session_replication_role = replica;
INSERT INTO replicated VALUES (1, 1000);
ALTER TABLE replicated ENABLE ALWAYS TRIGGER "~~fraud_mark", ENABLE ALWAYS TRIGGER "~~fraud_ledger";
INSERT INTO replicated VALUES (2, 1000, false);
RESET session_replication_role;
SELECT r.id, r.is_fraud, a.rules FROM replicated r LEFT JOIN fraud.alerts a ON a.id = r.fraud_alert_id ORDER BY r.id;

DROP SCHEMA mark CASCADE;
