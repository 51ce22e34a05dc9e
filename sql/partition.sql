-- Partitioned tables: all partitions, whatever their columns' order; rows that move
CREATE SCHEMA partition;
SET search_path = partition, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE TABLE tx (id int, "Amount" numeric, day date NOT NULL, note text) PARTITION BY RANGE (day);
CREATE TABLE tx_jan PARTITION OF tx FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE tx_feb (junk int, note text, day date NOT NULL, id int, "Amount" numeric);
ALTER TABLE tx_feb DROP COLUMN junk;
ALTER TABLE tx ATTACH PARTITION tx_feb FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE tx_mar PARTITION OF tx FOR VALUES FROM ('2024-03-01') TO ('2024-04-01') PARTITION BY LIST (note);
CREATE TABLE tx_mar_a PARTITION OF tx_mar FOR VALUES IN ('a');
CREATE TABLE tx_mar_b PARTITION OF tx_mar DEFAULT;
-- a partition is not watched alone
SELECT fraud.watch('tx_jan');
SELECT fraud.watch('tx_mar_a');
SELECT fraud.watch('tx_mar');
SELECT fraud.watch('tx', dry_run => true);
SELECT fraud.watch('tx');
SELECT fraud.add_rule('tx', 'big', '"Amount" > 100');
CREATE VIEW marks AS
    SELECT tableoid::regclass AS part, id, is_fraud, fraud_rules,
           (SELECT a.transaction ->> 'note' FROM fraud.alerts AS a WHERE a.id = fraud_alert_id) AS alert
      FROM tx ORDER BY id;

INSERT INTO tx (id, "Amount", day, note) VALUES
    (1, 500, '2024-01-05', 'one'), (2, 5, '2024-01-06', 'two'), (3, 500, '2024-02-05', 'three'),
    (4, 500, '2024-03-05', 'a'), (5, 500, '2024-03-05', 'five'), (6, 5, '2024-03-05', 'six');
SELECT * FROM marks;

-- straight into partitions
INSERT INTO tx_jan (id, "Amount", day, note) VALUES (7, 1000, '2024-01-07', 'seven');
COPY tx_feb (id, "Amount", day, note) FROM stdin;
8	1000	2024-02-08	eight
9	10	2024-02-08	nine
\.
INSERT INTO tx_mar (id, "Amount", day, note) VALUES (10, 1000, '2024-03-07', 'a');
SELECT * FROM marks WHERE id BETWEEN 7 AND 10;
SELECT DISTINCT table_name FROM fraud.alerts WHERE transaction ? 'Amount';

-- a partition attached later, marks in another order, and one made later
CREATE TABLE tx_apr (fraud_rules text[], day date NOT NULL, is_fraud boolean, id int, note text, "Amount" numeric,
                     fraud_alert_id bigint, fraud_score numeric);
ALTER TABLE tx ATTACH PARTITION tx_apr FOR VALUES FROM ('2024-04-01') TO ('2024-05-01');
CREATE TABLE tx_may PARTITION OF tx FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');
INSERT INTO tx (id, "Amount", day, note) VALUES (11, 101, '2024-04-05', 'eleven'), (12, 102, '2024-05-05', 'twelve');
INSERT INTO tx_apr (id, "Amount", day, note, is_fraud) VALUES (13, 1, '2024-04-05', 'thirteen', true);
SELECT * FROM marks WHERE id > 10;

-- moving keeps marks and makes no second alert
SELECT count(*) AS alerts FROM fraud.alerts WHERE table_name = 'partition.tx' \gset
UPDATE tx SET day = '2024-02-10' WHERE id = 1;
UPDATE tx SET day = '2024-04-10', "Amount" = 1000 WHERE id = 2;
UPDATE tx SET day = day + 30 WHERE id IN (3, 7);
UPDATE tx SET note = 'b' WHERE id = 4;
UPDATE tx SET day = '2024-01-20', is_fraud = false, fraud_rules = NULL, fraud_alert_id = NULL WHERE id = 5;
UPDATE tx SET day = '2024-01-21', is_fraud = true, fraud_alert_id = 1 WHERE id = 6;
SELECT * FROM marks WHERE id < 8;
SELECT count(*) = :alerts AS no_more FROM fraud.alerts WHERE table_name = 'partition.tx';

