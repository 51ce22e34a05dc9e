-- Many rows at once: the same as COPY, in groups
CREATE SCHEMA load;
SET search_path = load, public;
\set SHOW_CONTEXT errors
SET client_min_messages = warning;

CREATE TABLE city (name text PRIMARY KEY);
INSERT INTO city VALUES ('here'), ('there');
CREATE SEQUENCE ids;
CREATE TABLE tx (id int PRIMARY KEY, number int DEFAULT nextval('ids'), amount numeric(12,2), city text REFERENCES city,
                 note text DEFAULT 'none', doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, CHECK (note <> 'bad'));
CREATE UNIQUE INDEX tx_number ON tx (number);
CREATE TABLE seen (what text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO seen VALUES (TG_WHEN || ' ' || TG_LEVEL || coalesce(' ' || NEW.id || ' ' || NEW.is_fraud, '')); RETURN NULL; END $$;
CREATE TRIGGER see_row AFTER INSERT ON tx FOR EACH ROW EXECUTE FUNCTION see();
CREATE TRIGGER see_before BEFORE INSERT ON tx EXECUTE FUNCTION see();
CREATE TRIGGER see_after AFTER INSERT ON tx EXECUTE FUNCTION see();
SELECT fraud.watch('tx');
SELECT fraud.add_rule('tx', 'big', 'amount > 500'), fraud.add_rule('tx', 'twice', 'doubled > 2000'),
       fraud.add_rule('tx', 'fails', '1 / (amount - 13) > 1', on_error => 'fire');
CREATE FUNCTION load(columns text[], rows text) RETURNS bigint LANGUAGE sql AS
    $$ SELECT fraud.load_rows('load.tx', columns, convert_to(rows, getdatabaseencoding())) $$;

SELECT fraud.load_obstacle('tx') IS NULL AS possible;
SELECT load('{id,amount,city}', E'1\t100\there\n2\t600\tthere\n3\t1001\t\\N\n4\t13\there\n');
SELECT id, number, amount, city, note, doubled, is_fraud, fraud_score, fraud_rules FROM tx ORDER BY id;
SELECT transaction, rules FROM fraud.alerts WHERE table_name = 'load.tx' ORDER BY id;
SELECT * FROM seen;
SELECT name, evaluated, fired, failed FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;

-- forged marks are overwritten; an empty chunk is nothing
SELECT load('{id,amount,is_fraud,fraud_alert_id}', E'5\t1\tt\t1\n');
SELECT id, is_fraud, fraud_alert_id FROM tx WHERE id = 5;
SELECT load('{id}', '');
-- paused: stored unjudged
SELECT fraud.pause('tx');
SELECT load('{id,amount}', E'6\t1000\n');
SELECT fraud.resume('tx');
SELECT id, is_fraud FROM tx WHERE id = 6;

-- errors name the line, and nothing of the chunk is stored
SELECT load('{id,amount}', E'10\t1\n11\tabc\n12\t1\n');
SELECT load('{id,amount}', E'10\t1\n11\t1\n2\t1\n12\t1\n');
SELECT load('{id,note}', E'10\tgood\n11\tbad\n12\tgood\n');
SELECT load('{id,amount,city}', E'10\t1\there\n11\t1\tnowhere\n12\t1\there\n');
SELECT load('{id,amount}', E'10\t1\textra\n');
SELECT load('{id,amount}', E'10\n');
SELECT load('{id,nothing}', E'10\t1\n');
SELECT load('{doubled}', E'10\n');
SELECT load('{}', E'10\n');
SELECT count(*) FROM tx;
SELECT evaluated FROM fraud.rules WHERE target = 'tx'::regclass AND name = 'big';

-- many groups; the same as COPY gives
TRUNCATE seen;
ALTER TABLE tx DISABLE TRIGGER see_row;
SELECT load('{id,amount,note}', string_agg(g || E'\t' || g % 700 || E'\t' || repeat('x', g % 300) || E'\n', '' ORDER BY g))
  FROM generate_series(1001, 6000) AS g;
CREATE TABLE copied (LIKE tx INCLUDING DEFAULTS INCLUDING GENERATED);
ALTER TABLE copied DROP COLUMN is_fraud, DROP COLUMN fraud_score, DROP COLUMN fraud_rules, DROP COLUMN fraud_alert_id;
SELECT fraud.watch('copied');
SELECT fraud.add_rule('copied', 'big', 'amount > 500'), fraud.add_rule('copied', 'twice', 'doubled > 2000'),
       fraud.add_rule('copied', 'fails', '1 / (amount - 13) > 1', on_error => 'fire');
INSERT INTO copied (id, amount, note) SELECT g, g % 700, repeat('x', g % 300) FROM generate_series(1001, 6000) AS g;
SELECT count(*) AS rows, count(*) FILTER (WHERE t.is_fraud) AS frauds,
       count(*) FILTER (WHERE (t.amount, t.note, t.doubled, t.is_fraud, t.fraud_score, t.fraud_rules)
                        IS DISTINCT FROM (c.amount, c.note, c.doubled, c.is_fraud, c.fraud_score, c.fraud_rules)) AS different
  FROM tx AS t JOIN copied AS c USING (id);
SELECT count(*) FROM tx LEFT JOIN fraud.alerts AS a ON a.id = tx.fraud_alert_id WHERE tx.is_fraud AND a.id IS NULL;
SET enable_seqscan = off;
SELECT count(*) FROM tx WHERE id BETWEEN 1001 AND 6000;
RESET enable_seqscan;

-- the trigger that writes alerts is the user's to disable
ALTER TABLE tx DISABLE TRIGGER "~~fraud_ledger";
SELECT load('{id,amount}', E'8000\t1000\n');
ALTER TABLE tx ENABLE TRIGGER "~~fraud_ledger";
SELECT load('{id,amount}', E'8001\t1000\n');
SELECT tx.id, is_fraud, a.id IS NOT NULL AS has_alert
  FROM tx LEFT JOIN fraud.alerts AS a ON a.id = fraud_alert_id WHERE tx.id >= 8000 ORDER BY tx.id;
DELETE FROM tx WHERE id >= 8000;

-- what is left to COPY
CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER before_row BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION same();
SELECT fraud.load_obstacle('copied');
SELECT fraud.load_rows('copied', '{id}', '1');
DROP TRIGGER before_row ON copied;
CREATE TRIGGER together AFTER INSERT ON copied REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION same();
SELECT fraud.load_obstacle('copied');
DROP TRIGGER together ON copied;
ALTER TABLE copied DISABLE TRIGGER "~~fraud_mark";
SELECT fraud.load_obstacle('copied');
ALTER TABLE copied ENABLE TRIGGER "~~fraud_mark";
SELECT fraud.load_obstacle('copied');
ALTER TABLE copied ADD COLUMN random float8 DEFAULT random();
SELECT fraud.load_rows('copied', '{id}', '1');
SELECT fraud.load_rows('copied', '{id,random}', convert_to(E'1\t2\n', 'UTF8'));
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
SELECT fraud.watch('parts');
SELECT fraud.load_obstacle('parts'), fraud.load_obstacle('parts_1'), fraud.load_obstacle('city');

-- privileges and row security
CREATE ROLE load_clerk;
GRANT USAGE ON SCHEMA load TO load_clerk;
GRANT INSERT (id, amount) ON tx TO load_clerk;
GRANT INSERT ON seen TO load_clerk;
SET ROLE load_clerk;
SELECT fraud.load_rows('tx', '{id}', '7000');
RESET ROLE;
GRANT fraud_bridge TO load_clerk;
GRANT USAGE ON SEQUENCE ids TO load_clerk;
SET ROLE load_clerk;
SELECT fraud.load_rows('tx', '{id,amount}', convert_to(E'7000\t1000\n', 'UTF8'));
SELECT fraud.load_rows('tx', '{id,note}', convert_to(E'7001\tx\n', 'UTF8'));
RESET ROLE;
ALTER TABLE tx ENABLE ROW LEVEL SECURITY;
SELECT fraud.load_obstacle('tx') IS NULL AS possible;
SET ROLE load_clerk;
SELECT fraud.load_obstacle('tx');
RESET ROLE;
SELECT id, is_fraud FROM tx WHERE id >= 7000;

SET client_min_messages = error;
DROP SCHEMA load CASCADE;
DROP ROLE load_clerk;
