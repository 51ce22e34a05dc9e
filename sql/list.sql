-- Lists that rules ask
CREATE SCHEMA listing;
SET search_path = listing;
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE TABLE payments (id int, merchant text, account bigint, short int);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'bad', 'fraud.in_list(''listing_bad'', merchant)');
SELECT fraud.create_list('listing_bad', 'merchants that cheat');
SELECT fraud.create_list('listing_bad');
SELECT fraud.add_rule('payments', 'bad', 'fraud.in_list(''listing_bad'', merchant)');
SELECT fraud.add_rule('payments', 'acc', 'in_list(''listing_bad'', account) OR in_list(''listing_bad'', short)');
SELECT fraud.add_rule('payments', 'x', 'fraud.in_list(merchant, merchant)');
SELECT fraud.add_rule('payments', 'x', 'fraud.in_list(NULL, merchant)');
SELECT fraud.add_rule('payments', 'x', 'fraud.in_list(''listing_bad'', 1.5)');

CREATE FUNCTION try() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(id || coalesce(array_to_string(rules, ' '), '-'), ', ' ORDER BY id)
    FROM jsonb_to_recordset('[{"id": 1, "merchant": "acme"}, {"id": 2, "merchant": "Acme"}, {"id": 3, "merchant": "nice"},
        {"id": 4, "account": 4711}, {"id": 5, "short": 4711}, {"id": 6, "merchant": ""}, {"id": 7}]') AS r(id int, merchant text, account bigint, short int),
        fraud.check('listing.payments', to_jsonb(r))
$$;
SELECT try();
SELECT fraud.add_to_list('listing_bad', 'acme', note => 'police');
SELECT try();
SELECT fraud.add_to_list('listing_bad', ARRAY['4711', '', '4711', NULL]);
SELECT try();
-- a change is seen at once by him who makes it, and undone with his transaction
BEGIN;
SELECT fraud.add_to_list('listing_bad', 'nice');
SELECT try();
SAVEPOINT s;
SELECT fraud.remove_from_list('listing_bad', 'acme');
SELECT try();
ROLLBACK TO s;
SELECT try();
ROLLBACK;
SELECT try();
-- removal
SELECT fraud.remove_from_list('listing_bad', 'acme'), fraud.remove_from_list('listing_bad', 'acme'), fraud.remove_from_list('listing_bad', 'none');
SELECT try();
SELECT fraud.add_to_list('listing_bad', 'acme');
SELECT try();
-- expiry
SELECT fraud.add_to_list('listing_bad', 'acme', expires_at => now() - interval '1 s');
SELECT fraud.add_to_list('listing_bad', 'nice', expires_at => clock_timestamp() + interval '2 s');
SELECT try();
SELECT pg_sleep(2.1);
SELECT try();
SELECT fraud.add_to_list('listing_bad', ARRAY['acme', 'nice']);
-- an allow list outranks
SELECT fraud.create_list('listing_good', outranks => 'listing_none');
SELECT fraud.create_list('listing_good', outranks => 'listing_bad');
SELECT fraud.add_to_list('listing_good', 'nice');
SELECT try();
SELECT fraud.remove_from_list('listing_good', 'nice');
SELECT try();
SELECT name, description, outranks, entries FROM fraud.lists WHERE name LIKE 'listing%' ORDER BY name;
-- rows that arrive, whoever inserts, and history
CREATE ROLE listing_inserter;
GRANT USAGE ON SCHEMA listing TO listing_inserter;
GRANT INSERT, SELECT ON payments TO listing_inserter;
SET ROLE listing_inserter;
INSERT INTO payments VALUES (1, 'acme'), (2, 'other') RETURNING id, fraud_rules;
SELECT fraud.add_to_list('listing_bad', 'x');
RESET ROLE;
SELECT rows_seen, hits, failed FROM fraud.backtest('payments', 'in_list(''listing_bad'', merchant)');
-- many values
SELECT fraud.add_to_list('listing_bad', array_agg('m' || g)) FROM generate_series(1, 20000) g;
SELECT count(*) FROM generate_series(0, 20001) g WHERE fraud.in_list('listing_bad', 'm' || g);
SELECT fraud.in_list('listing_bad', 'm0'), fraud.in_list('listing_bad', 'm20000'), fraud.in_list('listing_bad', NULL), fraud.in_list('listing_none', 'a');
DELETE FROM fraud.list_entries WHERE value LIKE 'm1%';
SELECT fraud.in_list('listing_bad', 'm1'), fraud.in_list('listing_bad', 'm2');
-- values of all lengths, with an end and without
SELECT fraud.add_to_list('listing_bad', array_agg(repeat('x', g))) FROM generate_series(1, 60) g;
SELECT fraud.add_to_list('listing_bad', repeat('y', g), expires_at => CASE g % 3 WHEN 0 THEN now() + interval '1 day' WHEN 1 THEN now() - interval '1 day' END)
  FROM generate_series(1, 60) g \g (format=unaligned tuples_only=on) /dev/null
