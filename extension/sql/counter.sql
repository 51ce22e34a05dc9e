--
-- counter.sql: what rules did, and fraud.rules, which shows it
--

-- What rules did: totals, and what each transaction added since the last fold
CREATE TABLE fraud.rule_counters (
    rule          bigint PRIMARY KEY,
    evaluated     bigint NOT NULL,
    fired         bigint NOT NULL,
    failed        bigint NOT NULL,
    last_fired_at timestamptz,
    sampled       bigint NOT NULL,
    nanoseconds   bigint NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE fraud.rule_counters IS 'What each rule did, up to the last fold';
COMMENT ON COLUMN fraud.rule_counters.rule IS 'The rule, see fraud.rule_config';
COMMENT ON COLUMN fraud.rule_counters.evaluated IS 'Rows judged by it';
COMMENT ON COLUMN fraud.rule_counters.fired IS 'Rows on which it fired';
COMMENT ON COLUMN fraud.rule_counters.failed IS 'Rows on which it raised an error';
COMMENT ON COLUMN fraud.rule_counters.last_fired_at IS 'When it fired last';
COMMENT ON COLUMN fraud.rule_counters.sampled IS 'Evaluations that were timed';
COMMENT ON COLUMN fraud.rule_counters.nanoseconds IS 'Time that these took';

-- Written in C.  Few bytes for each of many short transactions, which are
-- gone in a second: not compressed, and kept in the row as long as they fit.
CREATE TABLE fraud.rule_deltas (
    counts bytea NOT NULL
) WITH (toast_tuple_target = 8160);
ALTER TABLE fraud.rule_deltas ALTER COLUMN counts SET STORAGE EXTERNAL;
-- for rows to be deleted while a publication of all tables is there
ALTER TABLE fraud.rule_deltas REPLICA IDENTITY FULL;
COMMENT ON TABLE fraud.rule_deltas IS 'What each transaction added to the counters of a table''s rules';
COMMENT ON COLUMN fraud.rule_deltas.counts IS 'See fraud.delta_counts';
SELECT pg_catalog.pg_extension_config_dump('fraud.rule_counters', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.rule_deltas', '');

-- Its one row is locked by who folds.
CREATE TABLE fraud.fold_turn (turn boolean PRIMARY KEY DEFAULT true CHECK (turn));
COMMENT ON TABLE fraud.fold_turn IS 'Lets one session at a time fold counters';
COMMENT ON COLUMN fraud.fold_turn.turn IS 'True';
INSERT INTO fraud.fold_turn DEFAULT VALUES;

CREATE FUNCTION fraud.delta_counts(delta bytea,
                                   OUT rule bigint, OUT evaluated bigint, OUT fired bigint, OUT failed bigint,
                                   OUT last_fired_at timestamptz, OUT sampled bigint, OUT nanoseconds bigint)
    RETURNS SETOF record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    ROWS 10
    AS 'MODULE_PATHNAME', 'fraud_delta_counts';
COMMENT ON FUNCTION fraud.delta_counts(bytea) IS 'Internal: what each rule did, of one row of fraud.rule_deltas';

CREATE FUNCTION fraud.delta_sum_add(internal, bytea) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'fraud_delta_sum_add';
COMMENT ON FUNCTION fraud.delta_sum_add(internal, bytea) IS 'Internal: of the aggregate fraud.delta_sum';
CREATE FUNCTION fraud.delta_sum_result(internal) RETURNS bytea
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'fraud_delta_sum_result';
COMMENT ON FUNCTION fraud.delta_sum_result(internal) IS 'Internal: of the aggregate fraud.delta_sum';

CREATE AGGREGATE fraud.delta_sum(delta bytea) (
    SFUNC = fraud.delta_sum_add, STYPE = internal, SSPACE = 16384,
    FINALFUNC = fraud.delta_sum_result, PARALLEL = SAFE);
COMMENT ON AGGREGATE fraud.delta_sum(bytea) IS 'Internal: rows of fraud.rule_deltas as one';

CREATE FUNCTION fraud.fold_counters() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    folded bigint;
BEGIN
    PERFORM FROM fraud.fold_turn FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM fraud.rule_deltas RETURNING counts
    ), total AS (
        SELECT count(*) AS deltas, fraud.delta_sum(g.counts) AS counts FROM gone AS g
    ), sums AS (
        SELECT s.* FROM total AS t CROSS JOIN fraud.delta_counts(t.counts) AS s
    ), added AS (
        INSERT INTO fraud.rule_counters AS c
            (rule, evaluated, fired, failed, last_fired_at, sampled, nanoseconds)
        SELECT s.rule, s.evaluated, s.fired, s.failed, s.last_fired_at, s.sampled, s.nanoseconds
          FROM sums AS s JOIN fraud.rule_config AS r ON r.id = s.rule
         ORDER BY s.rule
        ON CONFLICT ON CONSTRAINT rule_counters_pkey DO UPDATE SET
            evaluated = c.evaluated + excluded.evaluated, fired = c.fired + excluded.fired,
            failed = c.failed + excluded.failed,
            last_fired_at = greatest(c.last_fired_at, excluded.last_fired_at),
            sampled = c.sampled + excluded.sampled, nanoseconds = c.nanoseconds + excluded.nanoseconds
    ), braked AS (
        -- what no single session saw: limits over all that was counted since the last fold
        INSERT INTO fraud.rule_brakes (target, rule, version, reason, braked_at)
        SELECT r.target, r.id, r.version,
               CASE WHEN s.fired > r.max_share * s.evaluated
                    THEN format('it fired on %s of the last %s rows', s.fired, s.evaluated)
                    ELSE format('it takes %s microseconds a row', round(s.nanoseconds::numeric / s.sampled / 1000, 1)) END,
               clock_timestamp()
          FROM sums AS s JOIN fraud.rule_config AS r ON r.id = s.rule
         WHERE (s.evaluated >= r.share_rows AND s.fired > r.max_share * s.evaluated
                OR s.sampled >= 16 AND s.nanoseconds > r.max_time_us * 1000 * s.sampled)
           AND NOT EXISTS (SELECT FROM fraud.rule_brakes AS b WHERE b.rule = r.id AND b.version = r.version)
        RETURNING pg_notify('pg_fraud', 'rule ' || fraud.table_name(target))
    )
    SELECT t.deltas INTO folded FROM total AS t;
    -- some at a time: it may be a user's transaction that folds
    DELETE FROM fraud.rule_failures AS f
     USING (SELECT o.id FROM fraud.rule_failures AS o
             WHERE o.failed_at < now() - interval '30 days'
             ORDER BY o.failed_at LIMIT 10000 FOR UPDATE SKIP LOCKED) AS old
     WHERE f.id = old.id;
    RETURN folded;
END
$$;
COMMENT ON FUNCTION fraud.fold_counters() IS
    'Internal: adds what transactions counted to the rules'' totals and forgets failures of rules older than 30 days, unless another session is at it; returns the number of transactions
The bridge calls it, and now and then a transaction whose rows are judged.';

CREATE FUNCTION fraud.rule_counts(OUT rule bigint, OUT evaluated bigint, OUT fired bigint, OUT failed bigint,
                                  OUT last_fired_at timestamptz, OUT sampled bigint, OUT nanoseconds bigint)
    RETURNS SETOF record
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(c.rule, d.rule), coalesce(c.evaluated, 0) + coalesce(d.evaluated, 0),
           coalesce(c.fired, 0) + coalesce(d.fired, 0), coalesce(c.failed, 0) + coalesce(d.failed, 0),
           greatest(c.last_fired_at, d.last_fired_at), coalesce(c.sampled, 0) + coalesce(d.sampled, 0),
           coalesce(c.nanoseconds, 0) + coalesce(d.nanoseconds, 0)
      FROM fraud.rule_counters AS c
      FULL JOIN (SELECT s.*
                   FROM (SELECT fraud.delta_sum(t.counts) AS counts FROM fraud.rule_deltas AS t) AS total
                  CROSS JOIN fraud.delta_counts(total.counts) AS s) AS d ON d.rule = c.rule
    $$;
COMMENT ON FUNCTION fraud.rule_counts() IS 'Internal: what each rule did: the totals and what is not folded yet';

CREATE VIEW fraud.rules AS
    SELECT CASE WHEN fraud.table_name(r.target) IS NOT NULL THEN r.target END AS target, r.name, r.version, r.mode, r.score, r.condition,
           r.description,
           CASE WHEN e.error IS NOT NULL THEN 'broken'
                WHEN b.reason IS NOT NULL THEN 'braked'
                WHEN w.active IS NOT TRUE THEN 'unwatched'
                WHEN w.paused THEN 'paused'
                WHEN r.mode = 'off' THEN 'off'
                ELSE 'active' END AS state,
           r.changed_by, r.changed_at,
           coalesce(c.evaluated, 0) AS evaluated, coalesce(c.fired, 0) AS fired, coalesce(c.failed, 0) AS failed,
           c.last_fired_at,
           round(c.nanoseconds / 1000.0 / nullif(c.sampled, 0), 3) AS mean_time_us,
           coalesce(e.error, b.reason) AS error, r.on_error, r.actor, r.id,
           r.max_time_us, r.max_share, r.share_rows, r.approved_by, b.braked_at
      FROM fraud.rule_config AS r
      LEFT JOIN fraud.watch_config AS w ON w.target = r.target
      LEFT JOIN fraud.rule_counts() AS c ON c.rule = r.id
      CROSS JOIN LATERAL (SELECT fraud.rule_error(r.target, r.condition) AS error) AS e
      LEFT JOIN LATERAL (SELECT k.reason, k.braked_at FROM fraud.rule_brakes AS k
                          WHERE k.target = r.target AND k.rule = r.id AND k.version = r.version
                          ORDER BY k.id LIMIT 1) AS b ON true;
COMMENT ON VIEW fraud.rules IS 'The rules in force, and what they did';
COMMENT ON COLUMN fraud.rules.target IS 'The watched table';
COMMENT ON COLUMN fraud.rules.name IS 'The rule''s name';
COMMENT ON COLUMN fraud.rules.version IS 'Version in force, see fraud.rule_versions';
COMMENT ON COLUMN fraud.rules.mode IS 'live, shadow (counted, never marks) or off';
COMMENT ON COLUMN fraud.rules.score IS 'What the rule adds to a row''s score when it fires';
COMMENT ON COLUMN fraud.rules.condition IS 'Boolean SQL expression over the table''s columns';
COMMENT ON COLUMN fraud.rules.description IS 'What the rule is for';
COMMENT ON COLUMN fraud.rules.state IS 'active, off, paused (its table is), unwatched (its table is), broken: it no longer compiles and is left out, or braked: it went over its limits and is left out';
COMMENT ON COLUMN fraud.rules.changed_by IS 'Role that made this version';
COMMENT ON COLUMN fraud.rules.changed_at IS 'When it was made';
COMMENT ON COLUMN fraud.rules.evaluated IS 'Rows judged by it, those included that ON CONFLICT then skipped';
COMMENT ON COLUMN fraud.rules.fired IS 'Rows on which it fired';
COMMENT ON COLUMN fraud.rules.failed IS 'Rows on which it raised an error, see fraud.rule_failures';
COMMENT ON COLUMN fraud.rules.last_fired_at IS 'When it fired last';
COMMENT ON COLUMN fraud.rules.mean_time_us IS 'Mean time of one evaluation in microseconds, sampled';
COMMENT ON COLUMN fraud.rules.error IS 'Why it is broken or braked';
COMMENT ON COLUMN fraud.rules.on_error IS 'Whether an error on a row counts as fired (fire) or not (clear)';
COMMENT ON COLUMN fraud.rules.actor IS 'Person behind the gateway that made this version, if any';
COMMENT ON COLUMN fraud.rules.id IS 'Ascending key';
COMMENT ON COLUMN fraud.rules.max_time_us IS 'Budget of one evaluation in microseconds; NULL: none';
COMMENT ON COLUMN fraud.rules.max_share IS 'Share of the last share_rows rows on which it may fire; NULL: all';
COMMENT ON COLUMN fraud.rules.share_rows IS 'Rows over which its share is counted';
COMMENT ON COLUMN fraud.rules.approved_by IS 'Role that approved this version, where the table asks for it';
COMMENT ON COLUMN fraud.rules.braked_at IS 'Since when it is left out because of its limits';
