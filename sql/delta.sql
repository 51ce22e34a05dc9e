-- What transactions add to counters, as bytes
CREATE SCHEMA delta;
SET search_path = delta, public;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- rules that did no more than others: a byte each
SELECT * FROM fraud.delta_counts('\x0105 10 00 00');
-- one of its own, one that fired, one that failed, one that was timed
SELECT * FROM fraud.delta_counts('\x0105 0100 0203 80c8afa025 0402 0801ff01');
-- ids far from each other, up to the last
SELECT rule, evaluated FROM fraud.delta_counts('\x0107 00 80 01 f0 ff03 70');
SELECT rule, evaluated FROM fraud.delta_counts('\x0101 f0ffffffffffffffff0f');
SELECT rule FROM fraud.delta_counts('\x0101 f0ffffffffffffffff1f');
-- when rules fired, before and after each other
SELECT rule, last_fired_at FROM fraud.delta_counts('\x0101 020100 02018092f401 0201ffb9e301 020101');
-- the largest counts
SELECT * FROM fraud.delta_counts('\x01ffffffffffffffff7f 16ffffffffffffffff7f00ffffffffffffffff7f 09ffffffffffffffff7f00ffffffffffffffff7f' );
SELECT count(*) FROM fraud.delta_counts('\x0100');
SELECT count(*) FROM fraud.delta_counts(NULL);

-- what is damaged
SELECT * FROM fraud.delta_counts('');
SELECT * FROM fraud.delta_counts('\x01');
SELECT * FROM fraud.delta_counts('\x0205');
SELECT * FROM fraud.delta_counts('\x0180');
\set VERBOSITY sqlstate
-- counts that are negative, or of more than 64 bits
SELECT * FROM fraud.delta_counts('\x0180808080808080808001');
SELECT * FROM fraud.delta_counts('\x0180808080808080808002');
SELECT * FROM fraud.delta_counts('\x018080808080808080808000');
SELECT * FROM fraud.delta_counts('\x0101 01ffffffffffffffffff01');
-- ids beyond the last
SELECT * FROM fraud.delta_counts('\x0101 f0ffffffffffffffff1f 00');
SELECT * FROM fraud.delta_counts('\x0101 00 f0ffffffffffffffff1f');
SELECT * FROM fraud.delta_counts('\x0101 80ffffffffffffffff3f');
-- times beyond the last
SELECT * FROM fraud.delta_counts('\x0101 0201feffffffffffffffff01');
SELECT * FROM fraud.delta_counts('\x0101 0201ffffffffffffffffff01');
\set VERBOSITY default

-- Whatever the bytes are: counts, or damaged; and never another thing
CREATE FUNCTION reads(bytes bytea, OUT damaged bool, OUT rules bigint, OUT odd bool) LANGUAGE plpgsql AS $$
BEGIN
    damaged := false;
    SELECT count(*), coalesce(bool_or(least(c.evaluated, c.fired, c.failed, c.sampled, c.nanoseconds) < 0
                                      OR (c.fired = 0) <> (c.last_fired_at IS NULL)
                                      OR c.last_fired_at IN ('infinity', '-infinity')), false)
      INTO rules, odd FROM fraud.delta_counts(bytes) AS c;
    -- the sum of one is as that one
    odd := odd OR (SELECT array_agg(c ORDER BY c) FROM fraud.delta_counts(bytes) AS c) IS DISTINCT FROM
                  (SELECT array_agg(c ORDER BY c) FROM fraud.delta_counts((SELECT fraud.delta_sum(bytes))) AS c);
EXCEPTION WHEN data_corrupted THEN
    damaged := true;
    odd := false;
    BEGIN
        PERFORM fraud.delta_sum(bytes);
        odd := true;
    EXCEPTION WHEN data_corrupted THEN
    END;
END $$;
CREATE VIEW rich AS SELECT '\x01ac02 1000 0f0102030405060708 8e7f05a0c1f7e0b5d0a50a02 9801ff7ff001 0a01020304 70'::bytea AS bytes;
SELECT * FROM fraud.delta_counts((SELECT bytes FROM rich));
-- cut anywhere
SELECT r.damaged, r.odd, count(*), max(rules) FROM rich, generate_series(0, octet_length(bytes)) AS n, reads(substr(bytes, 1, n)) AS r GROUP BY 1, 2 ORDER BY 1, 2;
-- any byte another
SELECT r.odd, count(*), bool_or(r.damaged) AS some_damaged, bool_or(NOT r.damaged) AS some_not
  FROM rich, generate_series(0, octet_length(bytes) - 1) AS n, generate_series(0, 255) AS b, reads(set_byte(bytes, n, b)) AS r
 GROUP BY 1 ORDER BY 1;
-- anything
SELECT r.odd, bool_or(r.damaged) AS some_damaged, bool_or(NOT r.damaged) AS some_not
  FROM generate_series(1, 5000) AS g, reads('\x01' || substr(sha256(g::text::bytea), 1, g % 32)) AS r GROUP BY 1 ORDER BY 1;

