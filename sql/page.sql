--
-- The alerts page, and the functions that it calls
--
CREATE SCHEMA page;
SET search_path = page, public;
SET client_min_messages = warning;
\set VERBOSITY terse

CREATE TABLE payments (id int, amount numeric, city text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500', description => 'Rare');
SELECT fraud.add_rule('payments', 'far', $$city = 'Far'$$, score => 2);
INSERT INTO payments SELECT i, i * 100, CASE WHEN i = 10 THEN 'Far' END
FROM generate_series(1, 10) i;
SELECT fraud.alter_rule('payments', 'large', condition => 'amount > 400');
SELECT fraud.drop_rule('payments', 'far');
-- hours apart
UPDATE fraud.alerts SET detected_at = timestamptz '2026-01-01 00:00Z'
    + (transaction ->> 'id')::int * interval '10 min'
WHERE table_name = 'page.payments';

-- the document, its policy and the headers
SELECT left(fraud_api.page(), 15);
BEGIN;
SELECT length(fraud_api.page()) > 10000 AS page;
SELECT h.key AS header
FROM jsonb_array_elements(current_setting('response.headers')::jsonb) e, jsonb_each_text(e) h
ORDER BY 1;
SELECT current_setting('response.headers') LIKE '%default-src ''none''%' AS policy;
COMMIT;
-- set for the transaction only
SELECT current_setting('response.headers', true) LIKE '%default-src%' AS policy;
SELECT fraud.page_policy() LIKE '%' || encode(sha256(convert_to(fraud.page_js(), 'UTF8')), 'base64') || '%' AS script,
       fraud.page_policy() LIKE '%' || encode(sha256(convert_to(fraud.page_css(), 'UTF8')), 'base64') || '%' AS style,
       fraud.page_policy() ~ 'unsafe|\*|http' AS lax;
-- ASCII, so that it is the same in every encoding; no part may end the other
SELECT fraud.page_html() || fraud.page_css() || fraud.page_js() ~ '[^\x01-\x7f]' AS beyond_ascii,
       fraud.page_js() ~* '</script' AS script_ends, fraud.page_css() ~* '</style' AS style_ends,
       fraud_api.page() ~ '@(style|script)@' AS placeholders \gx

-- why: the rule as it was
SELECT e.rule, e.version, e.score, e.condition, e.description, e.current_version
FROM fraud.alerts a, fraud_api.explain_alert(a.id) e
WHERE a.table_name = 'page.payments' AND a.transaction ->> 'id' = '10';
SELECT * FROM fraud_api.explain_alert(-1);
SELECT * FROM fraud_api.explain_alert(NULL);

-- how many, when
SELECT fraud_api.review_alert(id, 'confirmed') IS NULL AS failed FROM fraud.alerts
WHERE table_name = 'page.payments' AND transaction ->> 'id' IN ('6', '10');
SET TimeZone = 'UTC';
SELECT * FROM fraud_api.alert_counts('1 hour', '2026-01-01 00:00Z', '2026-01-02 00:00Z',
    table_name => 'page.payments');
SELECT * FROM fraud_api.alert_counts('1 hour', '2026-01-01 00:00Z', '2026-01-02 00:00Z',
    table_name => 'page.payments', rule => 'far', min_score => 3);
-- since is inclusive, until exclusive
SELECT sum(alerts) FROM fraud_api.alert_counts('1 day', '2026-01-01 01:10Z', '2026-01-01 01:30Z',
    table_name => 'page.payments');
SELECT count(*) FROM fraud_api.alert_counts('1 day', '2026-01-02 00:00Z', '2026-01-01 00:00Z');
-- refused
SELECT * FROM fraud_api.alert_counts('0');
SELECT * FROM fraud_api.alert_counts('-1 hour');
SELECT * FROM fraud_api.alert_counts(NULL);
SELECT * FROM fraud_api.alert_counts('1 month');
SELECT * FROM fraud_api.alert_counts('1 s', '2020-01-01', '2026-01-01');
SELECT * FROM fraud_api.alert_counts('1 day', '-infinity', '2026-01-01');
SELECT * FROM fraud_api.alert_counts('1 day', NULL, 'infinity');
SELECT fraud_api.replay(-1);

-- who may
CREATE ROLE page_nobody;
CREATE ROLE page_reader IN ROLE fraud_reader;
SET ROLE page_nobody;
SELECT fraud_api.page();
RESET ROLE;
GRANT USAGE ON SCHEMA fraud_api TO page_nobody;
GRANT EXECUTE ON FUNCTION fraud_api.page() TO page_nobody;
SET ROLE page_nobody;
SELECT length(fraud_api.page()) > 10000 AS page;
SELECT fraud.page_js();
SELECT * FROM fraud_api.alert_counts();
SELECT * FROM fraud_api.explain_alert(1);
SET ROLE page_reader;
-- not of tables that he may not read
SELECT count(*) FROM fraud_api.alert_counts('1 hour', '2026-01-01', '2026-01-02',
    table_name => 'page.payments');
SELECT fraud_api.replay(-1);
RESET ROLE;
GRANT USAGE ON SCHEMA page TO page_reader;
GRANT SELECT ON payments TO page_reader;
SET ROLE page_reader;
SELECT sum(alerts), sum(confirmed) AS confirmed FROM fraud_api.alert_counts('1 hour', '2026-01-01', '2026-01-02',
    table_name => 'page.payments');
RESET ROLE;

REVOKE USAGE ON SCHEMA fraud_api FROM page_nobody;
REVOKE EXECUTE ON FUNCTION fraud_api.page() FROM page_nobody;
DROP SCHEMA page CASCADE;
DROP ROLE page_nobody, page_reader;
