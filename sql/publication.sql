-- A publication of all tables, as for change data capture, is in nobody's way
CREATE SCHEMA publication;
SET search_path = publication, public;
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE PUBLICATION everything FOR ALL TABLES;
SET client_min_messages = warning;

-- tables whose rows could not be changed
SELECT c.oid::regclass FROM pg_class AS c
 WHERE c.relnamespace = 'fraud'::regnamespace AND c.relkind = 'r' AND c.relreplident = 'd'
   AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary);

CREATE TABLE tx (id int PRIMARY KEY, amount numeric);
SELECT fraud.watch('tx');
SELECT fraud.add_rule('tx', 'big', 'amount > 500');
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO tx VALUES (1, 1000) RETURNING is_fraud;
COMMIT;
SELECT fraud.fold_counters() > 0 AS folded;
SELECT evaluated, fired FROM fraud.rules WHERE target = 'tx'::regclass;
SELECT fraud.alter_rule('tx', 'big', score => 2);
ALTER TABLE tx RENAME TO renamed;
SELECT fraud.drop_rule('renamed', 'big');
DROP TABLE renamed;
SELECT count(*) FROM fraud.table_names WHERE name LIKE 'publication.%';

DROP PUBLICATION everything;
DROP SCHEMA publication CASCADE;
