--
-- api.sql: what people and HTTP gateways read and call (schema fraud_api)
--

--
-- Who sees which alerts
--

-- An alert holds a whole row: where row security hides rows of a table from
-- the caller, it hides all of the table's alerts.
CREATE FUNCTION fraud.tables(readable boolean) RETURNS SETOF text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off AS $$
    WITH known AS (
        SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name
        FROM fraud.watch_config w
        JOIN pg_class c ON c.oid = w.target
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE NOT tables.readable
           OR has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid))
    SELECT k.name FROM known k
    UNION
    SELECT n.name FROM fraud.table_names n JOIN known k ON k.oid = n.target
$$;
COMMENT ON FUNCTION fraud.tables(boolean) IS
'Internal: names that watched tables have or had, with their schemas: of all, or of those of which the caller may read every row.';

ALTER TABLE fraud.alerts ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON fraud.alerts FOR SELECT TO fraud_reader
    USING (table_name = ANY (ARRAY(SELECT fraud.tables(readable => true))));
COMMENT ON POLICY readers ON fraud.alerts IS 'An alert is shown to those who may SELECT its table';
CREATE POLICY vanished ON fraud.alerts FOR SELECT TO fraud_reader
    USING ((SELECT pg_has_role('fraud_admin', 'USAGE'))
           AND table_name <> ALL (ARRAY(SELECT fraud.tables(readable => false))));
COMMENT ON POLICY vanished ON fraud.alerts IS 'Alerts of tables that are no longer there are shown to administrators';
CREATE POLICY bridges ON fraud.alerts FOR SELECT TO fraud_bridge USING (true);
COMMENT ON POLICY bridges ON fraud.alerts IS 'A bridge forwards every alert';

ALTER TABLE fraud.reviews ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON fraud.reviews FOR SELECT TO fraud_reader
    USING (EXISTS (SELECT FROM fraud.alerts a WHERE a.id = alert_id));
COMMENT ON POLICY readers ON fraud.reviews IS 'A review is shown to those who see its alert';
CREATE POLICY analysts ON fraud.reviews FOR INSERT TO fraud_analyst
    WITH CHECK (status IN ('confirmed', 'dismissed', 'open')
                AND EXISTS (SELECT FROM fraud.alerts a WHERE a.id = alert_id));
COMMENT ON POLICY analysts ON fraud.reviews IS 'Analysts review the alerts that they see';
CREATE POLICY bridges ON fraud.reviews FOR SELECT TO fraud_bridge USING (true);
COMMENT ON POLICY bridges ON fraud.reviews IS 'A bridge forwards every review';

--
-- Views
--

CREATE VIEW fraud_api.alerts AS
SELECT a.id, a.event_id, a.detected_at, a.occurred_at, a.table_name, a.score,
       a.rules, a.transaction, coalesce(r.status, 'open') AS status,
       r.reviewed_by, r.reviewed_at, r.note, a.source, a.kafka_topic,
       a.kafka_partition, a.kafka_offset, a.rule_versions
FROM fraud.alerts a
LEFT JOIN LATERAL (
    SELECT v.status, coalesce(v.actor, v.reviewed_by) AS reviewed_by, v.reviewed_at, v.note
    FROM fraud.reviews v WHERE v.alert_id = a.id
    ORDER BY v.id DESC LIMIT 1) r ON true
