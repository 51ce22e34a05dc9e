-- Roles that somebody uses already are not granted anything silently
\set SHOW_CONTEXT never
SELECT current_database() AS home \gset
CREATE ROLE role_member;
CREATE ROLE role_other;
GRANT fraud_reader TO role_member;
GRANT fraud_operator TO role_member;
CREATE DATABASE role_test;
\c role_test
CREATE EXTENSION pg_fraud;

-- Neither directly nor through a role that was not in use
SELECT rolname, has_schema_privilege(rolname, 'fraud', 'USAGE') AS schema,
       has_table_privilege(rolname, 'fraud_api.alerts', 'SELECT') AS alerts,
       has_column_privilege(rolname, 'fraud.dead_letters', 'reason', 'SELECT') AS column,
       has_function_privilege(rolname, 'fraud.pause_source(text)', 'EXECUTE') AS function
FROM pg_roles WHERE rolname IN ('fraud_reader', 'fraud_operator', 'fraud_admin', 'role_member') ORDER BY 1;
SELECT role, count(*) > 0 AS withheld FROM fraud.withheld_grants GROUP BY role ORDER BY role;
SET ROLE role_member;
SELECT count(*) FROM fraud_api.alerts;
SELECT fraud.grant_role('fraud_reader');
RESET ROLE;

-- The statement that the warning names
SELECT fraud.grant_role('fraud_reader');
SET ROLE role_member;
SELECT count(*) FROM fraud_api.alerts;
SELECT count(*) FROM fraud_api.dead_letters;
SELECT fraud.pause_source('x');
RESET ROLE;
SELECT fraud.grant_role('fraud_operator');
SET ROLE role_member;
SELECT fraud.pause_source('x');
RESET ROLE;
SELECT fraud.grant_role('fraud_reader');
SELECT fraud.grant_role('role_other');
SELECT count(*) FROM fraud.withheld_grants;

-- Then every right is what it would have been
CREATE FUNCTION pg_temp.grants() RETURNS TABLE (object text, privilege_type text, grantee name) LANGUAGE sql AS $$
SELECT c.oid::regclass::text, e.privilege_type, pg_get_userbyid(e.grantee)
FROM pg_class c, aclexplode(c.relacl) e WHERE c.relnamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
UNION ALL
SELECT c.oid::regclass::text || '.' || a.attname, e.privilege_type, pg_get_userbyid(e.grantee)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) e
WHERE c.relnamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
UNION ALL
SELECT p.oid::regprocedure::text, e.privilege_type, pg_get_userbyid(e.grantee)
FROM pg_proc p, aclexplode(p.proacl) e WHERE p.pronamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
UNION ALL
SELECT n.nspname, e.privilege_type, pg_get_userbyid(e.grantee)
FROM pg_namespace n, aclexplode(n.nspacl) e WHERE n.nspname IN ('fraud', 'fraud_api')
$$;
CREATE TEMP TABLE granted AS SELECT * FROM pg_temp.grants();
DROP EXTENSION pg_fraud;
DROP ROLE role_member;
CREATE EXTENSION pg_fraud;
SELECT count(*) FROM fraud.withheld_grants;
WITH now AS (SELECT * FROM pg_temp.grants()), difference AS (
    (SELECT 'lost' AS what, * FROM (TABLE now EXCEPT ALL TABLE granted) l)
    UNION ALL
    (SELECT 'too much', * FROM (TABLE granted EXCEPT ALL TABLE now) m))
SELECT * FROM difference ORDER BY 1, 2;

-- A role that can log in
DROP EXTENSION pg_fraud;
ALTER ROLE fraud_bridge LOGIN;
CREATE EXTENSION pg_fraud;
SELECT has_schema_privilege('fraud_bridge', 'fraud', 'USAGE');
ALTER ROLE fraud_bridge NOLOGIN;
SELECT fraud.grant_role('fraud_bridge');
SELECT has_schema_privilege('fraud_bridge', 'fraud', 'USAGE');

-- The extension goes with all that was exposed
SET client_min_messages = warning;
CREATE TABLE payments (amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.expose('payments');
\set VERBOSITY terse
DROP EXTENSION pg_fraud;
DROP EXTENSION pg_fraud CASCADE;
INSERT INTO payments VALUES (1);
\c :home
DROP DATABASE role_test;
DROP ROLE role_other;
