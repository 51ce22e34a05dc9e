-- The fence of a batch: a partition's position moves from where it is, for its
-- owner, or there is no batch.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA position;
SET search_path = position, public;
CREATE TABLE payments (id int, kafka_partition int, kafka_offset bigint,
    CONSTRAINT id_once UNIQUE (id) DEFERRABLE INITIALLY DEFERRED);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'all', 'true');
SELECT fraud.add_source('position', 'topic', 'payments');
INSERT INTO fraud.offsets (source, kafka_topic, kafka_partition, first_offset, next_offset, owner, updated_at)
VALUES ('position', 'topic', 0, 0, 10, '00000000-0000-0000-0000-000000000001', '2000-01-01'),
       ('position', 'topic', 1, 0, 10, '00000000-0000-0000-0000-000000000001', '2000-01-01'),
       ('position', 'topic', 2, 0, 10, NULL, '2000-01-01'),
       ('neighbour', 'topic', 0, 0, 10, '00000000-0000-0000-0000-000000000001', '2000-01-01');
CREATE VIEW positions AS
SELECT source, kafka_partition AS part, next_offset AS next, last_offset, last_timestamp, last_hash,
       end_offset AS "end", updated_at > '2000-01-02' AS moved, end_seen_at IS NOT NULL AS seen
FROM fraud.offsets ORDER BY 1, 2;
CREATE VIEW last_alert AS
SELECT source, kafka_partition, kafka_offset FROM fraud.alerts ORDER BY id DESC LIMIT 1;
-- whose arguments are short: the partition's, from where and to where
CREATE FUNCTION move(part int, "from" bigint, "to" bigint, owner int DEFAULT 1, source text DEFAULT 'position')
RETURNS void LANGUAGE sql AS $$
    SELECT fraud.begin_batch(source, 'topic', part, 'cluster', "from", "to", NULL, NULL, NULL, NULL,
                             ('00000000-0000-0000-0000-00000000000' || owner)::uuid) $$;

-- it moves, and the rows that follow come from there
BEGIN;
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', 10, 12, 11, 1700000000000, '\x0102', 20,
                         '00000000-0000-0000-0000-000000000001');
INSERT INTO payments VALUES (1, 0, 10);
SELECT fraud.end_batch(false);
COMMIT;
TABLE last_alert;
TABLE positions;
-- what is not told stays as it was, that the position moves without a record
SELECT move(0, 12, 15);
SELECT move(0, 10, 11, 1, 'neighbour');
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', 15, 16, 15, NULL, NULL, NULL,
                         '00000000-0000-0000-0000-000000000001');
SELECT fraud.begin_batch('position', 'topic', 1, 'cluster', 10, 11, NULL, 1700000000001, '\x', 21,
                         '00000000-0000-0000-0000-000000000001');
TABLE positions;

-- not from elsewhere, for another, for nobody, or where there is none
SELECT move(0, 10, 17);
\echo :LAST_ERROR_SQLSTATE
SELECT move(0, 17, 18);
SELECT move(0, 16, 17, 2);
SELECT move(2, 10, 11);
SELECT move(3, 10, 11);
SELECT move(0, 16, 17, 1, 'nobody');
SELECT move(0, -1, 17);
-- the second of a batch: the first goes with it
BEGIN;
SELECT move(0, 16, 17);
SELECT move(1, 10, 17);
\echo :LAST_ERROR_SQLSTATE
INSERT INTO payments VALUES (2, 0, 16);
COMMIT;
-- once only in a transaction, too
BEGIN;
SELECT move(0, 16, 17);
SELECT move(0, 16, 17);
COMMIT;
TABLE positions;

-- nothing but what was seen last may be missing
SELECT fraud.begin_batch(NULL, 'topic', 0, 'cluster', 16, 17, 16, 1, '\x', 20, '00000000-0000-0000-0000-000000000001');
SELECT fraud.begin_batch('position', NULL, 0, 'cluster', 16, 17, 16, 1, '\x', 20, '00000000-0000-0000-0000-000000000001');
SELECT fraud.begin_batch('position', 'topic', NULL, 'cluster', 16, 17, 16, 1, '\x', 20, '00000000-0000-0000-0000-000000000001');
SELECT fraud.begin_batch('position', 'topic', 0, NULL, 16, 17, 16, 1, '\x', 20, '00000000-0000-0000-0000-000000000001');
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', NULL, 17, 16, 1, '\x', 20, '00000000-0000-0000-0000-000000000001');
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', 16, NULL, 16, 1, '\x', 20, '00000000-0000-0000-0000-000000000001');
SELECT fraud.begin_batch('position', 'topic', 2, 'cluster', 10, 11, 10, 1, '\x', 20, NULL);
SELECT count(*) FROM positions WHERE next = 16 OR part = 2 AND next = 10;

