--
-- backtest.sql: a condition over stored rows
--

CREATE FUNCTION fraud.tally_add(internal, boolean, numeric, boolean, boolean) RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_add';
COMMENT ON FUNCTION fraud.tally_add(internal, boolean, numeric, boolean, boolean) IS 'Internal: of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_combine(internal, internal) RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_combine';
COMMENT ON FUNCTION fraud.tally_combine(internal, internal) IS 'Internal: of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_serialize(internal) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_serialize';
COMMENT ON FUNCTION fraud.tally_serialize(internal) IS 'Internal: of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_deserialize(bytea, internal) RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_deserialize';
COMMENT ON FUNCTION fraud.tally_deserialize(bytea, internal) IS 'Internal: of the aggregate fraud.tally';
CREATE FUNCTION fraud.tally_result(internal) RETURNS numeric[]
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'fraud_tally_result';
COMMENT ON FUNCTION fraud.tally_result(internal) IS 'Internal: of the aggregate fraud.tally';

CREATE AGGREGATE fraud.tally(hit boolean, amount numeric, marked boolean, confirmed boolean) (
    SFUNC = fraud.tally_add, STYPE = internal, SSPACE = 128,
    FINALFUNC = fraud.tally_result, COMBINEFUNC = fraud.tally_combine,
    SERIALFUNC = fraud.tally_serialize, DESERIALFUNC = fraud.tally_deserialize,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE fraud.tally(boolean, numeric, boolean, boolean) IS
'Internal: for fraud.backtest; rows, hits, hits that are marked, confirmed, dismissed, all confirmed, and the amount of the hits';

-- The same of rows that ask a long list, which wait for the answer together.
CREATE FUNCTION fraud.tally_listed_add(internal, text, "any", boolean, numeric, boolean, boolean) RETURNS internal
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'fraud_tally_listed_add';
COMMENT ON FUNCTION fraud.tally_listed_add(internal, text, "any", boolean, numeric, boolean, boolean) IS 'Internal: of the aggregate fraud.tally_listed';
CREATE FUNCTION fraud.tally_listed_result(internal) RETURNS numeric[]
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'fraud_tally_listed_result';
COMMENT ON FUNCTION fraud.tally_listed_result(internal) IS 'Internal: of the aggregate fraud.tally_listed';

CREATE AGGREGATE fraud.tally_listed(list text, value "any", others boolean, amount numeric, marked boolean, confirmed boolean) (
    SFUNC = fraud.tally_listed_add, STYPE = internal, SSPACE = 4096,
    FINALFUNC = fraud.tally_listed_result, PARALLEL = RESTRICTED);
COMMENT ON AGGREGATE fraud.tally_listed(text, "any", boolean, numeric, boolean, boolean) IS
'Internal: for fraud.backtest; as fraud.tally, where a hit is a row whose value (text or bigint) is in the list and for which the others hold';

-- What is tried of a rule: a version, or the one in force.
CREATE FUNCTION fraud.rule_to_try(target regclass, rule text, version int, OUT condition text, OUT score numeric)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.require_watched(target);
    IF version IS NULL THEN
        SELECT r.condition, r.score INTO condition, score FROM fraud.get_rule($1, $2) AS r;
        RETURN;
    END IF;
    SELECT v.condition, v.score INTO condition, score
      FROM fraud.get_version(fraud.table_name($1), $2, $3) AS v;
    IF condition IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('rule "%s" of table %s has no version %s', rule, fraud.table_name(target), version),
            HINT = 'See fraud.rule_versions.';
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.rule_to_try(regclass, text, int) IS
    'Internal: condition and score of a version of a rule (NULL: the one in force), for fraud.backtest and fraud.compare';

CREATE FUNCTION fraud.backtest(target regclass, condition text DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    rule text DEFAULT NULL, version int DEFAULT NULL,
    OUT rows_seen bigint, OUT hits bigint, OUT share numeric, OUT amount_at_stake numeric,
    OUT already_marked bigint, OUT newly_marked bigint, OUT failed bigint,
    OUT "precision" numeric, OUT recall numeric, OUT no_longer_marked bigint)
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'fraud_backtest';
COMMENT ON FUNCTION fraud.backtest(regclass, text, timestamptz, timestamptz, text, int) IS
'What a condition, or a version of a rule, would have hit among the rows that are stored, by the code that judges rows on arrival
Give a condition, or a rule (the version in force, or any version of it), or both: the condition in that rule''s place.  Rows from since on and before until, by the event time that fraud.watch() was told; now() in the condition is that time.  Needs SELECT on the table and obeys its row-level security.  failed: rows on which the condition raised an error, which are no hits.  The table need not be watched; then already_marked and newly_marked are null.  newly_marked: hits that are not marked.  precision: of the hits that people reviewed, the share that they confirmed; recall: of the rows that they confirmed, the share that is hit; null where nobody did, or to whom may not read reviews.  no_longer_marked: rows that are marked as fraud and that today''s live rules, with this one (live, with its own score) in the rule''s place, would not mark; null without a rule.';
