-- Payments: an alert on a topic for each fraud, and a view of them.
CREATE EXTENSION IF NOT EXISTS pg_fraud;

-- transaction_id is no key: it collides, and each message is stored.
CREATE TABLE IF NOT EXISTS payment_transactions (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint,
    "timestamp"    timestamp,
    user_id        int,
    card_number    text,
    amount         numeric);

SELECT fraud.watch('payment_transactions', event_time => 'timestamp', entity => 'user_id');
CREATE INDEX IF NOT EXISTS payment_alerts ON payment_transactions ("timestamp", id) WHERE is_fraud;
SELECT fraud.add_rule('payment_transactions', 'large_amount', 'amount > 500', replace => true);

SELECT fraud.add_source('payments', 'payment-transactions', 'payment_transactions', replace => true);
-- five fields, in this order, and no card number
SELECT fraud.add_sink('fraud-alerts', 'kafka', jsonb_build_object('topic', 'fraud-alerts', 'value', $$
    json_build_object(
        'transaction_id', transaction -> 'transaction_id',
        'user_id', transaction -> 'user_id',
        'amount', transaction -> 'amount',
        'timestamp', replace(transaction ->> 'timestamp', 'T', ' '),
        'alert', 'Fraudulent transaction detected!')$$),
    target => 'payment_transactions', replace => true);

-- GET /payment_alerts?user_id=eq.42&order=timestamp.desc&limit=20
CREATE OR REPLACE VIEW fraud_api.payment_alerts AS
SELECT transaction_id, user_id, amount, "timestamp",
       'Fraudulent transaction detected!' AS alert
FROM payment_transactions WHERE is_fraud
ORDER BY "timestamp" DESC, id DESC;
COMMENT ON VIEW fraud_api.payment_alerts IS 'Payments that are fraud, newest first';
GRANT SELECT ON fraud_api.payment_alerts TO fraud_reader;