SELECT count(*) FILTER (WHERE fraud.in_list('listing_bad', repeat('x', g))) AS x, count(*) FILTER (WHERE fraud.in_list('listing_bad', repeat('y', g))) AS y FROM generate_series(0, 61) g;
-- nothing but the value itself: one byte changed at each place, added at either end, taken away
SELECT fraud.create_list('listing_exact');
CREATE TABLE exact AS
  SELECT CASE kind WHEN 'digits' THEN left(repeat('0123456789', 5), g) WHEN 'zeros' THEN repeat('0', g)
         WHEN 'mixed' THEN left(repeat('1234567x9', 6), g) ELSE left(repeat('abcdefgh', 6), g) END AS v
  FROM unnest(ARRAY['digits', 'zeros', 'mixed', 'text']) kind, generate_series(1, 42) g;
SELECT fraud.add_to_list('listing_exact', array_agg(v)) = count(DISTINCT v) AS added FROM exact;
SELECT count(*) FROM exact WHERE NOT fraud.in_list('listing_exact', v);
SELECT count(*), count(*) FILTER (WHERE fraud.in_list('listing_exact', other)) AS listed
  FROM (SELECT overlay(v PLACING c FROM i FOR 1) FROM exact, generate_series(1, length(v)) i, unnest(ARRAY['~', '/', ':', 'p', 'y', ' ']) c
        UNION SELECT v || ' ' FROM exact UNION SELECT ' ' || v FROM exact UNION SELECT '+' || v FROM exact UNION SELECT v || 'q' FROM exact
        UNION SELECT v || '!0' FROM exact) AS s(other);
-- numbers are their digits
SELECT fraud.add_to_list('listing_exact', array_agg(n::text)) AS added FROM (SELECT (10::numeric ^ g + d)::bigint FROM generate_series(0, 18) g, unnest(ARRAY[-1, 0]) d
  UNION VALUES (9223372036854775807), (-9223372036854775808), (-1), (-1000000000000000000)) AS s(n);
SELECT count(*) FILTER (WHERE fraud.in_list('listing_exact', n)) AS listed, count(*) FILTER (WHERE fraud.in_list('listing_exact', n::text)) AS by_text, count(*)
  FROM (SELECT (10::numeric ^ g + d)::bigint FROM generate_series(1, 18) g, unnest(ARRAY[-1, 0]) d
  UNION VALUES (9223372036854775807), (-9223372036854775808), (-1), (-1000000000000000000)) AS s(n);
