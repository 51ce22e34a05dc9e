--
-- prune.sql: old alerts, when everybody has had them
--

-- What a sink has yet to send, what the branch has yet to ask about, and what
-- is to be tried again stays.
CREATE FUNCTION fraud.prune_alerts(before timestamptz, batch int DEFAULT 100000, OUT deleted bigint, OUT kept bigint, OUT waits_for text[])
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.require_role('fraud_admin');
    IF before IS NULL OR coalesce(batch, 0) < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'before and batch must be given, and batch be positive';
    END IF;
    WITH chosen AS MATERIALIZED (
    SELECT a.id, array_remove(array_agg(DISTINCT w.name), NULL) AS held_by
      FROM (SELECT b.* FROM fraud.alerts AS b WHERE b.detected_at < before
             ORDER BY b.id LIMIT batch) AS a
      LEFT JOIN LATERAL (
            SELECT format('sink %s', s.name) AS name
              FROM fraud.sink_config AS s JOIN fraud.sink_cursor AS c ON c.sink = s.name
             WHERE (a.forward AND CASE WHEN c.from_id IS NULL
                        THEN NOT pg_visible_in_snapshot(a.xid, c.old_snapshot)
                        ELSE a.id > c.last_id OR c.stage <> 'alert' END)
                OR EXISTS (SELECT FROM fraud.reviews AS r WHERE r.alert_id = a.id
                              AND NOT pg_visible_in_snapshot(r.xid, c.old_snapshot))
                OR EXISTS (SELECT FROM fraud.sink_failures AS f
                            WHERE f.sink = s.name AND f.alert_id = a.id AND f.retry IS NOT NULL)
            UNION ALL
            SELECT format('branch of source %s', q.name)
              FROM fraud.source_config AS q
              LEFT JOIN fraud.branch_positions AS p
                ON p.source = q.name AND p.kafka_partition = a.kafka_partition
             WHERE q.name = a.source
               AND num_nonnulls(q.fraud_topic, q.legit_topic, q.dead_letter_topic) > 0
               AND a.kafka_offset >= coalesce(p.next_offset, -1)) AS w ON true
     GROUP BY a.id),
    gone AS (SELECT p.id FROM chosen AS p WHERE p.held_by = '{}'),
    parked AS (DELETE FROM fraud.sink_failures AS f USING gone AS g WHERE f.alert_id = g.id),
    reviews AS (DELETE FROM fraud.reviews AS r USING gone AS g WHERE r.alert_id = g.id),
    alerts AS (DELETE FROM fraud.alerts AS a USING gone AS g WHERE a.id = g.id RETURNING a.id)
    SELECT (SELECT count(*) FROM alerts),
           (SELECT count(*) FROM chosen AS p WHERE p.held_by <> '{}'),
           (SELECT array_agg(DISTINCT h.name) FROM chosen AS p, unnest(p.held_by) AS h (name))
      INTO deleted, kept, waits_for;
END
$$;
COMMENT ON FUNCTION fraud.prune_alerts(timestamptz, int) IS
    'Deletes alerts made before that time, with their reviews, at most so many, oldest first; what a sink has yet to send or a branch to ask about is kept, and who it waits for is told';
