--
-- backtest.sql: a condition over stored rows
--

CREATE FUNCTION fraud.tally_add(internal, boolean, numeric, boolean, boolean) RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_add';
COMMENT ON FUNCTION fraud.tally_add(internal, boolean, numeric, boolean, boolean) IS 'Of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_combine(internal, internal) RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_combine';
COMMENT ON FUNCTION fraud.tally_combine(internal, internal) IS 'Of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_serialize(internal) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_serialize';
COMMENT ON FUNCTION fraud.tally_serialize(internal) IS 'Of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_deserialize(bytea, internal) RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_deserialize';
COMMENT ON FUNCTION fraud.tally_deserialize(bytea, internal) IS 'Of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_result(internal) RETURNS numeric[]
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_result';
COMMENT ON FUNCTION fraud.tally_result(internal) IS 'Of the aggregate fraud.tally';

CREATE AGGREGATE fraud.tally(hit boolean, amount numeric, marked boolean, confirmed boolean) (
    SFUNC = fraud.tally_add, STYPE = internal, SSPACE = 128,
    FINALFUNC = fraud.tally_result, COMBINEFUNC = fraud.tally_combine,
    SERIALFUNC = fraud.tally_serialize, DESERIALFUNC = fraud.tally_deserialize,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE fraud.tally(boolean, numeric, boolean, boolean) IS
'For fraud.backtest: rows, hits, hits that are marked, confirmed, dismissed, all confirmed, and the amount of the hits';

CREATE FUNCTION fraud.backtest(target regclass, condition text,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    OUT rows_seen bigint, OUT hits bigint, OUT share numeric, OUT amount_at_stake numeric,
    OUT already_marked bigint, OUT newly_marked bigint, OUT failed bigint,
    OUT "precision" numeric, OUT recall numeric)
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'fraud_backtest';
COMMENT ON FUNCTION fraud.backtest(regclass, text, timestamptz, timestamptz) IS
'What a condition would have hit among the rows that are stored, by the code that judges rows on arrival
Rows from since on and before until, by the event time that fraud.watch() was told; now() in the condition is that time.  Needs SELECT on the table and obeys its row-level security.  failed: rows on which the condition raised an error, which are no hits.  The table need not be watched; then already_marked and newly_marked are null.  precision: of the hits that people reviewed, the share that they confirmed; recall: of the rows that they confirmed, the share that is hit; null where nobody did, or to whom may not read reviews.';