SELECT n FROM unnest(ARRAY[11, 1001, -10, -9223372036854775807, 9223372036854775806, 100000000000000001]) n WHERE fraud.in_list('listing_exact', n);
SELECT fraud.add_to_list('listing_exact', '00000010');
SELECT v FROM unnest(ARRAY['0000000:', '0010', '010', '+10', '10.0', ' 10', '1e1', '-0', '00000000000000000010', '12345678901234567890']) v WHERE fraud.in_list('listing_exact', v);
-- each with an end, which passes, and for good again
SELECT fraud.add_to_list('listing_exact', array_agg(v), expires_at => now() + interval '1 day') = count(DISTINCT v) AS added FROM exact;
SELECT count(*) FROM exact WHERE NOT fraud.in_list('listing_exact', v);
SELECT fraud.add_to_list('listing_exact', array_agg(v), expires_at => now() - interval '1 day') = count(DISTINCT v) AS added FROM exact;
SELECT count(*) FROM exact WHERE fraud.in_list('listing_exact', v);
SELECT fraud.add_to_list('listing_exact', array_agg(v)) = count(DISTINCT v) AS added FROM exact;
SELECT count(*) FROM exact WHERE NOT fraud.in_list('listing_exact', v);
-- what another list goes through has nobody read this one again; what is deleted from it has
CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT pg_stat_get_xact_tuples_returned('fraud.list_entries_change_idx'::regclass) $$;
BEGIN;
SELECT fraud.in_list('listing_exact', '10');
SELECT set_config('listing.reads', reads()::text, true) IS NULL AS f;
SELECT fraud.create_list('listing_more', outranks => 'listing_exact');
SELECT fraud.in_list('listing_exact', '10');
SELECT reads() - current_setting('listing.reads')::int AS reads;
SELECT fraud.add_to_list('listing_more', ARRAY['10', '100']);
SELECT fraud.in_list('listing_exact', '10'), fraud.in_list('listing_exact', '1000'), fraud.in_list('listing_more', '10');
SELECT reads() - current_setting('listing.reads')::int AS reads;
SELECT fraud.drop_list('listing_more');
SELECT fraud.in_list('listing_exact', '10'), fraud.in_list('listing_more', '10');
SAVEPOINT s;
DELETE FROM fraud.list_entries WHERE value = '10';
SELECT fraud.in_list('listing_exact', '10'), fraud.in_list('listing_exact', '100');
ROLLBACK TO s;
SELECT fraud.in_list('listing_exact', '10'), fraud.in_list('listing_exact', '100');
SAVEPOINT s;
TRUNCATE fraud.list_entries;
SELECT fraud.in_list('listing_exact', '10');
ROLLBACK TO s;
SELECT fraud.in_list('listing_exact', '10');
SELECT fraud.drop_list('listing_exact');
SELECT fraud.create_list('listing_exact');
SELECT fraud.in_list('listing_exact', '10');
ROLLBACK;
SELECT fraud.in_list('listing_exact', '10');
-- another extension's list is another one, though it has the same number
BEGIN;
SET LOCAL client_min_messages = error;
DROP EXTENSION pg_fraud CASCADE;
CREATE EXTENSION pg_fraud;
SELECT fraud.create_list('listing_again');
SELECT fraud.add_to_list('listing_again', 'a');
SELECT fraud.in_list('listing_again', 'a');
DROP EXTENSION pg_fraud CASCADE;
CREATE EXTENSION pg_fraud;
SELECT fraud.create_list('listing_again');
SELECT fraud.in_list('listing_again', 'a');
ROLLBACK;
SELECT fraud.in_list('listing_exact', '10');
-- names are as long as names are
SELECT fraud.create_list(repeat('n', 70)::name);
SELECT fraud.add_to_list(repeat('n', 70)::name, 'x');
SELECT fraud.in_list(repeat('n', 70), 'x'), fraud.in_list(repeat('n', 63), 'x'), fraud.in_list(repeat('n', 62), 'x'), fraud.in_list('', 'x');
SELECT fraud.drop_list(repeat('n', 70)::name);
SELECT fraud.drop_list('listing_exact');
-- ends that come and go
SELECT fraud.add_to_list('listing_bad', repeat('x', g), expires_at => now() - interval '1 day') FROM generate_series(20, 29) g \g (format=unaligned tuples_only=on) /dev/null
SELECT fraud.add_to_list('listing_bad', repeat('y', g)) FROM generate_series(20, 29) g \g (format=unaligned tuples_only=on) /dev/null
SELECT fraud.remove_from_list('listing_bad', repeat('y', g)) FROM generate_series(30, 39) g \g (format=unaligned tuples_only=on) /dev/null
SELECT count(*) FILTER (WHERE fraud.in_list('listing_bad', repeat('x', g))) AS x, count(*) FILTER (WHERE fraud.in_list('listing_bad', repeat('y', g))) AS y FROM generate_series(0, 61) g;
SELECT fraud.add_rule('payments', 'long', 'in_list(''listing_bad'', merchant) AND (id > 0 OR in_list(''listing_good'', merchant))');
INSERT INTO payments SELECT g, repeat('x', g) FROM generate_series(18, 32) g;
INSERT INTO payments VALUES (99, NULL), (NULL, 'x');
SELECT min(id), max(id), count(*) FROM payments WHERE 'long' = ANY (fraud_rules);
SELECT id, merchant, fraud_rules FROM payments WHERE id = 99 OR id IS NULL;
SELECT fraud.drop_rule('payments', 'long');
-- errors
SELECT fraud.add_to_list('listing_none', 'a');
SELECT fraud.add_to_list('listing_bad', NULL::text);
SELECT fraud.remove_from_list('listing_none', 'a');
SELECT fraud.drop_list('listing_none');
SELECT fraud.create_list('');
\set VERBOSITY sqlstate
SELECT fraud.add_to_list('listing_bad', repeat('x', 2000));
\set VERBOSITY default
-- rights: analysts keep lists, admins make them
CREATE ROLE listing_analyst IN ROLE fraud_analyst;
CREATE ROLE listing_reader IN ROLE fraud_reader;
SET ROLE listing_analyst;
SELECT fraud.add_to_list('listing_bad', 'by analyst');
SELECT fraud.create_list('listing_more');
SELECT changed_by FROM fraud.list_entries WHERE value = 'by analyst';
SET ROLE listing_reader;
SELECT fraud.add_to_list('listing_bad', 'x');
SELECT fraud.in_list('listing_bad', 'x');
SELECT * FROM fraud.list_entries;
RESET ROLE;
-- a list that is gone breaks the rules that ask it, and no row
SELECT fraud.drop_list('listing_good');
SELECT try();
SELECT fraud.drop_list('listing_bad');
INSERT INTO payments VALUES (3, 'acme') RETURNING id, fraud_rules;
SELECT name, state, error FROM fraud.rules WHERE target = 'payments'::regclass ORDER BY name;
SELECT fraud.create_list('listing_bad');
SELECT try();
SELECT fraud.add_to_list('listing_bad', 'acme');
SELECT try();
SELECT name, state FROM fraud.rules WHERE target = 'payments'::regclass ORDER BY name;
-- also in a session that compiled them while it was gone
SELECT fraud.drop_list('listing_bad');
\c -
SET search_path = listing;
INSERT INTO payments VALUES (4, 'acme') RETURNING id, fraud_rules;
SELECT fraud.create_list('listing_bad');
SELECT fraud.add_to_list('listing_bad', 'acme');
INSERT INTO payments VALUES (5, 'acme') RETURNING id, fraud_rules;
SET client_min_messages = error;
SELECT fraud.drop_list('listing_bad');
DROP SCHEMA listing CASCADE;
DROP ROLE listing_inserter, listing_analyst, listing_reader;
