-- Alerts are found by their offsets where a source copies its records to
-- topics, and only there.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA branch;
SET search_path = branch, public;
CREATE TABLE payments (id int, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'all', 'true');
SELECT fraud.add_source('branch_plain', 'branch-plain', 'payments');
SELECT fraud.add_source('branch_other', 'branch-other', 'payments');
SELECT fraud.add_source('branch_new', 'branch-new', 'payments', legit_topic => 'branch-new-legit');
INSERT INTO fraud.offsets (source, kafka_topic, kafka_partition, first_offset, next_offset)
SELECT s, replace(s, '_', '-'), p, 0, 0 FROM unnest(ARRAY['branch_plain', 'branch_other', 'branch_new']) s, generate_series(0, 1) p;

-- what the branch asks
CREATE FUNCTION found(source text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(kafka_partition || ':' || kafka_offset, ' ' ORDER BY kafka_partition, kafka_offset)
      FROM fraud.alerts a WHERE branched AND a.source = found.source
       AND kafka_partition IN (0, 1) AND kafka_offset >= 0 AND kafka_offset < 1000 $$;
-- records of partitions 0 and 1
CREATE PROCEDURE store(source text, first int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM fraud.begin_batch(source, replace(source, '_', '-'), 0, 'cluster');
    INSERT INTO payments (id, amount, kafka_partition, kafka_offset) VALUES (first, 1, 0, first);
    PERFORM fraud.begin_batch(source, replace(source, '_', '-'), 1, 'cluster');
    -- rows of all partitions that were announced, by turns
    INSERT INTO payments (id, amount, kafka_partition, kafka_offset)
    VALUES (first + 1, 1, 1, first), (first + 2, 1, 0, first + 1), (first + 3, 1, 1, first + 1), (first + 4, 1, 2, first);
END $$;
CALL store('branch_plain', 10);
CALL store('branch_other', 20);
CALL store('branch_new', 30);
SELECT source, kafka_partition, kafka_offset, branched, count(*) OVER (PARTITION BY event_id) = 1 AS own_event
  FROM fraud.alerts WHERE table_name = 'branch.payments' ORDER BY id;
-- each event id is of its own partition
CREATE FUNCTION h(a fraud.alerts) RETURNS bytea LANGUAGE sql AS $$
    SELECT substr(sha256(convert_to('pg_fraud', 'UTF8') || '\x00' || convert_to('cluster', 'UTF8') || '\x00'
                  || convert_to(a.kafka_topic, 'UTF8') || '\x00' || convert_to(a.kafka_partition::text, 'UTF8')
                  || '\x00' || convert_to(a.kafka_offset::text, 'UTF8')), 1, 16) $$;
SELECT count(*) FROM fraud.alerts a WHERE table_name = 'branch.payments' AND source IS NOT NULL
   AND event_id = encode(set_byte(set_byte(h(a), 6, get_byte(h(a), 6) & 15 | 128), 8, get_byte(h(a), 8) & 63 | 128), 'hex')::uuid;
SELECT found('branch_plain'), found('branch_other'), found('branch_new');

-- topics that come later
SELECT fraud.alter_source('branch_plain', fraud_topic => 'branch-plain-frauds');
CALL store('branch_plain', 40);
SELECT found('branch_plain'), found('branch_other'), found('branch_new');
-- that change, go, and come again
SELECT fraud.alter_source('branch_plain', legit_topic => 'branch-plain-legit');
SELECT fraud.alter_source('branch_plain', fraud_topic => '', legit_topic => '');
CALL store('branch_plain', 50);
SELECT found('branch_plain');
SELECT fraud.drop_source('branch_plain');
CALL store('branch_plain', 60);
SELECT fraud.add_source('branch_plain', 'branch-plain', 'payments', dead_letter_topic => 'branch-plain-dead');
SELECT found('branch_plain');
-- not with a snapshot that does not see what has just been committed
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fraud.alter_source('branch_other', legit_topic => 'branch-other-legit');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT fraud.alter_source('branch_other', start => 'latest');
ROLLBACK;
-- what is undone
BEGIN;
SELECT fraud.begin_batch('branch_new', 'branch-new', 0, 'cluster');
SAVEPOINT a;
SELECT fraud.begin_batch('branch_new', 'branch-new', 1, 'cluster');
ROLLBACK TO a;
INSERT INTO payments (id, amount, kafka_partition, kafka_offset) VALUES (70, 1, 1, 70);
SELECT fraud.begin_batch('branch_new', 'branch-new', 0, 'cluster');
INSERT INTO payments (id, amount, kafka_partition, kafka_offset) VALUES (71, 1, 1, 71), (72, 1, 0, 72);
COMMIT;
SELECT found('branch_new');
-- the index has them alone
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT kafka_offset FROM fraud.alerts
WHERE branched AND source = 'branch_new' AND kafka_partition = 0 AND kafka_offset >= 0 AND kafka_offset < 1000;
RESET enable_seqscan;
-- unjudged rows of several partitions, by turns
SELECT fraud.pause('payments');
BEGIN;
SELECT fraud.begin_batch('branch_new', 'branch-new', 0, 'cluster');
SELECT fraud.begin_batch('branch_new', 'branch-new', 1, 'cluster');
INSERT INTO payments (id, amount, kafka_partition, kafka_offset)
VALUES (80, 1, 0, 80), (81, 1, 1, 80), (82, 1, 0, 81), (83, 1, 1, 83), (84, 1, 0, 85);
SELECT fraud.end_batch(true);
SELECT kafka_partition, kafka_offset, until_offset FROM fraud.verdicts WHERE source = 'branch_new' ORDER BY 1, 2;
ROLLBACK;
SELECT fraud.resume('payments');

SELECT fraud.drop_source(name, forget => true) FROM fraud.sources WHERE name LIKE 'branch\_%';
DROP SCHEMA branch CASCADE;
