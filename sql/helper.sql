-- Helpers for rules
-- great circles: a quarter of the Earth, the poles, cities, next to nothing, nowhere
SELECT round(fraud.distance_km(0, 0, 0, 90)::numeric, 3) AS quarter,
       round(fraud.distance_km(90, 0, -90, 77)::numeric, 3) AS half,
       round(fraud.distance_km(48.8566, 2.3522, 51.5074, -0.1278)::numeric, 1) AS paris_london,
       round(fraud.distance_km(0, 179.999, 0, -179.999)::numeric, 3) AS date_line,
       fraud.distance_km(10, 20, 10, 20) AS none;
SELECT fraud.distance_km(91, 0, 0, 0), fraud.distance_km(0, 'NaN', 0, 0), fraud.distance_km(0, 0, 'Infinity', 0),
       fraud.distance_km(0, 181, 0, 0), fraud.distance_km(NULL, 0, 0, 0);
-- check digits
SELECT n, fraud.luhn(n) FROM unnest(ARRAY['4111111111111111', '4111 1111 1111 1111', '4111-1111-1111-1112',
    '79927398713', '79927398710', '0', '', '00', '41111111111111111111', '4111x', NULL]) n;
-- brands
SELECT n, fraud.card_brand(n) FROM unnest(ARRAY['4111111111111111', '5555555555554444', '2221000000000009', '2720999999999996',
    '2721000000000004', '378282246310005', '6011111111111117', '6500000000000002', '3530111333300000', '30569309025904',
    '38520000023237', '6240008631401148', '2200000000000004', '6759649826438453', '4111 11** **** 1111', '41111', '9999999999999999', '', 'visa']) n;
-- domains
SELECT a, fraud.email_domain(a) FROM unnest(ARRAY['Eve@Example.COM', 'a@b@c.org', 'x@y.org. ', '@example.com', 'x@', 'none', '', '@']) a;
-- addresses
SELECT a, fraud.ip_in(a, '10.0.0.0/8') AS ten, fraud.ip_in(a, '2001:db8::/32') AS doc, fraud.ip_in(a, '0.0.0.0/0') AS v4
FROM unnest(ARRAY['10.1.2.3', '11.1.2.3', '2001:db8::1', '2001:db9::1', '::ffff:10.0.0.1', '010.1.2.3', '10.1.2', '10.1.2.3/8', '', 'x']) a;
SELECT fraud.ip_in('10.0.0.1', 'ten');
-- hours on the clocks of a place
SELECT fraud.hour_in('2026-01-15 23:30Z', 'Europe/Paris') AS winter, fraud.hour_in('2026-07-15 23:30Z', 'Europe/Paris') AS summer,
       fraud.hour_in('2026-07-15 23:30Z', 'Asia/Kolkata') AS half, fraud.hour_in('infinity', 'UTC') AS never;
SELECT fraud.hour_in('2026-07-15 23:30Z', 'Mars/Olympus');
-- similar texts
SELECT a, b, m, fraud.similar(a, b, m) FROM (VALUES ('kitten', 'sitting', 3), ('kitten', 'sitting', 2), ('a', 'a', 0), ('a', 'b', 0),
    ('', 'abc', 3), ('', 'abc', 2), ('abc', '', 100), ('a', 'b', -1), ('ACME Ltd', 'ACNE Ltd', 1)) v(a, b, m);
SELECT fraud.similar(repeat('a', 300), repeat('a', 300), 0) AS equal, fraud.similar(repeat('a', 300), repeat('a', 299), 5) AS long,
       fraud.similar(repeat('a', 255), repeat('a', 250), 5) AS short;

-- in rules: by name alone or with the schema, whoever inserts
CREATE SCHEMA helping;
SET search_path = helping;
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE TABLE payments (id int, card text, ip text, lat float8, lon float8, happened timestamptz, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'luhn', 'NOT luhn(card)');
SELECT fraud.add_rule('payments', 'brand', 'fraud.card_brand(card) = ''amex'' AND amount > 10');
SELECT fraud.add_rule('payments', 'far', 'fraud.distance_km(lat, lon, 48.85, 2.35) > 1000');
SELECT fraud.add_rule('payments', 'net', 'ip_in(ip, ''10.0.0.0/8'')');
SELECT fraud.add_rule('payments', 'night', 'hour_in(happened, ''Europe/Paris'') BETWEEN 1 AND 4');
SELECT fraud.add_rule('payments', 'nested', 'fraud.similar(coalesce(card_brand(card), ''''), ''vise'', amount::int)');
SELECT fraud.add_rule('payments', 'bad', 'fraud.luhn(amount)');
SELECT fraud.add_rule('payments', 'bad', 'fraud.luhn(card, card)');
SELECT fraud.add_rule('payments', 'bad', 'fraud.ip_in(ip, ''10.0.0.0/99'')');
SELECT fraud.add_rule('payments', 'bad', 'luhn(crad)');
CREATE ROLE helping_inserter;
GRANT USAGE ON SCHEMA helping TO helping_inserter;
GRANT INSERT, SELECT ON payments TO helping_inserter;
SET ROLE helping_inserter;
INSERT INTO payments VALUES
    (1, '4111111111111111', '10.0.0.1', 40.7, -74, '2026-01-15 02:00Z', 1),
    (2, '378282246310005', '11.0.0.1', 48.8, 2.3, '2026-01-15 12:00Z', 11),
    (3, 'x', 'x', 100, 0, NULL, 1e30) RETURNING id, fraud_rules;
SELECT fraud.luhn('1');
RESET ROLE;
SELECT rule, message FROM fraud.rule_failures WHERE table_name = 'helping.payments';
SET client_min_messages = error;
DROP SCHEMA helping CASCADE;
DROP ROLE helping_inserter;
DELETE FROM fraud.rule_failures;
