-- The brake: a rule over its limits is left out from the next row on
CREATE SCHEMA brake;
SET search_path = brake, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TABLE tx (id int, amount numeric, note text);
SELECT fraud.watch('tx');
SELECT fraud.add_rule('tx', 'greedy', 'amount > 100', max_share => 0.1, share_rows => 100),
       fraud.add_rule('tx', 'steady', 'id % 50 = 0', max_share => 0.1, share_rows => 100),
       fraud.add_rule('tx', 'free', 'amount > 100', mode => 'shadow');
CREATE VIEW rules AS
    SELECT name, version, state, error, evaluated, fired, braked_at IS NOT NULL AS braked
      FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY name;

-- within its share
INSERT INTO tx SELECT g, CASE WHEN g % 20 = 0 THEN 101 ELSE 1 END FROM generate_series(1, 200) AS g;
SELECT * FROM rules;
-- over it: the eleventh of the last hundred rows is the last that it marks
INSERT INTO tx SELECT g, 101 FROM generate_series(301, 349) AS g;
SELECT count(*) AS rows, count(*) FILTER (WHERE 'greedy' = ANY (fraud_rules)) AS marked FROM tx WHERE id > 300;
SELECT * FROM rules;

-- other sessions know
\c -
SET search_path = brake, public;
SET client_min_messages = warning;
INSERT INTO tx VALUES (400, 101) RETURNING fraud_rules;
-- until somebody who may lets it go on
SELECT fraud.release_rule('tx', 'greedy');
INSERT INTO tx VALUES (401, 101) RETURNING fraud_rules;
SELECT name, state FROM rules;
SELECT fraud.release_rule('tx', 'greedy');
SELECT fraud.release_rule('tx', 'nobody');

-- a rollback does not take the brake back
BEGIN;
INSERT INTO tx SELECT g, 101 FROM generate_series(501, 520) AS g;
ROLLBACK;
INSERT INTO tx VALUES (530, 101) RETURNING fraud_rules;
SELECT name, state, error FROM rules;
-- a new version starts afresh; 0 takes a limit away
SELECT fraud.alter_rule('tx', 'greedy', max_share => 0);
SELECT max_share, share_rows FROM fraud.rules WHERE target = 'tx'::regclass AND name = 'greedy';
INSERT INTO tx SELECT g, 101 FROM generate_series(601, 649) AS g;
SELECT count(*) FILTER (WHERE 'greedy' = ANY (fraud_rules)) AS marked FROM tx WHERE id > 600;

-- all partitions of a table at once
CREATE TABLE parts (id int, amount numeric) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 (amount numeric, id int);
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (100) TO (200);
SELECT fraud.watch('parts');
SELECT fraud.add_rule('parts', 'all', 'true', max_share => 0.2, share_rows => 10);
INSERT INTO parts VALUES (100, 1), (1, 1), (2, 1), (3, 1), (101, 1), (4, 1);
SELECT id, fraud_rules FROM parts ORDER BY id;

-- a time budget: a pattern that takes ever longer
CREATE TABLE slow (id int, note text);
SELECT fraud.watch('slow');
SELECT fraud.add_rule('slow', 'cheap', 'id < 0', max_time_us => 1000000);
SELECT fraud.add_rule('slow', 'dear', 'note ~ ''^(a|aa)+$'' AND length(repeat(note, 2000)) > 0', max_time_us => 0.5, mode => 'shadow');
SET client_min_messages = error;
INSERT INTO slow SELECT g, repeat('a', 200) FROM generate_series(1, 100) AS g;
SET client_min_messages = warning;
SELECT name, state, error ~ '^it takes [0-9.]+ microseconds a row$' AS said, evaluated < 50 AS stopped
  FROM fraud.rules WHERE target = 'slow'::regclass ORDER BY name;
SELECT count(*) FROM slow;

-- what no session sees by itself: noticed when counters are folded
CREATE TABLE crowd (id int);
SELECT fraud.watch('crowd');
SELECT fraud.add_rule('crowd', 'half', 'id % 2 = 0', max_share => 0.3, share_rows => 1000);
INSERT INTO crowd SELECT g FROM generate_series(1, 500) AS g;
\c -
SET client_min_messages = warning;
INSERT INTO brake.crowd SELECT g FROM generate_series(1, 500) AS g;
SELECT name, state FROM fraud.rules WHERE target = 'brake.crowd'::regclass;
SELECT fraud.fold_counters() >= 0 AS folded;
SELECT name, state, error FROM fraud.rules WHERE target = 'brake.crowd'::regclass;
INSERT INTO brake.crowd VALUES (2) RETURNING fraud_rules;

-- limits that cannot be
SELECT fraud.add_rule('brake.crowd', 'x', 'true', max_share => 1.5);
SELECT fraud.add_rule('brake.crowd', 'x', 'true', max_share => -1);
SELECT fraud.add_rule('brake.crowd', 'x', 'true', share_rows => 5);
SELECT fraud.add_rule('brake.crowd', 'x', 'true', max_time_us => -1);
SELECT fraud.add_rule('brake.crowd', 'x', 'true', max_time_us => 'NaN');

DROP SCHEMA brake CASCADE;
SELECT count(*) FROM fraud.rule_brakes;
