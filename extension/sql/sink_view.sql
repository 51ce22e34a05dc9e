--
-- sink_view.sql: how far sinks have come, and what they could not send
--

-- Alerts that a sink has yet to send.  They are looked for as the bridge does
-- it, so that a transaction open for hours makes nothing to be read.
CREATE FUNCTION fraud.sink_lag(place fraud.sink_cursor, table_name text, OUT lag_rows bigint, OUT oldest timestamptz)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    AS $$
DECLARE
    names constant text[] := fraud.same_table(sink_lag.table_name);
BEGIN
    IF place.from_id IS NOT NULL THEN
        SELECT count(*), min(a.detected_at) INTO lag_rows, oldest
          FROM fraud.alerts AS a
         WHERE a.forward AND (names IS NULL OR a.table_name = ANY (names))
           AND CASE place.stage WHEN 'alert' THEN a.id > place.last_id
                    ELSE NOT pg_visible_in_snapshot(a.xid, place.new_snapshot) END;
        RETURN;
    END IF;
    SELECT count(*), min(a.detected_at) INTO lag_rows, oldest
      FROM (SELECT b.* FROM pg_snapshot_xip(place.old_snapshot) AS x (xid)
              JOIN fraud.alerts AS b ON b.xid = x.xid
            UNION ALL
            SELECT b.* FROM fraud.alerts AS b
             WHERE b.xid >= pg_snapshot_xmax(place.old_snapshot)) AS a
     WHERE a.forward AND (names IS NULL OR a.table_name = ANY (names))
       AND (place.new_snapshot IS NULL
            OR place.stage = 'alert' AND (a.xid, a.id) > (place.last_xid, place.last_id)
            OR NOT pg_visible_in_snapshot(a.xid, place.new_snapshot));
END
$$;
COMMENT ON FUNCTION fraud.sink_lag(fraud.sink_cursor, text) IS 'Internal: number and age of the alerts that a sink has yet to send';

CREATE VIEW fraud.sinks AS
SELECT s.name, s.kind, s.target, s.options,
       CASE WHEN s.stopped_at IS NOT NULL THEN 'stopped'
            WHEN s.paused THEN 'paused'
            WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                              WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted
                                AND l.objsubid OPERATOR(pg_catalog.=) 1
                                AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
                                AND ((l.classid::bigint OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) l.objid::bigint)
                                    OPERATOR(pg_catalog.=) fraud.sink_key(s.name)) THEN 'waiting'
            WHEN c.attempts OPERATOR(pg_catalog.>) 0 THEN 'retrying'
            ELSE 'running' END AS state,
       c.position, lag.lag_rows,
       CASE WHEN lag.lag_rows OPERATOR(pg_catalog.=) 0 THEN 0
            ELSE pg_catalog.round(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) lag.oldest)::numeric, 3) END AS lag_seconds,
       CASE WHEN c.updated_at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '10 s'::interval)
            THEN c.rate ELSE 0 END AS rate,
       c.sent, c.skipped, c.failed, c.retries, c.sent_at,
       (SELECT pg_catalog.count(*) FROM fraud.sink_failures AS f WHERE f.sink OPERATOR(pg_catalog.=) s.name) AS parked,
       s.last_error, s.last_error_at, s.stopped_at, s.stopped_reason, s.stopped_hint,
       s.changed_by, s.changed_at
  FROM fraud.sink_config AS s
  LEFT JOIN fraud.sink_cursor AS c ON c.sink OPERATOR(pg_catalog.=) s.name
  LEFT JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) s.target
 CROSS JOIN LATERAL fraud.sink_lag(c, fraud.table_name(t.oid)) AS lag;
COMMENT ON VIEW fraud.sinks IS 'Sinks, how far they have come and what keeps them';
COMMENT ON COLUMN fraud.sinks.state IS 'running, retrying, waiting (no bridge runs it), paused or stopped';
COMMENT ON COLUMN fraud.sinks.lag_rows IS 'Alerts yet to be sent';
COMMENT ON COLUMN fraud.sinks.lag_seconds IS 'Age of the oldest of them';
COMMENT ON COLUMN fraud.sinks.rate IS 'Rows per second, measured in the last ten seconds';
COMMENT ON COLUMN fraud.sinks.parked IS 'Rows that the receiver refused and that were not accepted since, see fraud.parked';

CREATE VIEW fraud.parked AS
SELECT f.id, f.sink, f.event, f.alert_id, f.review_id, f.event_id, f.reason, f.failed_at,
       f.retry IS NOT NULL AS retrying, a.table_name, a.detected_at, a.transaction
  FROM fraud.sink_failures AS f
  LEFT JOIN fraud.alerts AS a ON a.id OPERATOR(pg_catalog.=) f.alert_id;
COMMENT ON VIEW fraud.parked IS 'What receivers refused for good, and why; fraud.retry_parked tries it again';
COMMENT ON COLUMN fraud.parked.retrying IS 'Whether the bridge is about to try it again';

-- Their other columns are the tables' and say what those say.
DO $$
DECLARE
    col record;
BEGIN
    FOR col IN
        SELECT DISTINCT ON (v.view, c.attname) v.view, c.attname, d.description
          FROM (VALUES ('fraud.sinks'::regclass, '{fraud.sink_config,fraud.sink_cursor}'::regclass[]),
                       ('fraud.parked', '{fraud.sink_failures,fraud.alerts}')) AS v (view, tables)
          JOIN pg_catalog.pg_attribute AS c ON c.attrelid = v.view
          JOIN pg_catalog.pg_attribute AS t ON t.attrelid = ANY (v.tables) AND t.attname = c.attname
          JOIN pg_catalog.pg_description AS d ON d.classoid = 'pg_catalog.pg_class'::regclass
               AND d.objoid = t.attrelid AND d.objsubid = t.attnum
         WHERE pg_catalog.col_description(v.view, c.attnum) IS NULL
         ORDER BY v.view, c.attname, pg_catalog.array_position(v.tables, t.attrelid::regclass)
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', col.view, col.attname, col.description);
    END LOOP;
END
$$;
