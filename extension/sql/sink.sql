--
-- sink.sql: where frauds go, and how far each sink has come
--

CREATE TABLE fraud.sink_config (
    name          text PRIMARY KEY,
    kind          text NOT NULL CHECK (kind OPERATOR(pg_catalog.=) ANY (ARRAY['bigquery', 'kafka', 'webhook'])),
    options       jsonb NOT NULL DEFAULT '{}',
    target        regclass,
    start         text NOT NULL DEFAULT 'latest',
    paused        boolean NOT NULL DEFAULT false,
    stopped_at    timestamptz,
    stopped_reason text,
    stopped_hint  text,
    last_error    text,
    last_error_at timestamptz,
    changed_by    text NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE fraud.sink_config IS 'Where alerts are sent: one row per sink';
COMMENT ON COLUMN fraud.sink_config.name IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_config.kind IS 'bigquery, kafka or webhook';
COMMENT ON COLUMN fraud.sink_config.options IS 'Options of the kind; secrets are named here, never written';
COMMENT ON COLUMN fraud.sink_config.target IS 'Watched table whose alerts are sent; NULL for all';
COMMENT ON COLUMN fraud.sink_config.start IS 'Where the sink began: latest or earliest';
COMMENT ON COLUMN fraud.sink_config.paused IS 'Paused by an operator';
COMMENT ON COLUMN fraud.sink_config.stopped_at IS 'When the bridge stopped it, if it did';
COMMENT ON COLUMN fraud.sink_config.stopped_reason IS 'Why the bridge stopped it';
COMMENT ON COLUMN fraud.sink_config.stopped_hint IS 'The statement that lets it go on';
COMMENT ON COLUMN fraud.sink_config.last_error IS 'The last failure, stopped or not';
COMMENT ON COLUMN fraud.sink_config.last_error_at IS 'When that was';
COMMENT ON COLUMN fraud.sink_config.changed_by IS 'Who changed it last';
COMMENT ON COLUMN fraud.sink_config.changed_at IS 'When it was changed last';

-- A sink reads the ledger between two snapshots: what a transaction wrote that
-- the old one does not see and the new one does.  last_xid and last_id say how
-- far it has come in that interval.  With from_id set it reads history by id
-- instead: all that the new snapshot sees, from that id.
--
-- batch_* describe the batch that is being sent.  They are committed before it
-- is, so that the same rows go out under the same uuid after a crash.
CREATE TABLE fraud.sink_cursor (
    sink              text PRIMARY KEY,
    system_identifier bigint NOT NULL,
    timeline          int NOT NULL,
    epoch             bigint NOT NULL DEFAULT 0,
    from_id           bigint,
    old_snapshot      pg_snapshot NOT NULL,
    new_snapshot      pg_snapshot,
    stage             text NOT NULL DEFAULT 'alert'
        CHECK (stage OPERATOR(pg_catalog.=) ANY (ARRAY['alert', 'review', 'parked'])),
    last_xid          xid8 NOT NULL DEFAULT '0',
    last_id           bigint NOT NULL DEFAULT 0,
    batch             uuid,
    batch_first_id    bigint,
    batch_xid         xid8,
    batch_id          bigint,
    batch_rows        int,
    batch_target      text,
    batch_since       timestamptz,
    batch_saved_at    timestamptz,
    last_batch        uuid,
    attempts          int NOT NULL DEFAULT 0,
    position          bigint NOT NULL DEFAULT 0,
    batches           bigint NOT NULL DEFAULT 0,
    sent              bigint NOT NULL DEFAULT 0,
    skipped           bigint NOT NULL DEFAULT 0,
    failed            bigint NOT NULL DEFAULT 0,
    retries           bigint NOT NULL DEFAULT 0,
    rate              real NOT NULL DEFAULT 0,
    sent_at           timestamptz,
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE fraud.sink_cursor IS 'How far each sink has come in the ledger';
COMMENT ON COLUMN fraud.sink_cursor.sink IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_cursor.system_identifier IS 'Database system in which the snapshots hold';
COMMENT ON COLUMN fraud.sink_cursor.timeline IS 'Timeline in which the snapshots hold';
COMMENT ON COLUMN fraud.sink_cursor.epoch IS 'Number of times that it was placed by hand';
COMMENT ON COLUMN fraud.sink_cursor.from_id IS 'Set while history is read: the first alert id of it';
COMMENT ON COLUMN fraud.sink_cursor.old_snapshot IS 'All that this snapshot sees is done with';
COMMENT ON COLUMN fraud.sink_cursor.new_snapshot IS 'What this snapshot sees is being sent; NULL when nothing is';
COMMENT ON COLUMN fraud.sink_cursor.stage IS 'Part of the interval being sent: alerts, then reviews, then parked ones that are to be tried again';
COMMENT ON COLUMN fraud.sink_cursor.last_xid IS 'Transaction of the last row done within the interval';
COMMENT ON COLUMN fraud.sink_cursor.last_id IS 'Id of the last row done within the interval';
COMMENT ON COLUMN fraud.sink_cursor.batch IS 'Identity of the batch being sent, the same at every try';
COMMENT ON COLUMN fraud.sink_cursor.batch_first_id IS 'Id of the batch''s first row';
COMMENT ON COLUMN fraud.sink_cursor.batch_xid IS 'Transaction of the batch''s last row';
COMMENT ON COLUMN fraud.sink_cursor.batch_id IS 'Id of the batch''s last row';
COMMENT ON COLUMN fraud.sink_cursor.batch_rows IS 'Number of rows in the batch';
COMMENT ON COLUMN fraud.sink_cursor.batch_target IS 'Name of the table whose rows the batch holds; NULL for all';
COMMENT ON COLUMN fraud.sink_cursor.batch_since IS 'Older alerts are not in the batch (option max_age)';
COMMENT ON COLUMN fraud.sink_cursor.batch_saved_at IS 'When the batch was first put together';
COMMENT ON COLUMN fraud.sink_cursor.last_batch IS 'Identity of the last batch done';
COMMENT ON COLUMN fraud.sink_cursor.attempts IS 'Times that sending the batch has failed so far';
COMMENT ON COLUMN fraud.sink_cursor.position IS 'Highest alert id sent or passed';
COMMENT ON COLUMN fraud.sink_cursor.batches IS 'Batches sent';
COMMENT ON COLUMN fraud.sink_cursor.sent IS 'Rows sent';
COMMENT ON COLUMN fraud.sink_cursor.skipped IS 'Rows passed over because of their age';
COMMENT ON COLUMN fraud.sink_cursor.failed IS 'Rows the receiver refused, kept in fraud.sink_failures';
COMMENT ON COLUMN fraud.sink_cursor.retries IS 'Times that a batch had to be sent again';
COMMENT ON COLUMN fraud.sink_cursor.rate IS 'Rows per second when last measured';
COMMENT ON COLUMN fraud.sink_cursor.sent_at IS 'When a batch was last accepted';
COMMENT ON COLUMN fraud.sink_cursor.updated_at IS 'When the cursor last moved';

CREATE TABLE fraud.sink_failures (
    id        bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    sink      text NOT NULL,
    event     text NOT NULL,
    alert_id  bigint NOT NULL,
    review_id bigint,
    event_id  uuid NOT NULL,
    reason    text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    -- place among those that are to be tried again, drawn under the sink's lock:
    -- what is committed later lies behind what a batch holds
    retry     bigint
);
CREATE SEQUENCE fraud.sink_failures_retry_seq OWNED BY fraud.sink_failures.retry;
CREATE UNIQUE INDEX sink_failures_retry_idx ON fraud.sink_failures (sink, retry)
    WHERE retry IS NOT NULL;
-- a batch that is sent again is refused again
CREATE UNIQUE INDEX sink_failures_event_idx
    ON fraud.sink_failures (sink, alert_id, (coalesce(review_id, 0)));
COMMENT ON TABLE fraud.sink_failures IS 'Alerts that a receiver refused for good; see fraud.parked';
COMMENT ON COLUMN fraud.sink_failures.id IS 'Ascending key';
COMMENT ON COLUMN fraud.sink_failures.sink IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_failures.event IS 'alert, review or cleared';
COMMENT ON COLUMN fraud.sink_failures.alert_id IS 'The alert, see fraud.alerts';
COMMENT ON COLUMN fraud.sink_failures.review_id IS 'The review, see fraud.reviews; NULL for the alert itself';
COMMENT ON COLUMN fraud.sink_failures.event_id IS 'The alert''s event_id';
COMMENT ON COLUMN fraud.sink_failures.reason IS 'What the receiver answered';
COMMENT ON COLUMN fraud.sink_failures.failed_at IS 'When it was refused';
COMMENT ON COLUMN fraud.sink_failures.retry IS 'Place among those that are to be tried again; NULL: it is not';

-- A sink that writes to a stream by offsets: where its last batch lies on it.
-- Saved before the batch is sent, so that it goes to the same place again.
CREATE TABLE fraud.sink_streams (
    sink         text PRIMARY KEY,
    stream       text NOT NULL,
    batch        uuid,
    batch_offset bigint NOT NULL,
    batch_rows   int NOT NULL,
    refused      jsonb NOT NULL DEFAULT '{}',
    saved_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE fraud.sink_streams IS 'Streams of BigQuery that sinks write to, and how far each has come';
COMMENT ON COLUMN fraud.sink_streams.sink IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_streams.stream IS 'The stream; empty when the next batch goes to a new one';
COMMENT ON COLUMN fraud.sink_streams.batch IS 'Identity of the last batch put on it';
COMMENT ON COLUMN fraud.sink_streams.batch_offset IS 'Offset of that batch''s first row';
COMMENT ON COLUMN fraud.sink_streams.batch_rows IS 'Number of the batch''s rows on the stream';
COMMENT ON COLUMN fraud.sink_streams.refused IS 'The batch''s other rows: why they were refused, by the event''s identity';
COMMENT ON COLUMN fraud.sink_streams.saved_at IS 'When that was saved';

SELECT pg_catalog.pg_extension_config_dump('fraud.sink_config', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_cursor', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_streams', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_failures', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_failures_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_failures_retry_seq', '');

-- pg_control_checkpoint() names the timeline of the last checkpoint, which a
-- promotion leaves behind for a while; the name of the WAL file is up to date.
CREATE FUNCTION fraud.system_identity(OUT system_identifier bigint, OUT timeline int)
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT c.system_identifier,
           ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
      FROM pg_control_system() AS c
    $$;
COMMENT ON FUNCTION fraud.system_identity() IS
    'Internal: the database system and its timeline, which a restored or promoted copy does not share';

-- Rows of a restored ledger carry transaction ids of the system they came from.
-- Those that this system has yet to reach would be taken for new when it does.
-- Such a row is seen although its own xid says that it cannot be.
CREATE FUNCTION fraud.adopt_ledger() RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    me constant xid8 := pg_current_xact_id();
    alerts bigint;
    reviews bigint;
BEGIN
    UPDATE fraud.alerts SET xid = me
     WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())
       AND NOT pg_visible_in_snapshot(xid, pg_current_snapshot())
       AND xid <> me;
    GET DIAGNOSTICS alerts = ROW_COUNT;
    UPDATE fraud.reviews SET xid = me
     WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())
       AND NOT pg_visible_in_snapshot(xid, pg_current_snapshot())
       AND xid <> me;
    GET DIAGNOSTICS reviews = ROW_COUNT;
    RETURN alerts + reviews;
END
$$;
COMMENT ON FUNCTION fraud.adopt_ledger() IS
    'Internal: stamps ledger rows that came from another database system with a transaction of this one';

-- Sets the cursor: behind all that is visible now, or before the alert from_id.
CREATE FUNCTION fraud.place_sink(sink text, from_id bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.adopt_ledger();
    INSERT INTO fraud.sink_cursor AS c
        (sink, system_identifier, timeline, from_id, old_snapshot, last_id, position)
    SELECT place_sink.sink, i.system_identifier, i.timeline, place_sink.from_id,
           pg_current_snapshot(), coalesce(place_sink.from_id - 1, 0),
           coalesce(place_sink.from_id - 1,
                    (SELECT max(a.id) FROM fraud.alerts AS a), 0)
      FROM fraud.system_identity() AS i
    ON CONFLICT ON CONSTRAINT sink_cursor_pkey DO UPDATE
       SET system_identifier = excluded.system_identifier,
           timeline = excluded.timeline, epoch = c.epoch + 1, from_id = excluded.from_id,
           old_snapshot = excluded.old_snapshot, new_snapshot = NULL,
           stage = 'alert', last_xid = '0', last_id = excluded.last_id,
           batch = NULL, batch_first_id = NULL, batch_xid = NULL,
           batch_id = NULL, batch_rows = NULL, batch_target = NULL,
           batch_since = NULL, batch_saved_at = NULL, last_batch = NULL, attempts = 0,
           position = excluded.position, updated_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION fraud.place_sink(text, bigint) IS 'Internal: sets the cursor of a sink anew';

-- What Kafka knows of the last batch is kept with the topic: with another one
-- a sink begins to count anew, and its thread has to read the cursor again.
CREATE FUNCTION fraud.change_sink_topic(sink text, old_options jsonb, new_options jsonb) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE fraud.sink_cursor AS c
       SET last_batch = NULL, epoch = c.epoch + 1
     WHERE c.sink = change_sink_topic.sink
       AND old_options -> 'topic' IS DISTINCT FROM new_options -> 'topic'
    $$;
COMMENT ON FUNCTION fraud.change_sink_topic(text, jsonb, jsonb) IS 'Internal: forgets the last batch of a sink whose topic changes';

-- What became of a batch in doubt is known to the mode that sent it alone: a
-- load job may still run, and insertId is asked of nobody else.
CREATE FUNCTION fraud.change_sink_mode(sink text, old_options jsonb, new_options jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    first_id bigint;
BEGIN
    IF old_options -> 'mode' IS NOT DISTINCT FROM new_options -> 'mode' THEN
        RETURN;
    END IF;
    -- its thread reads the cursor again before it begins another batch
    UPDATE fraud.sink_cursor AS c SET epoch = c.epoch + 1
     WHERE c.sink = change_sink_mode.sink AND c.batch IS NULL;
    IF NOT FOUND THEN
        SELECT c.batch_first_id INTO first_id FROM fraud.sink_cursor AS c
         WHERE c.sink = change_sink_mode.sink;
        RAISE EXCEPTION USING ERRCODE = 'object_in_use',
            MESSAGE = format('option "mode" of sink "%s" cannot be changed while a batch is being sent', sink),
            DETAIL = format('Whether BigQuery has its alerts, from %s on, mode "%s" alone can find out.',
                            first_id, old_options ->> 'mode'),
            HINT = format('Try again when it is done.  To give it up, change the mode in one transaction with '
                          'SELECT fraud.resume_sink(%L, %s), which sends those alerts again.', sink, first_id);
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.change_sink_mode(text, jsonb, jsonb) IS 'Internal: refuses to change the mode of a sink while a batch is in doubt';

-- Locks the row of a sink that must exist.
CREATE FUNCTION fraud.lock_sink(sink text) RETURNS fraud.sink_config
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    found_sink fraud.sink_config;
BEGIN
    PERFORM fraud.require_role('fraud_operator', 'fraud_admin');
    SELECT * INTO found_sink FROM fraud.sink_config AS s
     WHERE s.name = lock_sink.sink FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('sink "%s" does not exist', sink);
    END IF;
    RETURN found_sink;
END
$$;
COMMENT ON FUNCTION fraud.lock_sink(text) IS 'Internal: locks the row of a sink for a change';

CREATE FUNCTION fraud.add_sink(name text, kind text, options jsonb, target regclass DEFAULT NULL, start text DEFAULT 'latest', replace boolean DEFAULT false)
    RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    checked jsonb;
    old_kind text;
    old_options jsonb;
BEGIN
    PERFORM fraud.require_role('fraud_operator', 'fraud_admin');
    IF name IS NULL OR name !~ '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_name',
            MESSAGE = format('name of a sink is not valid: %s', coalesce('"' || name || '"', 'NULL')),
            HINT = 'Use at most 63 letters, digits, dots, dashes and underscores.';
    END IF;
    IF start IS NULL OR start NOT IN ('latest', 'earliest') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('start of a sink is not valid: %s', coalesce('"' || start || '"', 'NULL')),
            HINT = 'Use "latest" or "earliest"; fraud.resume_sink(name, from_id) starts at an alert.';
    END IF;
    checked := fraud.check_sink_options(kind, options);
    PERFORM fraud.check_sink_target(target);
    SELECT s.kind, s.options INTO old_kind, old_options FROM fraud.sink_config AS s
     WHERE s.name = add_sink.name FOR UPDATE;
    IF FOUND AND replace IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('sink "%s" already exists', name),
            HINT = 'Use fraud.alter_sink, or replace => true.';
    END IF;
    INSERT INTO fraud.sink_config AS s (name, kind, options, target, start, changed_by)
    VALUES (add_sink.name, add_sink.kind, checked, add_sink.target, add_sink.start, fraud.outer_role())
    ON CONFLICT ON CONSTRAINT sink_config_pkey DO UPDATE
       SET kind = excluded.kind, options = excluded.options,
           target = excluded.target, start = excluded.start,
           stopped_at = NULL, stopped_reason = NULL, stopped_hint = NULL,
           changed_by = excluded.changed_by, changed_at = now();
    -- a sink that is replaced by one of its kind goes on where it was
    IF old_kind IS DISTINCT FROM kind THEN
        PERFORM fraud.place_sink(name, CASE start WHEN 'earliest' THEN 1 END);
    ELSE
        PERFORM fraud.change_sink_topic(name, old_options, checked);
        PERFORM fraud.change_sink_mode(name, old_options, checked);
    END IF;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.add_sink(text, text, jsonb, regclass, text, boolean) IS
    'Adds a sink: alerts go to BigQuery, a Kafka topic or a webhook';

CREATE FUNCTION fraud.alter_sink(name text, options jsonb DEFAULT NULL, target regclass DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    sink constant fraud.sink_config := fraud.lock_sink(name);
    merged jsonb := sink.options;
BEGIN
    IF options IS NOT NULL THEN
        merged := jsonb_strip_nulls(sink.options || options);
    END IF;
    PERFORM fraud.check_sink_target(target);
    merged := fraud.check_sink_options(sink.kind, merged);
    PERFORM fraud.change_sink_topic(name, sink.options, merged);
    PERFORM fraud.change_sink_mode(name, sink.options, merged);
    UPDATE fraud.sink_config AS s
       SET options = merged,
           target = coalesce(alter_sink.target, s.target),
           stopped_at = NULL, stopped_reason = NULL, stopped_hint = NULL,
           changed_by = fraud.outer_role(), changed_at = now()
     WHERE s.name = alter_sink.name;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.alter_sink(text, jsonb, regclass) IS
    'Changes a sink: options given are merged into the old ones, null takes one away';

-- Removes a sink and what is known of its progress.
CREATE FUNCTION fraud.erase_sink(sink text) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DELETE FROM fraud.sink_cursor AS c WHERE c.sink = $1;
    DELETE FROM fraud.sink_streams AS t WHERE t.sink = $1;
    DELETE FROM fraud.sink_failures AS f WHERE f.sink = $1;
    DELETE FROM fraud.sink_config AS s WHERE s.name = $1;
    SELECT pg_notify('pg_fraud', 'sink ' || $1)
    $$;
COMMENT ON FUNCTION fraud.erase_sink(text) IS 'Internal: removes a sink with its position and its failures';

CREATE FUNCTION fraud.drop_sink(name text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.lock_sink(name);
    PERFORM fraud.erase_sink(name);
END
$$;
COMMENT ON FUNCTION fraud.drop_sink(text) IS 'Removes a sink with its position and its failures';

CREATE FUNCTION fraud.pause_sink(name text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.lock_sink(name);
    UPDATE fraud.sink_config AS s
       SET paused = true, changed_by = fraud.outer_role(), changed_at = now()
     WHERE s.name = pause_sink.name;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.pause_sink(text) IS 'Pauses a sink; alerts wait in the ledger';

-- Accepts the system the database is in now.  Another system knows nothing of
-- the transactions the cursor counts in, so there it takes an id to start at.
CREATE FUNCTION fraud.resume_sink(name text, from_id bigint DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    here record;
    cursor_system bigint;
BEGIN
    PERFORM fraud.lock_sink(name);
    SELECT * INTO here FROM fraud.system_identity();
    SELECT c.system_identifier INTO cursor_system
      FROM fraud.sink_cursor AS c WHERE c.sink = resume_sink.name FOR UPDATE;
    IF from_id IS NOT NULL THEN
        PERFORM fraud.place_sink(name, from_id);
    ELSIF cursor_system IS DISTINCT FROM here.system_identifier THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the position of sink "%s" belongs to another database system', name),
            HINT = fraud.sink_resume_hint(name);
    ELSE
        UPDATE fraud.sink_cursor AS c
           SET timeline = here.timeline, updated_at = clock_timestamp()
         WHERE c.sink = resume_sink.name;
    END IF;
    UPDATE fraud.sink_config AS s
       SET paused = false, stopped_at = NULL, stopped_reason = NULL,
           stopped_hint = NULL, changed_by = fraud.outer_role(), changed_at = now()
     WHERE s.name = resume_sink.name;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.resume_sink(text, bigint) IS
    'Lets a paused or stopped sink go on, where it was or at the alert from_id';

-- Ids are drawn as alerts are made, but a transaction that lasts long may have
-- drawn a lower one: none that is as late as that is left out, and a few that
-- are earlier may be sent too.
CREATE FUNCTION fraud.resume_sink(name text, since timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.lock_sink(name);
    IF since IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the time from which a sink is to send again is missing';
    END IF;
    PERFORM fraud.resume_sink(name, from_id => coalesce(
        (SELECT min(a.id) FROM fraud.alerts AS a WHERE a.detected_at >= since),
        (SELECT max(a.id) + 1 FROM fraud.alerts AS a), 1));
END
$$;
COMMENT ON FUNCTION fraud.resume_sink(text, timestamptz) IS
    'Lets a sink go on at the first alert that was made at that time or later, also if it sent that before';

-- The bridge tries them in this order, behind what is new.
CREATE FUNCTION fraud.retry_parked(sink text, ids bigint[] DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown bigint;
    asked bigint;
BEGIN
    PERFORM fraud.lock_sink(sink);
    SELECT i INTO unknown FROM unnest(ids) AS i
     WHERE NOT EXISTS (SELECT FROM fraud.sink_failures AS f
                        WHERE f.id = i AND f.sink = retry_parked.sink)
     ORDER BY i LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('sink "%s" has parked nothing with id %s', sink, coalesce(unknown::text, 'NULL')),
            HINT = 'See fraud.parked.';
    END IF;
    WITH chosen AS (
        SELECT f.id, nextval('fraud.sink_failures_retry_seq') AS place
          FROM (SELECT g.id FROM fraud.sink_failures AS g
                 WHERE g.sink = retry_parked.sink AND g.retry IS NULL
                   AND (ids IS NULL OR g.id = ANY (ids))
                   AND EXISTS (SELECT FROM fraud.alerts AS a WHERE a.id = g.alert_id)
                 ORDER BY g.alert_id, g.review_id NULLS FIRST) AS f)
    UPDATE fraud.sink_failures AS f SET retry = c.place FROM chosen AS c WHERE c.id = f.id;
    GET DIAGNOSTICS asked = ROW_COUNT;
    RETURN asked;
END
$$;
COMMENT ON FUNCTION fraud.retry_parked(text, bigint[]) IS
    'Has a sink try again what its receiver refused, all of it or those with these ids of fraud.parked; returns how many';