-- inserted, moved and moved back in one transaction
BEGIN;
INSERT INTO tx (id, "Amount", day, note) VALUES (14, 900, '2024-01-14', 'fourteen');
UPDATE tx SET day = '2024-02-14' WHERE id = 14;
INSERT INTO tx (id, "Amount", day, note) VALUES (15, 900, '2024-01-14', 'fifteen');
UPDATE tx SET day = '2024-01-14' WHERE id = 14;
COMMIT;
SELECT * FROM marks WHERE id IN (14, 15);
SELECT transaction ->> 'note' AS note, count(*) FROM fraud.alerts WHERE transaction ->> 'note' IN ('fourteen', 'fifteen')
 GROUP BY 1 ORDER BY 1;

-- with on_update a row can be caught while it moves: one alert
SELECT fraud.watch('tx', on_update => true);
UPDATE tx SET day = '2024-05-09', "Amount" = 3000 WHERE id = 9;
SELECT * FROM marks WHERE id = 9;
SELECT count(*) FROM fraud.alerts WHERE transaction ->> 'note' = 'nine';
SELECT fraud.watch('tx', on_update => false);

-- triggers of the user's that write in between do not lend their marks, nor take them
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tx (id, "Amount", day, note) VALUES (NEW.id + 100, 1, '2024-02-20', 'echo');
    RETURN NEW;
END $$;
CREATE TRIGGER aa_echo BEFORE INSERT ON tx FOR EACH ROW WHEN (NEW.id < 100) EXECUTE FUNCTION echo();
UPDATE tx SET day = '2024-02-21' WHERE id = 15;
SELECT * FROM marks WHERE id IN (15, 115);
DROP TRIGGER aa_echo ON tx;
CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tx SET day = '2024-03-22' WHERE id = 115;
    RETURN OLD;
END $$;
CREATE TRIGGER aa_swap BEFORE DELETE ON tx FOR EACH ROW WHEN (OLD.id = 15) EXECUTE FUNCTION swap();
UPDATE tx SET day = '2024-01-22' WHERE id = 15;
SELECT * FROM marks WHERE id IN (15, 115);

-- a row that is deleted and one that is inserted like it are two
DELETE FROM tx WHERE id = 13;
INSERT INTO tx (id, "Amount", day, note) VALUES (13, 700, '2024-01-05', 'thirteen');
WITH gone AS (DELETE FROM tx WHERE id = 12 RETURNING *)
INSERT INTO tx (id, "Amount", day, note, is_fraud) SELECT id, 1, '2024-01-12', note, is_fraud FROM gone;
SELECT * FROM marks WHERE id IN (12, 13);

-- partitions of one layout share their compiled rules
\c -
SET search_path = partition, public;
SET client_min_messages = warning;
INSERT INTO tx (id, "Amount", day, note) VALUES (20, 1, '2024-01-01', 'x'), (20, 1, '2024-03-01', 'a'),
    (20, 1, '2024-03-01', 'b'), (20, 1, '2024-05-01', 'x');
SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'pg_fraud rules';
INSERT INTO tx (id, "Amount", day, note) VALUES (20, 1, '2024-02-01', 'x'), (20, 1, '2024-04-01', 'a');
SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'pg_fraud rules';

-- a partition taken out is no longer judged by its table's rules, and keeps its marks
ALTER TABLE tx DETACH PARTITION tx_may;
SELECT is_fraud, fraud_rules FROM tx_may ORDER BY id;
INSERT INTO tx_may (id, "Amount", day, note) VALUES (16, 900, '2024-05-01', 'sixteen');
SELECT id, is_fraud FROM tx_may WHERE id = 16;
-- it can be watched for itself, with the marks that it has
SELECT fraud.watch('tx_may', dry_run => true);
SELECT fraud.watch('tx_may');
SELECT fraud.add_rule('tx_may', 'may', '"Amount" > 800');
INSERT INTO tx_may (id, "Amount", day, note) VALUES (18, 900, '2024-05-02', 'eighteen');
SELECT id, is_fraud, fraud_rules FROM tx_may ORDER BY id;
SELECT count(*) FROM fraud.watch_statements('tx_may');
SELECT fraud.unwatch('tx_may');

SELECT fraud.unwatch('tx');
SELECT count(*) FROM pg_trigger AS t JOIN pg_partition_tree('tx') AS p ON p.relid = t.tgrelid WHERE t.tgname LIKE '~~fraud%';
INSERT INTO tx (id, "Amount", day, note) VALUES (17, 900, '2024-01-01', 'seventeen');
SELECT * FROM marks WHERE id = 17;

DROP SCHEMA partition CASCADE;
