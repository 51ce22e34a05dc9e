-- Conditions that are judged without the expression interpreter give what it
-- gives, and what the same condition in WHERE gives, whatever the values
CREATE SCHEMA plain;
SET search_path = plain, public;
SET client_min_messages = error;
-- verdicts do not hang on it
SET TimeZone = 'Pacific/Auckland';

CREATE TYPE mood AS ENUM ('sad', 'fine', 'glad');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN word AS text;
CREATE DOMAIN small AS int CHECK (VALUE < 100);
-- where the server has no ICU, a column more of ordinary text
DO $$
BEGIN
    EXECUTE $c$CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)$c$;
EXCEPTION WHEN feature_not_supported OR undefined_object OR invalid_parameter_value OR wrong_object_type THEN
    CREATE COLLATION loose FROM "C";
END $$;
CREATE TABLE tx (gone int, id bigint PRIMARY KEY, i2 int2, i4 int4, i8 int8, s small, n numeric, n2 numeric(14,2),
    f4 float4, f8 float8, t text, c text COLLATE "C", l text COLLATE loose, v varchar(40), b char(6), w word,
    d date, ts timestamp, tz timestamptz, tm time, iv interval, m mood, j jsonb, u uuid, a inet, ok boolean, y bytea,
    arr int[], words text[], r int4range, p pair, lost text, amount numeric);
ALTER TABLE tx DROP gone, DROP lost;
-- out of line, compressed and not
ALTER TABLE tx ALTER c SET STORAGE EXTERNAL, ALTER n SET STORAGE EXTERNAL, ALTER arr SET STORAGE EXTERNAL, ALTER l SET STORAGE EXTERNAL;
CREATE TABLE stored (LIKE tx INCLUDING STORAGE);

