-- What people make of alerts
\set SHOW_CONTEXT never
CREATE SCHEMA review;
SET search_path = review, public;
SET client_min_messages = warning;
CREATE ROLE review_anna;
GRANT fraud_analyst TO review_anna;
CREATE ROLE review_reader;
GRANT fraud_reader TO review_reader;
CREATE TABLE payments (id int PRIMARY KEY, amount numeric);
CREATE TABLE closed (id int PRIMARY KEY, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.watch('closed');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_rule('closed', 'large', 'amount > 500');
SELECT fraud.expose('payments');
INSERT INTO payments VALUES (1, 1000), (2, 2000);
INSERT INTO closed VALUES (1, 1000);
SELECT fraud_alert_id AS alert FROM payments WHERE id = 1 \gset
SELECT fraud_alert_id AS other FROM payments WHERE id = 2 \gset
SELECT fraud_alert_id AS closed FROM closed \gset

-- Every decision is kept, the latest counts
SET ROLE review_anna;
SELECT transaction ->> 'id' AS id, status, reviewed_by, note, reviewed_at <= now() AS at
FROM fraud_api.review_alert(:alert, 'confirmed', 'called the customer');
SELECT status, note FROM fraud_api.review_alert(:alert, 'dismissed');
SELECT status FROM fraud_api.review_alert(id => :alert, status => 'open', note => 'again');
SELECT id, status FROM fraud_api.payments_frauds ORDER BY id;
SELECT transaction ->> 'id' AS id, status, reviewed_by, note FROM fraud_api.alerts;
SELECT status, reviewed_by, actor, note FROM fraud.reviews ORDER BY id;
-- behind a gateway, the person is the subject of the token
SET request.jwt.claims = '{"role": "fraud_analyst", "sub": "anna@example.org"}';
SELECT status, reviewed_by FROM fraud_api.review_alert(:other, 'confirmed');
SET request.jwt.claims = 'no json';
SELECT status, reviewed_by FROM fraud_api.review_alert(:other, 'dismissed');
RESET request.jwt.claims;
SELECT status, reviewed_by, actor FROM fraud.reviews ORDER BY id DESC LIMIT 2;

-- What cannot be said, and of which alerts nothing
\set VERBOSITY sqlstate
SELECT fraud_api.review_alert(0, 'confirmed');
SELECT fraud_api.review_alert(NULL, 'confirmed');
SELECT fraud_api.review_alert(:closed, 'confirmed');
SELECT fraud_api.review_alert(:alert, 'cleared');
SELECT fraud_api.review_alert(:alert, NULL);
\set VERBOSITY default
SELECT fraud_api.review_alert(0, 'confirmed');
SELECT fraud_api.review_alert(:alert, 'fine');
-- nor past the function
INSERT INTO fraud.reviews (alert_id, status) VALUES (:alert, 'cleared');
INSERT INTO fraud.reviews (alert_id, status) VALUES (:closed, 'confirmed');
INSERT INTO fraud.reviews (alert_id, status, reviewed_by) VALUES (:alert, 'confirmed', 'somebody');
UPDATE fraud.reviews SET status = 'confirmed';
DELETE FROM fraud.reviews;
DELETE FROM fraud.alerts;
-- a reader does not review
SET ROLE review_reader;
SELECT fraud_api.review_alert(:alert, 'confirmed');
SELECT count(*) FROM fraud.reviews;
RESET ROLE;
REVOKE SELECT ON payments FROM fraud_reader;
SET ROLE review_reader;
SELECT count(*) FROM fraud.reviews;
RESET ROLE;

TRUNCATE fraud.alerts, fraud.reviews;
DROP SCHEMA review CASCADE;
DROP ROLE review_anna, review_reader;
