-- What the rules say of rows and messages that are not being stored
CREATE SCHEMA asking;
SET search_path = asking;
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE TYPE channel AS ENUM ('web', 'pos');
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE FUNCTION loud(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
CREATE TABLE payments (
    id bigserial, amount numeric(12,2), country text DEFAULT 'FR', via channel, tags text[],
    grid int[], local timestamp, happened timestamptz DEFAULT now(), day date, doc jsonb, plain json,
    ratio float8, fine positive, short varchar(3), flag boolean, gone int, trap int DEFAULT loud(1),
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, "Odd ""name" text);
ALTER TABLE payments DROP COLUMN gone;
SELECT fraud.watch('payments', threshold => 2);
SELECT fraud.add_rule('payments', 'large', 'amount > 500', score => 2);
SELECT fraud.add_rule('payments', 'abroad', 'country <> ''FR''');
SELECT fraud.add_rule('payments', 'recent', 'happened > now() - interval ''1 hour''', score => 0.5);
SELECT fraud.add_rule('payments', 'double', 'doubled > 1000', mode => 'shadow');
SELECT fraud.add_rule('payments', 'fails', '1 / (amount - 13) > 0 AND false');

-- is_fraud: the row's type tells the table
ALTER TABLE payments ALTER trap DROP DEFAULT;
INSERT INTO payments (id, amount, country) VALUES (1, 600, 'FR'), (2, 13, 'NZ'), (3, 100, NULL);
SELECT id, fraud.is_fraud(p), p.is_fraud AS mark FROM payments p ORDER BY id;
SELECT fraud.is_fraud(jsonb_populate_record(NULL::payments, '{"amount": 501}'));
SELECT fraud.is_fraud(NULL::payments);
-- by the rules of now
SELECT fraud.add_rule('payments', 'any', 'true', score => 5);
SELECT bool_and(fraud.is_fraud(p)) FROM payments p;
BEGIN;
SELECT fraud.drop_rule('payments', 'any');
SELECT count(*) FROM payments p WHERE fraud.is_fraud(p);
ROLLBACK;
SELECT count(*) FROM payments p WHERE fraud.is_fraud(p);
SELECT fraud.drop_rule('payments', 'any');
SELECT count(*) FROM payments p WHERE fraud.is_fraud(p);
-- errors
SELECT fraud.is_fraud(r) FROM (SELECT 1, 2) r;
CREATE TABLE unwatched (amount numeric);
SELECT fraud.is_fraud(ROW(1)::unwatched);
-- leaf partitions, with other column orders
CREATE TABLE parted (id int, amount numeric, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_1 (at date, dropped int, amount numeric, id int);
ALTER TABLE parted_1 DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
SELECT fraud.watch('parted');
SELECT fraud.add_rule('parted', 'large', 'parted.amount > 500');
INSERT INTO parted VALUES (1, 501, '2026-02-01'), (2, 5, '2026-02-01');
SELECT id, fraud.is_fraud(p) FROM parted p ORDER BY id;
SELECT id, fraud.is_fraud(p) FROM parted_1 p ORDER BY id;

-- check: fields by name, values by the types' own input functions
SELECT is_fraud, score, rules FROM fraud.check('payments', '{"amount": 500.01}');
SELECT is_fraud, score, rules FROM fraud.check('asking.payments', '{"amount": "500.00", "country": "NZ", "unknown": [1]}');
SELECT jsonb_pretty(reasons) FROM fraud.check('payments', '{"amount": 123456789.10, "country": null, "happened": "2020-01-01"}');
SELECT is_fraud, score, rules FROM fraud.check('payments', '{"country": "NZ", "happened": null}');
-- nothing is marked, counted or kept
SELECT count(*) FROM payments;
SELECT sum(evaluated) FROM fraud.rules WHERE target = 'payments'::regclass;
BEGIN READ ONLY;
SELECT is_fraud FROM fraud.check('payments', '{"amount": 13}');
COMMIT;
-- values: digits, arrays, zones, json, domains, enums
SELECT fraud.add_rule('payments', 'v1', 'tags = ''{a,"b,c",NULL,"d\"e"}'' AND grid = ''{{1,2},{3,4}}''');
SELECT fraud.add_rule('payments', 'v2', 'local = ''2026-01-01 08:00'' AND happened = ''2026-01-01 08:00Z''');
SELECT fraud.add_rule('payments', 'v3', 'doc = ''{"a": [1.10]}'' AND plain::text = ''"x"''');
SELECT fraud.add_rule('payments', 'v4', 'via = ''web'' AND flag AND fine = 123456789012345678901234567890.12');
SELECT fraud.add_rule('payments', 'v5', '"Odd ""name" = ''{"b": 1}'' AND day = ''2026-02-03''');
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'SQL, DMY';
SELECT rules FROM fraud.check('payments', '{"tags": ["a", "b,c", null, "d\"e"], "grid": [[1,2],[3,4]],
    "local": "2026-01-01T10:00:00+02:00", "happened": "2026-01-01T08:00:00", "doc": {"a": [1.10]}, "plain": "x",
    "via": "web", "flag": true, "fine": 123456789012345678901234567890.12, "Odd \"name": {"b": 1}, "day": "02/03/2026"}');
RESET TimeZone;
RESET DateStyle;
-- abbreviations of zones mean the same in each session, which has its own back afterwards
CREATE TABLE zoned (id int, note text, at timestamptz);
SELECT fraud.watch('zoned');
SELECT fraud.add_rule('zoned', 'afternoon', 'note::timestamptz = ''2026-01-01 15:00Z''');
SELECT fraud.add_rule('zoned', 'at', 'at = ''2026-01-01 15:00Z''');
SET timezone_abbreviations = 'Australia';
INSERT INTO zoned VALUES (1, '2026-01-01 10:00 EST', NULL), (2, 'none', NULL) RETURNING id, is_fraud, fraud_rules;
SELECT rules FROM fraud.check('zoned', '{"note": "2026-01-01 10:00 EST", "at": "2026-01-01 10:00 EST"}');
SELECT fraud.is_fraud(z) FROM zoned AS z ORDER BY id;
SELECT '2026-01-01 10:00 EST'::timestamptz = '2026-01-01 10:00+10' AS session;
SET timezone_abbreviations = 'India';
INSERT INTO zoned VALUES (3, '2026-01-01 10:00 EST', NULL), (4, '2026-01-01 17:00 IST', NULL) RETURNING id, is_fraud;
SELECT '2026-01-01 10:00 IST'::timestamptz = '2026-01-01 10:00+05:30' AS session;
RESET timezone_abbreviations;
SET TimeZone = 'Australia/Sydney';
SELECT '2026-01-01 10:00 EST'::timestamptz IS NULL AS remembered;
INSERT INTO zoned VALUES (5, '2026-01-01 10:00 EST', NULL) RETURNING id, is_fraud;
RESET TimeZone;
SELECT '2026-01-01 10:00 EST'::timestamptz = '2026-01-01 10:00-05' AS session;
-- a bad value is an error, of class 22 but for a domain's own check
\set VERBOSITY sqlstate
SELECT fraud.check('payments', '{"amount": "abc"}');
SELECT fraud.check('payments', '{"amount": 12345678901234}');
SELECT fraud.check('payments', '{"amount": {"a": 1}}');
SELECT fraud.check('payments', '{"via": "phone"}');
SELECT fraud.check('payments', '{"short": "abcd"}');
SELECT fraud.check('payments', '{"happened": "yesterdaily"}');
SELECT fraud.check('payments', '{"grid": [[1,2],[3]]}');
SELECT fraud.check('payments', '{"flag": 2.5}');
SELECT fraud.check('payments', '{"fine": -1}');
\set VERBOSITY default
SELECT fraud.check('payments', '[1]');
SELECT fraud.check('payments', NULL);
SELECT fraud_api.check(NULL, '{}');
SELECT fraud.check('payments', '{"amuont": 1}');
SELECT fraud.check('nowhere', '{"amount": 1}');
SELECT fraud.check('a.b.c.d', '{"amount": 1}');
-- a user's function in a default is not called
ALTER TABLE payments ALTER trap SET DEFAULT loud(1);
SELECT is_fraud FROM fraud.check('payments', '{"amount": 1}');
-- names
CREATE SCHEMA asking2;
CREATE TABLE asking2.payments (amount numeric);
SELECT fraud.watch('asking2.payments');
SELECT fraud.check('payments', '{"amount": 1}');
SELECT is_fraud FROM fraud.check('asking2.payments', '{"amount": 1}');
SELECT fraud.unwatch('asking2.payments');
SELECT is_fraud FROM fraud.check('payments', '{"amount": 1}');
SELECT fraud.check('asking2.payments', '{"amount": 1}');
-- rights: a reader may ask through the gateway, and learns nothing of the rows
CREATE ROLE asking_reader IN ROLE fraud_reader;
SET ROLE asking_reader;
SELECT is_fraud, score, rules FROM fraud_api.check('asking.payments', '{"amount": 1000}');
SELECT * FROM asking.payments;
RESET ROLE;
CREATE ROLE asking_nobody;
SET ROLE asking_nobody;
SELECT fraud_api.check('payments', '{"amount": 1000}');
RESET ROLE;
SET client_min_messages = error;
DROP SCHEMA asking, asking2 CASCADE;
DROP ROLE asking_reader, asking_nobody;