-- sums: of the same rules and others, with the latest time
SELECT s.* FROM (SELECT fraud.delta_sum(d) AS sum FROM (VALUES ('\x0105100000'::bytea), (NULL), ('\x0102 02019092f401 02010f'), ('\x0101 02028892f401 020108 c601030102')) AS v (d)) AS t, fraud.delta_counts(t.sum) AS s;
SELECT fraud.delta_sum(d) FROM (VALUES ('\x0105100000'::bytea), ('\x010100'), ('\x0100')) AS v (d);
SELECT fraud.delta_sum(d) IS NULL FROM (SELECT ''::bytea AS d WHERE false) AS v;
SELECT fraud.delta_sum(NULL);
SELECT fraud.delta_sum(d) FROM (VALUES ('\x0105100000'::bytea), ('\x01051080')) AS v (d);
-- up to the last number, and not beyond
SELECT s.evaluated FROM (SELECT fraud.delta_sum(d) AS sum FROM (VALUES ('\x01feffffffffffffff7f 00'::bytea), ('\x010100')) AS v (d)) AS t, fraud.delta_counts(t.sum) AS s;
SELECT fraud.delta_sum(d) FROM (VALUES ('\x01ffffffffffffffff7f 00'::bytea), ('\x010100')) AS v (d);
\set VERBOSITY sqlstate
SELECT fraud.delta_sum(d) FROM (VALUES ('\x0100 02ffffffffffffffff7f00'::bytea), ('\x0100020100')) AS v (d);
SELECT fraud.delta_sum(d) FROM (VALUES ('\x0100 04ffffffffffffffff7f'::bytea), ('\x01000401')) AS v (d);
SELECT fraud.delta_sum(d) FROM (VALUES ('\x0100 08ffffffffffffffff7f00'::bytea), ('\x0100080100')) AS v (d);
SELECT fraud.delta_sum(d) FROM (VALUES ('\x0100 0800ffffffffffffffff7f'::bytea), ('\x0100080001')) AS v (d);
\set VERBOSITY default

-- A transaction's: small.  (One that is repeatable read does not fold.)
CREATE TABLE tx (id int, amount numeric);
SELECT fraud.watch('tx');
SELECT count(*) FROM generate_series(1, 10) AS g, fraud.add_rule('tx', 'r' || g, format('amount > %s', g * 100));
SELECT fraud.fold_counters() >= 0 AS folded;
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO tx VALUES (1, 50);
COMMIT;
SELECT octet_length(counts) <= 15 AS small FROM fraud.rule_deltas;
-- the second row is timed
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO tx VALUES (2, 550), (3, 950);
COMMIT;
SELECT octet_length(counts) <= 100 AS small FROM fraud.rule_deltas ORDER BY octet_length(counts) DESC LIMIT 1;
SELECT name, evaluated, fired, failed, now() - last_fired_at < interval '1 hour' AS fired_now, mean_time_us > 0 AS timed
  FROM fraud.rules WHERE target = 'tx'::regclass ORDER BY id;
SELECT fraud.fold_counters();
SELECT sum(evaluated), sum(fired), count(mean_time_us) FROM fraud.rules WHERE target = 'tx'::regclass;

-- many rules
CREATE TABLE wide (id int);
SELECT fraud.watch('wide');
SELECT count(*) FROM generate_series(1, 1000) AS g, fraud.add_rule('wide', 'r' || g, format('id %% %s = 0', g));
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO wide VALUES (-1);
COMMIT;
SELECT octet_length(counts) < 1100 AS small FROM fraud.rule_deltas;
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO wide SELECT g FROM generate_series(1, 1000) AS g;
COMMIT;
SELECT count(*), min(evaluated), max(evaluated), sum(fired) AS fired FROM fraud.rules WHERE target = 'wide'::regclass;
SELECT sum(1000 / g) + 1 AS fired FROM generate_series(1, 1000) AS g;
SELECT fraud.fold_counters();
SELECT count(*), min(evaluated), max(evaluated), sum(fired) AS fired FROM fraud.rules WHERE target = 'wide'::regclass;

-- more than a page of them
BEGIN;
INSERT INTO fraud.rule_deltas SELECT '\x0107'::bytea || decode(repeat('00', 50000), 'hex');
SELECT DISTINCT evaluated FROM fraud.rules WHERE target = 'tx'::regclass;
SELECT fraud.fold_counters();
SELECT DISTINCT evaluated FROM fraud.rules WHERE target = 'tx'::regclass;
SELECT count(*) = (SELECT count(*) FROM fraud.rule_config) AS of_rules_that_are_there FROM fraud.rule_counters;
ROLLBACK;

-- A damaged one among others: told, with the way out
INSERT INTO fraud.rule_deltas VALUES ('\x01ff');
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO tx VALUES (4, 150) RETURNING fraud_rules;
COMMIT;
SELECT fraud.fold_counters();
SELECT count(*) FROM fraud.rules;
SELECT count(*) FROM fraud.rule_deltas;
DELETE FROM fraud.rule_deltas WHERE sha256(counts) = '\x4b3a43f592f577fcfcb5b0e1f42bec5182c9edc414e1f667528f56e7cf0be11d';
SELECT fraud.fold_counters();
SELECT DISTINCT evaluated FROM fraud.rules WHERE target = 'tx'::regclass;
-- one beyond the totals
BEGIN;
UPDATE fraud.rule_counters SET evaluated = 9223372036854775807;
INSERT INTO fraud.rule_deltas SELECT '\x0101'::bytea || decode(repeat('00', 50000), 'hex');
SELECT fraud.fold_counters();
ROLLBACK;

SET client_min_messages = error;
DROP SCHEMA delta CASCADE;