-- a transaction of its own: it moves, and nothing is announced afterwards
SELECT move(0, 16, 17);
INSERT INTO payments VALUES (3, 0, 16);
TABLE last_alert;
-- what is undone
BEGIN;
SAVEPOINT a;
SELECT move(0, 17, 18);
INSERT INTO payments VALUES (4, 0, 17);
TABLE last_alert;
ROLLBACK TO a;
INSERT INTO payments VALUES (5, 0, 17);
TABLE last_alert;
SELECT move(0, 17, 19);
SAVEPOINT b;
SELECT move(0, 17, 20);
ROLLBACK TO b;
-- the announcement outlives what is undone behind it
INSERT INTO payments VALUES (6, 0, 18);
TABLE last_alert;
COMMIT;
SELECT next FROM positions WHERE source = 'position' AND part = 0;

-- the end: what was put off is checked, unjudged rows are remembered
BEGIN;
SELECT move(0, 19, 20);
INSERT INTO payments VALUES (6, 0, 19);
SELECT fraud.end_batch(false);
COMMIT;
BEGIN;
SELECT move(0, 19, 21);
INSERT INTO payments VALUES (7, 0, 19);
SELECT fraud.end_batch(false);
-- from here on at once
INSERT INTO payments VALUES (7, 0, 20);
COMMIT;
SELECT fraud.pause('payments');
BEGIN;
SELECT move(0, 19, 21);
INSERT INTO payments VALUES (7, 0, 19), (8, 0, 20);
SELECT fraud.end_batch(false);
SELECT count(*) FROM fraud.verdicts WHERE source = 'position';
SELECT fraud.end_batch(true);
SELECT kafka_partition, kafka_offset, until_offset, is_fraud FROM fraud.verdicts WHERE source = 'position';
COMMIT;
SELECT fraud.end_batch(true);
SELECT fraud.end_batch(NULL);
SELECT count(*) FROM fraud.verdicts WHERE source = 'position';

-- who may: a bridge, by its own right to the table, whoever called before
CREATE ROLE position_bridge IN ROLE fraud_bridge;
CREATE ROLE position_clerk;
GRANT USAGE ON SCHEMA position TO position_bridge, position_clerk;
SET ROLE position_clerk;
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', 21, 22, NULL, NULL, NULL, NULL, '00000000-0000-0000-0000-000000000001');
RESET ROLE;
GRANT USAGE ON SCHEMA fraud TO position_clerk;
SET ROLE position_clerk;
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', 21, 22, NULL, NULL, NULL, NULL, '00000000-0000-0000-0000-000000000001');
SELECT fraud.end_batch(true);
RESET ROLE;
GRANT EXECUTE ON FUNCTION fraud.begin_batch(text, text, int, text, bigint, bigint, bigint, bigint, bytea, bigint, uuid) TO position_clerk;
SET ROLE position_clerk;
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', 21, 22, NULL, NULL, NULL, NULL, '00000000-0000-0000-0000-000000000001');
SET ROLE position_bridge;
SELECT fraud.begin_batch('position', 'topic', 0, 'cluster', 21, 22, NULL, NULL, NULL, NULL, '00000000-0000-0000-0000-000000000001');
RESET ROLE;
SELECT next FROM positions WHERE source = 'position' AND part = 0;

-- what lies in the caller's search_path is not asked
CREATE FUNCTION evil(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR = (FUNCTION = evil, LEFTARG = text, RIGHTARG = text);
SET search_path = position, pg_catalog;
SELECT move(0, 22, 23, 1, 'nobody');
SELECT move(0, 22, 23);
DROP OPERATOR = (text, text);
SET search_path = position, public;

-- its plan is kept, and made anew for a table that is altered
ALTER TABLE fraud.offsets RENAME COLUMN end_offset TO other;
SELECT move(0, 23, 24);
ALTER TABLE fraud.offsets RENAME COLUMN other TO end_offset;
SELECT move(0, 23, 24);
ALTER TABLE fraud.offsets ADD COLUMN other int DEFAULT 1;
SELECT move(0, 24, 25);
ALTER TABLE fraud.offsets DROP COLUMN other;
SELECT move(0, 25, 26);
SELECT next, "end", last_hash FROM positions WHERE source = 'position' AND part = 0;

DROP OWNED BY position_clerk, position_bridge;
DROP ROLE position_clerk, position_bridge;
SELECT fraud.drop_source('position', forget => true);
DELETE FROM fraud.offsets WHERE source = 'neighbour';
DROP SCHEMA position CASCADE;
