--
-- sink_bridge.sql: what the bridge asks and tells of sinks
--

-- The statement that lets a sink go on in the system the database is in now.
-- In another system the first alert not known as sent is looked for by the
-- snapshots of the old one: they still hold for the rows that came from there.
CREATE FUNCTION fraud.sink_resume_hint(sink text) RETURNS text
    LANGUAGE sql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format('SELECT fraud.resume_sink(%L%s);', c.sink,
        CASE WHEN c.system_identifier <> i.system_identifier THEN ', ' ||
            least((SELECT min(a.id) FROM fraud.alerts AS a
                    WHERE a.id >= coalesce(c.from_id, 0)
                      AND CASE WHEN c.from_id IS NULL
                               THEN NOT pg_visible_in_snapshot(a.xid, c.old_snapshot)
                                    AND (c.new_snapshot IS NULL
                                         OR (c.stage = 'alert' AND (a.xid, a.id) > (c.last_xid, c.last_id))
                                         OR NOT pg_visible_in_snapshot(a.xid, c.new_snapshot))
                               ELSE a.id > c.last_id END),
                  c.position + 1)
        ELSE '' END)
      FROM fraud.sink_cursor AS c, fraud.system_identity() AS i
     WHERE c.sink = sink_resume_hint.sink
    $$;
COMMENT ON FUNCTION fraud.sink_resume_hint(text) IS 'Internal: the statement that lets a sink go on here';

-- Called by the bridge when it takes up a sink: false when the cursor belongs
-- to another system or timeline, and the sink is stopped with the way out.
CREATE FUNCTION fraud.open_sink(sink text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    here record;
    known fraud.sink_cursor;
BEGIN
    SELECT * INTO here FROM fraud.system_identity();
    SELECT * INTO known FROM fraud.sink_cursor AS c WHERE c.sink = open_sink.sink;
    IF known.system_identifier = here.system_identifier AND known.timeline = here.timeline THEN
        RETURN true;
    END IF;
    PERFORM fraud.report_sink(sink, true,
        CASE WHEN known.sink IS NULL THEN 'the sink has no position'
             WHEN known.system_identifier <> here.system_identifier THEN
                format('the position belongs to database system %s, this is %s: the database was restored elsewhere',
                       known.system_identifier, here.system_identifier)
             ELSE format('the position belongs to timeline %s, this is %s: the database was restored or failed over',
                         known.timeline, here.timeline) END,
        coalesce(fraud.sink_resume_hint(sink), format('SELECT fraud.resume_sink(%L, 1);', sink)));
    RETURN false;
END
$$;
COMMENT ON FUNCTION fraud.open_sink(text) IS
    'Internal: for the bridge; checks that the position of a sink belongs to this database system';

-- A bridge that was stopped or cut off holds its sinks' locks and sends
-- nothing.  What it held is sent again by the next one, under the same uuid.
CREATE FUNCTION fraud.evict_sink(sink text, lease interval) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT fraud.evict_holder('sink/' || sink, lease, NULL) $$;
COMMENT ON FUNCTION fraud.evict_sink(text, interval) IS
    'Internal: ends the connection that holds a sink if its bridge has given no sign of life for longer than the lease; takes another lock for the sink if a stranger holds it';

CREATE FUNCTION fraud.report_sink(sink text, stopped boolean, reason text, hint text DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE fraud.sink_config AS s
       SET last_error = coalesce(report_sink.reason, s.last_error),
           last_error_at = CASE WHEN report_sink.reason IS NULL THEN s.last_error_at
                                ELSE clock_timestamp() END,
           stopped_at = CASE WHEN report_sink.stopped THEN clock_timestamp() END,
           stopped_reason = CASE WHEN report_sink.stopped THEN report_sink.reason END,
           stopped_hint = CASE WHEN report_sink.stopped THEN report_sink.hint END
     WHERE s.name = report_sink.sink
    $$;
COMMENT ON FUNCTION fraud.report_sink(text, boolean, text, text) IS
    'Internal: for the bridge; keeps the last error of a sink, and why it stopped';

-- What the bridge's statements ask for each alert that they read.
CREATE FUNCTION fraud.alert_json(id bigint, event_id uuid, table_name text, detected_at timestamptz, occurred_at timestamptz, score numeric, rules text[], transaction jsonb) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'fraud_alert_json';
COMMENT ON FUNCTION fraud.alert_json(bigint, uuid, text, timestamptz, timestamptz, numeric, text[], jsonb) IS
    'Internal: for the bridge; an alert as the JSON that sinks send, its fields in the order of the parameters';

CREATE FUNCTION fraud.page_fits(size int, most bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fraud_page_fits';
COMMENT ON FUNCTION fraud.page_fits(int, bigint) IS
    'Internal: for the bridge; whether the sizes seen so far in this statement add up to no more than that; the first row always fits';

CREATE FUNCTION fraud.park_again(sink text, alert_id bigint, review_id bigint, reason text) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE fraud.sink_failures AS f
       SET retry = NULL, reason = park_again.reason, failed_at = clock_timestamp()
     WHERE f.sink = park_again.sink AND f.alert_id = park_again.alert_id
       AND coalesce(f.review_id, 0) = coalesce(park_again.review_id, 0) AND f.retry IS NOT NULL
    $$;
COMMENT ON FUNCTION fraud.park_again(text, bigint, bigint, text) IS
    'Internal: for the bridge; keeps what was tried again and refused again, with the new reason';

CREATE FUNCTION fraud.unpark(sink text, last bigint) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    DELETE FROM fraud.sink_failures AS f WHERE f.sink = unpark.sink AND f.retry <= last
    $$;
COMMENT ON FUNCTION fraud.unpark(text, bigint) IS
    'Internal: for the bridge; forgets what was tried again, up to that place, and accepted';
