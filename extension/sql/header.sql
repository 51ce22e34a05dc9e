-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_fraud" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

COMMENT ON SCHEMA fraud IS 'pg_fraud: fraud rules, alerts, sources and sinks';

CREATE SCHEMA fraud_api;
COMMENT ON SCHEMA fraud_api IS 'pg_fraud
Alerts, rules, sources and sinks as views and functions, ready for a Postgres HTTP gateway.';
