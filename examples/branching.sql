-- Transactions split in two topics, unchanged: legit and fraud.
CREATE EXTENSION IF NOT EXISTS pg_fraud;

-- The messages have neither id nor time: a row's place in Kafka is its name,
-- and the record's time is its time.
CREATE TABLE IF NOT EXISTS transactions (
    source      text,
    target      text,
    amount      numeric,
    currency    text,
    received_at timestamptz);

SELECT fraud.watch('transactions', event_time => 'received_at', entity => 'source');
-- the limit stands here and nowhere else; no amount is no fraud
SELECT fraud.add_rule('transactions', 'large_amount', 'amount >= 900', replace => true);

SELECT fraud.add_source('transactions', 'queueing.transactions', 'transactions',
    mapping     => '{"received_at": "@timestamp"}',
    fraud_topic => 'streaming.transactions.fraud',
    legit_topic => 'streaming.transactions.legit',
    replace     => true);
