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
-- rows as packed.h has them, each value a text
CREATE FUNCTION little(n int) RETURNS bytea LANGUAGE sql AS
    $$ SELECT string_agg(substr(int4send(n), i, 1), '' ORDER BY i DESC) FROM generate_series(1, 4) AS i $$;
CREATE FUNCTION pack_value(value text) RETURNS bytea LANGUAGE sql AS
    $$ SELECT CASE value WHEN 'NULL' THEN '\x00' WHEN 'DEFAULT' THEN '\x03' ELSE '\x01'::bytea ||
       little(octet_length(value)) || convert_to(value, getdatabaseencoding()) || '\x00' END $$;
CREATE FUNCTION pad(row_ bytea) RETURNS bytea LANGUAGE sql AS
    $$ SELECT row_ || substr('\x000000'::bytea, 1, (4 - length(row_) % 4) % 4) $$;
CREATE FUNCTION pack(rows text) RETURNS bytea LANGUAGE sql AS
    $$ SELECT coalesce(string_agg(packed, '' ORDER BY line), '') FROM (SELECT line, pad(string_agg(pack_value(value), '' ORDER BY place)) AS packed
       FROM string_to_table(rtrim(rows, E'\n'), E'\n') WITH ORDINALITY AS l (row_, line),
            string_to_table(row_, E'\t') WITH ORDINALITY AS v (value, place) GROUP BY line) AS r $$;
CREATE FUNCTION load(columns text[], rows text, target regclass = 'load.tx') RETURNS bigint LANGUAGE sql AS
    $$ SELECT fraud.load_packed(target, columns, 'L' || repeat('t', cardinality(columns)), pack(rows)) $$;

SELECT fraud.load_obstacle('tx') IS NULL AS possible;
SELECT load('{id,amount,city}', E'1\t100\there\n2\t600\tthere\n3\t1001\tNULL\n4\t13\there\n');
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
SELECT load('{id}', '1', 'copied');
DROP TRIGGER before_row ON copied;
CREATE TRIGGER together AFTER INSERT ON copied REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION same();
SELECT fraud.load_obstacle('copied');
DROP TRIGGER together ON copied;
ALTER TABLE copied DISABLE TRIGGER "~~fraud_mark";
SELECT fraud.load_obstacle('copied');
ALTER TABLE copied ENABLE TRIGGER "~~fraud_mark";
SELECT fraud.load_obstacle('copied');
SET session_replication_role = replica;
SELECT fraud.load_obstacle('copied');
ALTER TABLE copied ENABLE ALWAYS TRIGGER "~~fraud_mark";
SELECT fraud.load_obstacle('copied') IS NULL AS possible;
RESET session_replication_role;
ALTER TABLE copied ENABLE TRIGGER "~~fraud_mark";
ALTER TABLE copied ADD COLUMN random float8 DEFAULT random();
SELECT load('{id}', '1', 'copied');
SELECT load('{id,random}', E'1\t2\n', 'copied');
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
SELECT fraud.watch('parts');
SELECT fraud.load_obstacle('parts'), fraud.load_obstacle('parts_1'), fraud.load_obstacle('city');

-- the same, value by value
CREATE FUNCTION packed(columns text[], rows bytea, kinds text = NULL) RETURNS bigint LANGUAGE sql AS
    $$ SELECT fraud.load_packed('load.tx', columns, 'L' || coalesce(kinds, repeat('t', cardinality(columns))), rows) $$;
