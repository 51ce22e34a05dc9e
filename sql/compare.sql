-- Champion and challenger: what would another condition have changed?
CREATE SCHEMA compare;
SET search_path = compare, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TABLE tx (id int, amount numeric, at timestamptz);
SELECT fraud.watch('tx', event_time => 'at');
SELECT fraud.add_rule('tx', 'big', 'amount > 500'),
       fraud.add_rule('tx', 'other', 'id = 3'),
       fraud.add_rule('tx', 'lower', 'amount > 300', mode => 'shadow');
INSERT INTO tx SELECT g, g * 100, '2024-03-01 12:00Z'::timestamptz + (g % 2) * interval '1 day' FROM generate_series(1, 10) AS g;
INSERT INTO tx VALUES (11, 1000, NULL);

-- a condition in a live rule's place
SELECT * FROM fraud.compare('tx', 'big', 'amount > 700');
SELECT * FROM fraud.compare('tx', 'big', 'amount > 200');
-- a rule in shadow mode, made live
SELECT * FROM fraud.compare('tx', 'lower');
-- an old version
SELECT fraud.alter_rule('tx', 'big', condition => 'amount > 900');
SELECT * FROM fraud.compare('tx', 'big', version => 1);
-- within bounds; now() is the row's event time
SELECT * FROM fraud.compare('tx', 'big', 'at < now() - interval ''1 hour''', since => '2024-03-02 00:00Z', until => '2024-03-03 00:00Z');
-- a challenger that fails on some rows
SELECT * FROM fraud.compare('tx', 'big', '1 / (amount - 500) > 0');
-- nothing was written or counted
SELECT name, evaluated FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;
SELECT count(*) FILTER (WHERE is_fraud) FROM tx;

-- partitions with other layouts, no event time
CREATE TABLE parts (id int, amount numeric) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (5);
CREATE TABLE parts_2 (junk int, amount numeric, id int);
ALTER TABLE parts_2 DROP COLUMN junk;
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (5) TO (100);
SELECT fraud.watch('parts');
SELECT fraud.add_rule('parts', 'big', 'amount > 500');
INSERT INTO parts SELECT g, g * 100 FROM generate_series(1, 10) AS g;
SELECT * FROM fraud.compare('parts', 'big', 'amount > 300');

-- refused
SELECT fraud.compare('tx', 'big');
SELECT fraud.compare('tx', 'nobody', 'true');
SELECT fraud.compare('tx', 'big', version => 77);
SELECT fraud.compare('tx', 'big', 'amonut > 1');
SELECT fraud.compare('parts', 'big', 'true', since => now());
CREATE TABLE unwatched (id int);
SELECT fraud.compare('unwatched', 'big', 'true');
CREATE ROLE compare_reader;
GRANT fraud_reader TO compare_reader;
GRANT USAGE ON SCHEMA compare TO compare_reader;
SET ROLE compare_reader;
SELECT * FROM fraud.compare('tx', 'big', 'amount > 700');
RESET ROLE;
GRANT SELECT ON tx TO compare_reader;
ALTER TABLE tx ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON tx FOR SELECT TO compare_reader USING (id < 3);
SET ROLE compare_reader;
SELECT * FROM fraud.compare('tx', 'big', 'amount > 100');
RESET ROLE;

DROP SCHEMA compare CASCADE;
DROP ROLE compare_reader;
