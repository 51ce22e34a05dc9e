--
-- page.sql: the alerts page, and the functions that it calls
--
-- A browser opens GET /rpc/page; the page reads the views of fraud_api from
-- where it came.  Its sources are in extension/page/; the Makefile turns them
-- into the functions fraud.page_html(), page_css() and page_js().
--

COMMENT ON FUNCTION fraud.page_html() IS 'Internal: the alerts page: document, without style and script';
COMMENT ON FUNCTION fraud.page_css() IS 'Internal: the alerts page: style';
COMMENT ON FUNCTION fraud.page_js() IS 'Internal: the alerts page: script';

-- PostgREST takes a function's media type from the name of the domain that it
-- returns
CREATE DOMAIN fraud_api."text/html" AS text;
COMMENT ON DOMAIN fraud_api."text/html" IS 'A web page, for gateways that take the media type from the type''s name';

CREATE FUNCTION fraud.page_policy() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(
    'default-src ''none''; script-src ''sha256-%s''; style-src ''sha256-%s''; '
    'img-src data:; connect-src ''self''; base-uri ''none''; form-action ''none''; '
    'frame-ancestors ''none''; require-trusted-types-for ''script''; trusted-types ''none''',
    encode(sha256(convert_to(fraud.page_js(), 'UTF8')), 'base64'),
    encode(sha256(convert_to(fraud.page_css(), 'UTF8')), 'base64'))
$$;
COMMENT ON FUNCTION fraud.page_policy() IS
'Internal: the alerts page: its Content-Security-Policy
Only the one script and the one style that the page was built with run; it talks to nobody but the server that sent it.';

-- The page holds no data, so whoever may open it sees nothing yet.  It runs as
-- its owner: a gateway's anonymous role needs no more than this one function.
CREATE FUNCTION fraud_api.page() RETURNS fraud_api."text/html"
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT set_config('response.headers', json_build_array(
        json_build_object('Content-Security-Policy', fraud.page_policy()),
        json_build_object('X-Content-Type-Options', 'nosniff'),
        json_build_object('Referrer-Policy', 'no-referrer'),
        json_build_object('Cross-Origin-Opener-Policy', 'same-origin'),
        json_build_object('Cache-Control', 'no-cache'))::text, true);
    SELECT replace(replace(ltrim(fraud.page_html(), E'\n'),
                           '@style@', fraud.page_css()),
                   '@script@', fraud.page_js());
$$;
COMMENT ON FUNCTION fraud_api.page() IS
'The alerts page
Open it in a browser. Sign in there with a token whose role is a member of fraud_reader, or of fraud_analyst to review. Without a token a browser needs an anonymous role that may execute this function.';

