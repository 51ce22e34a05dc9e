-- A condition over history
CREATE SCHEMA backtesting;
SET search_path = backtesting;
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE TABLE payments (id int, amount numeric(12,2), n int, country text, happened timestamptz,
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED);
INSERT INTO payments SELECT g, g, g % 5, CASE WHEN g % 2 = 0 THEN 'FR' ELSE 'NZ' END,
    '2026-01-01Z'::timestamptz + g * interval '1 hour' FROM generate_series(1, 1000) g;
-- before the table is watched
SELECT * FROM fraud.backtest('payments', 'amount > 900');
SELECT fraud.watch('payments', event_time => 'happened');
SELECT fraud.add_rule('payments', 'large', 'amount > 1000');
INSERT INTO payments VALUES (1001, 5000, 1, 'FR', '2026-03-01Z'), (1002, 1, 0, NULL, NULL);
SELECT * FROM fraud.backtest('payments', 'amount > 900');
-- since is included, until is not
SELECT * FROM fraud.backtest('payments', 'true', '2026-01-01 01:00Z', '2026-01-01 03:00Z');
SELECT rows_seen FROM fraud.backtest('payments', 'true', until => '2026-01-01 03:00Z');
SELECT rows_seen FROM fraud.backtest('payments', 'true', since => '2026-03-01Z');
SELECT * FROM fraud.backtest('payments', 'true', '2030-01-01');
-- NULL is no hit; generated columns; no rule is counted
SELECT * FROM fraud.backtest('payments', 'country <> ''FR'' AND doubled > 1990');
SELECT evaluated FROM fraud.rules WHERE target = 'payments'::regclass;
-- now() is the row's event time
SELECT hits FROM fraud.backtest('payments', 'happened < now()');
SELECT hits FROM fraud.backtest('payments', 'happened = now() AND now()::date = ''2026-01-02''');
-- settings of the session change nothing
SET TimeZone = 'Pacific/Auckland';
SET DateStyle = 'SQL, DMY';
SELECT hits FROM fraud.backtest('payments', 'happened::date = ''2026-01-02'' AND happened::text LIKE ''2026-01-02%''');
SELECT rows_seen FROM fraud.backtest('payments', 'true', '2026-01-01 01:00Z', '2026-01-01 03:00Z');
RESET TimeZone;
RESET DateStyle;
-- a condition that fails on some rows: they are counted
SELECT * FROM fraud.backtest('payments', 'amount / n > 100');
SELECT * FROM fraud.backtest('payments', 'amount / n > 100 AND now() < ''2026-01-02Z''', until => '2026-01-02Z');
SELECT * FROM fraud.backtest('payments', 'country::int > 1');
-- columns that are named as the query might name the row
CREATE TABLE named (t text, t_ int, amount int);
INSERT INTO named VALUES ('x', 0, 5), ('y', 1, 7);
SELECT * FROM fraud.backtest('named', '1 / t_ = 1');
SELECT * FROM fraud.backtest('named', 't = ''x''');
-- and one that could but does not
SELECT * FROM fraud.backtest('payments', 'amount + 1 > 1000');
-- the same as a plain WHERE, and as what the rules say of each row
SELECT (SELECT hits FROM fraud.backtest('payments', 'amount > 500 AND country = ''NZ'''))
     = (SELECT count(*) FROM payments WHERE amount > 500 AND country = 'NZ') AS same;
SELECT (SELECT hits FROM fraud.backtest('payments', 'amount > 1000'))
     = (SELECT count(*) FROM payments p WHERE fraud.is_fraud(p)) AS same;