ORDER BY a.id DESC;
COMMENT ON VIEW fraud_api.alerts IS 'Frauds, newest first
One row for each transaction that was judged fraud, of the tables that the caller may read. Page by id: id=lt.LAST&limit=N.';
COMMENT ON COLUMN fraud_api.alerts.id IS 'Number of the alert; the row''s fraud_alert_id';
COMMENT ON COLUMN fraud_api.alerts.event_id IS 'Identity of the event, the same wherever it is sent again';
COMMENT ON COLUMN fraud_api.alerts.detected_at IS 'When it was judged';
COMMENT ON COLUMN fraud_api.alerts.occurred_at IS 'When it happened, by the table''s event time';
COMMENT ON COLUMN fraud_api.alerts.table_name IS 'Table of the transaction, with its schema';
COMMENT ON COLUMN fraud_api.alerts.score IS 'Sum of the scores of the rules that fired';
COMMENT ON COLUMN fraud_api.alerts.rules IS 'Rules that fired';
COMMENT ON COLUMN fraud_api.alerts.transaction IS 'The row as it was stored';
COMMENT ON COLUMN fraud_api.alerts.status IS 'open, confirmed, dismissed or cleared: the latest review';
COMMENT ON COLUMN fraud_api.alerts.reviewed_by IS 'Who decided that: the subject of the request''s JWT, else the role';
COMMENT ON COLUMN fraud_api.alerts.reviewed_at IS 'When it was decided';
COMMENT ON COLUMN fraud_api.alerts.note IS 'Note of the latest review';
COMMENT ON COLUMN fraud_api.alerts.source IS 'Source that brought the transaction; null if it did not come from Kafka';
COMMENT ON COLUMN fraud_api.alerts.kafka_topic IS 'Its topic';
COMMENT ON COLUMN fraud_api.alerts.kafka_partition IS 'Its partition';
COMMENT ON COLUMN fraud_api.alerts.kafka_offset IS 'Its offset';
COMMENT ON COLUMN fraud_api.alerts.rule_versions IS 'Versions of the rules that fired, in the order of rules';

CREATE VIEW fraud_api.rules AS
SELECT r.id, fraud.table_name(r.target) AS target, r.name, r.version, r.mode,
       r.score, r.condition, r.description, r.on_error, r.state, r.error,
       r.changed_by, r.actor, r.changed_at, r.evaluated, r.fired, r.failed,
       r.last_fired_at, r.mean_time_us
FROM fraud.rules r;
COMMENT ON VIEW fraud_api.rules IS 'Rules by which rows are judged';

CREATE VIEW fraud_api.rule_stats AS
SELECT r.id, fraud.table_name(r.target) AS target, r.name, r.version, r.mode,
       r.evaluated, r.fired, round(r.fired::numeric / nullif(r.evaluated, 0), 6) AS share,
       r.failed, r.last_fired_at, r.mean_time_us
FROM fraud.rules r;
COMMENT ON VIEW fraud_api.rule_stats IS 'What each rule has done';

CREATE VIEW fraud_api.sources AS
SELECT s.name, s.topic, fraud.table_name(s.target) AS target, s.state,
       s."position", s.lag, s.last_error, s.last_error_at, s.statement,
       s.mapping, s.start, s.on_conflict, s.fraud_topic, s.legit_topic,
       s.dead_letter_topic, s.changed_by, s.changed_at
FROM fraud.sources s;
COMMENT ON VIEW fraud_api.sources IS 'Kafka topics that are read into tables, and how far';

CREATE VIEW fraud_api.sinks AS
SELECT s.name, s.kind, fraud.table_name(s.target) AS target, s.state,
       s."position", s.lag_rows, s.lag_seconds, s.rate, s.sent, s.skipped,
       s.failed, s.retries, s.sent_at, s.last_error, s.last_error_at,
       s.stopped_at, s.stopped_reason, s.stopped_hint, s.options,
       s.changed_by, s.changed_at
FROM fraud.sinks s;
COMMENT ON VIEW fraud_api.sinks IS 'Where frauds are sent, and how far';

-- What came from outside is for those who mend it
CREATE FUNCTION fraud.dead_letter_part(id bigint, part text) RETURNS bytea
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE dead_letter_part.part WHEN 'key' THEN d.key ELSE d.value END
    FROM fraud.dead_letters d
    WHERE d.id = dead_letter_part.id
      AND (pg_has_role(fraud.outer_role(), 'fraud_admin', 'USAGE')
           OR pg_has_role(fraud.outer_role(), 'fraud_operator', 'USAGE'))