CREATE FUNCTION fraud_api.explain_alert(alert_id bigint)
RETURNS TABLE (rule text, version int, score numeric, condition text,
               description text, on_error text, changed_by text,
               changed_at timestamptz, current_version int, observed jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT fired.name, fired.version, v.score, v.condition, v.description,
           v.on_error, v.changed_by, v.changed_at, newest.version,
           CASE WHEN v.columns IS NOT NULL THEN coalesce(
               (SELECT jsonb_object_agg(c, a.transaction -> c) FROM unnest(v.columns) AS c), '{}') END
    FROM fraud_api.alerts shown
    JOIN fraud.alerts a ON a.id = shown.id
    CROSS JOIN LATERAL ROWS FROM (unnest(a.rules), unnest(a.rule_versions))
        WITH ORDINALITY AS fired (name, version, place)
    LEFT JOIN LATERAL fraud.get_version(a.table_name, fired.name, fired.version) v ON true
    LEFT JOIN LATERAL (
        SELECT CASE WHEN l.action <> 'drop' THEN l.version END AS version
        FROM fraud.get_version(a.table_name, fired.name) l) newest ON true
    WHERE shown.id = explain_alert.alert_id
    ORDER BY fired.place;
$$;
COMMENT ON FUNCTION fraud_api.explain_alert(bigint) IS
'Why a row became an alert
Every rule that fired, as it was written then, with the values of the columns that it read (observed). current_version is NULL where the rule has been dropped since.';

CREATE FUNCTION fraud.explain_alert(alert_id bigint)
RETURNS TABLE (rule text, version int, score numeric, condition text,
               description text, on_error text, changed_by text,
               changed_at timestamptz, current_version int, observed jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM fraud_api.explain_alert(explain_alert.alert_id);
$$;
COMMENT ON FUNCTION fraud.explain_alert(bigint) IS
'Why a row became an alert
The same as fraud_api.explain_alert, which gateways offer.';

CREATE FUNCTION fraud_api.alert_counts(
    every interval DEFAULT '1 hour', since timestamptz DEFAULT NULL,
    until timestamptz DEFAULT NULL, table_name text DEFAULT NULL,
    rule text DEFAULT NULL, min_score numeric DEFAULT NULL)
RETURNS TABLE (bucket_start timestamptz, alerts bigint, open bigint,
               confirmed bigint, dismissed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    upper CONSTANT timestamptz := coalesce(until, statement_timestamp());
    lower CONSTANT timestamptz := coalesce(since, upper - interval '24 hours');
BEGIN
    IF every IS NULL OR every <= interval '0'
       OR extract(year FROM every) <> 0 OR extract(month FROM every) <> 0 THEN
        RAISE EXCEPTION 'invalid width of a bucket: %', every
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a positive interval of days, hours, minutes and seconds.';
    END IF;
    IF NOT isfinite(lower) OR NOT isfinite(upper)
       OR extract(epoch FROM upper) - extract(epoch FROM lower) > 10000 * extract(epoch FROM every) THEN
        RAISE EXCEPTION 'too many buckets of % from % until %', every, lower, upper
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'At most 10000 buckets are counted at once.';
    END IF;
    -- Few alerts have reviews: they are looked up for all buckets at once.
    RETURN QUERY
    WITH counted AS MATERIALIZED (
        SELECT a.id, date_bin(every, a.detected_at, lower) AS bucket
        FROM fraud.alerts a
        WHERE a.detected_at >= lower AND a.detected_at < upper
          AND (alert_counts.table_name IS NULL OR a.table_name = alert_counts.table_name)
          AND (rule IS NULL OR a.rules @> ARRAY[rule])
          AND (min_score IS NULL OR a.score >= min_score)
    ), latest AS MATERIALIZED (
        SELECT DISTINCT ON (r.alert_id) r.alert_id, r.status
        FROM fraud.reviews r
        WHERE r.alert_id BETWEEN (SELECT min(c.id) FROM counted c) AND (SELECT max(c.id) FROM counted c)
        ORDER BY r.alert_id, r.id DESC
    )
    SELECT c.bucket, count(*),
           count(*) FILTER (WHERE l.status IS NULL OR l.status = 'open'),
           count(*) FILTER (WHERE l.status = 'confirmed'),
           count(*) FILTER (WHERE l.status IN ('dismissed', 'cleared'))
    FROM counted c LEFT JOIN latest l ON l.alert_id = c.id
    GROUP BY 1
    ORDER BY 1;
END $$;
COMMENT ON FUNCTION fraud_api.alert_counts(interval, timestamptz, timestamptz, text, text, numeric) IS
'Alerts per bucket of time
By the time of detection: since inclusive, until exclusive, by default the last 24 hours. Buckets without alerts are left out.';

CREATE FUNCTION fraud_api.replay(id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM fraud.replay(replay.id);
EXCEPTION WHEN no_data_found THEN
    RAISE EXCEPTION 'dead letter % does not exist', replay.id
        USING ERRCODE = 'PT404';
END $$;
COMMENT ON FUNCTION fraud_api.replay(bigint) IS
'Hands a dead letter back to the bridge, which tries again to make it a row
For fraud_admin and fraud_operator.';

-- Alerts by time, for the chart and for filters: the ledger grows in the
-- order of detection, so that a few pages of a block range index do.
CREATE INDEX alerts_detected_at_idx ON fraud.alerts
    USING brin (detected_at) WITH (pages_per_range = 16, autosummarize = on);

REVOKE ALL ON FUNCTION fraud.page_html(), fraud.page_css(), fraud.page_js(),
    fraud.page_policy(), fraud_api.page(), fraud.explain_alert(bigint), fraud_api.explain_alert(bigint),
    fraud_api.alert_counts(interval, timestamptz, timestamptz, text, text, numeric),
    fraud_api.replay(bigint) FROM PUBLIC;
REVOKE ALL ON TYPE fraud_api."text/html" FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fraud_api.page(), fraud.explain_alert(bigint), fraud_api.explain_alert(bigint),
    fraud_api.alert_counts(interval, timestamptz, timestamptz, text, text, numeric)
    TO fraud_reader;
GRANT SELECT ON fraud.rule_versions TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud_api.replay(bigint) TO fraud_admin, fraud_operator;
