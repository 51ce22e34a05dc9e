-- Four eyes: a change of a rule goes live when another person approves it
CREATE SCHEMA approval;
SET search_path = approval, public;
\set SHOW_CONTEXT never
SET client_min_messages = notice;

CREATE ROLE approval_maker;
CREATE ROLE approval_checker;
CREATE ROLE approval_owner;
GRANT fraud_admin TO approval_maker, approval_checker, approval_owner;
GRANT ALL ON SCHEMA approval TO approval_maker, approval_checker, approval_owner;
CREATE TABLE tx (id int, amount numeric);
ALTER TABLE tx OWNER TO approval_owner;
SET client_min_messages = warning;
SELECT fraud.watch('tx', approval => true);
SET client_min_messages = notice;
SELECT approval FROM fraud.watched WHERE target = 'tx'::regclass;

-- proposed: not in force
SET ROLE approval_maker;
SELECT fraud.add_rule('tx', 'big', 'amount > 500', description => 'large payments');
SELECT count(*) FROM fraud.rules WHERE target = 'tx'::regclass;
SELECT name, action, base_version, condition, proposed_by, status FROM fraud.rule_proposals ORDER BY id;
-- a wrong one is refused at once
SELECT fraud.add_rule('tx', 'wrong', 'amonut > 500');
-- nobody approves his own
SELECT fraud.approve_rule('tx', 'big');
RESET ROLE;
INSERT INTO tx VALUES (1, 1000) RETURNING is_fraud;

-- approved: in force, and both are named
SET ROLE approval_checker;
SELECT fraud.approve_rule('tx', 'big');
SELECT fraud.approve_rule('tx', 'big');
RESET ROLE;
INSERT INTO tx VALUES (2, 1000) RETURNING is_fraud, fraud_rules;
SELECT name, version, action, changed_by, approved_by FROM fraud.rule_versions WHERE table_name = 'approval.tx' ORDER BY id;

-- altered: the old version is in force until then; a later proposal takes the place of an earlier one
SET ROLE approval_maker;
SELECT fraud.alter_rule('tx', 'big', condition => 'amount > 100');
SELECT fraud.alter_rule('tx', 'big', condition => 'amount > 200', score => 2);
RESET ROLE;
INSERT INTO tx VALUES (3, 300) RETURNING is_fraud;
SELECT action, condition, status FROM fraud.rule_proposals ORDER BY id;
SET ROLE approval_checker;
SELECT fraud.approve_rule('tx', 'big');
RESET ROLE;
INSERT INTO tx VALUES (4, 300), (5, 150) RETURNING is_fraud, fraud_score;
SELECT * FROM fraud.rule_diff('tx', 'big');
SELECT * FROM fraud.rule_diff('tx', 'big', 1);
SELECT field, old, new FROM fraud.rule_diff('tx', 'big', version => 1, against => 2) WHERE field IN ('version', 'condition');
SELECT fraud.rule_diff('tx', 'big', 9);

-- rejected
SET ROLE approval_maker;
SELECT fraud.drop_rule('tx', 'big');
SET ROLE approval_checker;
SELECT fraud.reject_rule('tx', 'big', 'we need it');
SELECT fraud.reject_rule('tx', 'big');
RESET ROLE;
SELECT action, status, decided_by, note FROM fraud.rule_proposals ORDER BY id DESC LIMIT 1;
SELECT version FROM fraud.rules WHERE target = 'tx'::regclass;

-- dropped, and rolled back
SET ROLE approval_maker;
SELECT fraud.drop_rule('tx', 'big');
SET ROLE approval_checker;
SELECT fraud.approve_rule('tx', 'big');
SELECT fraud.rollback_rule('tx', 'big', 1);
SET ROLE approval_maker;
SELECT fraud.approve_rule('tx', 'big');
RESET ROLE;
SELECT name, version, action, condition, changed_by, approved_by FROM fraud.rule_versions WHERE table_name = 'approval.tx' ORDER BY id;

-- one person behind two roles of a gateway is one person
SET ROLE approval_maker;
SET request.jwt.claims = '{"sub": "alice"}';
SELECT fraud.alter_rule('tx', 'big', score => 5);
SET ROLE approval_checker;
SELECT fraud.approve_rule('tx', 'big');
SET request.jwt.claims = '{"sub": "bob"}';
SELECT fraud.approve_rule('tx', 'big');
RESET ROLE;
RESET request.jwt.claims;

-- nor does the role of a group make another person of who has logged in, whatever he says of himself
GRANT USAGE ON SCHEMA approval TO fraud_admin;
SET SESSION AUTHORIZATION approval_maker;
SELECT fraud.alter_rule('tx', 'big', score => 6);
SET ROLE fraud_admin;
SELECT fraud.approve_rule('tx', 'big');
SET request.jwt.claims = '{"sub": "carol"}';
SELECT fraud.approve_rule('tx', 'big');
SELECT fraud.alter_rule('tx', 'big', score => 7);
SET ROLE approval_maker;
SET request.jwt.claims = '{"sub": "dave"}';
SELECT fraud.approve_rule('tx', 'big');
RESET request.jwt.claims;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION approval_checker;
SELECT fraud.approve_rule('tx', 'big');
RESET SESSION AUTHORIZATION;
SELECT score, changed_by, actor, approved_by FROM fraud.rules WHERE target = 'tx'::regclass;
-- a gateway logs in for all of them, and has no rights of its own
CREATE ROLE approval_gateway NOINHERIT;
GRANT approval_maker, approval_checker TO approval_gateway;
SET SESSION AUTHORIZATION approval_gateway;
SET ROLE approval_maker;
SET request.jwt.claims = '{"sub": "alice"}';
SELECT fraud.alter_rule('tx', 'big', score => 5);
SET ROLE approval_checker;
SET request.jwt.claims = '{"sub": "bob"}';
SELECT fraud.approve_rule('tx', 'big');
RESET request.jwt.claims;
RESET SESSION AUTHORIZATION;
DROP ROLE approval_gateway;

-- it is not taken back by who may change rules
SET ROLE approval_owner;
SELECT fraud.watch('tx', approval => false);
SELECT fraud.watch('tx', threshold => 2);
SELECT approval, threshold FROM fraud.watched WHERE target = 'tx'::regclass;
RESET ROLE;
-- a change that was overtaken
SET ROLE approval_maker;
SELECT fraud.alter_rule('tx', 'big', score => 7);
RESET ROLE;
SELECT fraud.watch('tx', approval => false);
SELECT fraud.alter_rule('tx', 'big', score => 8);
SET ROLE approval_checker;
SELECT fraud.approve_rule('tx', 'big');
RESET ROLE;
SELECT name, version, score FROM fraud.rules WHERE target = 'tx'::regclass;

-- who may not
CREATE ROLE approval_clerk;
GRANT fraud_analyst TO approval_clerk;
GRANT USAGE ON SCHEMA approval TO approval_clerk;
SET ROLE approval_clerk;
SELECT fraud.approve_rule('tx', 'big');
SELECT fraud.reject_rule('tx', 'big');
SELECT count(*) > 0 AS may_see FROM fraud.rule_proposals;
RESET ROLE;

SET client_min_messages = error;
DROP SCHEMA approval CASCADE;
DROP ROLE approval_maker, approval_checker, approval_owner, approval_clerk;