$$;
COMMENT ON FUNCTION fraud.dead_letter_part(bigint, text) IS
'Internal: the key or value of a dead letter, for administrators and operators; null for others.';

CREATE VIEW fraud_api.dead_letters AS
SELECT d.id, d.source, d.kafka_topic, d.kafka_partition, d.kafka_offset,
       fraud.dead_letter_part(d.id, 'key') AS key,
       fraud.dead_letter_part(d.id, 'value') AS value,
       d.headers, d.stage, d.sqlstate, d.reason, d.truncated, d.received_at,
       d.replay_requested_at, d.replayed_at
FROM fraud.dead_letters d;
COMMENT ON VIEW fraud_api.dead_letters IS 'Records that could not become rows, and why';
COMMENT ON COLUMN fraud_api.dead_letters.id IS 'Number of the dead letter';
COMMENT ON COLUMN fraud_api.dead_letters.source IS 'Source that read the record';
COMMENT ON COLUMN fraud_api.dead_letters.kafka_topic IS 'Its topic';
COMMENT ON COLUMN fraud_api.dead_letters.kafka_partition IS 'Its partition';
COMMENT ON COLUMN fraud_api.dead_letters.kafka_offset IS 'Its offset';
COMMENT ON COLUMN fraud_api.dead_letters.key IS 'The record''s key; shown to fraud_admin and fraud_operator';
COMMENT ON COLUMN fraud_api.dead_letters.value IS 'The record''s value; shown to fraud_admin and fraud_operator';
COMMENT ON COLUMN fraud_api.dead_letters.headers IS 'The record''s headers: [[name, base64 or null], ...]';
COMMENT ON COLUMN fraud_api.dead_letters.stage IS 'Where it failed: decode, map or insert';
COMMENT ON COLUMN fraud_api.dead_letters.sqlstate IS 'SQLSTATE of the failure';
COMMENT ON COLUMN fraud_api.dead_letters.reason IS 'Why it failed';
COMMENT ON COLUMN fraud_api.dead_letters.truncated IS 'Whether only the beginning of the value was kept';
COMMENT ON COLUMN fraud_api.dead_letters.received_at IS 'When it was read';
COMMENT ON COLUMN fraud_api.dead_letters.replay_requested_at IS 'When it was handed back to the bridge';
COMMENT ON COLUMN fraud_api.dead_letters.replayed_at IS 'When it became a row after all';

CREATE VIEW fraud_api.bridge_status AS
SELECT b.id, b.instance, b.host, b.pid, b.version, b.parts, b.started_at,
       b.heartbeat_at,
       CASE WHEN fraud.is_alive(b.heartbeat_at) THEN 'running' ELSE 'silent' END AS state,
       b.stats
FROM fraud.bridge_instances b;
COMMENT ON VIEW fraud_api.bridge_status IS 'Bridges: the daemons that move records and frauds';
COMMENT ON COLUMN fraud_api.bridge_status.id IS 'Order in which they registered';
COMMENT ON COLUMN fraud_api.bridge_status.instance IS 'Identity of the running daemon';
COMMENT ON COLUMN fraud_api.bridge_status.host IS 'Its host';
COMMENT ON COLUMN fraud_api.bridge_status.pid IS 'Its process there';
COMMENT ON COLUMN fraud_api.bridge_status.version IS 'Its version';
COMMENT ON COLUMN fraud_api.bridge_status.parts IS 'What it does: ingest, branch, forward';
COMMENT ON COLUMN fraud_api.bridge_status.started_at IS 'When it started';
COMMENT ON COLUMN fraud_api.bridge_status.heartbeat_at IS 'Its last sign of life';
COMMENT ON COLUMN fraud_api.bridge_status.state IS 'running, or silent: no sign of life for 10 seconds';
COMMENT ON COLUMN fraud_api.bridge_status.stats IS 'What it last said of itself';

