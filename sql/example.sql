-- The worked examples: each can be run, and run again, and judges as it says
\set SHOW_CONTEXT never
SET client_min_messages = warning;
\set ECHO none
\o /dev/null
\i examples/fraud-logs.sql
\i examples/fraud-logs.sql
\set bigquery_table shop-1234.fraud.logs
\i examples/fraud-logs.sql
\i examples/branching.sql
\i examples/branching.sql
\i examples/payment-alerts.sql
\i examples/payment-alerts.sql
\i examples/card-windows.sql
\i examples/card-windows.sql
\o
\set ECHO all
SELECT target, name, version, condition, state FROM fraud.rules ORDER BY id;
SELECT name, topic, target, mapping, fraud_topic, legit_topic FROM fraud.sources ORDER BY name;
SELECT name, kind, target, options ->> 'topic' AS topic, options ->> 'table' AS "table" FROM fraud.sinks ORDER BY name;

-- Edges of the limits; what is missing is no fraud
INSERT INTO fraud_logs (user_id, amount) VALUES ('u1', 1000), ('u2', 1000.01), ('u3', NULL), (NULL, 1500);
INSERT INTO transactions (amount) VALUES (899.99), (900.00), (900.0), (NULL);
INSERT INTO payment_transactions (transaction_id, "timestamp", user_id, card_number, amount)
VALUES (4821, '2024-10-03 12:11:09', 42, '4514301638447', 731.55),
       (4821, '2024-10-03 12:11:10', 43, '4514301638447', 500.00),
       (4821, '2024-10-03 12:11:11', 44, '4514301638447', 500.01),
       (4822, '2024-10-03 12:11:12', 44, '4514301638447', NULL);
INSERT INTO card_transactions VALUES
    ('503802807415', 342.57, '1975-03-02T19:01:43', 'West Christopher', 'AZ', 'Jones and Sons'),
    ('4496316271529292080', 500.00, '2025-03-11T10:12:50', 'San Francisco', 'CA', 'ScamCorp'),
    ('4496316271529292080', 611.39, '2025-03-11T10:12:59.999', 'San Francisco', 'CA', 'ShadyBiz'),
    ('4496316271529292080', 1000.00, '2025-03-11T10:13:00', 'Julieshire', 'KY', 'FraudTech'),
    ('4496316271529292080', 1000.01, '2025-03-11T10:20:00', 'Julieshire', 'KY', 'fraudtech'),
    ('4496316271529292080', 99.99, '2025-03-11T10:20:00', 'Julieshire', 'KY', NULL),
    ('4496316271529292080', NULL, '2025-03-11T10:20:00', 'Julieshire', 'KY', NULL),
    ('4496316271529292080', 100, '2025-03-11T10:20:00', NULL, NULL, NULL);
CREATE ROLE example_reader;
GRANT fraud_reader TO example_reader;
SET ROLE example_reader;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT user_id, amount, "timestamp" <= now() AS "timestamp" FROM fraud_api.fraud_logs ORDER BY id;
SELECT * FROM fraud_api.payment_alerts;
SELECT * FROM fraud_api.flagged_transactions ORDER BY "timestamp", amount;
SELECT * FROM fraud_api.card_averages ORDER BY 1;
SELECT * FROM fraud_api.city_totals ORDER BY 1;
SELECT * FROM fraud_api.amount_bands ORDER BY 1, 2;
SELECT * FROM fraud_api.transaction_windows;
SELECT * FROM fraud_api.card_windows ORDER BY 2, 1;
SELECT * FROM fraud_api.high_risk_merchants ORDER BY 3;
RESET ROLE;
RESET TimeZone;
RESET DateStyle;
SELECT amount, is_fraud FROM transactions ORDER BY amount;

SELECT fraud.drop_source(name, forget => true) FROM fraud.sources;
SELECT fraud.drop_sink(name) FROM fraud.sinks;
DROP TABLE fraud_logs, transactions, payment_transactions, card_transactions CASCADE;
TRUNCATE fraud.alerts, fraud.position_changes;
DROP ROLE example_reader;
