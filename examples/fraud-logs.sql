-- Logs with an amount: frauds to BigQuery and to a view for the web.
--	psql -v bigquery_table=my-project.fraud.logs -f examples/fraud-logs.sql
\if :{?bigquery_table} \else \set bigquery_table demo.fraud.logs
\endif
CREATE EXTENSION IF NOT EXISTS pg_fraud;

CREATE TABLE IF NOT EXISTS fraud_logs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     text,
    amount      numeric,
    "timestamp" timestamptz DEFAULT now(),
    log         jsonb);                     -- the message, whatever it holds

SELECT fraud.watch('fraud_logs', event_time => 'timestamp', entity => 'user_id');
-- an amount that is missing or null is none
SELECT fraud.add_rule('fraud_logs', 'large_amount', 'amount > 1000', replace => true);

SELECT fraud.add_source('fraud-logs', 'fraud-logs', 'fraud_logs',
    mapping => '{"log": ""}', replace => true);
SELECT fraud.add_sink('fraud-logs', 'bigquery',
    jsonb_build_object('table', :'bigquery_table'), target => 'fraud_logs', replace => true);

-- GET /fraud_logs
CREATE OR REPLACE VIEW fraud_api.fraud_logs AS
SELECT id, user_id, amount, "timestamp" FROM fraud_logs WHERE is_fraud;
COMMENT ON VIEW fraud_api.fraud_logs IS 'Logs of more than 1000';
GRANT SELECT ON fraud_api.fraud_logs TO fraud_reader;
