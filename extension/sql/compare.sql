--
-- compare.sql: a rule's champion and its challenger
--

CREATE FUNCTION fraud.compare_row("row" record, rule text, condition text, score numeric,
    OUT champion boolean, OUT challenger boolean, OUT is_fraud boolean, OUT would_be_fraud boolean)
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE COST 100
    AS 'MODULE_PATHNAME', 'fraud_compare_row';
COMMENT ON FUNCTION fraud.compare_row(record, text, text, numeric) IS
    'Internal: for fraud.compare and fraud.backtest; what a rule and another condition in its place say of a row, and what either makes of it';

-- What a challenger is: a condition that is given, or a version, or the rule
-- itself where it is in shadow mode.
CREATE FUNCTION fraud.challenger(target regclass, rule text, condition text, version int,
                                 OUT challenger text, OUT score numeric)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    live fraud.rule_config;
BEGIN
    PERFORM fraud.require_watched(target);
    live := fraud.get_rule(target, rule);
    challenger := condition;
    score := live.score;
    IF condition IS NULL AND version IS NOT NULL THEN
        SELECT t.condition, t.score INTO challenger, score FROM fraud.rule_to_try($1, $2, $4) AS t;
    ELSIF condition IS NULL THEN
        IF live.mode <> 'shadow' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('rule "%s" of table %s is not in shadow mode', rule, fraud.table_name(target)),
                HINT = 'Give a condition or a version to compare it with.';
        END IF;
        challenger := live.condition;
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.challenger(regclass, text, text, int) IS 'Internal: the condition that fraud.compare tries in a rule''s place';

CREATE FUNCTION fraud.compare(
    target    regclass,
    rule      text,
    condition text DEFAULT NULL,
    version   int DEFAULT NULL,
    since     timestamptz DEFAULT NULL,
    until     timestamptz DEFAULT NULL,
    OUT day date, OUT rows_seen bigint, OUT champion bigint, OUT challenger bigint, OUT both_fired bigint,
    OUT newly_marked bigint, OUT no_longer_marked bigint)
    RETURNS SETOF record
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    tried record;
    event_time text;
    alias text := 't';
BEGIN
    tried := fraud.challenger(target, rule, condition, version);
    SELECT format('%I', w.event_time) INTO event_time FROM fraud.watched AS w
     WHERE w.target = $1 AND w.event_time IS NOT NULL;
    IF event_time IS NULL AND (since IS NOT NULL OR until IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table %s has no event time', fraud.table_name(target)),
            HINT = format('Name its column first: SELECT fraud.watch(%L, event_time => ...).', fraud.table_name(target));
    END IF;
    IF event_time IS NOT NULL AND (SELECT a.atttypid <> 'timestamptz'::regtype FROM pg_attribute AS a
                                    WHERE a.attrelid = target AND format('%I', a.attname) = event_time) THEN
        event_time := event_time || '::timestamp AT TIME ZONE ''UTC''';
    END IF;
    -- not as a column, which the name alone would mean then
    WHILE EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = target AND a.attname = alias) LOOP
        alias := alias || '_';
    END LOOP;
    RETURN QUERY EXECUTE format(
        'SELECT (o.occurred_at AT TIME ZONE ''UTC'')::date, count(*), count(*) FILTER (WHERE c.champion),
                count(*) FILTER (WHERE c.challenger), count(*) FILTER (WHERE c.champion AND c.challenger),
                count(*) FILTER (WHERE c.would_be_fraud AND NOT c.is_fraud),
                count(*) FILTER (WHERE c.is_fraud AND NOT c.would_be_fraud)
           FROM %1$s AS %2$s
          CROSS JOIN LATERAL (SELECT %3$s AS occurred_at) AS o
          CROSS JOIN LATERAL fraud.compare_row(%2$s, $1, $2, $3) AS c
          WHERE ($4 IS NULL OR o.occurred_at >= $4) AND ($5 IS NULL OR o.occurred_at < $5)
          GROUP BY 1 ORDER BY 1', fraud.table_name(target), alias,
        CASE WHEN event_time IS NULL THEN 'NULL::timestamptz' ELSE alias || '.' || event_time END)
        USING rule, tried.challenger, tried.score, since, until;
END
$$;
COMMENT ON FUNCTION fraud.compare(regclass, text, text, int, timestamptz, timestamptz) IS
    'What a challenger in a rule''s place would have changed, by day (UTC) of the event time
The challenger is the condition given, or a version of the rule, or the rule itself where it is in shadow mode. champion, challenger: rows on which the rule in force and the challenger fire; newly_marked, no_longer_marked: rows whose verdict by today''s rules would change. now() in a rule is the row''s event time. Needs SELECT on the table and obeys its row-level security.';