-- every value of every column, each in its own rhythm
INSERT INTO stored
SELECT g, (ARRAY[-32768, -1, 0, 1, 7, 32767, NULL])[1 + g % 7],
       (ARRAY[-2147483648, -1, 0, 1, 7, 2147483647, NULL, 32768])[1 + g % 8],
       (ARRAY[-9223372036854775808, -1, 0, 1, 7, 9223372036854775807, NULL, 4294967296, 2147483648])[1 + g % 9],
       (ARRAY[-5, 0, 7, NULL])[1 + g % 4],
       (ARRAY['NaN', 'Infinity', '-Infinity', '0', '-0.00', '1', '1.000000', '500', '500.01', '1e100', '-1e-100', '0.01', '-500', '-500.01', '-12345678901234567890.1', '5000000', '5000000.0001',
              '12345678901234567890.123456789', repeat('9', 400), repeat('7', 9000), repeat('7', 8999) || '8', NULL])[1 + g % 22]::numeric,
       (ARRAY[0.01, 499.99, 500, 500.01, -0.01, 999999999999.99, NULL])[1 + g / 3 % 7],
       (ARRAY['NaN', 'Infinity', '-Infinity', '0', '-0', '0.1', '1e-30', NULL])[1 + g % 8]::float4,
       (ARRAY['NaN', 'Infinity', '-Infinity', '0', '-0', '0.1', '1e-300', '1e300', NULL])[1 + g % 9]::float8,
       (ARRAY['', 'a', 'A', 'abc', 'abcd', 'ab%', 'ab\', 'ä', 'äbcdefghijk', '日本語テキスト', 'abcdefghijkl', repeat('x', 126), repeat('x', 127), repeat('x', 200),
              repeat('abc', 5000), NULL])[1 + g % 16],
       (ARRAY['', 'a', 'A', 'abc', 'é', 'abc ', repeat('x', 3000), repeat('x', 2999) || 'y', 'abc' || repeat('y', 5000), NULL])[1 + g % 10],
       (ARRAY['abc', 'ABC', 'abd', '', repeat('l', 2500), repeat('L', 2500), NULL])[1 + g % 7],
       (ARRAY['', 'XX', 'YY', 'ZZ', 'xx', 'XX ', NULL])[1 + g % 7],
       (ARRAY['', 'XX', 'YY', 'XX  ', 'xx', NULL])[1 + g % 6],
       (ARRAY['no', 'yes', 'yes ', NULL])[1 + g % 4],
       (ARRAY['-infinity', 'infinity', '4713-01-01 BC', '5874897-12-31', '2000-01-01', '1999-12-31', NULL])[1 + g % 7]::date,
       (ARRAY['-infinity', 'infinity', '4713-01-01 BC', '294276-12-31', '2000-01-01', '1999-12-31 23:59:59.999999', NULL])[1 + g % 7]::timestamp,
       (ARRAY['-infinity', 'infinity', '4713-01-01 BC', '294276-12-31', '2000-01-01 00:00+00', '1999-12-31 23:59:59.999999+00', NULL])[1 + g % 7]::timestamptz,
       (ARRAY['00:00', '24:00', '12:00', NULL])[1 + g % 4]::time,
       (ARRAY['1 day', '24 hours', '-1 month', '30 days', NULL])[1 + g % 5]::interval,
       (ARRAY['sad', 'fine', 'glad', NULL])[1 + g % 4]::mood,
       (ARRAY['{}', '{"a": 1}', '{"a": 1.0, "b": null}', '[]', 'null', NULL])[1 + g % 6]::jsonb,
       (ARRAY['00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL])[1 + g % 3]::uuid,
       (ARRAY['10.0.0.1', '10.0.0.0/8', '::1', NULL])[1 + g % 4]::inet,
       (ARRAY[true, false, NULL])[1 + g % 3],
       (ARRAY['\x', '\x00', '\xff', NULL])[1 + g % 4]::bytea,
       CASE g % 5 WHEN 0 THEN '{}' WHEN 1 THEN '{1,2}' WHEN 2 THEN '{NULL,1}' WHEN 3 THEN array_fill(7, ARRAY[900]) END::int[],
       CASE g % 3 WHEN 0 THEN '{a,b}' WHEN 1 THEN '{}' END::text[],
       (ARRAY['empty', '[1,5)', '(,)', NULL])[1 + g % 4]::int4range,
       (ARRAY['(1,a)', '(,)', '(7,)', NULL])[1 + g % 4]::pair,
       -- a sum of these tells which rows are in it
       ('1' || repeat('0', g))::numeric
  FROM generate_series(1, 72) AS g;
SELECT max(pg_column_size(c)) >= 3000 AND max(pg_column_size(n)) > 2000 AS external FROM stored;

CREATE TABLE conditions (id serial, condition text, raises boolean DEFAULT false, as_rule boolean DEFAULT true);
-- every comparison of every type with constants, on either side
INSERT INTO conditions (condition, as_rule)
SELECT format(f, col, op, val), val = vals[1] AND op IN ('<>', '<=')
  FROM (VALUES ('i2', ARRAY['7', '-32768', '40000', '5000000000']), ('i4', ARRAY['1', '-2147483648', '5000000000', '7::int2']),
               ('i8', ARRAY['7', '9223372036854775807', '7::int2']), ('s', ARRAY['7']), ('n', ARRAY['500', '1.00', '0', '-500', '-500.005', '5000000', '12345678901234567890.123456789', '12345678901234567890.12345678', '''NaN''', '''Infinity''', repeat('7', 9000)]),
               ('n2', ARRAY['500']), ('f4', ARRAY['0.1', '''NaN''', '''-0''']), ('f8', ARRAY['0', '''NaN''', '''0.1''::float4']),
               ('t', ARRAY['''abc''', '''''', 'repeat(''x'', 126)', 'repeat(''x'', 127)', 'repeat(''abc'', 5000)']), ('c', ARRAY['''abc''', 'repeat(''x'', 3000)']),
               ('l', ARRAY['''abc''', 'repeat(''l'', 2500)']), ('v', ARRAY['''XX''']), ('b', ARRAY['''XX  ''']), ('w', ARRAY['''yes''']),
               ('d', ARRAY['date ''2000-01-01''', 'timestamp ''2000-01-01 12:00''', 'timestamptz ''2000-01-01 00:00+00''', '''infinity''']),
               ('ts', ARRAY['timestamp ''2000-01-01''', 'date ''2000-01-01''', 'timestamptz ''2000-01-01 00:00+00''', '''-infinity''']),
               ('tz', ARRAY['timestamptz ''2000-01-01 00:00+00''', 'date ''2000-01-01''', 'timestamp ''2000-01-01''', '''2000-01-01''']), ('tm', ARRAY['time ''12:00''']), ('iv', ARRAY['interval ''1 day''']),
               ('m', ARRAY['''fine''']), ('j', ARRAY['''{"a": 1}''']), ('u', ARRAY['''00000000-0000-0000-0000-000000000000''']), ('a', ARRAY['''10.0.0.1''']),
               ('ok', ARRAY['true']), ('y', ARRAY['''\x00''']), ('arr', ARRAY['''{1,2}''', 'array_fill(7, ARRAY[900])']), ('words', ARRAY['''{a,b}''']), ('r', ARRAY['''[1,5)'''])) AS types (col, vals),
       unnest(vals) AS val, unnest(ARRAY['=', '<>', '<', '<=', '>', '>=']) AS op, unnest(ARRAY['%1$s %2$s %3$s', '%3$s %2$s %1$s']) AS f
 WHERE f LIKE '\%1%' OR op IN ('<', '<>') AND val = vals[1];
INSERT INTO conditions (condition) VALUES
    ('t LIKE ''abc%'''), ('t LIKE ''%'''), ('t LIKE ''%bc%'''), ('t LIKE ''a_c%'''), ('t LIKE ''ab\%'''), ('t LIKE ''ä%'''), ('t LIKE '''''), ('t NOT LIKE ''abc%'''), ('c LIKE ''abc%'''), ('v LIKE ''X%'''),
    ('b LIKE ''X%'''), ('w LIKE ''yes%'''), ('t ILIKE ''ABC%'''), ('y LIKE ''\x00'''), ('b::text = ''XX'''), ('b::varchar IN (''XX'', ''xx'')'), ('b = ''XX''::text'),
    ('length(t) < 12'), ('char_length(t) >= 7'), ('character_length(c) > 3'), ('length(c) = 3000'), ('length(c) > 4000::bigint'), ('length(v) <> 2'), ('length(b) = 2'), ('12 > length(t)'), ('length(t) = 7::int2'),
    ('octet_length(t) = 2'), ('length(y) = 1'),
    ('t IN (''abc'', ''A'', ''ä'')'), ('t NOT IN (''abc'', ''A'', ''ä'')'), ('t IN (''abc'', NULL)'), ('t NOT IN (''abc'', NULL)'), ('t = ANY (''{}'')'), ('t <> ALL (''{}'')'), ('t <> ANY (''{abc,A}'')'),
    ('t = ALL (''{abc,abc}'')'), ('t = ANY (''{{abc,a},{A,ä}}'')'), ('v IN (''XX'', ''YY'', ''ZZ'')'), ('v NOT IN (''XX'', ''YY'')'), ('b IN (''XX'', ''YY'')'), ('w IN (''yes'', ''maybe'')'),
    ('c IN (''no'', repeat(''x'', 3000))'), ('c NOT IN (''no'', repeat(''x'', 3000))'), ('l IN (''abc'', ''x'')'), ('l NOT IN (''abc'', ''x'')'), ('t IN (''a'', ''b'', ''c'', ''d'', ''e'', ''f'', ''g'', ''h'', ''abc'', ''A'')'),
    ('i2 IN (1, 7)'), ('i4 IN (1, 7)'), ('i4 NOT IN (1, 7)'), ('i4 IN (1, NULL)'), ('i4 IN (1, 5000000000)'), ('i8 IN (7, 4294967296)'), ('i4 IN (32768, 7, -1, 0, 100, 2, 3, 4, 5, 6)'), ('i8 NOT IN (9223372036854775807, -1, 4294967296, 5, 6, 8, 9)'), ('i2 IN (-32768, 0, 2, 3, 4)'), ('s IN (0, 7)'), ('d IN (''2000-01-01'', ''infinity'')'),
    ('m IN (''sad'', ''glad'')'), ('n IN (1, 500)'), ('(''abc'', t) = (''abc'', ''A'')'), ('t COLLATE "C" < ''b'''), ('t COLLATE plain.loose = ''ABC'''), ('c COLLATE plain.loose IN (''ABC'')'), ('l COLLATE "C" = ''ABC'''),
    ('t IS NULL'), ('t IS NOT NULL'), ('n IS NULL OR n > 1'), ('w IS NULL'), ('p IS NULL'), ('p IS NOT NULL'), ('NOT p IS NULL'), ('(p).a = 7'), ('arr IS NULL'), ('arr @> ''{7}'''), ('arr[1] = 7'), ('words && ''{a}'''),
    ('7 = ANY (arr)'), ('r @> 3'), ('n IS DISTINCT FROM 1'), ('ok'), ('NOT ok'), ('ok AND i4 > 0'), ('ok OR t = ''a'''), ('ok IS TRUE'), ('ok IS NOT FALSE'), ('ok IS UNKNOWN'), ('(i4 > 0) IS NOT TRUE'), ('NOT ((i4 > 0) IS NOT TRUE OR t = ''a'')'), ('NOT ((i4 > 0) IS TRUE AND ok)'), ('(i4 > 0) IS NOT FALSE AND ok'), ('NOT ((i4 > 0) IS FALSE AND ok IS NOT FALSE)'), ('(i4 > 0 AND ok) IS NOT FALSE'), ('(i4 > 0 OR ok) IS FALSE'), ('((i4 > 0) IS TRUE) IS FALSE'), ('(ok IS NOT TRUE AND i4 > 0) IS NOT FALSE'), ('(t IS NULL OR i4 > 0) IS FALSE'),
    ('i4 > 0 AND n2 > 100'), ('i4 > 0 OR n2 > 100'), ('NOT (i4 > 0 AND n2 > 100)'), ('NOT (i4 > 0 OR n2 > 100)'), ('NOT (i4 > 0)'), ('NOT j @> ''{"a": 1}'''), ('NOT (a << ''10.0.0.0/8'' OR j ? ''a'')'), ('(i4 = 0 OR t = ''abc'') AND NOT (f8 > 0 AND v <> ''XX'')'),
    ('i4 > 0 AND NULL'), ('i4 > 0 OR NULL'), ('i4 = NULL'), ('i4 > 0 AND i8 > i4'), ('n > 1 AND (n2 = 500 OR (t = ''a'' AND (v = ''XX'' OR (c = ''abc'' AND (i2 = 1 OR i8 = 7)))))'),
    ('((((((((((i4 = 1 AND i8 = 1) OR i2 = 1) AND n > 0) OR t = ''a'') AND f8 < 1) OR v = ''XX'') AND n2 > 0) OR c = ''a'') AND d < ''2000-01-01'') OR ok) AND m = ''sad'''),
    ('j @> ''{"a": 1}'''), ('j ? ''a'''), ('j ->> ''a'' = ''1'''), ('a << ''10.0.0.0/8'''), ('m > ''sad'' AND m < ''glad'''), ('iv > ''23 hours'' AND iv < ''25 hours'''),
    ('n BETWEEN 1 AND 500'), ('NOT n BETWEEN 1 AND 500'), ('coalesce(t, ''abc'') = ''abc'''), ('i2 = i4'), ('d = ts'), ('d = tz'), ('a = ''10.0.0.1'' OR y = ''\xff'' OR u > ''00000000-0000-0000-0000-000000000000''');
-- these raise an error, or not, by what stands before them
INSERT INTO conditions (condition, raises)
SELECT c, true FROM unnest(ARRAY['t ~ ''(''', 'i4 > 0 AND t ~ ''(''', 't ~ ''('' AND i4 > 0', 'i4 > 0 OR t ~ ''(''', 'NOT (i4 > 0 OR t ~ ''('')', 't LIKE ''ab\''', 'ok AND t LIKE ''ab\''', '10 / i4 > 1',
                                 'i4 <> 0 AND 10 / i4 > 1', 'i4 = 1 AND 10 / i8 = 10', 'l LIKE ''abc%''', 'i4 > 0 AND l LIKE ''abc%''', '(i4 > 0 OR (n > 1 AND t ~ ''('')) AND (ok OR v ~ ''['')']) AS c;
SELECT count(*) > 400 AS many FROM conditions;

-- over stored rows, each condition as it is and in a form that only the
-- interpreter knows
SELECT fraud.watch('stored', amount => 'amount');
CREATE FUNCTION differs(condition text, raises boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    plain text;
    interpreted text;
    core numeric;
BEGIN
    SELECT concat_ws(' ', hits, amount_at_stake, failed) INTO plain FROM fraud.backtest('stored', condition);
    SELECT concat_ws(' ', hits, amount_at_stake, failed) INTO interpreted FROM fraud.backtest('stored', 'coalesce(' || condition || ', false)');
    IF plain IS DISTINCT FROM interpreted THEN
        RETURN true;
    END IF;
    IF NOT raises THEN
        SET LOCAL TimeZone = 'UTC';
        EXECUTE 'SELECT sum(amount) FROM stored WHERE ' || condition INTO core;
        SET LOCAL TimeZone = 'Pacific/Auckland';
        RETURN core IS DISTINCT FROM nullif(split_part(plain, ' ', 2), '0')::numeric;
    END IF;
    RETURN split_part(plain, ' ', 3) = '0' AND condition NOT LIKE '%l LIKE%' AND condition NOT LIKE 'i4 %';
END $$;
SELECT condition FROM conditions WHERE differs(condition, raises) ORDER BY id;

-- as rules of a table, named alike but for a letter; one that raises an error
-- fires
SELECT fraud.watch('tx', on_update => true);
INSERT INTO fraud.rule_config (target, name, version, mode, score, condition, on_error, changed_by, changed_at)
SELECT 'tx', kind || id, 1, 'live', 1, CASE kind WHEN 'p' THEN condition ELSE 'coalesce(' || condition || ', false)' END, 'fire', CURRENT_USER, now()
  FROM conditions, unnest(ARRAY['p', 'i']) AS kind;
SELECT count(*) FILTER (WHERE error IS NOT NULL) AS broken, count(*) > 1000 AS many FROM fraud.rules WHERE target = 'tx'::regclass;
-- values in memory
INSERT INTO tx SELECT x.* FROM stored, jsonb_populate_record(NULL::tx, to_jsonb(stored)) AS x;
-- from another table's rows, with what that has out of line
INSERT INTO tx (id, i2, i4, i8, s, n, n2, f4, f8, t, c, l, v, b, w, d, ts, tz, tm, iv, m, j, u, a, ok, y, arr, words, r, p, amount)
SELECT 1000 + id, i2, i4, i8, s, n, n2, f4, f8, t, c, l, v, b, w, d, ts, tz, tm, iv, m, j, u, a, ok, y, arr, words, r, p, amount FROM stored;
-- when they are updated, with what stays out of line in their own table
SELECT fraud.pause('tx');
INSERT INTO tx (id, i2, i4, i8, s, n, n2, f4, f8, t, c, l, v, b, w, d, ts, tz, tm, iv, m, j, u, a, ok, y, arr, words, r, p, amount)
SELECT start + id, i2, i4, i8, s, n, n2, f4, f8, t, c, l, v, b, w, d, ts, tz, tm, iv, m, j, u, a, ok, y, arr, words, r, p, amount FROM stored, unnest(ARRAY[2000, 3000]) AS start;
SELECT fraud.resume('tx');
UPDATE tx SET id = id WHERE id BETWEEN 2000 AND 2999;
-- and judged again where they lie
CALL fraud.remark('tx', NULL, NULL);
SELECT id / 1000 AS way, count(*), count(is_fraud) AS judged, count(fraud_rules) AS fired, min(cardinality(fraud_rules)) > 100 AS many FROM tx GROUP BY 1 ORDER BY 1;
CREATE TABLE fired AS SELECT id, substr(rule, 2)::int AS condition, left(rule, 1) AS kind FROM tx, unnest(fraud_rules) AS rule;
-- the interpreter says the same
SELECT c.condition, string_agg(DISTINCT kind, ' ') AS fired, count(DISTINCT f.id) AS rows
  FROM (SELECT id, condition, min(kind) AS kind FROM fired GROUP BY id, condition HAVING count(*) <> 2) AS f JOIN conditions AS c ON c.id = f.condition
 GROUP BY c.id, c.condition ORDER BY c.id LIMIT 10;
-- and so does the same condition in WHERE
SET TimeZone = 'UTC';
DO $$
BEGIN
    EXECUTE (SELECT format('INSERT INTO fired SELECT id, condition, ''w'' FROM tx, unnest(ARRAY[%s]) AS condition WHERE condition > 0',
                           string_agg(format('CASE WHEN %s THEN %s END', condition, id), ',' ORDER BY id))
               FROM conditions WHERE NOT raises);
END $$;
SELECT c.condition, string_agg(DISTINCT kind, ' ') AS fired, count(DISTINCT f.id) AS rows
  FROM (SELECT id, condition, min(kind) AS kind FROM fired WHERE kind <> 'i' GROUP BY id, condition HAVING count(*) <> 2) AS f JOIN conditions AS c ON c.id = f.condition
 WHERE NOT raises GROUP BY c.id, c.condition ORDER BY c.id LIMIT 10;
SET TimeZone = 'Pacific/Auckland';
-- is_fraud(row) and explain judge rows as a query hands them over
SELECT count(*) FILTER (WHERE fraud.is_fraud(tx) <> is_fraud) AS wrong FROM tx;
SELECT count(*) AS wrong FROM tx, fraud.explain(tx) AS e WHERE id BETWEEN 1001 AND 1017 AND e.fired <> (e.rule = ANY (fraud_rules));

-- a column that comes later is there in rows that are older, and columns lie
-- elsewhere in partitions
CREATE TABLE parts (k int, gone text, n numeric, t text) PARTITION BY LIST (k);
CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE part2 (t text, g1 int, g2 int, n numeric, k int);
ALTER TABLE part2 DROP g1, DROP g2;
ALTER TABLE parts DROP gone;
ALTER TABLE parts ATTACH PARTITION part2 FOR VALUES IN (2);
INSERT INTO parts SELECT 1 + g % 2, g, 'old' FROM generate_series(1, 4) AS g;
SELECT fraud.watch('parts');
SELECT fraud.add_rule('parts', 'n', 'n > 2'), fraud.add_rule('parts', 't', 't IN (''new'', ''old'') AND k = 2');
ALTER TABLE parts ADD late numeric DEFAULT 5, ADD later text DEFAULT 'x';
SELECT fraud.add_rule('parts', 'late', 'late = 5 AND later = ''x''');
INSERT INTO parts SELECT 1 + g % 2, g, 'new' FROM generate_series(1, 4) AS g;
CALL fraud.remark('parts', NULL, NULL);
SELECT k, n, t, fraud_rules FROM parts ORDER BY t, n;
DROP TABLE parts;

DROP SCHEMA plain CASCADE;
DELETE FROM fraud.rule_failures WHERE table_name = 'plain.tx';
