-- What rules may not contain is refused when they are saved
\set VERBOSITY terse
CREATE SCHEMA refused;
SET search_path = refused;

SET client_min_messages = warning;
-- a type with operators of its own, stored as text, like citext
CREATE TYPE folded;
CREATE FUNCTION folded_in(cstring) RETURNS folded LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION folded_out(folded) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE folded (INPUT = folded_in, OUTPUT = folded_out, LIKE = text);
CREATE CAST (folded AS text) WITHOUT FUNCTION AS IMPLICIT;

CREATE TYPE channel AS ENUM ('web', 'pos');
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE TYPE place AS (lat float8, lon float8);
CREATE FUNCTION my_check(numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION my_greater(numeric, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR >>> (LEFTARG = numeric, RIGHTARG = text, FUNCTION = my_greater);

CREATE TABLE payments (
    id bigint, amount numeric(12,2), tax positive, merchant folded,
    card text, note text COLLATE "C", memo text COLLATE "POSIX", via channel, at place, taxes positive[],
    happened timestamptz, local timestamp, price money, doc jsonb, n int,
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, "Odd ""name" int);
SELECT fraud.watch('payments');

CREATE FUNCTION try(VARIADIC conditions text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    condition text; message text; hint text; detail text;
BEGIN
    FOREACH condition IN ARRAY conditions LOOP
        BEGIN
            PERFORM fraud.add_rule('refused.payments', 'tried', condition, replace => true);
            RAISE INFO '%  =>  accepted', condition;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
            RAISE INFO '%  =>  % %|%|%', condition, SQLSTATE, message, detail, hint;
        END;
    END LOOP;
END $$;

\pset tuples_only
-- not one expression
SELECT try('', '  ', '-- nothing', '*', 'payments.*',
    'amount > 500)', 'true) OR (true', 'true) , (false',
    'true) FROM pg_class WHERE (true', 'amount > 1, amount > 2',
    'amount > 1 AS x', 'DISTINCT amount > 1', 'amount > 1 FROM payments',
    'amount > 1 ORDER BY 1', 'amount > 1 LIMIT 1', 'true UNION SELECT true',
    'amount > 1; DROP TABLE payments', 'amount > 1 /* open', 'amount > $1');
-- not a condition
SELECT try('amount', '''maybe''', 'ROW(1)', 'amount > ''abc''');
-- beyond the row
SELECT try('amount > (SELECT 1)', 'EXISTS (SELECT 1)',
    'amount > ALL (SELECT 1)', 'ARRAY(SELECT 1) = ''{1}''', 'count(*) > 1',
    'sum(amount) > 1', 'row_number() OVER () > 1', 'generate_series(1, 2) > 1',
    'payments IS NULL', 'payments.* IS NULL', 'ctid IS NULL', 'tableoid = 1',
    'other.amount > 1', 'grouping(amount) = 1');
-- the session, the server, the catalogs, other tables
SELECT try('CURRENT_USER = ''x''', 'current_setting(''a.b'') = ''c''',
    'set_config(''a'', ''b'', true) = ''b''', 'version() > ''1''',
    'pg_read_file(''x'') = ''a''', 'pg_sleep(1) IS NULL', 'lo_get(1) IS NULL',
    'pg_advisory_lock(1) IS NULL', 'has_table_privilege(''pg_class'', ''select'')',
    'pg_backend_pid() = 1', 'nextval(''fraud.alerts_id_seq'') > 0',
    '''pg_class''::regclass = 1::oid', 'to_regclass(card) IS NULL', 'pg_typeof(n) IS NULL',
    'pg_partition_root(1) IS NULL', 'quote_ident(card) = ''x''',
    'table_to_xml(''pg_class'', true, true, '''') IS NULL', 'to_tsvector(card) IS NULL',
    'pg_column_size(card) > 1', 'int4in(''5'') = n', 'inet_client_addr() IS NULL');
-- volatile, and moments that would be frozen
SELECT try('random() > 0.5', 'clock_timestamp() > happened',
    'gen_random_uuid() IS NULL', 'happened > ''today''', 'happened > timestamptz ''now''',
    'happened::date = date ''yesterday''', 'card = ''today''');
-- what hangs on the session's locale
SELECT try('price > ''500''', 'price::numeric > 500',
    'to_char(amount, ''L999'') = ''x''', 'to_char(happened, ''TMMonth'') = ''x''',
    'to_char(amount, card) = ''x''', 'to_number(card, ''9G999'') > 1');
-- users' code
SELECT try('my_check(amount)', 'refused.my_check(amount)',
    'amount >>> card', 'amount OPERATOR(refused.>>>) card', 'merchant = ''x''',
    'lower(merchant) = ''x''', 'merchant IN (''x'', ''y'')', 'merchant || ''x'' = ''y''',
    'amount::refused.positive > 1', 'card::refused.positive > 1',
    'to_jsonb(via) = ''1''', 'to_jsonb(payments) = ''1''', 'fraud.check(''payments'', doc) IS NULL',
    'fraud.no_such(amount)', 'card::refused.folded IS NULL');
-- the marks
SELECT try('is_fraud', 'fraud_score > 1', 'fraud_rules IS NULL');
-- conflicting collations, depth and length
SELECT try('note > memo', 'note > memo COLLATE "C"', 'note || memo IS NULL');
DO $$
BEGIN
    PERFORM fraud.add_rule('refused.payments', 'deep', '1' || repeat('+1', 1000) || ' > 0');
EXCEPTION WHEN statement_too_complex THEN
    RAISE INFO '%', SQLERRM;
END $$;
DO $$
BEGIN
    PERFORM fraud.add_rule('refused.payments', 'nested', repeat('(', 20000) || 'true' || repeat(')', 20000));
EXCEPTION WHEN OTHERS THEN
    RAISE INFO 'refused';
END $$;
DO $$
BEGIN
    PERFORM fraud.add_rule('refused.payments', 'long', 'card IN (' || repeat('''4111111111111111'',', 4000) || ''''')');
EXCEPTION WHEN program_limit_exceeded THEN
    RAISE INFO '%', SQLERRM;
END $$;

-- and what they may contain
SELECT try('amount > 500', 'payments.amount > 500', 'amount > 1 -- a note',
    '"Odd ""name" = 1', 'doubled > 10', 'tax > 10', 'taxes[1] > 10', 'via = ''web''',
    'via::text LIKE ''w%''', '(at).lat > 10', 'merchant IS NULL', 'merchant::text = ''x''',
    'lower(merchant::text) = ''x''', 'doc ->> ''a'' = ''b''', 'doc @? ''$.a ? (@ > 1)''',
    'card ~ ''^4''', 'card LIKE ''4%''', 'n IN (1, 2, 3)', 'n = ANY (''{1,2}'')',
    'CASE WHEN n > 1 THEN amount > 5 ELSE false END', 'coalesce(amount, 0) = 0',
    'amount IS DISTINCT FROM 5', 'amount BETWEEN 1 AND 5', '(n, amount) > (1, 2)',
    'greatest(n, 2) = 2', 'nullif(n, 2) IS NULL', 'happened > now() - interval ''1 hour''',
    'happened::date = CURRENT_DATE', 'local > LOCALTIMESTAMP(0)', 'age(happened) > ''1 day''',
    'extract(hour FROM happened) < 6', 'date_trunc(''day'', happened) = happened',
    'happened AT TIME ZONE ''Europe/Paris'' > ''2026-01-01''', 'to_char(happened, ''HH24'') = ''03''',
    'concat(card, n) = ''x''', 'jsonb_build_object(''n'', n) = doc', 'fraud.luhn(card)', 'luhn(card)',
    'md5(card) = ''x''', 'price = price', 'true', 'NULL');
SELECT count(*) FROM fraud.rule_versions WHERE table_name = 'refused.payments';
SET client_min_messages = error;
DROP SCHEMA refused CASCADE;
