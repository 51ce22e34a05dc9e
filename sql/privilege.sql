-- Who may do what; PUBLIC may do nothing
\set SHOW_CONTEXT never
CREATE SCHEMA privilege;
SET search_path = privilege, public;
SET client_min_messages = warning;
CREATE ROLE privilege_nobody;
CREATE ROLE privilege_inserter;
CREATE ROLE privilege_admin;
GRANT fraud_admin TO privilege_admin;
CREATE ROLE privilege_operator;
GRANT fraud_operator TO privilege_operator;
GRANT USAGE, CREATE ON SCHEMA privilege TO privilege_admin, privilege_operator;
GRANT USAGE ON SCHEMA privilege TO privilege_inserter, privilege_nobody, fraud_bridge;

-- PUBLIC: no schema, no relation, no column, no function
SELECT nspname, (aclexplode(nspacl)).privilege_type FROM pg_namespace
WHERE nspname IN ('fraud', 'fraud_api') AND EXISTS (SELECT FROM aclexplode(nspacl) WHERE grantee = 0);
SELECT oid::regclass FROM pg_class
WHERE relnamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
  AND EXISTS (SELECT FROM aclexplode(relacl) WHERE grantee = 0);
SELECT attrelid::regclass, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE relnamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
  AND EXISTS (SELECT FROM aclexplode(attacl) WHERE grantee = 0);
SELECT oid::regprocedure FROM pg_proc
WHERE pronamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
  AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0);

-- Functions that run with the owner's rights have a fixed search_path
SELECT oid::regprocedure FROM pg_proc
WHERE pronamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace) AND prosecdef
  AND NOT coalesce(proconfig @> '{"search_path=pg_catalog, pg_temp"}', false);

-- Nobody writes to a table of the extension but the bridge, where it must
SELECT c.oid::regclass AS relation, r.rolname, string_agg(e.privilege_type, ', ' ORDER BY e.privilege_type) AS writes
FROM pg_class c, aclexplode(c.relacl) e JOIN pg_roles r ON r.oid = e.grantee
WHERE c.relnamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
  AND e.privilege_type NOT IN ('SELECT', 'USAGE') AND e.grantee <> c.relowner
GROUP BY c.oid, 2 ORDER BY c.oid::regclass::text, 2;
SELECT c.oid::regclass AS relation, a.attname, r.rolname, e.privilege_type
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) e JOIN pg_roles r ON r.oid = e.grantee
WHERE c.relnamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace) AND e.privilege_type <> 'SELECT'
ORDER BY c.oid::regclass::text, a.attnum, 3;

-- The roles cannot log in, and build on each other
SELECT r.rolname, r.rolcanlogin, r.rolsuper, r.rolcreaterole, r.rolbypassrls,
       ARRAY(SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid) AS member_of
FROM pg_roles r
WHERE r.rolname IN ('fraud_reader', 'fraud_analyst', 'fraud_admin', 'fraud_operator', 'fraud_bridge') ORDER BY 1;