TRUNCATE tx, seen, fraud.alerts;
ALTER TABLE tx ENABLE TRIGGER see_row;
SELECT packed('{id,amount,city}', pack(E'1\t100\there\n2\t600\tthere\n3\t1001\tNULL\n4\t13\there\n'));
SELECT packed('{id,number,amount,city,note}', pack(E'7\tDEFAULT\t0.126\tDEFAULT\tDEFAULT\n8\t-1\tDEFAULT\tNULL\tNULL\n'));
SELECT packed('{id,is_fraud,fraud_alert_id}', pack(E'9\tt\t1\n'));
SELECT packed('{id}', '');
SELECT id, number > 0 AS number, amount, city, note, doubled, is_fraud, fraud_score, fraud_rules FROM tx ORDER BY id;
SELECT transaction - 'number' AS transaction, rules FROM fraud.alerts WHERE table_name = 'load.tx' ORDER BY id;
SELECT * FROM seen;
-- as they come from the bridge: integer, numeric(12,2), text
SELECT packed('{id,amount,note}', '\x020a000000 02027cfcffffffffffff 0209616263 020b000000 0204e110000000000000 0203 000000', '4ns');
SELECT packed('{id,note}', '\x020c000000 020000 10040000'::bytea || convert_to(repeat('long', 64), 'UTF8'), '4s');
SELECT packed('{id,note}', '\x020d000000 020000 10040000'::bytea || convert_to(repeat('long', 64) || 'er', 'UTF8'), '4s');
SELECT id, amount, note = repeat('long', 64) AS long, left(note, 3) AS note FROM tx WHERE id BETWEEN 10 AND 12 ORDER BY id;
-- errors
SELECT packed('{id,amount}', pack(E'20\t1\n21\tabc\n22\t1\n'));
SELECT packed('{id,amount}', pack(E'20\t1\n21\t1\n2\t1\n22\t1\n'));
SELECT packed('{id,note}', pack(E'20\tgood\n21\tbad\n22\tgood\n'));
SELECT packed('{id,amount,city}', pack(E'20\t1\there\n21\t1\tnowhere\n'));
SELECT packed('{id,amount}', '\x0214000000 02020010a5d4e8000000', '4n');
SELECT packed('{id,note}', '\x0214000000 0207e282', '4s');
SELECT packed('{id,note}', '\x0214000000 02050000', '4s');
SELECT packed('{id,note}', '\x0214000000 02010000', '4s');
SELECT packed('{id,note}', '\x0214000000 020000000e00000000', '4s');
SELECT packed('{id,amount}', '\x0214000000 02100100000000000000', '4n');
SELECT packed('{id,amount}', '\x0214000000 02000080c6a47e8d0300', '4n');
SELECT packed('{id}', '\x0514000000', '4');
SELECT packed('{id}', '\x0214000000', 't');
SELECT packed('{id}', pack('x'), 's');
SELECT packed('{id}', pack('x'), '?');
SELECT packed('{id,note}', pack(E'20\tx'), '4');
SELECT packed('{nothing}', pack('1'));
SELECT packed('{id,id}', pack(E'1\t1'));
SELECT packed('{ctid}', pack('1'));
SELECT packed('{doubled}', pack('1'));
SELECT fraud.load_packed('tx', '{id}', 'Xt', pack('20'));
SELECT fraud.load_packed('tx', '{id}', '', pack('20'));
SELECT count(*) FROM tx WHERE id >= 20;
-- cut anywhere, or with any byte changed, it is refused or is other rows, and nothing worse
CREATE FUNCTION try(rows bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM fraud.load_packed('load.tx', '{id,amount,note,city}', 'L4nst', rows);
    RAISE EXCEPTION 'stored' USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN RETURN substr(SQLSTATE, 1, 2);
END $$;
CREATE TABLE chunk AS SELECT '\x021e000000 02027c04000000000000 0209616263 01040000006865726500 0000
    021f000000 0201ff00000000000000 020c020000'::bytea || convert_to(repeat('y', 127), 'UTF8') || '\x00' AS rows;
SELECT try(rows) FROM chunk;
SELECT DISTINCT try(substr(rows, 1, n)) FROM chunk, generate_series(0, length(rows)) AS n ORDER BY 1;
SELECT DISTINCT try(set_byte(rows, n, b)) FROM chunk, generate_series(0, 60) AS n, generate_series(0, 255, 3) AS b ORDER BY 1;
DROP TABLE chunk;
-- of times and the like each has its kind, domains have none
CREATE DOMAIN small AS int CHECK (VALUE < 10) NOT NULL DEFAULT 4;
CREATE TABLE kinds (b bool, i2 int2, i8 int8, d date, z timestamptz, p timestamp, u uuid, v varchar(3), s small);
SELECT fraud.watch('kinds');
SELECT fraud.load_packed('kinds', '{b,i2,i8,d,z,p,u,v,s}', 'Lb28dzzust', '\x0201 02feff 02ffffffffffffffff 02a3230000 020040c0d7860d0000 02ffffffffffffffff 02 00112233445566778899aabbccddeeff 0209616263 010100000039 000000 00 00 00 00 00 00 00 00 03');
SELECT * FROM kinds;
SELECT fraud.load_packed('kinds', '{b}', 'Lb', '\x0202');
SELECT fraud.load_packed('kinds', '{d}', 'Ld', '\x02ffffff7f');
SELECT fraud.load_packed('kinds', '{z}', 'Lz', '\x02ffffffffffffff7f');
SELECT fraud.load_packed('kinds', '{v}', 'Ls', '\x020b61626364');
SELECT fraud.load_packed('kinds', '{v}', 'Ls', '\x020b61626320');
SELECT fraud.load_packed('kinds', '{s}', 'L4', '\x0205000000');
SELECT fraud.load_packed('kinds', '{s}', 'Lt', '\x00');
SELECT fraud.load_packed('kinds', '{s}', 'Lt', pack('12'));
SELECT fraud.load_packed('kinds', '{v}', 'Ls', '\x02');

-- a row that ends in NULLs has a tuple without them, as if they had been added later
CREATE TABLE short (id int PRIMARY KEY, a int, b int, c int, d int, e text);
SELECT fraud.watch('short');
SELECT fraud.add_rule('short', 'some', 'id = 7');
CREATE TABLE whole (LIKE short);
SELECT load('{id,a,b,c,d,e}', string_agg(g || E'\t1\t2\t3\t4\tfive\n', '' ORDER BY g), 'short') FROM generate_series(1, 300) AS g;
INSERT INTO whole SELECT id, a, b, c, d, e || '', is_fraud, fraud_score, fraud_rules, fraud_alert_id FROM short;
SELECT (SELECT count(*) FROM whole WHERE (ctid::text::point)[0] = 0) AS rows_a_page,
       (SELECT count(*) FROM short WHERE (ctid::text::point)[0] = 0) AS without_nulls;
SELECT s.id, s.is_fraud, s.fraud_score, s.fraud_rules, s.fraud_alert_id IS NULL AS clean FROM short AS s WHERE id IN (6, 7) ORDER BY id;
SELECT count(*) AS different FROM short AS s JOIN whole AS w USING (id) WHERE s IS DISTINCT FROM w;
-- columns that come later have their default in all rows, and those with one are never left out
ALTER TABLE short ADD COLUMN later int DEFAULT 5;
ALTER TABLE short ADD COLUMN latest text;
SELECT load('{id,later}', E'301\tDEFAULT\n302\tNULL\n303\t6\n', 'short'), load('{id}', E'304\n', 'short');
SELECT id, fraud_rules, fraud_alert_id, later, latest FROM short WHERE id IN (6, 301, 302, 303, 304) ORDER BY id;
ALTER TABLE short DROP COLUMN later, DROP COLUMN e;
SELECT load('{id}', E'305\n', 'short');
UPDATE short SET latest = 'x' WHERE id IN (6, 305);
CREATE INDEX ON short (id) WHERE fraud_rules IS NULL;
ALTER TABLE short ALTER COLUMN b TYPE bigint;
SELECT id, a, b, d, is_fraud, fraud_rules, fraud_alert_id IS NULL AS clean, latest FROM short WHERE id IN (6, 7, 305) ORDER BY id;
SELECT count(*) FROM short WHERE fraud_rules IS NULL AND latest IS NULL;
-- nothing but NULLs
CREATE TABLE none (a int, b int);
SELECT fraud.watch('none'), fraud.pause('none');
SELECT load('{a}', E'NULL\nNULL\n', 'none');
SELECT * FROM none;

-- privileges and row security
CREATE ROLE load_clerk;
GRANT USAGE ON SCHEMA load TO load_clerk;
GRANT INSERT (id, amount) ON tx TO load_clerk;
GRANT INSERT ON seen TO load_clerk;
SET ROLE load_clerk;
SELECT fraud.load_packed('tx', '{id}', 'Lt', '');
RESET ROLE;
GRANT fraud_bridge TO load_clerk;
GRANT USAGE ON SEQUENCE ids TO load_clerk;
SET ROLE load_clerk;
SELECT load('{id,amount}', E'7000\t1000\n');
SELECT packed('{id,note}', pack(E'7001\tx'));
SELECT packed('{id,note}', pack(E'7001\tDEFAULT'));
SELECT packed('{note}', pack('DEFAULT'));
RESET ROLE;
ALTER TABLE tx ENABLE ROW LEVEL SECURITY;
SELECT fraud.load_obstacle('tx') IS NULL AS possible;
SET ROLE load_clerk;
SELECT fraud.load_obstacle('tx');
RESET ROLE;
SELECT id, is_fraud, note FROM tx WHERE id >= 7000 ORDER BY id;

SET client_min_messages = error;
DROP SCHEMA load CASCADE;
DROP ROLE load_clerk;
