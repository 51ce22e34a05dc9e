-- Nobody gains rights by way of a row, or forges what rows say
CREATE SCHEMA security;
SET search_path = security, public;
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE ROLE security_owner;
CREATE ROLE security_clerk;
CREATE ROLE security_admin;
GRANT CREATE, USAGE ON SCHEMA security TO security_owner, security_clerk, security_admin;
GRANT fraud_admin TO security_admin;
SET ROLE security_owner;
CREATE TABLE tx (id int, amount numeric, note text);
GRANT INSERT ON tx TO security_clerk;
GRANT SELECT (id), UPDATE ON tx TO security_clerk;

-- owning the table is not enough to watch it, nor is the role without it
SELECT fraud.watch('security.tx');
RESET ROLE;
SET ROLE security_admin;
SELECT fraud.watch('security.tx');
RESET ROLE;
GRANT security_owner TO security_admin;
SET ROLE security_admin;
SELECT fraud.watch('security.tx');
SELECT fraud.add_rule('security.tx', 'big', 'amount > 500');
RESET ROLE;
SELECT watched_by FROM fraud.watched WHERE target = 'tx'::regclass;
SELECT changed_by FROM fraud.rules WHERE target = 'tx'::regclass;

-- a role without any rights here still inserts, is judged and leaves an alert
SET ROLE security_clerk;
INSERT INTO tx VALUES (1, 1000, 'clerk'), (2, 1, 'clerk');
COPY tx (id, amount) FROM stdin;
3	1000
\.
UPDATE tx SET is_fraud = false, fraud_alert_id = NULL;
SELECT fraud.add_rule('security.tx', 'mine', 'true');
SELECT * FROM fraud.alerts;
INSERT INTO fraud.alerts SELECT * FROM fraud.alerts;
DELETE FROM fraud.rule_config;
SELECT fraud.begin_batch('a', 'b', 0, 'c');
RESET ROLE;
SELECT id, is_fraud, fraud_alert_id IS NOT NULL AS alert FROM tx ORDER BY id;
SELECT count(*) FROM fraud.alerts WHERE table_name = 'security.tx';

-- the trigger functions are not for anybody's triggers
SET ROLE security_clerk;
CREATE TABLE own (id int, is_fraud boolean, fraud_score numeric, fraud_rules text[], fraud_alert_id bigint);
CREATE TRIGGER forge AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION fraud.ledger();
RESET ROLE;
GRANT USAGE ON SCHEMA fraud TO security_clerk;
SET ROLE security_clerk;
CREATE TRIGGER forge AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION fraud.ledger();
RESET ROLE;
REVOKE USAGE ON SCHEMA fraud FROM security_clerk;
SELECT fraud.mark();

-- the owner's own trigger behind the marks cannot make an alert of its own
SET ROLE security_owner;
CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.is_fraud := true; NEW.fraud_alert_id := 1; RETURN NEW; END $$;
CREATE TRIGGER "~~~forge" BEFORE INSERT ON tx FOR EACH ROW WHEN (NEW.id = 9) EXECUTE FUNCTION forge();
INSERT INTO tx VALUES (9, 1);
DROP TRIGGER "~~~forge" ON tx;
RESET ROLE;
SELECT count(*) FROM fraud.alerts WHERE table_name = 'security.tx';

-- a user type's cast to json runs as the inserter
SET ROLE security_owner;
CREATE TYPE point2 AS (x int, y int);
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE FUNCTION colour_json(colour) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'cast by % for %', current_user, session_user = current_user;
    RETURN json_build_object('colour', $1::text);
END $$;
CREATE CAST (colour AS json) WITH FUNCTION colour_json(colour);
CREATE TABLE coloured (id int, c colour, cs colour[]);
GRANT INSERT ON coloured TO security_clerk;
RESET ROLE;
GRANT USAGE ON TYPE colour TO security_clerk;
SELECT fraud.watch('coloured');
SELECT fraud.add_rule('coloured', 'all', 'true');
SET client_min_messages = notice;
SET ROLE security_clerk;
INSERT INTO coloured VALUES (1, 'red', '{blue}');
RESET ROLE;
SET client_min_messages = warning;
SELECT transaction FROM fraud.alerts WHERE table_name = 'security.coloured';

-- row security of the table does not stand in the way of its judging
SET ROLE security_owner;
ALTER TABLE tx ENABLE ROW LEVEL SECURITY;
CREATE POLICY clerk ON tx FOR INSERT TO security_clerk WITH CHECK (amount < 5000);
SET ROLE security_clerk;
INSERT INTO tx VALUES (20, 1000);
INSERT INTO tx VALUES (21, 6000);
RESET ROLE;
SELECT id, is_fraud FROM tx WHERE id >= 20;

-- who may change what
SET ROLE security_owner;
SELECT fraud.pause('security.tx');
SELECT fraud.unwatch('security.tx');
SELECT fraud.drop_rule('security.tx', 'big');
RESET ROLE;
SET ROLE security_admin;
SELECT fraud.fold_counters();
SELECT fraud.run_on_table('security.tx', '{}');
SELECT fraud.save_rule(NULL, 'add');
UPDATE fraud.rule_config SET condition = 'true';
UPDATE fraud.alerts SET score = 0;
SELECT nextval('fraud.alerts_id_seq');
RESET ROLE;
CREATE ROLE security_operator;
GRANT fraud_operator TO security_operator;
GRANT USAGE ON SCHEMA security TO security_operator;
SET ROLE security_operator;
SELECT fraud.add_rule('security.tx', 'x', 'true');
SELECT fraud.pause('security.tx');
SELECT fraud.resume('security.tx');
SELECT fraud.unwatch('security.tx');
RESET ROLE;

-- a wrapper with an owner's rights lends none: the outer role counts
CREATE FUNCTION lend() RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ SELECT fraud.add_rule('security.tx', 'lent', 'true') $$;
GRANT EXECUTE ON FUNCTION lend() TO security_clerk;
SET ROLE security_clerk;
SELECT lend();
RESET ROLE;

-- nor does a maintenance command that runs an owner's code
SET ROLE security_admin;
CREATE FUNCTION sneak() RETURNS int LANGUAGE plpgsql AS $$
BEGIN PERFORM fraud.pause('security.tx'); RETURN 1; END $$;
CREATE MATERIALIZED VIEW sneaky AS SELECT sneak() WITH NO DATA;
RESET ROLE;
REFRESH MATERIALIZED VIEW sneaky;

-- a domain's check in a condition runs with no rights but its author's
SET ROLE security_admin;
CREATE FUNCTION look(int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN RAISE WARNING 'look as %', current_user; RETURN true; END $$;
CREATE DOMAIN nosy AS int CHECK (look(VALUE));
SELECT fraud.add_rule('security.tx', 'nosy', 'id = 5::security.nosy');
RESET ROLE;
SELECT count(*) FROM fraud.rules WHERE target = 'tx'::regclass;
INSERT INTO tx VALUES (30, 1);

DROP SCHEMA security CASCADE;
DROP ROLE security_owner, security_clerk, security_admin, security_operator;
