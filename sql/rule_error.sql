-- Rules that raise errors on rows: the rows are kept, the errors too
CREATE SCHEMA errors;
SET search_path = errors;
SET client_min_messages = warning;
CREATE TABLE payments (id int, amount numeric, n int, note text, doc jsonb, happened timestamptz);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_rule('payments', 'ratio', 'amount / n > 100');
SELECT fraud.add_rule('payments', 'evaded', 'amount / n > 100', on_error => 'fire', score => 0.5);
SELECT fraud.add_rule('payments', 'cast', 'note::int > 5', score => 0.25);
SELECT fraud.add_rule('payments', 'shadowed', '1 / n = 0', mode => 'shadow', on_error => 'fire');

-- one bad row in the middle of a COPY costs nothing
\copy payments (id, amount, n, note) FROM stdin
1	600	2	7
2	600	0	8
3	10	0	x
4	10	1	9
\.
SELECT id, is_fraud, fraud_score, fraud_rules FROM payments ORDER BY id;
SELECT rule, version, sqlstate, message, observed FROM fraud.rule_failures
WHERE table_name = 'errors.payments' ORDER BY id;
SELECT name, evaluated, fired, failed FROM fraud.rules WHERE target = 'payments'::regclass ORDER BY name;

-- hostile values: whatever a rule makes of them, the row stays
SELECT count(fraud.drop_rule('payments', r)) FROM unnest(ARRAY['ratio', 'evaded', 'cast', 'shadowed']) r;
SELECT sum(fraud.add_rule('payments', 'h' || i, c, mode => 'live', score => 0.001)) FROM unnest(ARRAY[
    'note ~ note', 'note LIKE note', 'note::jsonb IS NULL', 'note::timestamptz > now()',
    'note::numeric > 1', 'note::inet << ''10.0.0.0/8''', 'n + 2147483647 > 0', 'n * n > 0',
    'amount * amount > 0', 'power(amount, amount) > 1', 'sqrt(amount) > 1', 'ln(amount) > 1',
    'repeat(note, abs(n)) > ''x''', 'lpad(note, n) > ''x''', 'substr(note, n, n) = ''x''', 'chr(n) = ''x''',
    'doc @? note::jsonpath', '(doc -> ''a'')::int > 1', 'doc #>> string_to_array(note, '','') = ''x''',
    'jsonb_set(doc, ''{a}'', null) IS NULL', 'happened + n * interval ''1 year'' > now()',
    'happened - ''infinity''::timestamptz > ''1 day''', 'date_trunc(note, happened) > now()',
    'extract(epoch FROM happened) > 1', 'happened AT TIME ZONE note > ''2020-01-01''',
    'to_char(happened, ''YYYY'') = ''2020''', 'to_date(note, ''YYYY-MM-DD'') > ''2020-01-01''',
    'decode(note, ''hex'') IS NULL', 'convert_from(note::bytea, ''UTF8'') = ''x''',
    'split_part(note, '','', n) = ''x''', 'get_byte(note::bytea, n) = 1', 'width_bucket(amount, 1, 2, n) = 1',
    'hour_in(happened, note) = 3', 'format(note, n) = ''x''', 'regexp_replace(note, note, note) = ''x''',
    'factorial(n) > 1', 'note::xml IS NULL', 'n::smallint > 1', 'amount::int > 1', 'amount::float4 > 1',
    'note::"char" = ''x''', 'note::bit(3) = B''101''', 'note::uuid IS NULL', 'note::money IS NULL',
    'note::int4range @> n', 'note::text[] IS NULL', 'note::interval > ''1 day''', 'note::box IS NULL'
    ]) WITH ORDINALITY u(c, i) WHERE c NOT LIKE '%xml%' AND c NOT LIKE '%money%' AND c NOT LIKE 'convert_from%';
INSERT INTO payments (id, amount, n, note, doc, happened)
SELECT 100 + row_number() OVER (), amount, n, note, doc, happened
FROM (VALUES (1e100::numeric), (-1), ('NaN')) a(amount),
     (VALUES (2147483647), (-2147483648), (0)) b(n),
     (VALUES ('('), ('\'), ('{'), (repeat('(', 3000)), (repeat('9', 500)), ('$**')) c(note),
     (VALUES ('{"a": "x"}'::jsonb), ('[]')) d(doc),
     (VALUES ('infinity'::timestamptz), ('4713-01-01 BC'), ('294276-12-31')) e(happened);
SELECT count(*) FROM payments WHERE id > 100;
SELECT name, failed > 0 AS failed, state FROM fraud.rules
WHERE target = 'payments'::regclass AND name LIKE 'h%' AND failed = 0 ORDER BY id;
-- bounded per rule and hour
SELECT count(*) AS rules, max(n) AS most FROM (
    SELECT count(*) AS n FROM fraud.rule_failures WHERE table_name = 'errors.payments' GROUP BY rule) x;
SELECT count(*) FROM fraud.rule_failures WHERE octet_length(message) > 500 OR octet_length(observed::text) > 2000;

-- a rule that cannot raise needs no subtransaction, one that can has one; both work in a nested block
DO $$
BEGIN
    INSERT INTO payments (id, n, note) VALUES (5, 0, 'x');
    RAISE EXCEPTION 'undone';
EXCEPTION WHEN raise_exception THEN NULL;
END $$;
SELECT count(*) FROM payments WHERE id = 5;

-- cancelling is not a rule's error
TRUNCATE payments;
SELECT count(fraud.drop_rule(target, name)) FROM fraud.rules WHERE target = 'payments'::regclass;
SELECT fraud.add_rule('payments', 'slow', 'note ~ ''^(a*)*(a*)*(a*)*b\1\2\3$''');
SET statement_timeout = 300;
INSERT INTO payments (id, note) SELECT g, repeat('a', 300) || 'b' FROM generate_series(1, 1000000) g;
RESET statement_timeout;
SELECT count(*) FROM payments;
-- only those who must may read the values kept
SET ROLE fraud_reader;
SELECT * FROM fraud.rule_failures;
RESET ROLE;
SET client_min_messages = error;
DROP SCHEMA errors CASCADE;
DELETE FROM fraud.rule_failures WHERE table_name = 'errors.payments';
