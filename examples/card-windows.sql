-- Card transactions: two rules, a topic of what they flag, and windows.
CREATE EXTENSION IF NOT EXISTS pg_fraud;
CREATE TABLE IF NOT EXISTS card_transactions (
    card_number text,                       -- 12 to 19 digits, never a number
    amount numeric, "timestamp" timestamp, city text, state text, merchant text);

SELECT fraud.watch('card_transactions', event_time => 'timestamp', entity => 'card_number');
SELECT fraud.add_rule('card_transactions', 'large_amount', 'amount > 500', replace => true);
SELECT fraud.add_rule('card_transactions', 'elsewhere', $$city <> 'San Francisco'$$, replace => true);
SELECT fraud.add_source('cards', 'credit_card_transactions', 'card_transactions',
    mapping => '{"city": "/location/city", "state": "/location/state"}', replace => true);
SELECT fraud.add_sink('flagged', 'kafka', jsonb_build_object('topic', 'flagged_transactions', 'value', $$
    json_build_object('card_number', transaction -> 'card_number', 'amount', transaction -> 'amount',
        'timestamp', transaction -> 'timestamp', 'location',
        json_build_object('city', transaction -> 'city', 'state', transaction -> 'state'))$$),
    target => 'card_transactions', replace => true);

-- Of what was flagged
CREATE OR REPLACE VIEW fraud_api.flagged_transactions AS
SELECT card_number, amount, "timestamp", city, state, merchant FROM card_transactions WHERE is_fraud;
CREATE OR REPLACE VIEW fraud_api.card_averages AS
SELECT card_number, avg(amount) AS avg_transaction_amount FROM fraud_api.flagged_transactions GROUP BY 1;
CREATE OR REPLACE VIEW fraud_api.city_totals AS
SELECT city, state, count(*) AS transaction_count FROM fraud_api.flagged_transactions GROUP BY 1, 2;
CREATE OR REPLACE VIEW fraud_api.amount_bands AS
SELECT card_number, CASE WHEN amount < 100 THEN 'Low' WHEN amount <= 500 THEN 'Medium'
    WHEN amount <= 1000 THEN 'High' WHEN amount > 1000 THEN 'Very High' END AS amount_category,
    count(*) AS transaction_count FROM fraud_api.flagged_transactions GROUP BY 1, 2;

-- Of all transactions
CREATE OR REPLACE VIEW fraud_api.transaction_windows AS SELECT window_start, window_end,
    transaction_count, total_amount, min_amount, max_amount FROM fraud_api.windows('card_transactions', '10 seconds');
CREATE OR REPLACE VIEW fraud_api.card_windows AS
SELECT card_number, w AS window_start, w + interval '10 minutes' AS window_end, count(*) AS txn_count
FROM card_transactions, date_bin('10 minutes', "timestamp", '1970-01-01') w WHERE w IS NOT NULL GROUP BY 1, 2;
CREATE OR REPLACE VIEW fraud_api.high_risk_merchants AS
SELECT card_number, amount, "timestamp", city, state, merchant FROM card_transactions
WHERE merchant IN ('ScamCorp', 'FraudTech', 'ShadyBiz');
GRANT SELECT ON card_transactions TO fraud_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA fraud_api TO fraud_reader;