CREATE TABLE payments (id bigserial PRIMARY KEY, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
GRANT INSERT ON payments TO privilege_inserter;
GRANT USAGE ON SEQUENCE payments_id_seq TO privilege_inserter;

-- A role without any right of ours still inserts, and the row is judged
SET ROLE privilege_inserter;
INSERT INTO payments (amount) VALUES (1000);
SELECT * FROM fraud.alerts;
SELECT * FROM fraud_api.alerts;
SELECT fraud.add_rule('payments', 'mine', 'false');
SELECT fraud.outer_role();
RESET ROLE;
SELECT is_fraud, fraud_rules FROM payments;
SELECT count(*) FROM fraud.alerts WHERE table_name LIKE 'privilege%';

-- Nobody
SET ROLE privilege_nobody;
SELECT fraud_api.check('payments', '{}');
SELECT fraud_api.windows('payments', '1 h');
SELECT count(*) FROM fraud.rules;
SELECT fraud.replay(1);
RESET ROLE;

-- Roles of ours on tables of others
SET ROLE privilege_admin;
CREATE TABLE own (id int, amount numeric);
SELECT fraud.watch('own');
SELECT fraud.add_source('own', 'topic', 'own');
SELECT fraud.add_source('other', 'topic', 'payments');
SELECT fraud.watch('payments');
SELECT fraud.set_position('own', 0, 5, dry_run => false);
SELECT fraud.accept_cluster('own', 'x');
SELECT fraud.report_source('own', true, 'x', 'y');
SELECT fraud.store_source(s) FROM fraud.source_config s;
SELECT fraud.grant_role('privilege_admin');
UPDATE fraud.source_config SET target = 'payments';
INSERT INTO fraud.alerts SELECT * FROM fraud.alerts;
DELETE FROM fraud.rule_versions;
RESET ROLE;
SET ROLE privilege_operator;
SELECT kafka_topic, new_position FROM fraud.set_position('own', 0, 5, dry_run => false);
SELECT fraud.pause_source('own');
SELECT fraud.alter_source('own', start => 'latest');
SELECT fraud.add_rule('own', 'x', 'true');
SELECT fraud_api.review_alert(1, 'confirmed');
UPDATE fraud.offsets SET next_offset = 0;
RESET ROLE;

-- A table in a schema that the bridge may not use
CREATE SCHEMA privilege_closed;
CREATE TABLE privilege_closed.payments (amount numeric);
ALTER TABLE privilege_closed.payments OWNER TO privilege_operator;
GRANT USAGE ON SCHEMA privilege_closed TO privilege_operator;
SET ROLE privilege_operator;
SELECT fraud.watch('privilege_closed.payments');
SELECT fraud.add_source('closed', 'topic', 'privilege_closed.payments');
RESET ROLE;
ALTER SCHEMA privilege_closed OWNER TO privilege_operator;
SET ROLE privilege_operator;
SELECT fraud.add_source('closed', 'topic', 'privilege_closed.payments');
RESET ROLE;
SELECT has_schema_privilege('fraud_bridge', 'privilege_closed', 'USAGE');

-- The bridge: what the daemon needs and no more
SET ROLE fraud_bridge;
SELECT count(*) FROM fraud.alerts WHERE table_name LIKE 'privilege%';
SELECT count(*) > 0 FROM fraud.source_config;
SELECT fraud.heartbeat('00000000-0000-0000-0000-000000000001');
INSERT INTO privilege_closed.payments (amount) VALUES (1);
SELECT * FROM privilege_closed.payments;
DELETE FROM fraud.dead_letters;
DELETE FROM fraud.alerts;
UPDATE fraud.source_config SET topic = 'x';
SELECT fraud.add_rule('fraud.alerts', 'x', 'true');
SELECT fraud.resume_source('own');
RESET ROLE;

-- Inside a function with its owner's rights, the caller is still the caller
CREATE FUNCTION lend() RETURNS void LANGUAGE sql SECURITY DEFINER
AS $$ SELECT fraud.pause_source('own') $$;
GRANT EXECUTE ON FUNCTION lend() TO privilege_nobody;
SET ROLE privilege_nobody;
SELECT lend();
RESET ROLE;

-- Nor does code of a table's owner become the superuser who reindexes it
SET ROLE privilege_operator;
CREATE TABLE trap (id int);
INSERT INTO trap VALUES (1);
CREATE FUNCTION spring(id int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT id';
CREATE INDEX ON trap (spring(id));
CREATE OR REPLACE FUNCTION spring(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM fraud.unwatch('privilege.payments');
    RETURN id;
END $$;
RESET ROLE;
REINDEX TABLE trap;
SELECT count(*) FROM fraud.watched WHERE target = 'payments'::regclass;

SELECT fraud.drop_source('own', forget => true);
SELECT fraud.drop_source('closed', forget => true);
TRUNCATE fraud.position_changes, fraud.alerts, fraud.reviews;
DROP SCHEMA privilege, privilege_closed CASCADE;
DROP ROLE privilege_nobody, privilege_inserter, privilege_admin, privilege_operator;