-- what people decided about the frauds that were marked: precision and recall
INSERT INTO payments (id, amount, n) SELECT 2000 + g, 2000 + g, 0 FROM generate_series(1, 6) g;
SELECT count(fraud_api.review_alert(fraud_alert_id, CASE WHEN id IN (2001, 2002, 2003) THEN 'confirmed' WHEN id = 2006 THEN 'open' ELSE 'dismissed' END, 'seen'))
FROM payments WHERE id > 2000;
SELECT count(fraud_api.review_alert(fraud_alert_id, 'dismissed', 'mistaken')) FROM payments WHERE id = 2003;
SELECT hits, "precision", recall FROM fraud.backtest('payments', 'amount > 2001');
SELECT hits, "precision", recall FROM fraud.backtest('payments', 'amount = 2001');
SELECT hits, "precision", recall FROM fraud.backtest('payments', 'amount = 2006');
SELECT hits, failed, "precision", recall FROM fraud.backtest('payments', 'CASE WHEN amount > 2001 THEN true ELSE 1 / n = 1 END');
DELETE FROM payments WHERE id > 2000;
-- versions of a rule, and a condition in its place
CREATE TABLE versioned (id int, amount numeric, t text, at timestamptz);
SELECT fraud.watch('versioned', threshold => 2, event_time => 'at');
SELECT fraud.add_rule('versioned', 'large', 'amount > 50', score => 2);
SELECT fraud.add_rule('versioned', 'half', 'id % 10 = 0', score => 1);
INSERT INTO versioned SELECT g, g, 'x', '2026-01-01Z'::timestamptz + g * interval '1 day' FROM generate_series(1, 100) g;
SELECT fraud.alter_rule('versioned', 'large', 'amount > 80', score => 1);
SELECT count(*) FROM versioned WHERE is_fraud;
SELECT * FROM fraud.backtest('versioned', rule => 'large', version => 1);
SELECT * FROM fraud.backtest('versioned', rule => 'large', version => 2);
SELECT * FROM fraud.backtest('versioned', rule => 'large');
SELECT hits, no_longer_marked FROM fraud.backtest('versioned', 'amount > 60', rule => 'large');
SELECT hits, no_longer_marked FROM fraud.backtest('versioned', 'amount > 60');
SELECT hits, no_longer_marked FROM fraud.backtest('versioned', rule => 'large', since => '2026-01-01Z', until => '2026-03-06Z');
SELECT rows_seen, hits, no_longer_marked FROM fraud.backtest('versioned', NULL, '2026-02-21Z', NULL, 'large', 1);
SELECT sum(newly_marked) AS newly, sum(no_longer_marked) AS same FROM fraud.compare('versioned', 'large', 'amount > 60');
SELECT hits, failed, no_longer_marked FROM fraud.backtest('versioned', '1 / (id - 100) > -1', rule => 'large');
-- a rule that was dropped; the others alone mark nothing
SELECT fraud.drop_rule('versioned', 'large');
SELECT hits, no_longer_marked FROM fraud.backtest('versioned', rule => 'large', version => 1);
SELECT hits, no_longer_marked FROM fraud.backtest('versioned', rule => 'half');
SELECT fraud.backtest('versioned', rule => 'large');
SELECT fraud.backtest('versioned', rule => 'large', version => 3);
SELECT fraud.backtest('versioned', rule => 'half', version => 9);
SELECT fraud.backtest('versioned', version => 1);
SELECT fraud.backtest('versioned', 'true', rule => 'half', version => 1);
SELECT fraud.backtest('named', rule => 'half');
SELECT fraud.backtest(NULL, 'true');
-- in parallel workers
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
ALTER TABLE payments SET (parallel_workers = 2);
SELECT * FROM fraud.backtest('payments', 'amount > 900');
SELECT * FROM fraud.backtest('payments', 'amount / n > 100');
SELECT * FROM fraud.backtest('payments', 'happened::text LIKE ''2026-01-02%''');
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;
-- partitions in other orders
CREATE TABLE parted (id int, amount float8, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_1 (at date, dropped int, amount float8, id int);
ALTER TABLE parted_1 DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
SELECT fraud.watch('parted', event_time => 'at', threshold => 2);
SELECT fraud.add_rule('parted', 'large', 'amount > 15', score => 2);
INSERT INTO parted VALUES (1, 10, '2026-02-01'), (2, 20, '2026-02-02'), (3, 30.5, '2027-02-01');
SELECT * FROM fraud.backtest('parted', 'parted.amount > 5');
SELECT * FROM fraud.backtest('parted', '1 / (amount - 10) > 0', '2026-02-01Z', '2027-02-01Z');
SELECT * FROM fraud.backtest('parted_1', 'amount > 5');
-- row-level security
CREATE ROLE backtesting_analyst IN ROLE fraud_analyst;
GRANT USAGE ON SCHEMA backtesting TO backtesting_analyst;
SET ROLE backtesting_analyst;
SELECT * FROM fraud.backtest('payments', 'amount > 900');
RESET ROLE;
GRANT SELECT ON payments TO backtesting_analyst;
ALTER TABLE payments ENABLE ROW LEVEL SECURITY;
CREATE POLICY french ON payments FOR SELECT TO backtesting_analyst USING (country = 'FR');
SET ROLE backtesting_analyst;
SELECT rows_seen, hits FROM fraud.backtest('payments', 'amount > 900');
SELECT rows_seen, hits, failed FROM fraud.backtest('payments', 'amount / n > 100');
SELECT hits FROM fraud.backtest('payments', 'country <> ''FR''');
SELECT hits, already_marked, no_longer_marked FROM fraud.backtest('payments', 'false', rule => 'large');
SELECT hits, already_marked, no_longer_marked FROM fraud.backtest('payments', rule => 'large', version => 1);
RESET ROLE;
SET ROLE fraud_reader;
SELECT fraud.backtest('backtesting.payments', 'true');
RESET ROLE;
-- a condition that asks a long list: the same as one that is judged row by row
CREATE TABLE asking (id int, merchant text, account bigint, amount numeric, happened timestamptz);
SELECT fraud.create_list('backtest_long');
SELECT fraud.create_list('backtest_except', outranks => 'backtest_long');
SELECT fraud.add_to_list('backtest_long', array_agg('merchant ' || g)) FROM generate_series(1, 60000) g;
SELECT fraud.add_to_list('backtest_long', array_agg(g::text)) FROM generate_series(1, 300) g;
SELECT fraud.add_to_list('backtest_long', ARRAY['over', repeat('x', 50)], expires_at => now() - interval '1 s');
SELECT fraud.add_to_list('backtest_long', ARRAY['not over', repeat('y', 50)], expires_at => now() + interval '1 day');
SELECT fraud.add_to_list('backtest_except', ARRAY['merchant 7', 'merchant 8', '9']);
INSERT INTO asking SELECT g, 'merchant ' || g * 71, g, CASE WHEN g % 5 > 0 THEN g END, '2026-01-01Z'::timestamptz + g * interval '1 h' FROM generate_series(1, 1203) g;
INSERT INTO asking VALUES (7, 'merchant 7', -1, 1), (NULL, 'merchant 1', NULL, 1e300), (1, NULL, 12, 'NaN'), (2, 'over', 9, 2), (3, 'not over', 9, 3),
  (4, repeat('x', 50), 9, 4), (5, repeat('y', 50), 9223372036854775807, ('1' || repeat('2', 200))::numeric), (6, 'merchant 2', 0, 0.01);
SELECT fraud.watch('asking', event_time => 'happened');
SELECT fraud.add_rule('asking', 'listed', 'in_list(''backtest_long'', merchant) AND id < 100');
INSERT INTO asking SELECT 3000 + g, 'merchant ' || g, g, g FROM generate_series(1, 40) g;
INSERT INTO asking SELECT g, 'merchant ' || g, g, g FROM generate_series(1, 40) g;
SELECT count(fraud_api.review_alert(fraud_alert_id, CASE id % 3 WHEN 0 THEN 'confirmed' ELSE 'dismissed' END)) FROM asking WHERE id < 30 AND is_fraud;
SELECT rows_seen, hits, length(amount_at_stake::text), already_marked, newly_marked, "precision", recall FROM fraud.backtest('asking', 'in_list(''backtest_long'', merchant)');
SELECT count(*) FILTER (WHERE a = b) AS same, count(*) AS tried FROM unnest(ARRAY['%s', '%s AND id > 20', 'happened < now() + ''1 s'' AND %s', '%s AND id IS NULL',
    '%s AND false', '%s AND %s', '%s OR id = 1', '%s AND NULL', '%s AND length(merchant) > 4']) c,
  unnest(ARRAY['in_list(''backtest_long'', merchant)', 'in_list(''backtest_long'', account)', 'in_list(''backtest_except'', account)', 'in_list(''backtest_long'', lower(merchant))',
    'in_list(''backtest_long'', id)', 'in_list(''backtest_long'', substr(merchant, 1, 12))']) l,
  fraud.backtest('asking', replace(c, '%s', l)) a, fraud.backtest('asking', replace(c, '%s', '(' || l || ' IS TRUE)')) b;
SELECT rows_seen, hits, amount_at_stake FROM fraud.backtest('asking', 'in_list(''backtest_long'', merchant)', '2026-01-02Z', '2026-01-04Z');
SELECT hits, no_longer_marked FROM fraud.backtest('asking', 'in_list(''backtest_long'', merchant) AND id < 10', rule => 'listed');
SELECT hits, failed FROM fraud.backtest('asking', 'in_list(''backtest_long'', merchant) AND 1 / (id - 20) > 0');
-- values that are made, and too long to wait
SELECT fraud.add_to_list('backtest_long', array_agg(repeat('z', 40) || g)) FROM generate_series(1, 100, 2) g;
INSERT INTO asking SELECT 5000 + g, repeat('Z', 40) || g, g, g FROM generate_series(1, 100) g;
SELECT hits FROM fraud.backtest('asking', 'in_list(''backtest_long'', lower(merchant)) AND id > 5000');
SELECT fraud.tally_listed(NULL, 'x'::text, true, 1, false, false);
SELECT fraud.tally_listed('backtest_long', 5, true, 1, false, false);
SELECT fraud.tally_listed('backtest_none', 'x'::text, true, 1, false, false);
TRUNCATE asking;
SELECT * FROM fraud.backtest('asking', 'in_list(''backtest_long'', merchant)');
SELECT fraud.drop_list('backtest_long'), fraud.drop_list('backtest_except');
-- errors
SELECT fraud.backtest('payments', 'amont > 900');
SELECT fraud.backtest('payments', 'amount > (SELECT 1)');
SELECT fraud.backtest('payments', NULL);
CREATE TABLE timeless (a int);
SELECT fraud.backtest('timeless', 'a > 1', since => '2026-01-01');
SELECT fraud.backtest(1, 'true');
CREATE VIEW seen AS SELECT * FROM payments;
SELECT rows_seen, hits FROM fraud.backtest('seen', 'amount > 900');
-- cancelled
INSERT INTO timeless SELECT generate_series(1, 100000);
SET statement_timeout = 200;
SELECT fraud.backtest('timeless', 'repeat(''x'', 100000 + a % 2) ~ ''y$''');
RESET statement_timeout;
SET client_min_messages = error;
DROP SCHEMA backtesting CASCADE;
DROP ROLE backtesting_analyst;