-- Views read with the rights of their reader.  Before PostgreSQL 15 a view
-- cannot; there they belong to a role that has fraud_reader's rights, which
-- row security binds, and whose policies look at the reader.
CREATE FUNCTION fraud.secure_view(view text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE format('ALTER VIEW fraud_api.%I SET (security_invoker = true)', view);
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fraud_views') THEN
        CREATE ROLE fraud_views NOLOGIN;
        GRANT fraud_reader TO fraud_views;
    END IF;
    EXECUTE format('ALTER VIEW fraud_api.%I OWNER TO fraud_views', view);
END $$;
COMMENT ON FUNCTION fraud.secure_view(text) IS
'Internal: lets a view of fraud_api show what its reader may see, and no more.';

DO $$
DECLARE
    pair record;
BEGIN
    PERFORM fraud.secure_view(c.relname)
    FROM pg_class c WHERE c.relnamespace = 'fraud_api'::regnamespace AND c.relkind = 'v'
    ORDER BY c.oid;
    -- views of the same columns say the same of them
    FOR pair IN
        SELECT a.attrelid::regclass AS view, a.attname,
               col_description(b.attrelid, b.attnum) AS description
        FROM (VALUES ('rules', 'rules'), ('rule_stats', 'rules'),
                     ('sources', 'sources'), ('sinks', 'sinks')) v(api, base)
        JOIN pg_attribute a ON a.attrelid = format('fraud_api.%I', v.api)::regclass AND a.attnum > 0
        JOIN pg_attribute b ON b.attrelid = format('fraud.%I', v.base)::regclass AND b.attname = a.attname
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', pair.view, pair.attname, pair.description);
    END LOOP;
END $$;
COMMENT ON COLUMN fraud_api.rules.target IS 'Table that it judges, with its schema';
COMMENT ON COLUMN fraud_api.rule_stats.target IS 'Table that it judges, with its schema';
COMMENT ON COLUMN fraud_api.rule_stats.share IS 'Share of the judged rows on which it fired';
COMMENT ON COLUMN fraud_api.sources.target IS 'Table that the records become rows of, with its schema';
COMMENT ON COLUMN fraud_api.sinks.target IS 'Table whose frauds are sent, with its schema; null for all tables';

--
-- Functions
--

CREATE FUNCTION fraud_api.review_alert(id bigint, status text, note text DEFAULT NULL)
RETURNS fraud_api.alerts
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    alert fraud_api.alerts;
BEGIN
    IF coalesce(status, '') NOT IN ('confirmed', 'dismissed', 'open') THEN
        RAISE EXCEPTION 'invalid status "%"', status
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A review says confirmed, dismissed or open.';
    END IF;
    IF NOT EXISTS (SELECT FROM fraud.alerts a WHERE a.id = review_alert.id) THEN
        RAISE EXCEPTION 'alert % does not exist', id USING ERRCODE = 'PT404';
    END IF;
    INSERT INTO fraud.reviews (alert_id, status, note)
    VALUES (review_alert.id, review_alert.status, review_alert.note);
    SELECT * INTO alert FROM fraud_api.alerts a WHERE a.id = review_alert.id;
    RETURN alert;
END $$;
COMMENT ON FUNCTION fraud_api.review_alert(bigint, text, text) IS
'Says what a person makes of an alert
status is confirmed, dismissed or open. Every decision is kept, the latest counts. Returns the alert.';

-- A watched table by name, and its columns that windows are made of
CREATE FUNCTION fraud.find_watched(name text, OUT target regclass, OUT event_time name,
    OUT amount name, OUT schema oid, OUT exposed regclass)
RETURNS record
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off AS $$
BEGIN
    SELECT w.target, w.event_time, w.amount, n.oid, v.oid
    INTO STRICT target, event_time, amount, schema, exposed
    FROM fraud.watch_config w
    JOIN pg_class c ON c.oid = w.target
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN fraud.exposed_tables e ON e.target = w.target
    LEFT JOIN pg_class v ON v.relnamespace = 'fraud_api'::regnamespace
                        AND v.relname = e.view_name AND fraud.is_exposure(v.oid, c.oid)
    WHERE find_watched.name IN (c.relname, format('%I', c.relname),
                                n.nspname || '.' || c.relname,
                                format('%I.%I', n.nspname, c.relname));
EXCEPTION
    WHEN no_data_found THEN
        RAISE EXCEPTION 'table "%" is not watched', name
            USING ERRCODE = 'undefined_table';
    WHEN too_many_rows THEN
        RAISE EXCEPTION 'table name "%" is ambiguous', name
            USING ERRCODE = 'ambiguous_alias',
                  HINT = 'Give the name with its schema.';
END $$;
COMMENT ON FUNCTION fraud.find_watched(text) IS
'Internal: finds a watched table by its name, with or without schema.';

CREATE FUNCTION fraud_api.windows(target text, every interval,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL)
RETURNS TABLE (window_start timestamptz, window_end timestamptz,
    transaction_count bigint, total_amount numeric, min_amount numeric,
    max_amount numeric, fraud_count bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' AS $$
DECLARE
    watched record;
    relation regclass;
    moment text;
    amount text;
BEGIN
    IF every IS NULL OR NOT every > interval '0'
       OR extract(year FROM every) <> 0 OR extract(month FROM every) <> 0 THEN
        RAISE EXCEPTION 'invalid length of windows: %', every
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a positive interval of days, hours, minutes and seconds.';
    END IF;
    SELECT * INTO watched FROM fraud.find_watched(windows.target);
    IF watched.event_time IS NULL THEN
        RAISE EXCEPTION 'table % has no event time', watched.target
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Name the column: SELECT fraud.watch(%L, event_time => ...)', watched.target);
    END IF;
    -- an exposed table is read without the right to use its schema
    relation := watched.target;
    IF NOT has_schema_privilege(watched.schema, 'USAGE') AND watched.exposed IS NOT NULL THEN
        relation := watched.exposed;
    END IF;
    moment := format('t.%I', watched.event_time);
    amount := CASE WHEN watched.amount IS NULL THEN 'NULL::numeric'
                   ELSE format('t.%I::numeric', watched.amount) END;
    -- Times without a zone are UTC, and so is the session here.  The fixed
    -- bounds keep out what is no time that a window could begin or end at: a
    -- date can lie beyond all times.  LIMIT ALL
    -- keeps the inner query apart: else as many windows are expected as the
    -- column has values, and all rows are sorted by one process.  So several
    -- hash them: 10 million rows, 2400 to 144000 windows, in 40 to 60 % of the
    -- time (some 3 s on two busy cores); with 864000 windows it is the same.
    RETURN QUERY EXECUTE format(
        'SELECT g.w, g.w + $1, count(*), sum(g.a), min(g.a), max(g.a), count(*) FILTER (WHERE g.f)'
        ' FROM (SELECT date_bin($1, %1$s::timestamptz, ''1970-01-01T00:00:00Z'') AS w, %2$s AS a, t.is_fraud AS f'
        ' FROM %3$s t WHERE %1$s >= ''4713-01-01 BC'' AND %1$s < ''294000-01-01''%4$s%5$s LIMIT ALL) g GROUP BY g.w ORDER BY g.w',
        moment, amount, relation,
        CASE WHEN since IS NOT NULL THEN format(' AND %s >= $2', moment) END,
        CASE WHEN until IS NOT NULL THEN format(' AND %s < $3', moment) END)
        USING every, since, until;
END $$;
COMMENT ON FUNCTION fraud_api.windows(text, interval, timestamptz, timestamptz) IS
'Counts and sums of a watched table by windows of time
every is the length of a window, counted from 1970-01-01 UTC; since is inclusive, until exclusive, null means no bound. Windows without a transaction are left out, and transactions without a time or with one that is infinite or lies beyond the year 294000.';

--
-- Tables for the gateway
--

CREATE TABLE fraud.exposed_tables (
    target     regclass PRIMARY KEY,
    view_name  text NOT NULL UNIQUE,
    exposed_by text NOT NULL,
    exposed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE fraud.exposed_tables IS 'Tables that fraud.expose() made views of';
COMMENT ON COLUMN fraud.exposed_tables.target IS 'The table';
COMMENT ON COLUMN fraud.exposed_tables.view_name IS 'Name of the view; that of its frauds ends in _frauds';
COMMENT ON COLUMN fraud.exposed_tables.exposed_by IS 'Role that exposed it';
COMMENT ON COLUMN fraud.exposed_tables.exposed_at IS 'When it did so last';
SELECT pg_catalog.pg_extension_config_dump('fraud.exposed_tables', '');

CREATE FUNCTION fraud.is_exposure(view regclass, target regclass) RETURNS boolean
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM fraud.exposed_tables e JOIN pg_class c ON c.relname IN (e.view_name, e.view_name || '_frauds')
        WHERE e.target = is_exposure.target AND c.oid = is_exposure.view)
    AND EXISTS (
        SELECT FROM pg_rewrite r
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE r.ev_class = is_exposure.view
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = is_exposure.target)
$$;
COMMENT ON FUNCTION fraud.is_exposure(regclass, regclass) IS
'Internal: whether fraud.expose() made that view of that table.';

-- Make one view of an exposed table.  One that is there is replaced, so that
-- rights on it and views of it last: its columns keep their places and new
-- ones come last.  Where that cannot be it is made anew.
CREATE FUNCTION fraud.make_view(target regclass, view text, columns text[], expressions text[],
    condition text, description text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old regclass := to_regclass(format('fraud_api.%I', view));
    list text;
    col record;
BEGIN
    IF old IS NOT NULL AND NOT fraud.is_exposure(old, target) THEN
        RAISE EXCEPTION 'relation "fraud_api.%" already exists', view
            USING ERRCODE = 'duplicate_table',
                  DETAIL = format('Exposing table %s would take the name.', target),
                  HINT = 'Rename the table, or make a view of another name in fraud_api yourself.';
    END IF;
    IF EXISTS (
        SELECT FROM pg_attribute v
        WHERE v.attrelid = old AND v.attnum > 0 AND v.attname <> ALL (columns)) THEN
        EXECUTE format('DROP VIEW %s', old);
        old := NULL;
    END IF;
    SELECT string_agg(format('%s AS %I', c.expression, c.name), ', ' ORDER BY v.attnum NULLS LAST, c.place)
    INTO list
    FROM unnest(columns, expressions) WITH ORDINALITY c(name, expression, place)
    LEFT JOIN pg_attribute v ON v.attrelid = old AND v.attname = c.name;
    EXECUTE format('CREATE OR REPLACE VIEW fraud_api.%I AS SELECT %s FROM %s t WHERE %s',
                   view, list, target, condition);
    EXECUTE format('COMMENT ON VIEW fraud_api.%I IS %L', view, description);
    FOR col IN
        SELECT v.attname, coalesce(col_description(t.attrelid, t.attnum), m.description,
                   format('Column %s of %s', v.attname, target)) AS description
        FROM pg_attribute v
        LEFT JOIN pg_attribute t ON t.attrelid = target AND t.attname = v.attname
        LEFT JOIN (VALUES ('kafka_partition', 'Partition that it came from'),
                          ('kafka_offset', 'Its offset there'),
                          (CASE WHEN 'alert_status' = ANY (columns) THEN 'alert_status' ELSE 'status' END,
                           'Status of its alert: open, confirmed, dismissed or cleared'))
            m(name, description) ON m.name = v.attname
        WHERE v.attrelid = format('fraud_api.%I', view)::regclass AND v.attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN fraud_api.%I.%I IS %L', view, col.attname, col.description);
    END LOOP;
    PERFORM fraud.secure_view(view);
    EXECUTE format('GRANT SELECT ON fraud_api.%I TO fraud_reader', view);
END $$;
COMMENT ON FUNCTION fraud.make_view(regclass, text, text[], text[], text, text) IS
'Internal: makes a view of an exposed table, with comments and rights.';

CREATE FUNCTION fraud.expose(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := (SELECT relname FROM pg_class WHERE oid = target);
    columns text[];
    expressions text[];
    status text;
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    PERFORM fraud.require_owner(target);
    PERFORM fraud.require_watched(target);
    IF octet_length(name || '_frauds') > 63 THEN
        RAISE EXCEPTION 'name of table % is too long', target
            USING ERRCODE = 'name_too_long',
                  DETAIL = format('The view "%s_frauds" would need more than 63 bytes.', name);
    END IF;
    -- one that was renamed is exposed by its name of today
    IF EXISTS (SELECT FROM fraud.exposed_tables e WHERE e.target = expose.target AND e.view_name <> name) THEN
        PERFORM fraud.drop_exposure(target);
    END IF;
    SELECT array_agg(a.attname::text ORDER BY a.attnum),
           array_agg(format('t.%I', a.attname) ORDER BY a.attnum),
           CASE WHEN bool_or(a.attname = 'status') THEN 'alert_status' ELSE 'status' END
    INTO columns, expressions, status
    FROM pg_attribute a
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped;

    PERFORM fraud.make_view(target, name, columns, expressions, 'true',
        coalesce(obj_description(target, 'pg_class'), format('Transactions of %s', target)));
    PERFORM fraud.make_view(target, name || '_frauds', columns || status,
        expressions || text 'coalesce((SELECT v.status FROM fraud.reviews v'
            ' WHERE v.alert_id = t.fraud_alert_id ORDER BY v.id DESC LIMIT 1), ''open'')',
        't.is_fraud', format('Frauds among the transactions of %s', target));
    EXECUTE format('GRANT SELECT ON %s TO fraud_reader', target);
    INSERT INTO fraud.exposed_tables AS e (target, view_name, exposed_by)
    VALUES (expose.target, name, fraud.outer_role())
    ON CONFLICT ON CONSTRAINT exposed_tables_pkey
    DO UPDATE SET exposed_by = excluded.exposed_by, exposed_at = now();
    NOTIFY pgrst, 'reload schema';
END $$;
COMMENT ON FUNCTION fraud.expose(regclass) IS
'Shows a watched table in fraud_api
Makes the views fraud_api.<table> and fraud_api.<table>_frauds (with the alert''s status) and grants SELECT on them and on the table to fraud_reader, who then sees the table''s alerts too. Call it again after adding a column.';

CREATE FUNCTION fraud.drop_exposure(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    view regclass;
BEGIN
    FOR view IN
        SELECT c.oid FROM pg_class c
        WHERE c.relnamespace = 'fraud_api'::regnamespace AND c.relkind = 'v'
          AND fraud.is_exposure(c.oid, target)
        ORDER BY c.relname DESC
    LOOP
        EXECUTE format('DROP VIEW %s', view);
    END LOOP;
    DELETE FROM fraud.exposed_tables e WHERE e.target = drop_exposure.target;
END $$;
COMMENT ON FUNCTION fraud.drop_exposure(regclass) IS
'Internal: drops the views of an exposed table.';

CREATE FUNCTION fraud.unexpose(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    PERFORM fraud.require_owner(target);
    IF NOT EXISTS (SELECT FROM fraud.exposed_tables e WHERE e.target = unexpose.target) THEN
        RAISE EXCEPTION 'table % is not exposed', target
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM fraud.drop_exposure(target);
    EXECUTE format('REVOKE SELECT ON %s FROM fraud_reader', target);
    NOTIFY pgrst, 'reload schema';
END $$;
COMMENT ON FUNCTION fraud.unexpose(regclass) IS
'Takes a table out of fraud_api
Drops the views that fraud.expose() made and revokes SELECT on the table from fraud_reader.';
